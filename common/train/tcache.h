/*
 * tcache.h - what a teacher says about a token set, on disk: training from it needs no teacher
 *
 * A directory of "teacher-cache" artifacts (formats/teacher-cache.md), part-00000 ...: for every labelled position of
 * every window of a token set, in the windows' order, the K best tokens with log-probabilities and the log of the rest, or
 * the last hidden states in bf16, which with the teacher's output matrix give all its logits.  Each
 * part appears whole, so making a cache again goes on with the first part that is missing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TCACHE_H
#define ADZE_TCACHE_H
#include "../io/artifact.h"
#include "../prog/prog.h"
#include "batches.h"

struct tcache_head {                   /* the same in every part */
	char teacher[33], tokenizer[33], data[33];
	int64_t vocab, seq, best, width, windows, per_part; /* width: of hidden states, then best is 0 */
	int64_t apart;                 /* documents kept apart at this id, -1: not */
	char dtype[8];                 /* "f16" | "f32"; "bf16" of hidden states */
};
enum { TCACHE_OPEN = 32 };
struct tcache {
	struct tcache_head head;
	char *dir;                     /* owned */
	struct art_r *part[TCACHE_OPEN]; /* part p in slot p % TCACHE_OPEN */
	int64_t number[TCACHE_OPEN];
};
/* Refuses (EXIT_DATA) a cache of other data, another tokenizer, window length or vocabulary, or an incomplete one. */
int tcache_open(struct tcache *c, const char *dir, const struct batches *data, int64_t vocab, struct err *e);
void tcache_close(struct tcache *c);
/* Window w: ids [seq, K], logp [seq, K+1] at temperature tau (the rest only at 1, else nothing); positions without a label 0. */
int tcache_get(struct tcache *c, int64_t w, double tau, int32_t *ids, float *logp, struct err *e);

/* Window w: h [seq, width] bf16; positions without a label 0. */
int tcache_hidden(struct tcache *c, int64_t w, uint16_t *h, struct err *e);

struct tcache_job {                    /* making one */
	const char *dir;
	struct tcache_head head;       /* teacher, best or width, dtype, per_part (0: about 64 MiB) are given, the rest is filled in */
	const struct batches *data;
	const struct weights *teacher;
	int64_t micro;                 /* windows at a time */
	bool force;                    /* replace what is there */
	int64_t made, found;           /* out: windows computed; there already */
};
/* 0, EXIT_AGAIN: asked to stop, -1 */
int tcache_make(struct tcache_job *j, const struct engine *g, struct err *e);
/* Header of a part as it was read: 0 or -1 */
int tcache_head_read(const struct art_r *r, struct tcache_head *h, int64_t *part, struct err *e);
char *tcache_part_new(const char *dir, int64_t part);
#endif
