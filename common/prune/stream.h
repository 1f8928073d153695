/*
 * stream.h - statistics of a model that does not fit in memory: all samples through one block at a time
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_STREAM_H
#define ADZE_STREAM_H
#include "../base/log.h"
#include "../io/tokenset.h"
#include "../prog/prog.h"
#include "masks.h"
#include "stats.h"

struct stream_args {
	const struct engine *g;
	const char *dir;       /* model directory */
	const struct ptable *t;
	int dtype;
	uint32_t sites;        /* OBSERVE_* */
	const struct masks *m; /* or NULL: the whole model */
	int64_t micro;         /* samples a pass */
	int64_t hidden_budget; /* bytes of hidden states kept in memory; more go to a file */
};
/* Fills s (same sums as whole-model passes, bit for bit on a deterministic backend).  Resident: one block's weights, one
 * batch's activations, the hidden states within the budget.  Returns the number of samples, -1 on error, and stops
 * early (with -1 and code 128+N) when asked to. */
int64_t stream_stats(const struct stream_args *a, struct tokenset *ts, struct stats *s, struct err *e);
/* A forward pass of a few tokens, block by block: 0 when every value and logit is finite, else EXIT_DATA names the block.
 * sites, m, micro and hidden_budget of a are not used. */
int stream_sound(const struct stream_args *a, struct err *e);
#endif
