/*
 * search.h - all shapes of a grid that fit a budget, counted exactly and without weights
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SEARCH_H
#define ADZE_SEARCH_H
#include "../model/params.h"

/* One axis of the grid; n of 0 means the parent's value only. */
struct grid_axis {
	int64_t *v;
	int64_t n;
};
struct grid {
	struct grid_axis layers, hidden, ffn, heads, kv_heads;
	double *ratio;                 /* ffn = ratio x hidden, instead of ffn */
	int64_t nratio;
	int64_t seq, batch;            /* for the cache in memory and the attention in flops */
	int64_t weight_bytes;          /* of one parameter and of one cache element */
};
enum shape_column { COL_ID, COL_LAYERS, COL_HIDDEN, COL_FFN, COL_HEADS, COL_KV_HEADS, COL_HEAD_DIM, COL_PARAMS,
	COL_NONEMBEDDING, COL_MEMORY, COL_FLOPS, SHAPE_COLUMNS };
extern const char *const shape_columns[SHAPE_COLUMNS];  /* "id", "layers" ... */
struct shape {
	int64_t id;                    /* from 1, in grid order among those that fit */
	int64_t layers, hidden, ffn, heads, kv_heads, head_dim;
	int64_t params, nonembedding;
	double memory, flops;          /* bytes; operations of one forward token */
};
double shape_value(const struct shape *s, int column);
int shape_column_find(const char *word);                /* -1: none */

struct limit {                         /* inclusive; hi of 0: no limit */
	double lo, hi;
};
/* Shapes in the order of the Minitron paper's tables: layers falling, heads rising, hidden falling, ffn rising.
 * Combinations whose heads are no multiple of their kv-heads are passed over (*uneven counts them).  The result is the
 * caller's.  EXIT_USAGE: values above the parent's, a ratio that gives no whole number, a grid beyond 1e8. */
int search_shapes(const struct arch *a, const struct grid *g, const struct limit limits[SHAPE_COLUMNS], struct shape **out,
		int64_t *n, int64_t *uneven, struct err *e);
/* Largest first (or smallest), ties by id. */
void search_sort(struct shape *s, int64_t n, int column, bool rising);
#endif
