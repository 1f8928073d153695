/*
 * search.c - enumerating shapes: five nested axes, exact counts, inclusive limits
 *
 * Counts come from the parameter table of the family, so a new family or axis needs nothing here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "search.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const shape_columns[SHAPE_COLUMNS] = {
	"id", "layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "params", "nonembedding", "memory", "flops"
};

int shape_column_find(const char *word)
{
	for (int c = 0; c < SHAPE_COLUMNS; c++)
		if (!strcmp(shape_columns[c], word))
			return c;
	return -1;
}

double shape_value(const struct shape *s, int column)
{
	const int64_t ints[] = { s->id, s->layers, s->hidden, s->ffn, s->heads, s->kv_heads, s->head_dim, s->params,
		s->nonembedding };

	return column == COL_MEMORY ? s->memory : column == COL_FLOPS ? s->flops : (double)ints[column];
}

static int rising_order(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

/* Sorted, distinct copy of an axis; the parent's value when none was given. */
static int prepare(struct grid_axis *to, const struct grid_axis *from, int64_t parent, const char *word, struct err *e)
{
	to->v = xcalloc((size_t)(from->n ? from->n : 1), sizeof *to->v);
	to->n = from->n ? from->n : 1;
	if (!from->n) {
		to->v[0] = parent;
		return 0;
	}
	memcpy(to->v, from->v, (size_t)from->n * sizeof *to->v);
	qsort(to->v, (size_t)to->n, sizeof *to->v, rising_order);
	int64_t k = 1;
	for (int64_t i = 1; i < to->n; i++)
		if (to->v[i] != to->v[k - 1])
			to->v[k++] = to->v[i];
	to->n = k;
	if (to->v[0] < 1 || to->v[k - 1] > parent)
		return err_set(e, EXIT_USAGE, "%s %lld: the model has %lld", word,
			(long long)(to->v[0] < 1 ? to->v[0] : to->v[k - 1]), (long long)parent);
	return 0;
}

/* ffn choices for one hidden size: the list, or ratios that give whole numbers. */
static int ffn_choices(const struct arch *a, const struct grid *g, int64_t hidden, const struct grid_axis *list,
		struct grid_axis *out, struct err *e)
{
	if (!g->nratio) {
		memcpy(out->v, list->v, (size_t)list->n * sizeof *out->v);
		out->n = list->n;
		return 0;
	}
	struct grid_axis raw = { .v = xcalloc((size_t)g->nratio, sizeof *raw.v), .n = g->nratio }, sorted = { 0 };
	int rc = 0;
	for (int64_t i = 0; i < g->nratio && !rc; i++) {
		double f = g->ratio[i] * (double)hidden;
		if (!(f >= 1) || f > 1e9 || fabs(f - nearbyint(f)) > 1e-6)
			rc = err_set(e, EXIT_USAGE, "ffn-ratio %g of hidden %lld is %g neurons: not a whole number", g->ratio[i],
				(long long)hidden, f);
		raw.v[i] = (int64_t)nearbyint(f);
	}
	if (!rc)
		rc = prepare(&sorted, &raw, a->ffn, "ffn", e);
	if (!rc) {
		memcpy(out->v, sorted.v, (size_t)sorted.n * sizeof *out->v);
		out->n = sorted.n;
	}
	free(raw.v);
	free(sorted.v);
	return rc;
}

static struct shape measure(const struct arch *a, const struct grid *g)
{
	struct shape s = { .layers = a->layers, .hidden = a->hidden, .ffn = a->ffn, .heads = a->heads,
		.kv_heads = a->kv_heads, .head_dim = a->head_dim, .params = arch_count(a),
		.nonembedding = arch_count_nonembedding(a), .flops = arch_forward_flops(a, g->seq, 1) };
	double cache = 2.0 * (double)a->layers * (double)(g->seq * g->batch) * (double)(a->kv_heads * a->head_dim);

	s.memory = (double)g->weight_bytes * ((double)s.params + cache);
	return s;
}

