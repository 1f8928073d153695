/*
 * ablate_pass.h - a group of batches through a model, block by block, with all ablations of a round side by side
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ABLATE_PASS_H
#define ADZE_ABLATE_PASS_H
#include "ablate.h"
#include "blocks.h"
#include "hidden.h"

struct pass_head {             /* final norm and head for batches of p->B x p->T */
	struct prog *p;
	struct frame f;
	val x, label, full, h, sums;   /* x: the stream after the last block; full: final hidden states of the full model */
};
/* All fields are the pass's own; ablate.c reads `executed` and `runs`. */
struct pass {
	const struct ablate_args *a;
	struct blocks w;
	int64_t L, C, most;    /* most: rows of the largest batch */
	struct prog *p;        /* one block for batches of p->B x p->T, recorded for block `made` */
	struct frame f;
	val in, mid, out;      /* the stream before, within and after it */
	int64_t made;
	struct pass_head head;
	struct prog *mp;       /* mean squared error of a few rows of logits */
	struct frame mf;
	val ma, mb, mlabel, msum;
	struct hidden kept;    /* [slots][rows of a group, C] f32: streams of the prefix and of every ablation */
	int64_t slots, group;  /* streams at most; batches of a group */
	struct hidden fulls;   /* final hidden states of the full model, all batches */
	int64_t *row0;         /* [n_batch + 1] rows before each batch */
	uint8_t *full_done;    /* [n_batch] */
	float *x, *y;          /* [most,C] on the host */
	int64_t executed;      /* block executions; half a block is one too */
	int64_t *runs;         /* [slots][n_batch] of them that the last pass of each batch took; slot 0: the prefix */
};
/* What a round wants of a group of batches. */
struct pass_round {
	const uint8_t *mask;           /* [L] DROP_* bits that all share */
	int64_t upto;                  /* the prefix itself ends before this block */
	const int64_t *cand;           /* first layers of the ablations, ascending */
	int64_t n_cand;
	double *v0, *v;                /* [n_out], [n_cand][n_out]: values of the prefix (NULL: none), of the ablations */
	int64_t n_out;                 /* of all batches together */
};
int pass_open(struct pass *q, const struct ablate_args *a, struct err *e);
void pass_close(struct pass *q);
/* Values that a batch yields: one, or one for each sequence of a task. */
int64_t pass_n_out(const struct ablate_args *a, int64_t batch);
/* Runs batches [k0, k1), at most q->group of them, and fills their values.  Needed once for each in round 0 or not at all:
 * a group whose full model is not kept (after a kill) is run through it again. */
int pass_group(struct pass *q, const struct pass_round *r, int64_t k0, int64_t k1, struct err *e);
#endif
