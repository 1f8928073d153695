/*
 * share.c - the best units of all blocks together, in steps that keep each block regular
 *
 * A block's units are lined up by importance and taken in steps: `step` neurons that follow each other in the order, or the
 * next best head of every query group.  A step's score is the mean of its units', so scores fall along a block, and the
 * best steps of all blocks form a prefix in each.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "share.h"
#include <stdlib.h>
#include <string.h>

/* score[i] of step i of a block; returns the number of steps. */
static int64_t steps_of(const struct rank_axis *x, int64_t step, bool grouped, double *score)
{
	int64_t n = x->n / step, size = grouped ? n : 1, *seen = xcalloc((size_t)step, sizeof *seen);

	for (int64_t i = 0; i < n; i++)
		score[i] = 0;
	for (int64_t i = 0; i < x->n; i++) {
		/* grouped: the place of the head in its group says which step it is in */
		int64_t u = x->order[i], at = grouped ? seen[u / size]++ : i / step;
		if (at < n)
			score[at] += (double)x->score[u] / (double)step;
	}
	free(seen);
	return n;
}

int64_t *share_new(const struct keep *k, const struct ranking *r, const char *name, const char *axis, int64_t step,
		int64_t mean, struct err *e)
{
	int64_t L = k->to.layers, per = (!strcmp(axis, "mlp") ? k->from.ffn : k->from.heads) / step;
	int64_t total = mean / step * L, *count = xcalloc((size_t)L, sizeof *count);
	float *score = xcalloc((size_t)(L * per), sizeof *score);
	uint32_t *order = xcalloc((size_t)(L * per), sizeof *order);
	double *buf = xcalloc((size_t)per, sizeof *buf);
	bool ok = total >= L;

	if (!ok)
		err_set(e, EXIT_USAGE, "%s %lld: less than one step of %lld a block", axis, (long long)mean, (long long)step);
	for (int64_t l = 0; l < L && ok; l++) {
		const struct rank_axis *x = ranking_find(r, axis, k->layer[l]);
		if (!x) {
			err_set(e, EXIT_DATA, "%s: axis '%s' of layer %lld is not ranked", name, axis, (long long)k->layer[l]);
			ok = false;
			break;
		}
		steps_of(x, step, !strcmp(axis, "head") && step > 1, buf);
		for (int64_t i = 0; i < per; i++)
			score[l * per + i] = (float)buf[i];
		count[l] = 1;
	}
	if (ok)
		order_by_score(score, L * per, order);
	int64_t left = total - L;
	for (int64_t i = 0; ok && i < L * per && left > 0; i++)
		if (order[i] % per) {          /* the first step of each block is in */
			count[order[i] / per]++;
			left--;
		}
	for (int64_t l = 0; l < L; l++)
		count[l] *= step;
	free(score);
	free(order);
	free(buf);
	if (ok)
		return count;
	free(count);
	return NULL;
}

int64_t share_largest(const int64_t *list, int64_t layers, int64_t even)
{
	int64_t most = 0;

	for (int64_t l = 0; list && l < layers; l++)
		most = list[l] > most ? list[l] : most;
	return list ? most : even;
}
