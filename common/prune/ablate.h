/*
 * ablate.h - what a model loses when layers, attentions or MLPs are left out
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ABLATE_H
#define ADZE_ABLATE_H
#include "../prog/prog.h"
#include "stats.h"

enum ablate_metric {                   /* in the order of stat_delta_metrics */
	ABLATE_LOSS,                   /* cross-entropy of the labels */
	ABLATE_KL,                     /* KL(full || ablated) of the next-token distributions */
	ABLATE_MSE,                    /* squared difference of the logits, mean over the vocabulary */
	ABLATE_TASK,                   /* right answers lost */
	ABLATE_ANGULAR                 /* arccos(cos(x_l, x_l+n)) / pi: no forward pass of its own */
};
struct ablate_batch {
	int64_t B, T;
	int32_t *ids, *label;          /* [B*T]; label -1: the row does not count */
};
struct ablate_state;
struct ablate_args {
	const struct engine *g;
	const struct weights *w;       /* all of them; NULL: one block at a time, from */
	const char *dir;               /* this directory, whose table is t, in dtype */
	const struct ptable *t;
	int dtype;
	int metric;
	int part;                      /* DROP_LAYER, DROP_ATTN or DROP_FFN */
	int greedy;                    /* remove the cheapest, measure again */
	int64_t rounds;                /* greedy: parts to remove, 0: all but one */
	int64_t count;                 /* neighbouring parts left out together, 1 when greedy */
	int last;                      /* angular: last token of each sample only */
	const uint8_t *protect;        /* [layers] never left out */
	const struct ablate_batch *batch;
	int64_t n_batch;
	double (*score)(void *arg, const double *v); /* task: right answers from the log-likelihoods of all sequences, in order */
	void *arg;
	int64_t items;                 /* task: of its file */
	int64_t hidden_budget;         /* bytes of hidden states in memory; more go to a file */
	struct ablate_state *state;    /* finished ablations, NULL: none kept; of this process alone */
	struct comm *world;            /* processes that share the batches; NULL: alone */
	void (*step)(void *arg, double runs); /* progress in block executions */
	void *step_arg;
};
struct ablate_plan {
	int64_t ablations;
	int64_t runs, plain;           /* block executions; the same with a whole forward pass for each ablation */
};
/* EXIT_USAGE when nothing may be left out.  Exact but for greedy runs, where it depends on what is removed. */
int ablate_plan(const struct ablate_args *a, const struct arch *arch, struct ablate_plan *p, struct err *e);
/* Adds a stat_delta for every ablation and the counts of block executions to s. */
int ablate_run(const struct ablate_args *a, struct stats *s, struct err *e);
#endif
