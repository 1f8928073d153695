/*
 * losses.h - the training objective: a weighted sum of the terms of losses.def
 *
 *	total = sum_k  w_k (tau^2 where marked) L_k          each a mean over the labelled positions
 *
 * KL, RKL, JSD and TVD are taken between softmax(logits / tau); what is reported is that value, without tau^2.  The
 * gradient is that of the total, tau^2 included.  Definitions: struct kd_head_args in kernels/kernels.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_LOSSES_H
#define ADZE_LOSSES_H
#include "../base/base.h"
#include "../../kernels/kernels.h"

struct objective {
	double weight[LOSS_KINDS];
	double tau;
	double beta;           /* of jsd: weight of the teacher in the mixture, 0 < beta < 1 */
	int64_t best;          /* kl against the teacher's best K tokens; 0: all */
	int tail;              /* enum tail_rule of them */
	int wsl;               /* weighted soft labels */
};
/* "kl:1,ce:0.5"; a word without a number weighs 1.  Refuses unknown words, repeats, negative weights, all zero. */
int objective_parse(struct objective *o, const char *text, double tau, struct err *e);
#define TAIL_WORDS "renorm|zero|ghost" /* in the order of enum tail_rule */
int tail_find(const char *word);
/* Refuses what the kernels do not combine (EXIT_USAGE). */
int objective_check(const struct objective *o, struct err *e);
/* What the head needs besides the weights. */
void objective_head(const struct objective *o, struct kd_head_args *a);
bool objective_needs_teacher(const struct objective *o);
/* mean[k] of each term -> the total */
double objective_total(const struct objective *o, const double mean[LOSS_KINDS]);
const char *loss_word(int kind);
const char *loss_key(int kind);                /* "kd/kl" */
bool loss_needs_teacher(int kind);
#endif
