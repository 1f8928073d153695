/*
 * schedule.c - cosine, linear and warm-up/stable/decay learning rates; a pure function of the step
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "schedule.h"
#include <math.h>
#include <string.h>

int schedule_kind(const char *word)
{
	static const char *const words[] = { "cosine", "linear", "wsd" };
	for (int k = 0; k < 3; k++)
		if (!strcmp(word, words[k]))
			return k;
	return -1;
}

static double part(int64_t at, int64_t from, int64_t to)
{
	if (at >= to)
		return 1;
	return at <= from ? 0 : (double)(at - from) / (double)(to - from);
}

double schedule_lr(const struct schedule *s, int64_t step)
{
	if (step < s->warmup)
		return s->peak * (double)step / (double)s->warmup;
	double u = part(step, s->warmup, s->steps);
	if (s->kind == SCHED_COSINE)
		return s->min + (s->peak - s->min) * 0.5 * (1 + cos(acos(-1.0) * u));
	if (s->kind == SCHED_WSD) {
		int64_t from = s->steps - s->decay;
		u = part(step, from > s->warmup ? from : s->warmup, s->steps);
	}
	return s->peak + (s->min - s->peak) * u;
}
