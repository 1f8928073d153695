/*
 * search.c - walking a grid: four nested axes of lines along ffn, exact counts, inclusive limits
 *
 * Every limited column rises with every size.  So a box of the grid is left out when its smallest corner is above a limit or
 * its largest below, at each level of nesting, and what fits of a line is one interval, found by bisection.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "search.h"
#include "select.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const shape_columns[SHAPE_COLUMNS] = {
	"id", "layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "params", "nonembedding", "memory", "flops", "active",
	"loadable", "latency"
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
	switch (column) {
	case COL_ID: return (double)s->id;
	case COL_LAYERS: return (double)s->layers;
	case COL_HIDDEN: return (double)s->hidden;
	case COL_FFN: return (double)s->ffn;
	case COL_HEADS: return (double)s->heads;
	case COL_KV_HEADS: return (double)s->kv_heads;
	case COL_HEAD_DIM: return (double)s->head_dim;
	case COL_PARAMS: return (double)s->params;
	case COL_NONEMBEDDING: return (double)s->nonembedding;
	case COL_MEMORY: return s->memory;
	case COL_FLOPS: return s->flops;
	case COL_ACTIVE: return (double)s->active;
	case COL_LOADABLE: return (double)s->loadable;
	case COL_LATENCY: return s->latency;
	}
	BUG("column %d", column);
}

/* ---- the axes ---- */

