/*
 * ablate_state.h - finished ablations beside the output, so that a killed run goes on where it was
 *
 * A run does its units (round, ablation, batch) in one fixed order, so the file is a prefix of that order and resuming is
 * replaying it.  Text, one unit a line, numbers in hexadecimal floating point: nothing is rounded.
 *
 *	adze-ablate 1 KEY
 *	ROUND ABLATION BATCH BLOCKS COUNT VALUE... .
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ABLATE_STATE_H
#define ADZE_ABLATE_STATE_H
#include "../base/base.h"

struct ablate_unit {
	int64_t round, ablation, batch; /* ablation -1: the prefix that all of the round share */
	int64_t blocks;                 /* block executions it took */
	int64_t n;
	double *v;                      /* [n] */
};
struct ablate_state;
/* key: 32 hex digits of everything that shapes the result.  A file of another key is started over (*other is set); a torn
 * last line is cut off.  *found: units on file. */
struct ablate_state *ablate_state_open(const char *path, const char *key, int64_t *found, int *other, struct err *e);
/* 1: u, whose round, ablation, batch and n are set, was on file: blocks and v[0..n) are filled; 0: the file has ended and
 * the unit must be run and given to ablate_state_add; -1: the file is of another order, damaged. */
int ablate_state_next(struct ablate_state *s, struct ablate_unit *u, struct err *e);
int ablate_state_add(struct ablate_state *s, const struct ablate_unit *u, struct err *e);
/* remove: the output is complete, the file goes. */
void ablate_state_close(struct ablate_state *s, bool remove);
#endif
