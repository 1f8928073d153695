/*
 * forest.h - requests packed into batches in which a common start is there once
 *
 * Requests in lexicographic order are a depth-first walk of the tree of their texts: each adds to the batch only the tokens
 * that it does not share with the one before it.  So the choices of an item read its context once; nothing is padded but the end
 * of the batch.  Where requests that share a start (few-shot examples) are more than one batch, this start is a trunk: it is
 * read once, by itself, and all batches of its group begin behind it.  Trunks depend on the requests alone, not on what is done.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_FOREST_H
#define ADZE_FOREST_H
#include "loglik.h"

struct forest_batch {
	int64_t first, n;      /* requests order[first, first + n) */
	int64_t rows, picks;   /* tokens read, logits rows wanted; padded by forest_shape */
	int64_t trunk;         /* tokens of the trunk, 0: none; it begins request order[group] */
	int64_t group;         /* batches with a trunk: the first request of all that share it */
	int64_t lead;          /* rows of the largest batch of the group */
};
struct forest {
	int64_t *order;        /* [requests] */
	struct forest_batch *b; /* the largest first, those of a trunk together */
	int64_t n, cap;
	int share;
};
/* share 0: every request has its whole text to itself. */
void forest_make(struct forest *f, const struct ll_set *s, int64_t batch_tokens, int share);
void forest_free(struct forest *f);
/* Rows, picks and rows of the trunk of the program for a batch: a few sizes, so that programs can be used again. */
void forest_shape(const struct forest_batch *b, int64_t *rows, int64_t *picks, int64_t *past);
/* tok [past] of the trunk of batch i */
void forest_trunk(const struct forest *f, const struct ll_set *s, int64_t i, int64_t past, int32_t *tok);
/* tok [rows], node [past + rows, 2] (kernels.h, attn_tree), pick [picks] row of each scored place, label [picks] id there or -1. */
void forest_fill(const struct forest *f, const struct ll_set *s, int64_t i, int64_t rows, int64_t picks, int64_t past, int32_t *tok,
		 int32_t *node, int32_t *pick, int32_t *label);
#endif
