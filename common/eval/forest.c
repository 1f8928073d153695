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
	if (a->lead != b->lead)
		return a->lead > b->lead ? -1 : 1;
	if (a->group != b->group)
		return a->group < b->group ? -1 : 1;
	return a->rows != b->rows ? (a->rows > b->rows ? -1 : 1) : a->first < b->first ? -1 : a->first > b->first;
}

/* Requests in order, seen as a tree */
struct tree {
	const struct ll_set *s;
	const struct forest *f;
	int64_t budget;
	int64_t *shared;       /* [n] tokens in common with the request before */
	int64_t *trunk;        /* [n] tokens of the trunk that request i begins with, 0: none */
	int64_t *group;        /* [n] first request of those that share the trunk */
};

/* Tokens of requests [lo, hi) behind P that all of them have in common */
static int64_t rows_of(const struct tree *t, int64_t lo, int64_t hi, int64_t P)
{
	int64_t n = t->s->r[t->f->order[lo]].n - 1 - P;
	for (int64_t i = lo + 1; i < hi; i++)
		n += t->s->r[t->f->order[i]].n - 1 - t->shared[i];
	return n;
}

/* First request from i on that shares no more than P with the one before, at most hi */
static int64_t part_end(const struct tree *t, int64_t i, int64_t hi, int64_t P)
{
	for (i++; i < hi && t->shared[i] > P; i++)
		;
	return i;
}

/* Requests [lo, hi) have P tokens in common: these are their trunk, but for places that are scored.  A short one is none. */
static void set_trunk(struct tree *t, int64_t lo, int64_t hi, int64_t P)
{
	enum { TRUNK_MIN = 32 };
	for (int64_t i = lo; i < hi; i++) {
		const struct ll_req *r = &t->s->r[t->f->order[i]];
		P = r->n - 1 - r->n_cont < P ? r->n - 1 - r->n_cont : P;
	}
	for (int64_t i = lo; i < hi && P >= TRUNK_MIN; i++) {
		t->trunk[i] = P;
		t->group[i] = lo;
	}
}

/* What is more than a batch is cut where it shares least; parts that are more even without what all share are cut on, and if
 * none is, what they share is their trunk. */
static void find_trunks(struct tree *t, int64_t n)
{
	struct span { int64_t lo, hi; } *todo = xcalloc(64, sizeof *todo);
	int64_t cap = 64, top = 0;
	if (n > 1 && rows_of(t, 0, n, 0) > t->budget)
		todo[top++] = (struct span){ 0, n };
	while (top > 0) {
		struct span x = todo[--top];
		int64_t P = INT64_MAX, before = top;
		for (int64_t i = x.lo + 1; i < x.hi; i++)
			P = t->shared[i] < P ? t->shared[i] : P;
		for (int64_t lo = x.lo, hi; lo < x.hi; lo = hi) {
			hi = part_end(t, lo, x.hi, P);
			if (hi - lo < 2 || rows_of(t, lo, hi, P) <= t->budget)
				continue;
			if (top >= cap)
				todo = xrealloc(todo, (size_t)(cap *= 2), sizeof *todo);
			todo[top++] = (struct span){ lo, hi };
		}
		if (top == before)
			set_trunk(t, x.lo, x.hi, P);
	}
	free(todo);
}

static struct forest_batch *new_batch(struct forest *f, int64_t first)
{
	if (f->n >= f->cap) {
		f->cap = f->cap ? 2 * f->cap : 64;
		f->b = xrealloc(f->b, (size_t)f->cap, sizeof *f->b);
	}
	f->b[f->n] = (struct forest_batch){ .first = first, .group = first };
	return &f->b[f->n++];
}

