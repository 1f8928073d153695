/*
 * trained.h - which of the student's parameters are trained, and in what order they lie
 *
 * Moments, gradients and checkpoints hold what is trained and nothing else, so it lies first:
 *
 *	[ trained parameters | projections of hidden losses | adapters | frozen parameters ]
 *
 * A list of patterns (GLOB,...) names tensors as the model's files do: a glob is compared with the whole name and with
 * what follows any of its dots, each with and without the last part (".weight"): q_proj, layers.3.*, *norm*.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TRAINED_H
#define ADZE_TRAINED_H
#include "../model/params.h"
#include "shard.h"

struct choice {
	const char *train, *freeze;    /* only these; but not these.  NULL: all, none */
	bool none;                     /* without train, nothing */
};
/* mask[t->n]: bit s where segment s of a parameter is named by the list.  EXIT_USAGE when a pattern names nothing. */
int trained_named(const struct ptable *t, const char *option, const char *list, uint8_t *mask, struct err *e);
/* frozen[t->n]: 1 where nothing is trained.  Refuses half of a fused matrix (EXIT_USAGE). */
int trained_choose(const struct ptable *t, const struct choice *c, uint8_t *frozen, struct err *e);
/* Places for the parameters that are not frozen (NULL: none is): buckets by block. */
void trained_place(struct ptable *t, const uint8_t *frozen, struct shard *s);
/* Places from `at` on for those that are; returns the end. */
int64_t trained_place_frozen(struct ptable *t, const uint8_t *frozen, int64_t at);
#endif
