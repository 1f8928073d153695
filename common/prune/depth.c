/*
 * depth.c - the order in which layers go
 *
 *	bi        score = E (1 - cos(x_in, x_out))                            any subset
 *	single    score = change per token when the layer alone is left out   any subset
 *	greedy    removed first = least important                             prefix
 *	blocks    the cheapest window of n neighbours goes first and whole, then the cheapest that does not overlap it ...;
 *	          within a window the last layer goes first, so what is dropped stays contiguous              prefix
 *
 * Layers that were not measured are protected: they come before all others.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "depth.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *site, *axis;
} parts[] = { { "block", "layer" }, { "attn", "sub_attn" }, { "ffn", "sub_mlp" } };

static double per_token(const struct stat_delta *d)
{
	return d->delta / (double)d->tokens;
}

/* Above everything that was measured. */
static double beyond(double top)
{
	return 2 * fabs(top) + 1;
}

static void add_bi(const struct stats *s, struct ranking *r)
{
	double *score = xcalloc((size_t)s->layers, sizeof *score);
	for (int k = 0; k < 3 && s->n; k++) {
		int64_t n = 0;
		for (int64_t l = 0; l < s->layers; l++) {
			const struct stat_entry *x = stats_find(s, parts[k].site, l);
			n += x || stats_left_out(s, l);
			score[l] = x ? x->sums[0] / (double)x->tokens : -1;  /* BI >= 0: a block that is gone stays last */
		}
		if (n == s->layers)
			ranking_add(r, parts[k].axis, -1, score, s->layers);
	}
	free(score);
}

/* One site's ablations of one metric. */
struct set {
	const struct stat_delta **d;
	int n;
	int64_t count, steps;          /* of all of them; steps 0: not greedy */
};

static int gather(const struct stats *s, const char *site, const char *metric, struct set *x, struct err *e)
{
	*x = (struct set){ .d = xcalloc((size_t)s->n_delta + 1, sizeof *x->d) };
	for (int i = 0; i < s->n_delta; i++) {
		const struct stat_delta *d = &s->delta[i];
		if (strcmp(d->site, site) || strcmp(d->metric, metric))
			continue;
		if (x->n && (d->count != x->count || (d->step >= 0) != (x->steps > 0)))
			return err_set(e, EXIT_DATA, "ablations of '%s' by %s come from more than one mode: rank them one at a time", site,
				       metric);
		x->count = d->count;
		x->steps = d->step + 1 > x->steps ? d->step + 1 : x->steps;
		x->d[x->n++] = d;
	}
	return 0;
}

static void add_single(const struct set *x, int64_t L, const char *axis, struct ranking *r)
{
	double *score = xcalloc((size_t)L, sizeof *score), top = per_token(x->d[0]);
	uint8_t *seen = xcalloc((size_t)L, 1);
	for (int i = 0; i < x->n; i++) {
		double v = per_token(x->d[i]);
		score[x->d[i]->layer] = v;
		seen[x->d[i]->layer] = 1;
		top = v > top ? v : top;
	}
	for (int64_t l = 0; l < L; l++)
		if (!seen[l])
			score[l] = beyond(top);
	ranking_add(r, axis, -1, score, L);
	free(score), free(seen);
}

/* By delta, cheapest first; of equals the later layer goes first. */
static int cheapest(const void *a, const void *b)
{
	const struct stat_delta *x = *(const struct stat_delta *const *)a, *y = *(const struct stat_delta *const *)b;
	double u = per_token(x), v = per_token(y);
	return u != v ? (u < v ? -1 : 1) : x->layer > y->layer ? -1 : x->layer < y->layer;
}

static void add_windows(struct set *x, int64_t L, const char *axis, struct ranking *r)
{
	double *score = xcalloc((size_t)L, sizeof *score);
	uint32_t *order = xcalloc((size_t)L, sizeof *order);
	uint8_t *seen = xcalloc((size_t)L, 1);         /* 1: in a window that was measured, 2: placed */
	int64_t end = L, n = 0;
	qsort(x->d, (size_t)x->n, sizeof *x->d, cheapest);
	double top = per_token(x->d[x->n - 1]);
	for (int i = 0; i < x->n; i++) {
		int64_t l0 = x->d[i]->layer, placed = 0;
		for (int64_t l = l0; l < l0 + x->count; l++) {
			placed |= seen[l] == 2;
			seen[l] = seen[l] ? seen[l] : 1;
		}
		if (placed)
			continue;
		end -= x->count;
		for (int64_t l = l0; l < l0 + x->count; l++) {
			order[end + l - l0] = (uint32_t)l;
			score[l] = per_token(x->d[i]);
			seen[l] = 2;
		}
	}
	for (int pass = 0; pass < 2; pass++)
		for (int64_t l = 0; l < L; l++)
			if (seen[l] == pass) {
				order[n++] = (uint32_t)l;
				score[l] = pass ? top : beyond(top);
			}
	ranking_add_prefix(r, axis, -1, score, order, L);
	free(score), free(order), free(seen);
}