static bool fits(const struct shape *s, const struct limit *limits)
{
	for (int c = 0; c < SHAPE_COLUMNS; c++)
		if (limits[c].hi > 0 && (shape_value(s, c) < limits[c].lo || shape_value(s, c) > limits[c].hi))
			return false;
	return true;
}

struct walk {
	const struct grid *g;
	const struct limit *limits;
	struct shape *s;
	int64_t n, room, uneven;
};

static void visit(struct walk *w, const struct arch *a)
{
	if (a->heads % a->kv_heads) {
		w->uneven++;
		return;
	}
	struct shape s = measure(a, w->g);
	if (!fits(&s, w->limits))
		return;
	if (w->n == w->room) {
		w->room = w->room ? 2 * w->room : 64;
		w->s = xrealloc(w->s, (size_t)w->room, sizeof *w->s);
	}
	s.id = w->n + 1;
	w->s[w->n++] = s;
}

int search_shapes(const struct arch *parent, const struct grid *g, const struct limit limits[SHAPE_COLUMNS],
		struct shape **out, int64_t *n, int64_t *uneven, struct err *e)
{
	struct grid_axis L = { 0 }, H = { 0 }, F = { 0 }, Q = { 0 }, G = { 0 }, f = { 0 };
	struct arch a = *parent;       /* sizes change below; the config object is only borrowed */
	struct walk w = { .g = g, .limits = limits };
	bool mha = parent->heads == parent->kv_heads && !g->kv_heads.n;
	int rc = prepare(&L, &g->layers, parent->layers, "layers", e) || prepare(&H, &g->hidden, parent->hidden, "hidden", e) ||
		prepare(&F, &g->ffn, parent->ffn, "ffn", e) || prepare(&Q, &g->heads, parent->heads, "heads", e) ||
		prepare(&G, &g->kv_heads, parent->kv_heads, "kv-heads", e) ? -1 : 0;
	int64_t size = g->nratio ? g->nratio : F.n;

	if (!rc && (mul_over(size, L.n, &size) || mul_over(size, H.n, &size) || mul_over(size, Q.n, &size) ||
		    mul_over(size, G.n, &size) || size > 100000000))
		rc = err_set(e, EXIT_USAGE, "the grid has more than 1e8 shapes");
	f.v = xcalloc((size_t)((g->nratio > F.n ? g->nratio : F.n) + 1), sizeof *f.v);
	for (int64_t i = L.n - 1; i >= 0 && !rc; i--)
		for (int64_t q = 0; q < Q.n && !rc; q++)
			for (int64_t h = H.n - 1; h >= 0 && !(rc = ffn_choices(parent, g, H.v[h], &F, &f, e)); h--)
				for (int64_t k = 0; k < f.n * G.n; k++) {
					a.layers = L.v[i];
					a.heads = Q.v[q];
					a.hidden = H.v[h];
					a.ffn = f.v[k / G.n];
					a.kv_heads = mha ? a.heads : G.v[k % G.n];
					visit(&w, &a);
				}
	free(L.v);
	free(H.v);
	free(F.v);
	free(Q.v);
	free(G.v);
	free(f.v);
	if (rc) {
		free(w.s);
		return rc;
	}
	*out = w.s;
	*n = w.n;
	*uneven = w.uneven;
	return 0;
}

struct sort_key { double v; int64_t id, i; };

static int falling_order(const void *a, const void *b)
{
	const struct sort_key *x = a, *y = b;

	if (x->v != y->v)
		return x->v < y->v ? 1 : -1;
	return (x->id > y->id) - (x->id < y->id);
}

void search_sort(struct shape *s, int64_t n, int column, bool rising)
{
	struct sort_key *k = xcalloc((size_t)n + 1, sizeof *k);
	struct shape *t = xcalloc((size_t)n + 1, sizeof *t);

	for (int64_t i = 0; i < n; i++)
		k[i] = (struct sort_key){ (rising ? -1 : 1) * shape_value(&s[i], column), s[i].id, i };
	qsort(k, (size_t)n, sizeof *k, falling_order);
	for (int64_t i = 0; i < n; i++)
		t[i] = s[k[i].i];
	if (n)
		memcpy(s, t, (size_t)n * sizeof *s);
	free(k);
	free(t);
}
