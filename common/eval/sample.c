/*
 * sample.c - one token from a row of logits
 *
 *	p_v = exp((l_v - max l) / temperature);   kept: the largest p while the mass before is < top_p of all;
 *	the token is the first where the running mass passes u times the kept mass
 *
 * A token of p < (1 - top_p) / V of all can never be kept: those that are no larger than it, at most V, do not make up
 * the rest.  So only the others are sorted, usually a handful.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "generate.h"
#include <math.h>
#include <stdlib.h>

static int32_t likeliest(const float *l, int64_t V)
{
	int64_t best = 0;
	for (int64_t v = 1; v < V; v++)
		if (l[v] > l[best])
			best = v;
	return (int32_t)best;
}

struct cand {
	double p;
	int32_t id;
};

static int larger_first(const void *x, const void *y)
{
	const struct cand *a = x, *b = y;
	return a->p != b->p ? (a->p > b->p ? -1 : 1) : a->id < b->id ? -1 : a->id > b->id;
}

int32_t gen_pick(const float *logits, int64_t V, double temperature, double top_p, double u)
{
	int32_t best = likeliest(logits, V);
	if (temperature <= 0 || !isfinite(logits[best]))
		return best;
	struct cand *c = xcalloc((size_t)V, sizeof *c);
	double sum = 0, kept = 0, run = 0;
	int64_t n = 0, m = 0;
	for (int64_t v = 0; v < V; v++) {
		c[v] = (struct cand){ exp(((double)logits[v] - (double)logits[best]) / temperature), (int32_t)v };
		sum += c[v].p;
	}
	for (int64_t v = 0; v < V; v++)
		if (top_p >= 1 || c[v].p >= sum * (1 - top_p) / (double)V)
			c[n++] = c[v];
	if (top_p < 1)
		qsort(c, (size_t)n, sizeof *c, larger_first);
	while (m < n && (m == 0 || top_p >= 1 || kept < top_p * sum))
		kept += c[m++].p;
	int64_t k = 0;
	while (k + 1 < m && (run += c[k].p) <= u * kept)
		k++;
	best = c[k].id;
	free(c);
	return best;
}
