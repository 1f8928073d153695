/*
 * select.c - list, heap and front
 *
 * Memory is that of the result.  The heap holds the K best so far with the worst on top; a line is entered from its better
 * end and left at the first shape that does not enter.  The front is kept sorted by its first column: what beats a shape
 * lies before it, what it beats lies after it; with two columns only the neighbour before can beat it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "select.h"
#include <stdlib.h>
#include <string.h>

/* ---- a line ---- */

double line_value(const struct line *l, int column, int64_t i)
{
	const struct shape *s = &l->fixed;

	switch (column) {
	case COL_ID: return (double)(s->id + i);
	case COL_FFN: return (double)l->ffn[i];
	case COL_PARAMS: return cost_at(&l->cost, Q_PARAMS, l->ffn[i]);
	case COL_NONEMBEDDING: return cost_at(&l->cost, Q_NONEMBEDDING, l->ffn[i]);
	case COL_ACTIVE: return cost_at(&l->cost, Q_ACTIVE, l->ffn[i]);
	case COL_FLOPS: return cost_at(&l->cost, Q_FLOPS, l->ffn[i]);
	case COL_MEMORY: return cost_memory(&l->cost, l->ffn[i]);
	case COL_LATENCY: return l->cost.w->hw.peak > 0 ? cost_latency(&l->cost, l->ffn[i]) : 0;
	}
	return shape_value(s, column);
}

static struct shape line_shape(const struct line *l, int64_t i)
{
	struct shape s = l->fixed;

	s.id += i;
	s.ffn = l->ffn[i];
	s.params = (int64_t)line_value(l, COL_PARAMS, i);
	s.nonembedding = (int64_t)line_value(l, COL_NONEMBEDDING, i);
	s.active = (int64_t)line_value(l, COL_ACTIVE, i);
	s.flops = line_value(l, COL_FLOPS, i);
	s.memory = line_value(l, COL_MEMORY, i);
	s.latency = line_value(l, COL_LATENCY, i);
	return s;
}

