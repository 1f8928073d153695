/*
 * losses.h - the training objective: a weighted sum of the terms of losses.def
 *
 *	total = w_kl tau^2 KL + w_rkl tau^2 RKL + w_ce CE        each a mean over the labelled positions
 *
 * KL and RKL are taken between softmax(logits / tau); what is reported is that value, without tau^2.  The gradient is that
 * of the total, tau^2 included.
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
};
/* "kl:1,ce:0.5"; a word without a number weighs 1.  Refuses unknown words, repeats, negative weights, all zero. */
int objective_parse(struct objective *o, const char *text, double tau, struct err *e);
bool objective_needs_teacher(const struct objective *o);
/* mean[k] of each term -> the total */
double objective_total(const struct objective *o, const double mean[LOSS_KINDS]);
const char *loss_word(int kind);
const char *loss_key(int kind);                /* "kd/kl" */
bool loss_needs_teacher(int kind);
#endif
