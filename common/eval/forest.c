/*
 * forest.c - packing requests by their common starts
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "forest.h"
#include <stdlib.h>

/* The ids that the model reads: all but the last */
static const int32_t *text(const struct ll_set *s, int64_t i, int64_t *n)
{
	*n = s->r[i].n - 1;
	return s->ids + s->r[i].off;
}

static int64_t common(const struct ll_set *s, int64_t x, int64_t y)
{
	int64_t nx, ny, i = 0;
	const int32_t *a = text(s, x, &nx), *b = text(s, y, &ny);
	while (i < nx && i < ny && a[i] == b[i])
		i++;
	return i;
}

static int by_text(const void *x, const void *y, void *set)
{
	const struct ll_set *s = set;
	int64_t i = *(const int64_t *)x, j = *(const int64_t *)y, k = common(s, i, j), ni, nj;
	const int32_t *a = text(s, i, &ni), *b = text(s, j, &nj);
	if (k < ni && k < nj)
		return a[k] < b[k] ? -1 : 1;
	return ni != nj ? (ni < nj ? -1 : 1) : i < j ? -1 : i > j;
}

static int largest_first(const void *x, const void *y)
{
	const struct forest_batch *a = x, *b = y;
	return a->rows != b->rows ? (a->rows > b->rows ? -1 : 1) : a->first < b->first ? -1 : a->first > b->first;
}

void forest_make(struct forest *f, const struct ll_set *s, int64_t budget, int share)
{
	*f = (struct forest){ .order = xcalloc((size_t)s->n + 1, sizeof *f->order), .share = share };
	for (int64_t i = 0; i < s->n; i++)
		f->order[i] = i;
	qsort_r(f->order, (size_t)s->n, sizeof *f->order, by_text, (void *)s);
	for (int64_t i = 0; i < s->n; i++) {
		const struct ll_req *r = &s->r[f->order[i]];
		struct forest_batch *b = f->n ? &f->b[f->n - 1] : NULL;
		int64_t more = r->n - 1 - (b && share ? common(s, f->order[i - 1], f->order[i]) : 0);
		if (!b || b->rows + more > budget) {
			if (f->n >= f->cap) {
				f->cap = f->cap ? 2 * f->cap : 64;
				f->b = xrealloc(f->b, (size_t)f->cap, sizeof *f->b);
			}
			b = &f->b[f->n++];
			*b = (struct forest_batch){ .first = i };
			more = r->n - 1;
		}
		b->n++;
		b->rows += more;
		b->picks += r->n_cont;
	}
	if (f->n)
		qsort(f->b, (size_t)f->n, sizeof *f->b, largest_first);
}

void forest_free(struct forest *f)
{
	free(f->order);
	free(f->b);
}

void forest_shape(const struct forest_batch *b, int64_t *rows, int64_t *picks)
{
	int64_t m = 16;
	while (m < b->picks)
		m *= 2;
	*rows = ll_bucket(b->rows);
	*picks = m;
}

void forest_fill(const struct forest *f, const struct ll_set *s, int64_t k, int64_t rows, int64_t picks, int32_t *tok,
		 int32_t *node, int32_t *pick, int32_t *label)
{
	const struct forest_batch *b = &f->b[k];
	int64_t n = 0, m = 0, len = 0;
	int32_t *path = xcalloc((size_t)b->rows + 1, sizeof *path); /* row of each position of the last request */
	for (int64_t q = 0; q < b->n; q++) {
		const int64_t i = f->order[b->first + q];
		const struct ll_req *r = &s->r[i];
		int64_t nt, shared = q && f->share ? common(s, f->order[b->first + q - 1], i) : 0;
		const int32_t *ids = text(s, i, &nt);
		while (len > shared)
			node[2 * path[--len] + 1] = (int32_t)n;
		for (; len < nt; len++, n++) {
			path[len] = (int32_t)n;
			tok[n] = ids[len];
			node[2 * n] = (int32_t)len;
		}
		for (int64_t t = nt - r->n_cont; t < nt; t++, m++) {
			pick[m] = path[t];
			label[m] = ids[t + 1];
		}
	}
	while (len > 0)
		node[2 * path[--len] + 1] = (int32_t)n;
	for (; n < rows; n++) { /* rows of nobody: texts of one token */
		tok[n] = 0;
		node[2 * n] = 0;
		node[2 * n + 1] = (int32_t)n + 1;
	}
	for (; m < picks; m++) {
		pick[m] = 0;
		label[m] = -1;
	}
	free(path);
}