/* The cheapest of a round, which the next round's records must list as removed. */
static int winners(const struct set *x, int64_t L, const struct stat_delta **win, struct err *e)
{
	for (int64_t t = 0; t < x->steps; t++) {
		for (int i = 0; i < x->n; i++)
			if (x->d[i]->step == t && (!win[t] || cheapest(&x->d[i], &win[t]) < 0))
				win[t] = x->d[i];
		if (!win[t] || x->steps > L)
			return err_set(e, EXIT_DATA, "the greedy removal of '%s' has no round %lld", x->d[0]->site, (long long)t);
	}
	for (int i = 0; i < x->n; i++)
		for (int64_t t = 0; t < x->d[i]->step; t++)
			if (x->d[i]->dropped[t] != win[t]->layer)
				return err_set(e, EXIT_DATA, "the greedy removal of '%s' took away %u in round %lld where %lld was cheapest",
					       x->d[0]->site, x->d[i]->dropped[t], (long long)t, (long long)win[t]->layer);
	return 0;
}

static int add_greedy(const struct set *x, int64_t L, const char *axis, struct ranking *r, struct err *e)
{
	const struct stat_delta **win = xcalloc((size_t)L + 1, sizeof *win), **last = xcalloc((size_t)x->n, sizeof *last);
	double *score = xcalloc((size_t)L, sizeof *score), top = 0;
	uint32_t *order = xcalloc((size_t)L, sizeof *order);
	uint8_t *seen = xcalloc((size_t)L, 1);
	int64_t end = L, m = 0, n = 0;
	int rc = x->steps > L ? err_set(e, EXIT_DATA, "%lld rounds of %lld layers", (long long)x->steps, (long long)L) :
				winners(x, L, win, e);
	for (int64_t t = 0; t < x->steps && !rc; t++) {
		order[--end] = (uint32_t)win[t]->layer;
		score[win[t]->layer] = per_token(win[t]);
		if (seen[win[t]->layer]++)
			rc = err_set(e, EXIT_DATA, "the greedy removal of '%s' took away %lld twice", x->d[0]->site, (long long)win[t]->layer);
	}
	for (int i = 0; i < x->n && !rc; i++)          /* those that stayed: by what the last round says */
		if (x->d[i]->step == x->steps - 1 && !seen[x->d[i]->layer])
			last[m++] = x->d[i];
	qsort(last, (size_t)m, sizeof *last, cheapest);
	for (int64_t i = 0; i < m && !rc; i++) {
		order[--end] = (uint32_t)last[i]->layer;
		score[last[i]->layer] = per_token(last[i]);
		seen[last[i]->layer] = 1;
	}
	for (int64_t l = 0; l < L; l++)
		top = seen[l] && score[l] > top ? score[l] : top;
	for (int64_t l = 0; l < L && !rc; l++)
		if (!seen[l]) {
			order[n++] = (uint32_t)l;
			score[l] = beyond(top);
		}
	if (!rc)
		ranking_add_prefix(r, axis, -1, score, order, L);
	free(win), free(last), free(score), free(order), free(seen);
	return rc;
}

/* The metric that "auto" stands for. */
static const char *resolve(const struct stats *s, const char *metric, struct err *e)
{
	if (strcmp(metric, "auto"))
		return metric;
	for (int i = 1; i < s->n_delta; i++)
		if (strcmp(s->delta[i].metric, s->delta[0].metric)) {
			err_set(e, EXIT_DATA, "the statistics hold ablations by %s and by %s: choose with --layer-metric", s->delta[0].metric,
				s->delta[i].metric);
			return NULL;
		}
	return s->n_delta ? s->delta[0].metric : "bi";
}

int depth_rank(const struct stats *s, const char *metric, struct ranking *r, struct err *e)
{
	const char *m = resolve(s, metric, e);
	int before = r->n, rc = 0;
	if (!m)
		return -1;
	if (!strcmp(m, "bi"))
		add_bi(s, r);
	for (int k = 0; k < 3 && strcmp(m, "bi") && !rc; k++) {
		struct set x;
		rc = gather(s, parts[k].site, m, &x, e);
		if (!rc && x.n) {
			size_t n = strlen(r->method);
			if (x.steps)
				rc = add_greedy(&x, s->layers, parts[k].axis, r, e);
			else if (x.count > 1)
				add_windows(&x, s->layers, parts[k].axis, r);
			else
				add_single(&x, s->layers, parts[k].axis, r);
			snprintf(r->method + n, sizeof r->method - n, " %s=%s%s", parts[k].axis, x.steps ? "greedy-" : x.count > 1 ?
				 "blocks-" : "", m);
		}
		free(x.d);
	}
	if (!rc && r->n == before && strcmp(metric, "auto"))
		rc = err_set(e, EXIT_DATA, "the statistics hold no layer metric '%s'", m);
	return rc;
}
