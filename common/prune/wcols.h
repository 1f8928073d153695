/*
 * wcols.h - norms of weight columns: what a unit writes into, without any data
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_WCOLS_H
#define ADZE_WCOLS_H
#include "../model/params.h"

/* One entry per weight matrix of the table; column c of it has sum |w| = l1[c] and sum w^2 = sq[c]. */
struct wcols {
	struct ptable *t;      /* owned */
	double **l1, **sq;     /* [t->n][cols], NULL for vectors */
};
/* Reads the model's weights once, a row at a time. */
int wcols_load(struct wcols *w, const char *dir, struct err *e);
void wcols_free(struct wcols *w);
/* Index of "blk.L.name" in the table; BUG when absent. */
int wcols_find(const struct wcols *w, int64_t layer, const char *name);
#endif
