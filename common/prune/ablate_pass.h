/*
 * ablate_pass.h - one batch through a model with parts left out, from any block on
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ABLATE_PASS_H
#define ADZE_ABLATE_PASS_H
#include "ablate.h"
#include "hidden.h"

/* All fields are the pass's own; ablate.c reads `executed` and `n_out`. */
struct pass {
	const struct ablate_args *a;
	int64_t L, C, most;    /* most: rows of the largest batch */
	struct prog *p;        /* the whole model and its head, for batches of p->B x p->T */
	struct frame f;
	val tok, label, full, head, h; /* full, h: final hidden states of the full model and of this pass */
	val *in, *mid;         /* [L+1], [L]: residual stream before each block and between its halves; in[L] leaves the last */
	struct prog *mp;       /* mean squared error of a few rows of logits */
	struct frame mf;
	val ma, mb, mlabel, msum;
	struct hidden kept;    /* [L+1][most,C] f32: residual stream before each block under the prefix's mask */
	struct hidden fulls;   /* final hidden states of the full model, all batches */
	int64_t *row0;         /* [n_batch] rows before each batch */
	uint8_t *full_done;    /* [n_batch] */
	float *x, *y;          /* [most,C] on the host */
	int64_t batch;         /* whose ids are in the frame, -1: none */
	int64_t executed;      /* block executions; half a block is one too */
};
int pass_open(struct pass *q, const struct ablate_args *a, struct err *e);
void pass_close(struct pass *q);
/* Values that a batch yields: one, or one for each sequence of a task. */
int64_t pass_n_out(const struct ablate_args *a, int64_t batch);
/* Runs the model under `mask` ([L] DROP_* bits) up to block `upto`, keeping what enters blocks 0..upto.  upto == L with v
 * set: its head too, values into v (of the full model: 0 for kl and mse). */
int pass_prefix(struct pass *q, int64_t batch, const uint8_t *mask, int64_t upto, double *v, struct err *e);
/* From what enters block `first` in the last prefix of this batch, under another mask, to the head. */
int pass_suffix(struct pass *q, int64_t batch, const uint8_t *mask, int64_t first, double *v, struct err *e);
/* Sum of angles between what enters blocks first and first + n of the last prefix, over pi. */
int pass_angle(struct pass *q, int64_t batch, int64_t first, int64_t n, double *v, struct err *e);
/* Keeps the full model's final hidden states of the batch, unless they are kept already (kl, mse). */
int pass_full(struct pass *q, int64_t batch, struct err *e);
#endif
