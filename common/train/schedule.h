/*
 * schedule.h - the learning rate of each step, in closed form
 *
 * Steps count from 1 to `steps`.  Warm-up is linear: step s <= warmup has peak * s / warmup.  Then, with
 * u = (s - warmup) / (steps - warmup):
 *	cosine   min + (peak - min) (1 + cos(pi u)) / 2
 *	linear   peak + (min - peak) u
 *	wsd      peak until the last `decay` steps, then linear down to min (warm-up, stable, decay)
 * The last step has exactly min.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SCHEDULE_H
#define ADZE_SCHEDULE_H
#include "../base/base.h"

enum schedule_kind { SCHED_COSINE, SCHED_LINEAR, SCHED_WSD };
#define SCHEDULE_WORDS "cosine|linear|wsd"

struct schedule {
	int kind;
	int64_t steps, warmup;
	int64_t decay;         /* wsd: steps of the final slope */
	double peak, min;
};
int schedule_kind(const char *word);           /* -1: unknown */
double schedule_lr(const struct schedule *s, int64_t step);
#endif
