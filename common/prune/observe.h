/*
 * observe.h - forward passes that fill statistics
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_OBSERVE_H
#define ADZE_OBSERVE_H
#include "../prog/prog.h"
#include "masks.h"
#include "stats.h"

struct observer {
	const struct engine *g;
	const struct weights *w;
	struct stats *s;       /* sums are added here by observe_flush */
	uint32_t sites;        /* OBSERVE_* */
	const struct masks *m; /* or NULL; set after observe_init */
	struct prog *p;        /* for the current batch shape */
	struct frame f;
	val tok, out;          /* out: the block's result when one block runs alone */
	int64_t block;         /* -1: whole model; else the block that one-block programs stand for */
	int64_t made_for;      /* block that p was recorded for: of the same kind and widths */
	int64_t pending;       /* samples seen since the last flush */
};
enum {
	OBSERVE_HIDDEN = 1,    /* attn_in, ffn_in */
	OBSERVE_HEADS = 2,     /* attn_out per channel and per head norm */
	OBSERVE_FFN = 4,       /* ffn_act */
	OBSERVE_FFN_PRE = 8,   /* ffn_pre */
	OBSERVE_LAYERS = 16,   /* block, attn, ffn cosines */
	OBSERVE_KV = 32,       /* what each query group adds to the residual stream */
	OBSERVE_ALL = 63
};
/* "heads,ffn,ffn-pre,hidden,layers,kv" or "all" */
int observe_sites_parse(const char *s, uint32_t *sites, struct err *e);
void observe_init(struct observer *o, const struct engine *g, const struct weights *w, struct stats *s, uint32_t sites);
/* The program for batches of B samples of T tokens, planned; for --dry-run and --explain. */
struct prog *observe_prog_new(const struct ptable *t, int dtype, uint32_t sites, const struct masks *m, int64_t B, int64_t T,
			      val *tok, struct err *e);
/* The same for block l alone: *x is its input [B*T, hidden], *y its output. */
struct prog *observe_block_new(const struct ptable *t, int dtype, uint32_t sites, const struct masks *m, int64_t B, int64_t T,
			       int64_t l, val *x, val *y, struct err *e);
/* ids [B,T]; any B and T, a new shape rebuilds the program. */
int observe_batch(struct observer *o, const int32_t *ids, int64_t B, int64_t T, struct err *e);
/* x [B*T, hidden] f32 in place through block o->block, whose weights lie where w has those of block 0. */
int observe_block(struct observer *o, float *x, int64_t B, int64_t T, struct err *e);
void observe_flush(struct observer *o);
void observe_free(struct observer *o);
#endif