static int rising_order(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

/* Sorted, distinct copy of an axis without what the divisor refuses; the parent's value when none was given. */
static int prepare(struct grid_axis *to, const struct grid_axis *from, int64_t divisor, int64_t parent, const char *word,
		struct err *e)
{
	to->v = xcalloc((size_t)from->n + 1, sizeof *to->v);
	to->n = 1;
	to->v[0] = parent;
	if (!from->n)
		return 0;
	memcpy(to->v, from->v, (size_t)from->n * sizeof *to->v);
	qsort(to->v, (size_t)from->n, sizeof *to->v, rising_order);
	if (to->v[0] < 1 || to->v[from->n - 1] > parent)
		return err_set(e, EXIT_USAGE, "%s %lld: the model has %lld", word,
			(long long)(to->v[0] < 1 ? to->v[0] : to->v[from->n - 1]), (long long)parent);
	to->n = 0;
	for (int64_t i = 0; i < from->n; i++)
		if ((!to->n || to->v[i] != to->v[to->n - 1]) && (!divisor || to->v[i] % divisor == 0))
			to->v[to->n++] = to->v[i];
	return to->n ? 0 : err_set(e, EXIT_USAGE, "%s: no value is a multiple of %lld", word, (long long)divisor);
}

/* ffn choices of one hidden size by ratios: whole numbers, or the nearest multiple of the divisor. */
static int by_ratio(struct grid_axis *to, const struct arch *a, const struct grid *g, int64_t hidden, struct err *e)
{
	struct grid_axis raw = { .v = xcalloc((size_t)g->nratio, sizeof *raw.v), .n = g->nratio };
	double unit = g->div_ffn ? (double)g->div_ffn : 1;
	int rc = 0;

	for (int64_t i = 0; i < g->nratio && !rc; i++) {
		double f = g->ratio[i] * (double)hidden;
		if (!(f >= 1) || f > 1e9 || (!g->div_ffn && fabs(f - nearbyint(f)) > 1e-6))
			rc = err_set(e, EXIT_USAGE, "ffn-ratio %g of hidden %lld is %g neurons: not a whole number", g->ratio[i],
				(long long)hidden, f);
		else
			raw.v[i] = (int64_t)(unit * fmax(1, nearbyint(f / unit)));
	}
	if (!rc)
		rc = prepare(to, &raw, g->div_ffn, a->ffn, "ffn", e);
	free(raw.v);
	return rc;
}

struct axes {
	struct grid_axis L, H, Q, G;
	struct grid_axis *F;           /* of every hidden size */
	int64_t ffn_min, ffn_max;
	bool mha;                      /* every head has its own key-value head: G is not walked */
};

static void axes_free(struct axes *x)
{
	for (int64_t h = 0; x->F && h < x->H.n; h++)
		free(x->F[h].v);
	free(x->F);
	free(x->L.v);
	free(x->H.v);
	free(x->Q.v);
	free(x->G.v);
}

static int axes_make(struct axes *x, const struct arch *a, const struct grid *g, struct err *e)
{
	x->mha = a->heads == a->kv_heads && !g->kv_heads.n;
	if (prepare(&x->L, &g->layers, g->div_layers, a->layers, "layers", e) ||
	    prepare(&x->H, &g->hidden, g->div_hidden, a->hidden, "hidden", e) ||
	    prepare(&x->Q, &g->heads, g->div_heads, a->heads, "heads", e) ||
	    prepare(&x->G, &g->kv_heads, g->div_kv_heads, a->kv_heads, "kv-heads", e))
		return -1;
	x->F = xcalloc((size_t)x->H.n, sizeof *x->F);
	for (int64_t h = 0; h < x->H.n; h++) {
		struct grid_axis *f = &x->F[h];
		if (g->nratio ? by_ratio(f, a, g, x->H.v[h], e) : prepare(f, &g->ffn, g->div_ffn, a->ffn, "ffn", e))
			return -1;
		if (!h || f->v[0] < x->ffn_min)
			x->ffn_min = f->v[0];
		if (!h || f->v[f->n - 1] > x->ffn_max)
			x->ffn_max = f->v[f->n - 1];
	}
	return 0;
}

/* ---- the walk ---- */

struct walk {
	const struct arch *a;
	const struct grid *g;
	const struct query *q;
	struct axes x;
	struct workload work;
	struct selection sel;
	int64_t fits;
};

static bool refused(const struct arch *a, int64_t heads, int64_t hidden)
{
	return a->family->hidden_by_heads && hidden % heads;
}

/* Can heads be shared out among groups: alike, and a group may lose heads but not gain any */
static bool shares(const struct arch *a, int64_t heads, int64_t groups)
{
	return heads % groups == 0 && heads / groups <= a->heads / a->kv_heads;
}

static void count_grid(const struct walk *w, struct found *out)
{
	const struct axes *x = &w->x;

	for (int64_t q = 0; q < x->Q.n; q++) {
		double even = 0;
		for (int64_t k = 0; k < x->G.n; k++)
			even += x->mha || shares(w->a, x->Q.v[q], x->G.v[k]);
		for (int64_t h = 0; h < x->H.n; h++) {
			double lines = (double)x->L.n * (double)x->F[h].n;
			out->grid += lines * (double)x->G.n;
			out->uneven += lines * ((double)x->G.n - even);
			if (w->g->loadable && refused(w->a, x->Q.v[q], x->H.v[h]))
				out->refused += lines * even;
		}
	}
}

/* Fixes the sizes that are still free, from `level` inwards, at one end of their axes. */
static void fix_rest(struct line *l, const struct walk *w, const struct cost *c, int level, bool high)
{
	const struct axes *x = &w->x;
	const int64_t size[SIZES] = { [SIZE_HEADS] = high ? x->Q.v[x->Q.n - 1] : x->Q.v[0],
		[SIZE_HIDDEN] = high ? x->H.v[x->H.n - 1] : x->H.v[0],
		/* with their own heads: whatever bounds them */
		[SIZE_KV] = x->mha ? (high ? x->Q.v[x->Q.n - 1] : x->Q.v[0]) : high ? x->G.v[x->G.n - 1] : x->G.v[0] };

	l->cost = *c;
	for (int s = level; s >= SIZE_KV; s--)
		cost_fix(&l->cost, &l->cost, (enum size)s, size[s]);
	l->ffn = high ? &x->ffn_max : &x->ffn_min;
	l->n = 1;
}

/* No shape of the box fits: sizes outside of `level` are fixed in c. */
static bool outside(const struct walk *w, const struct cost *c, int level)
{
	struct line low, high;

	fix_rest(&low, w, c, level, false);
	fix_rest(&high, w, c, level, true);
	for (int col = COL_PARAMS; col < SHAPE_COLUMNS; col++) {
		const struct limit *m = &w->q->limits[col];
		if (m->hi > 0 && col != COL_LOADABLE &&
		    (line_value(&low, col, 0) > m->hi || line_value(&high, col, 0) < m->lo))
			return true;
	}
	return false;
}

static int visit_line(struct walk *w, struct line *l, struct err *e)
{
	int64_t lo = 0, hi = l->n;

	for (int col = COL_LAYERS; col < SHAPE_COLUMNS && lo < hi; col++) {
		const struct limit *m = &w->q->limits[col];
		if (!(m->hi > 0))
			continue;
		if (line_value(l, col, lo) < m->lo)
			lo = line_bound(l, col, m->lo, false);
		if (lo < hi && line_value(l, col, hi - 1) > m->hi)
			hi = line_bound(l, col, m->hi, true);
	}
	if (lo >= hi)
		return 0;
	l->fixed.id = w->fits + 1 - lo;
	w->fits += hi - lo;
	return selection_add(&w->sel, l, lo, hi, e);
}

/* All kv-heads of one depth, number of heads and hidden size. */
static int visit_kv(struct walk *w, const struct cost *c, struct shape fixed, const struct grid_axis *ffn, struct err *e)
{
	struct line l = { .ffn = ffn->v, .n = ffn->n };

	for (int64_t k = 0; k < (w->x.mha ? 1 : w->x.G.n); k++) {
		fixed.kv_heads = w->x.mha ? fixed.heads : w->x.G.v[k];
		if (!shares(w->a, fixed.heads, fixed.kv_heads))
			continue;
		cost_fix(&l.cost, c, SIZE_KV, fixed.kv_heads);
		l.fixed = fixed;
		if (visit_line(w, &l, e))
			return -1;
	}
	return 0;
}

static int visit_heads(struct walk *w, const struct cost *c, struct shape fixed, struct err *e)
{
	struct cost inner;

	for (int64_t h = w->x.H.n - 1; h >= 0; h--) {
		fixed.hidden = w->x.H.v[h];
		fixed.loadable = !refused(w->a, fixed.heads, fixed.hidden);
		if (w->g->loadable && !fixed.loadable)
			continue;
		cost_fix(&inner, c, SIZE_HIDDEN, fixed.hidden);
		if (!outside(w, &inner, SIZE_KV) && visit_kv(w, &inner, fixed, &w->x.F[h], e))
			return -1;
	}
	return 0;
}

static int visit_all(struct walk *w, struct err *e)
{
	struct shape fixed = { .head_dim = w->a->head_dim };
	struct arch a = *w->a;         /* the number of layers changes; the config object is only borrowed */
	struct cost depth, inner;

	for (int64_t i = w->x.L.n - 1; i >= 0; i--) {
		fixed.layers = a.layers = w->x.L.v[i];
		cost_init(&depth, &a, &w->work);
		if (outside(w, &depth, SIZE_HEADS))
			continue;
		for (int64_t q = 0; q < w->x.Q.n; q++) {
			fixed.heads = w->x.Q.v[q];
			cost_fix(&inner, &depth, SIZE_HEADS, fixed.heads);
			if (!outside(w, &inner, SIZE_HIDDEN) && visit_heads(w, &inner, fixed, e))
				return -1;
		}
	}
	return 0;
}

int search_shapes(const struct arch *a, const struct grid *g, const struct query *q, struct found *out, struct err *e)
{
	struct walk w = { .a = a, .g = g, .q = q, .work = g->work, .sel = { .q = q } };

	*out = (struct found){ 0 };
	if (arch_uneven(a))
		return err_set(e, EXIT_DATA, "widths of the model differ from block to block: no grid of shapes leads from it");
	if (!w.work.context)
		w.work.context = w.work.seq;
	int rc = axes_make(&w.x, a, g, e);
	if (!rc) {
		count_grid(&w, out);
		rc = visit_all(&w, e);
	}
	if (rc) {
		free(w.sel.s);
		free(w.sel.key);
	} else {
		selection_end(&w.sel);
		out->s = w.sel.s;
		out->n = w.sel.n;
		out->fits = (double)w.fits;
	}
	axes_free(&w.x);
	return rc;
}
