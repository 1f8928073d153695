/*
 * timing.h - the time of a token on this machine: the matrix products of a shape, run on random weights
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TIMING_H
#define ADZE_TIMING_H
#include "../prog/prog.h"

/* Seconds of one step that gives each of `batch` sequences a token, for a model of a's shape in dtype (enum dtype): median
 * of several runs.  The reading of a key-value cache is not in it.  No weights are needed; a->config is not looked at. */
int timing_token(const struct arch *a, const struct engine *g, int dtype, int64_t batch, double *seconds, struct err *e);
#endif
