/*
 * gather.c - copying the kept rows and columns out of the parent's files
 *
 * One tensor at a time: rows and columns are lists of units from keep_units(), spread to their width (a head is head_dim
 * rows).  A tensor of which nothing is cut is written as it lies in the file, so an empty cut changes no byte.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "gather.h"
#include "../model/hfdir.h"
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 8 << 20 };

/* Indices of rows or columns for an axis; NULL when all stay. */
static int64_t *spread_new(const struct keep *k, int axis, int64_t l)
{
	int64_t n, w = axis_width(&k->from, axis);
	const int64_t *u = keep_units(k, axis, l, &n);

	if (!u)
		return NULL;
	int64_t *v = xcalloc((size_t)(n * w), sizeof *v);
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < w; j++)
			v[i * w + j] = u[i] * w + j;
	return v;
}

static void pick_columns(char *dst, const char *src, const int64_t *cols, int64_t n, size_t es)
{
	if (!cols) {
		memcpy(dst, src, (size_t)n * es);
	} else if (es == 2) {
		for (int64_t i = 0; i < n; i++)
			memcpy(dst + 2 * i, src + 2 * cols[i], 2);
	} else {
		for (int64_t i = 0; i < n; i++)
			memcpy(dst + 4 * i, src + 4 * cols[i], 4);
	}
}

/* Add-back: row += row - partner's row, in f32. */
static void add_residual(char *row, const char *other, int64_t n, int dtype)
{
	float a[256], b[256];
	size_t es = st_dtype_size(dtype);

	for (int64_t i = 0; i < n; i += 256) {
		int64_t m = n - i < 256 ? n - i : 256;
		st_to_f32(a, row + (size_t)i * es, dtype, m);
		st_to_f32(b, other + (size_t)i * es, dtype, m);
		for (int64_t j = 0; j < m; j++)
			a[j] += a[j] - b[j];
		st_from_f32(row + (size_t)i * es, dtype, a, m);
	}
}

struct cut {
	const struct keep *k;
	const struct st_tensor *x;
	int64_t src_cols, rows, cols;  /* of the parent's tensor; of the result */
	int64_t *row, *col;            /* kept indices or NULL */
	const int64_t *partner;        /* of the rows' heads, or NULL */
	int64_t width;                 /* rows of a head */
};

static int write_whole(struct st_w *w, const struct st_tensor *x, struct err *e)
{
	const char *src = x->data;

	for (size_t at = 0; at < x->bytes; at += PIECE_BYTES) {
		size_t n = x->bytes - at < PIECE_BYTES ? x->bytes - at : PIECE_BYTES;
		if (st_write(w, src + at, n, e))
			return -1;
		st_release_bytes(src + at, n);
	}
	return 0;
}

static int write_rows(struct st_w *w, const struct cut *c, struct err *e)
{
	size_t es = st_dtype_size(c->x->dtype), row_bytes = (size_t)c->cols * es;
	const char *src = c->x->data;

	if (!c->row && !c->col && !c->partner)
		return write_whole(w, c->x, e);
	int64_t batch = (int64_t)(PIECE_BYTES / (row_bytes ? row_bytes : 1)) + 1;
	char *buf = xmalloc((size_t)batch * row_bytes), *tmp = xmalloc(row_bytes);
	int rc = 0;
	for (int64_t r0 = 0; r0 < c->rows && !rc; r0 += batch) {
		int64_t n = c->rows - r0 < batch ? c->rows - r0 : batch;
		for (int64_t i = 0; i < n; i++) {
			int64_t r = r0 + i, from = c->row ? c->row[r] : r;
			char *dst = buf + (size_t)i * row_bytes;
			pick_columns(dst, src + (size_t)(from * c->src_cols) * es, c->col, c->cols, es);
			if (c->partner && c->partner[r / c->width] >= 0) {
				from = c->partner[r / c->width] * c->width + r % c->width;
				pick_columns(tmp, src + (size_t)(from * c->src_cols) * es, c->col, c->cols, es);
				add_residual(dst, tmp, c->cols, c->x->dtype);
			}
		}
		rc = st_write(w, buf, (size_t)n * row_bytes, e);
		int64_t lo = c->row ? c->row[r0] : r0, hi = c->row ? c->row[r0 + n - 1] + 1 : r0 + n;
		st_release_bytes(src + (size_t)(lo * c->src_cols) * es, (size_t)((hi - lo) * c->src_cols) * es);
	}
	free(buf);
	free(tmp);
	return rc;
}

/* Segment s of parameter p of the trimmed table. */
static int cut_segment(const struct keep *k, const struct ptable *t, const struct param *p, int s,
		const struct st_tensor *x, struct st_w *w, struct err *e)
{
	int axis = p->row->seg[s].axis, mha = k->from.kv_heads == k->from.heads;
	struct cut c = { .k = k, .x = x, .src_cols = axis_size(&k->from, p->row->cols), .rows = param_seg_rows(t, p, s),
		.cols = p->cols, .width = k->from.head_dim };

	c.row = axis == AX_NONE ? NULL : spread_new(k, axis, p->layer);
	c.col = spread_new(k, p->row->cols, p->layer);
	/* the residual goes into queries only where keys and values are shared (Minitron, section 2.3) */
	if (k->partner && (axis == AX_HEAD || (axis == AX_GROUP && mha)))
		c.partner = k->partner + p->layer * k->to.heads;
	int rc = write_rows(w, &c, e);
	free(c.row);
	free(c.col);
	return rc;
}

int gather_model(const struct keep *k, const struct st_model *m, const char *dir,
		void (*step)(void *arg, int done, int total), void *arg, struct err *e)
{
	struct ptable *src = ptable_new(&k->from), *t = ptable_new(&k->to);
	int n, rc = params_check(src, m, e);
	struct st_spec *spec = params_specs_new(t, &n);
	const struct st_tensor **from = xcalloc((size_t)n, sizeof *from);
	struct st_w *w = NULL;

	/* the same parameter of the parent's block, in the order of the specs */
	for (int i = 0, at = 0; i < t->n && !rc; i++)
		for (int s = 0; s < t->p[i].row->nseg; s++, at++) {
			struct param q = t->p[i];
			char name[160];
			if (q.layer >= 0)
				q.layer = (int)k->layer[q.layer];
			from[at] = st_find(m, param_hf_name(src, &q, s, name));
			spec[at].dtype = from[at]->dtype;
		}
	if (!rc && !(w = st_create(dir, spec, n, ST_SHARD_BYTES, e)))
		rc = -1;
	for (int i = 0, at = 0; i < t->n && !rc; i++)
		for (int s = 0; s < t->p[i].row->nseg && !rc; s++, at++) {
			rc = cut_segment(k, t, &t->p[i], s, from[at], w, e);
			st_release(m, from[at]);
			if (step)
				step(arg, at + 1, n);
		}
	if (w && rc)
		st_abandon(w);
	else if (w)
		rc = st_finish(w, e);
	free(from);
	free(spec);
	ptable_free(src);
	ptable_free(t);
	return rc;
}
