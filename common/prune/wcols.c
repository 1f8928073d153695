/*
 * wcols.c - one pass over the mapped weight files
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "wcols.h"
#include "../io/safetensors.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int add_tensor(struct wcols *w, const struct st_model *m, int i, int seg, struct err *e)
{
	const struct param *p = &w->t->p[i];
	char name[160], buf[128];
	const struct st_tensor *t = st_find(m, param_hf_name(w->t, p, seg, name));
	int64_t rows = param_seg_rows(w->t, p, seg);
	if (!t)
		return err_set(e, EXIT_DATA, "tensor %s is missing", name);
	if (t->nd != 2 || t->dims[0] != rows || t->dims[1] != p->cols || t->dtype > ST_BF16)
		return err_set(e, EXIT_DATA, "%s: tensor %s is %s %s, expected a float [%lld, %lld]", t->file, name,
			       st_dtype_name(t->dtype), st_shape(t, buf), (long long)rows, (long long)p->cols);
	float *row = xcalloc((size_t)p->cols, sizeof *row);
	size_t step = (size_t)p->cols * st_dtype_size(t->dtype);
	for (int64_t r = 0; r < rows; r++) {
		st_to_f32(row, (const char *)t->data + (size_t)r * step, t->dtype, p->cols);
		for (int64_t c = 0; c < p->cols; c++) {
			w->l1[i][c] += fabs((double)row[c]);
			w->sq[i][c] += (double)row[c] * (double)row[c];
		}
		if (r % 512 == 511 || r + 1 == rows) {   /* pages of an embedding of gigabytes do not pile up */
			int64_t n = r % 512 + 1;
			st_release_bytes((const char *)t->data + (size_t)(r + 1 - n) * step, (size_t)n * step);
		}
	}
	free(row);
	return 0;
}

int wcols_load(struct wcols *w, const char *dir, struct err *e)
{
	struct arch a;
	memset(w, 0, sizeof *w);
	if (arch_load(&a, dir, e))
		return -1;
	if (arch_uneven(&a)) {
		arch_free(&a);
		return err_set(e, EXIT_DATA, "%s: widths differ from block to block: its neurons and heads cannot be ranked", dir);
	}
	w->t = ptable_new(&a);
	arch_free(&a);
	w->l1 = xcalloc((size_t)w->t->n, sizeof *w->l1);
	w->sq = xcalloc((size_t)w->t->n, sizeof *w->sq);
	struct st_model *m = st_open(dir, e);
	int rc = m ? 0 : -1;
	for (int i = 0; i < w->t->n && !rc; i++) {
		const struct prow *row = w->t->p[i].row;
		if (row_is_vector(row))
			continue;
		w->l1[i] = xcalloc((size_t)w->t->p[i].cols, sizeof **w->l1);
		w->sq[i] = xcalloc((size_t)w->t->p[i].cols, sizeof **w->sq);
		for (int s = 0; s < row->nseg && !rc; s++)
			rc = add_tensor(w, m, i, s, e);
	}
	if (m)
		st_close(m);
	if (rc)
		wcols_free(w);
	return rc;
}

void wcols_free(struct wcols *w)
{
	for (int i = 0; w->t && i < w->t->n; i++) {
		free(w->l1[i]);
		free(w->sq[i]);
	}
	free(w->l1);
	free(w->sq);
	ptable_free(w->t);
	memset(w, 0, sizeof *w);
}

int wcols_find(const struct wcols *w, int64_t layer, const char *name)
{
	char full[64];
	snprintf(full, sizeof full, "blk.%lld.%s", (long long)layer, name);
	const struct param *p = ptable_find(w->t, layer < 0 ? name : full);
	if (!p)
		BUG("no parameter %s", layer < 0 ? name : full);
	return (int)(p - w->t->p);
}