/* Cuts the order into batches; those of a trunk follow one another and hold nothing else. */
static void cut(struct forest *f, const struct tree *t, int64_t n)
{
	struct forest_batch *b = NULL;
	for (int64_t i = 0; i < n; i++) {
		const struct ll_req *r = &t->s->r[f->order[i]];
		int64_t more = r->n - 1 - (b && f->share ? t->shared[i] : 0);
		if (!b || b->rows + more > t->budget || b->trunk != t->trunk[i] || (b->trunk && b->group != t->group[i])) {
			b = new_batch(f, i);
			b->trunk = t->trunk[i];
			b->group = b->trunk ? t->group[i] : i;
			more = r->n - 1 - b->trunk;
		}
		b->n++;
		b->rows += more;
		b->picks += r->n_cont;
	}
	for (int64_t i = 0, end; i < f->n; i = end) {
		int64_t most = 0;
		for (end = i; end < f->n && f->b[end].group == f->b[i].group; end++)
			most = f->b[end].rows > most ? f->b[end].rows : most;
		for (int64_t k = i; k < end; k++)
			f->b[k].lead = most;
	}
}

void forest_make(struct forest *f, const struct ll_set *s, int64_t budget, int share)
{
	*f = (struct forest){ .order = xcalloc((size_t)s->n + 1, sizeof *f->order), .share = share };
	struct tree t = { .s = s, .f = f, .budget = budget, .shared = xcalloc((size_t)s->n + 1, sizeof *t.shared),
			  .trunk = xcalloc((size_t)s->n + 1, sizeof *t.trunk), .group = xcalloc((size_t)s->n + 1, sizeof *t.group) };
	for (int64_t i = 0; i < s->n; i++)
		f->order[i] = i;
	qsort_r(f->order, (size_t)s->n, sizeof *f->order, by_text, (void *)s);
	for (int64_t i = 1; i < s->n; i++)
		t.shared[i] = common(s, f->order[i - 1], f->order[i]);
	if (share)
		find_trunks(&t, s->n);
	cut(f, &t, s->n);
	if (f->n)
		qsort(f->b, (size_t)f->n, sizeof *f->b, largest_first);
	free(t.shared);
	free(t.trunk);
	free(t.group);
}

void forest_free(struct forest *f)
{
	free(f->order);
	free(f->b);
}

void forest_shape(const struct forest_batch *b, int64_t *rows, int64_t *picks, int64_t *past)
{
	int64_t m = 16;
	while (m < b->picks)
		m *= 2;
	*rows = ll_bucket(b->rows);
	*picks = m;
	*past = b->trunk ? ll_bucket(b->trunk) : 0;
}

void forest_trunk(const struct forest *f, const struct ll_set *s, int64_t k, int64_t past, int32_t *tok)
{
	const struct forest_batch *b = &f->b[k];
	int64_t n;
	const int32_t *ids = text(s, f->order[b->group], &n);
	for (int64_t t = 0; t < past; t++)
		tok[t] = t < b->trunk ? ids[t] : 0;
}

void forest_fill(const struct forest *f, const struct ll_set *s, int64_t k, int64_t rows, int64_t picks, int64_t past, int32_t *tok,
		 int32_t *node, int32_t *pick, int32_t *label)
{
	const struct forest_batch *b = &f->b[k];
	int64_t n = 0, m = 0, len = b->trunk;
	int32_t *path = xcalloc((size_t)(b->trunk + b->rows) + 1, sizeof *path); /* row of each position of the last request */
	for (int64_t t = 0; t < past; t++) { /* seen by all; behind the trunk's end by nobody */
		node[2 * t] = t < b->trunk ? (int32_t)t : 0;
		node[2 * t + 1] = t < b->trunk ? (int32_t)(past + b->rows) : 0;
	}
	node += 2 * past;
	for (int64_t q = 0; q < b->n; q++) {
		const int64_t i = f->order[b->first + q];
		const struct ll_req *r = &s->r[i];
		int64_t nt, shared = q && f->share ? common(s, f->order[b->first + q - 1], i) : b->trunk;
		const int32_t *ids = text(s, i, &nt);
		while (len > shared)
			node[2 * path[--len] + 1] = (int32_t)(past + n);
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
	while (len > b->trunk)
		node[2 * path[--len] + 1] = (int32_t)(past + n);
	for (; n < rows; n++) { /* rows of nobody: texts of one token */
		tok[n] = 0;
		node[2 * n] = 0;
		node[2 * n + 1] = (int32_t)(past + n + 1);
	}
	for (; m < picks; m++) {
		pick[m] = 0;
		label[m] = -1;
	}
	free(path);
}
