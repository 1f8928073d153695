/*
 * stats_sum.c - statistics of all processes, each of its share of the samples, added up in all of them
 *
 * A process without a sample has no entries yet: the list of one that has them all goes round first.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../kernels/kernels.h"
#include "stats.h"
#include <stdlib.h>
#include <string.h>

struct head {
	char site[24];
	int64_t layer, unit, units;
};

void stats_sum(struct stats *s, struct comm *c)
{
	if (c->size < 2)
		return;
	int64_t most = comm_max(c, (int64_t)s->n * c->size + c->rank), n = most / c->size;
	struct head *h = xcalloc((size_t)n, sizeof *h);
	for (int i = 0; i < s->n && i < n; i++) {
		memcpy(h[i].site, s->e[i].site, sizeof h[i].site);
		h[i].layer = s->e[i].layer;
		h[i].unit = s->e[i].unit;
		h[i].units = s->e[i].units;
	}
	comm_bcast(c, h, n * (int64_t)sizeof *h, (int)(most % c->size));
	for (int64_t i = 0; i < n; i++) {
		struct stat_entry *e = stats_entry(s, h[i].site, h[i].layer, h[i].unit, h[i].units);
		int64_t seen[2] = { e->n, e->tokens };
		comm_sum_i64(c, seen, 2);
		e->n = seen[0];
		e->tokens = seen[1];
		comm_sum_f64(c, e->sums, e->units ? STAT_ROWS * e->units : 1);
	}
	free(h);
	int64_t seen[2] = { s->samples, s->tokens };
	comm_sum_i64(c, seen, 2);
	s->samples = seen[0];
	s->tokens = seen[1];
}
