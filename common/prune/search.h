/*
 * search.h - all shapes of a grid that fit a budget, counted exactly and without weights
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SEARCH_H
#define ADZE_SEARCH_H
#include "cost.h"

/* One axis of the grid; n of 0 means the parent's value only. */
struct grid_axis {
	int64_t *v;
	int64_t n;
};
struct grid {
	struct grid_axis layers, hidden, ffn, heads, kv_heads;
	double *ratio;                 /* ffn = ratio x hidden, instead of ffn */
	int64_t nratio;
	/* values that are no multiple are left out (0: all stay); ratios are rounded to the nearest multiple of div_ffn */
	int64_t div_layers, div_hidden, div_ffn, div_heads, div_kv_heads;
	bool loadable;                 /* only shapes that transformers takes */
	struct workload work;          /* context 0: seq */
};
enum shape_column { COL_ID, COL_LAYERS, COL_HIDDEN, COL_FFN, COL_HEADS, COL_KV_HEADS, COL_HEAD_DIM, COL_PARAMS,
	COL_NONEMBEDDING, COL_MEMORY, COL_FLOPS, COL_ACTIVE, COL_LOADABLE, COL_LATENCY, SHAPE_COLUMNS };
extern const char *const shape_columns[SHAPE_COLUMNS];  /* "id", "layers" ... */
struct shape {
	int64_t id;                    /* from 1, in grid order among those that fit */
	int64_t layers, hidden, ffn, heads, kv_heads, head_dim;
	int64_t params, nonembedding, active;
	double memory, flops;          /* bytes; operations of one forward token */
	double latency;                /* seconds of one decoded token, 0 without hardware */
	int64_t loadable;              /* 0: transformers refuses the shape */
};
double shape_value(const struct shape *s, int column);
int shape_column_find(const char *word);                /* -1: none */

struct limit {                         /* inclusive; hi of 0: no limit */
	double lo, hi;
};
struct sort {
	int column;
	bool rising;                   /* smallest first */
};
enum { FRONT_COLUMNS = 4, FRONT_SHAPES = 20000, LIST_SHAPES = 1000000 };
/* What is wanted of the shapes that fit: all of them in grid order (by.column COL_ID), or the first `top` by a column, or
 * those that no other beats in one of the columns of `front` without being worse in another. */
struct query {
	struct limit limits[SHAPE_COLUMNS];
	struct sort by;
	int64_t top;                   /* 0: all */
	struct sort front[FRONT_COLUMNS];
	int n_front;
};
struct found {
	struct shape *s;
	int64_t n;
	double grid, fits;             /* shapes of the grid; that fit the limits */
	double uneven, refused;        /* passed over: heads no multiple of kv-heads, or more to a group than the parent has; not loadable */
};
/* Grid order is that of the Minitron paper's tables: layers falling, heads rising, hidden falling, kv-heads rising, ffn
 * rising.  Nothing is stored per point: only what is wanted, found->s (the caller's).  EXIT_USAGE: values above the parent's,
 * a ratio that gives no whole number, an axis without values left, more shapes than LIST_SHAPES or FRONT_SHAPES wanted. */
int search_shapes(const struct arch *a, const struct grid *g, const struct query *q, struct found *out, struct err *e);
/* Ties by id. */
void search_sort(struct shape *s, int64_t n, struct sort by);
#endif