int64_t line_bound(const struct line *l, int column, double v, bool above)
{
	int64_t lo = 0, hi = l->n;

	while (lo < hi) {
		int64_t mid = lo + (hi - lo) / 2;
		double x = line_value(l, column, mid);
		if (above ? x > v : x >= v)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

static struct shape *push(struct selection *sel)
{
	if (sel->n == sel->room) {
		sel->room = sel->room ? 2 * sel->room : 64;
		sel->s = xrealloc(sel->s, (size_t)sel->room, sizeof *sel->s);
	}
	return &sel->s[sel->n++];
}

/* ---- order ---- */

static double key_of(const struct sort *by, double v)
{
	return by->rising ? -v : v;
}

/* Positive when x comes before y. */
static int before(const struct sort *by, const struct shape *x, const struct shape *y)
{
	double a = key_of(by, shape_value(x, by->column)), b = key_of(by, shape_value(y, by->column));

	return a != b ? (a > b ? 1 : -1) : (x->id < y->id) - (x->id > y->id);
}

struct sort_key { double v; int64_t id, i; };

static int key_order(const void *a, const void *b)
{
	const struct sort_key *x = a, *y = b;

	if (x->v != y->v)
		return x->v < y->v ? 1 : -1;
	return (x->id > y->id) - (x->id < y->id);
}

void search_sort(struct shape *s, int64_t n, struct sort by)
{
	struct sort_key *k = xcalloc((size_t)n + 1, sizeof *k);
	struct shape *t = xcalloc((size_t)n + 1, sizeof *t);

	for (int64_t i = 0; i < n; i++)
		k[i] = (struct sort_key){ key_of(&by, shape_value(&s[i], by.column)), s[i].id, i };
	qsort(k, (size_t)n, sizeof *k, key_order);
	for (int64_t i = 0; i < n; i++)
		t[i] = s[k[i].i];
	if (n)
		memcpy(s, t, (size_t)n * sizeof *s);
	free(k);
	free(t);
}

/* ---- the first K ---- */

static void sift_down(struct selection *sel)
{
	struct shape *s = sel->s;

	for (int64_t i = 0, c; (c = 2 * i + 1) < sel->n; i = c) {
		if (c + 1 < sel->n && before(&sel->q->by, &s[c], &s[c + 1]) > 0)
			c++;
		if (before(&sel->q->by, &s[c], &s[i]) > 0)
			return;
		struct shape t = s[i];
		s[i] = s[c];
		s[c] = t;
	}
}

static void sift_up(struct selection *sel)
{
	struct shape *s = sel->s;

	for (int64_t i = sel->n - 1, p; i > 0 && before(&sel->q->by, &s[p = (i - 1) / 2], &s[i]) > 0; i = p) {
		struct shape t = s[i];
		s[i] = s[p];
		s[p] = t;
	}
}

/* From the better end on; ids rise along the line, so among equals the lower index goes first. */
static void add_top(struct selection *sel, const struct line *l, int64_t lo, int64_t hi)
{
	const struct sort *by = &sel->q->by;
	bool up = by->rising || line_value(l, by->column, lo) == line_value(l, by->column, hi - 1);

	for (int64_t k = 0; k < hi - lo; k++) {
		int64_t i = up ? lo + k : hi - 1 - k;
		if (sel->n == sel->q->top && key_of(by, line_value(l, by->column, i)) <
		    key_of(by, shape_value(&sel->s[0], by->column)))
			return;
		struct shape s = line_shape(l, i);
		if (sel->n < sel->q->top) {
			*push(sel) = s;
			sift_up(sel);
		} else if (before(by, &s, &sel->s[0]) > 0) {
			sel->s[0] = s;
			sift_down(sel);
		} else {
			return;
		}
	}
}

/* ---- the front ---- */

/* As good as k in every column. */
static bool beats(const struct front_key *a, const struct front_key *k, int n)
{
	for (int c = 0; c < n; c++)
		if (a->v[c] < k->v[c])
			return false;
	return true;
}

/* Number of keys whose first column is at least k's. */
static int64_t place(const struct selection *sel, const struct front_key *k)
{
	int64_t lo = 0, hi = sel->n_key;

	while (lo < hi) {
		int64_t mid = lo + (hi - lo) / 2;
		if (sel->key[mid].v[0] < k->v[0])
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

static bool beaten(const struct selection *sel, const struct front_key *k, int64_t at)
{
	for (int64_t i = at - 1; i >= 0; i--) {
		if (beats(&sel->key[i], k, sel->q->n_front))
			return true;
		if (sel->q->n_front == 2)
			return false;
	}
	return false;
}

/* k, which nothing beats, goes in and whatever it beats goes out; a place in sel->s that falls free is used again. */
static int enter(struct selection *sel, const struct front_key *k, const struct shape *s, struct err *e)
{
	int64_t at = place(sel, k), kept;
	struct front_key new = *k;

	new.at = -1;
	while (at > 0 && sel->key[at - 1].v[0] == k->v[0])
		at--;
	kept = at;
	for (int64_t i = at; i < sel->n_key; i++) {
		if (beats(k, &sel->key[i], sel->q->n_front))
			new.at = sel->key[i].at;
		else
			sel->key[kept++] = sel->key[i];
	}
	sel->n_key = kept;
	if (kept == FRONT_SHAPES)
		return err_set(e, EXIT_USAGE, "more than %d shapes on the front: narrow the grid or the budget", FRONT_SHAPES);
	if (new.at < 0) {
		new.at = sel->n;
		push(sel);
	}
	sel->s[new.at] = *s;
	at = place(sel, k);
	memmove(&sel->key[at + 1], &sel->key[at], (size_t)(sel->n_key - at) * sizeof *sel->key);
	sel->key[at] = new;
	sel->n_key++;
	return 0;
}

/* The best that [lo, hi) could hold: every column from its better end. */
static struct front_key corner(const struct selection *sel, const struct line *l, int64_t lo, int64_t hi)
{
	struct front_key k = { .at = 0 };

	for (int c = 0; c < sel->q->n_front; c++) {
		const struct sort *f = &sel->q->front[c];
		k.v[c] = key_of(f, line_value(l, f->column, f->rising ? lo : hi - 1));
	}
	return k;
}

static int add_front(struct selection *sel, const struct line *l, int64_t lo, int64_t hi, struct err *e)
{
	struct front_key k = corner(sel, l, lo, hi);

	if (beaten(sel, &k, place(sel, &k)))
		return 0;
	if (hi - lo == 1) {
		struct shape s = line_shape(l, lo);
		return enter(sel, &k, &s, e);
	}
	int64_t mid = lo + (hi - lo) / 2;
	return add_front(sel, l, lo, mid, e) || add_front(sel, l, mid, hi, e) ? -1 : 0;
}

/* ---- all three ---- */

int selection_add(struct selection *sel, const struct line *l, int64_t lo, int64_t hi, struct err *e)
{
	if (sel->q->n_front) {
		if (!sel->key)
			sel->key = xcalloc(FRONT_SHAPES + 1, sizeof *sel->key);
		return add_front(sel, l, lo, hi, e);
	}
	if (sel->q->top) {
		add_top(sel, l, lo, hi);
		return 0;
	}
	if (sel->n + hi - lo > LIST_SHAPES)
		return err_set(e, EXIT_USAGE, "more than %d shapes fit: narrow the budget or ask for --top K", LIST_SHAPES);
	for (int64_t i = lo; i < hi; i++)
		*push(sel) = line_shape(l, i);
	return 0;
}

void selection_end(struct selection *sel)
{
	const struct query *q = sel->q;

	if (q->n_front) {
		struct shape *s = xcalloc((size_t)sel->n_key + 1, sizeof *s);
		for (int64_t i = 0; i < sel->n_key; i++)
			s[i] = sel->s[sel->key[i].at];
		free(sel->s);
		free(sel->key);
		sel->s = s;
		sel->n = sel->n_key;
		sel->key = NULL;
	}
	if (q->top || q->n_front || q->by.column != COL_ID)
		search_sort(sel->s, sel->n, q->by);
	if (q->top && sel->n > q->top)
		sel->n = q->top;
}
