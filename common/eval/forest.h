/*
 * forest.h - requests packed into batches in which a common start is there once
 *
 * Requests in lexicographic order are a depth-first walk of the tree of their texts: each adds to the batch only the tokens
 * that it does not share with the one before it.  So the choices of an item read its context once, and items with the same
 * few-shot examples read those once per batch; nothing is padded but the end of the batch.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_FOREST_H
#define ADZE_FOREST_H
#include "loglik.h"

struct forest_batch {
	int64_t first, n;      /* requests order[first, first + n) */
	int64_t rows, picks;   /* tokens read, logits rows wanted; padded by forest_shape */
};
struct forest {
	int64_t *order;        /* [requests] */
	struct forest_batch *b; /* the largest first */
	int64_t n, cap;
	int share;
};
/* share 0: every request has its whole text to itself. */
void forest_make(struct forest *f, const struct ll_set *s, int64_t batch_tokens, int share);
void forest_free(struct forest *f);
/* Rows and picks of the program for a batch: a few sizes, so that programs can be used again. */
void forest_shape(const struct forest_batch *b, int64_t *rows, int64_t *picks);
/* tok [rows], node [rows, 2] (kernels.h, attn_tree), pick [picks] row of each scored place, label [picks] id there or -1. */
void forest_fill(const struct forest *f, const struct ll_set *s, int64_t i, int64_t rows, int64_t picks, int32_t *tok,
		 int32_t *node, int32_t *pick, int32_t *label);
#endif
