/*
 * compensate.h - what removed heads and neurons added on average, as biases of the kept model (FLAP)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_COMPENSATE_H
#define ADZE_COMPENSATE_H
#include "gather.h"
#include "stats.h"

/* Fills k->plus from statistics of the parent and gives k->to the biases that carry it.  EXIT_USAGE: nothing to compensate, a
 * family without such a bias, merge or add-back at the same time; EXIT_DATA: a site that was not measured. */
int compensate(struct keep *k, const struct st_model *m, const struct stats *s, const char *stats_name, struct err *e);
#endif
