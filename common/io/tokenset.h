/*
 * tokenset.h - reading a "tokens" artifact sample by sample, from a file or a pipe
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TOKENSET_H
#define ADZE_TOKENSET_H
#include "artifact.h"

struct tokenset {
	struct art_r *r;
	int64_t vocab, seq, samples;   /* from the header; samples INT64_MAX: not known before the end */
	int64_t eos, pack;             /* id between packed documents, -1: none; 0: one document a sample */
	char tokenizer[33], strings[33]; /* strings "": not said */
	int32_t *ids;                  /* the current sample */
	int64_t n;                     /* its length, 1..seq */
	int64_t index;
	int64_t limit;                 /* samples of the set that count, 0: all */
	int64_t seen;                  /* samples read so far, others' too */
	struct { int64_t chunk; int rank, size; } share; /* see tokenset_share */
};
/* vocab: of the model that will read it, 0: any.  A token set of a larger vocabulary is refused. */
int tokenset_open(struct tokenset *t, const char *path, int64_t vocab, struct err *e);
/* 1: t->ids[0..n) is the next sample; 0: end, verified; -1: error */
int tokenset_next(struct tokenset *t, struct err *e);
/* From now on only this process's part: of every size * chunk samples the rank-th chunk. */
void tokenset_share(struct tokenset *t, int rank, int size, int64_t chunk);
void tokenset_close(struct tokenset *t);
#endif
