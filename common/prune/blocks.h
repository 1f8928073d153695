/*
 * blocks.h - a model's weights one block at a time, read from its files; or all of them where they are loaded already
 *
 * One-block programs are bound to whatever block is there: blocks_base() says where a program that was recorded for one block
 * finds the weights of another.  What follows the blocks, the final norm and the output matrix, is one more piece, the
 * tail: block and tail are never in memory together.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_BLOCKS_H
#define ADZE_BLOCKS_H
#include "../io/safetensors.h"
#include "../prog/prog.h"

struct blocks {
	const struct engine *g;
	const struct ptable *t;        /* of the whole model */
	int dtype;
	struct st_model *m;            /* NULL: everything lies at `whole` */
	char *whole;
	int64_t first, n, elems;       /* parameters: the first of block 0, of a block; elements of the largest block */
	char *w;                       /* one block, or NULL */
	struct ptable *tail;           /* final norm and output matrix, without blocks */
	char *tail_w;                  /* their weights, or NULL */
	int64_t tail0;                 /* first element of the tail's table that tail_w holds */
};
/* From a model directory, which is checked against t. */
int blocks_open(struct blocks *b, const struct engine *g, const char *dir, const struct ptable *t, int dtype, struct err *e);
void blocks_whole(struct blocks *b, const struct weights *w);
void blocks_close(struct blocks *b);
/* Brings block l in, in place of another or of the tail, and asks for the pages of the next one. */
int blocks_load(struct blocks *b, int64_t l, struct err *e);
/* For SP_PARAM of a program recorded for block `made` that is to run block l, which is the one loaded. */
char *blocks_base(const struct blocks *b, int64_t l, int64_t made);
/* Brings the tail in.  *t, *base: the table to record its program with (from block *at on) and what to bind SP_PARAM to. */
int blocks_tail(struct blocks *b, const struct ptable **t, int64_t *at, char **base, struct err *e);
/* x [n, hidden] = scaled embeddings, straight from the files, rounded as loaded weights would be.  Not of whole models. */
void blocks_embed(const struct blocks *b, const int32_t *ids, int64_t n, float *x);
#endif
