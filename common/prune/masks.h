/*
 * masks.h - a cut as masks: the trimmed model's arithmetic on the parent's weights, so that importance can be measured
 * again on the smaller model before anything is written
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_MASKS_H
#define ADZE_MASKS_H
#include "gather.h"
#include "stats.h"
#include "../prog/prog.h"

struct masks {                 /* 1: stays, 0: goes; NULL where nothing of an axis goes */
	int64_t layers, n_hidden, n_heads, n_ffn;   /* of the parent */
	float *hidden;         /* [n_hidden] */
	float *head, *ffn;     /* [layers, n_heads], [layers, n_ffn] */
	uint8_t *drop;         /* [layers] DROP_LAYER */
};
/* NULL when k keeps everything. */
struct masks *masks_new(const struct keep *k);
void masks_free(struct masks *m);              /* NULL is fine */
/* Fills at most 2 probes for block l, 0 otherwise. */
int masks_probes(const struct masks *m, int64_t l, struct probe pr[2]);
/* Sums of what the masks take away become 0, so that it stays behind in every later ranking; this also holds where a site
 * lies before its mask (ffn_pre). */
void masks_clear(const struct masks *m, struct stats *s);
#endif
