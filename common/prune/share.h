/*
 * share.h - one budget of units for all blocks: how many each block keeps when scores compare across blocks
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SHARE_H
#define ADZE_SHARE_H
#include "gather.h"

/* [to.layers] units of `axis` ("mlp", "head") for each kept block, `mean` on average, in steps of `step` units (query heads:
 * one of every group; neurons: the alignment), at least one step each.  NULL with *e when an axis is not ranked. */
int64_t *share_new(const struct keep *k, const struct ranking *r, const char *name, const char *axis, int64_t step,
		int64_t mean, struct err *e);
/* The largest of the list, or `even` where there is none. */
int64_t share_largest(const int64_t *list, int64_t layers, int64_t even);
#endif
