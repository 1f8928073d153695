/*
 * stats.h - statistics of a model's sites as plain sums: they add over samples, shards and processes
 *
 * Width entries hold the seven sums of kernels.h stat_width per unit; layer entries ("block", "attn", "ffn") hold
 * the sum over tokens of 1 - cos(input, output); ablations (struct stat_delta) the
 * growth of a loss.  Square roots are taken only when a ranking is made.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_STATS_H
#define ADZE_STATS_H
#include "../comm/comm.h"
#include "../io/artifact.h"
#include "../model/arch.h"

struct stat_entry {
	char site[24];         /* site word, "attn_out_norm" for norm-first heads; "block" "attn" "ffn" for layers */
	int64_t layer;         /* -1: none */
	int64_t unit;          /* columns per unit */
	int64_t units;         /* 0 for layer entries */
	int64_t n, tokens;     /* samples, tokens seen */
	double *sums;          /* width: [STAT_ROWS, units]; layer: [1] */
};
/* What an ablation measured: the change when `count` neighbouring parts from `layer` on are left out, besides those that
 * earlier rounds of a greedy removal took away. */
struct stat_delta {
	char site[8];          /* "block", "attn", "ffn" */
	char metric[12];       /* one of stat_delta_metrics */
	int64_t layer, count;
	int64_t step;          /* round of a greedy removal from 0; -1: measured alone */
	int64_t tokens;        /* summed over; items of a task, samples of the last token's angle */
	double base, delta;    /* sums: of the full model; its growth (of a task: right answers lost) */
	uint32_t *dropped;     /* [n_dropped = max(step, 0)] layers of the parts removed before, in that order */
	int64_t n_dropped;
};
extern const char *const stat_delta_metrics[];  /* "loss", "kl" ..., NULL */
struct stats {
	char model[33], family[24];
	int64_t layers, hidden, ffn, heads, kv_heads, head_dim, seq, samples, tokens;
	struct stat_entry *e;  /* owned */
	int n;
	struct stat_delta *delta; /* owned */
	int n_delta;
	uint8_t *passed;       /* owned, [layers]: layers with records that were not read (stats_want); NULL: none */
	int64_t block_runs;    /* of ablations: blocks that ran, times batches; 0: unknown */
	int64_t block_runs_plain; /* and as many whole forward passes */
};
void stats_init(struct stats *s, const struct arch *a, const char *model, int64_t seq);
void stats_free(struct stats *s);
/* Finds or appends. */
struct stat_entry *stats_entry(struct stats *s, const char *site, int64_t layer, int64_t unit, int64_t units);
/* Notes that a layer has records that were not read. */
void stats_pass_over(struct stats *s, int64_t layer);
/* True when other blocks were measured and nothing of this one: it was left out. */
bool stats_left_out(const struct stats *s, int64_t layer);
const struct stat_entry *stats_find(const struct stats *s, const char *site, int64_t layer);
/* a += b; both must be of one model and shape. */
int stats_add(struct stats *a, const struct stats *b, struct err *e);
/* Takes what b measured into a, for a ranking: one model, nothing measured by both. */
int stats_join(struct stats *a, const struct stats *b, struct err *e);
/* s of all processes added up, in all of them; ablations are not in it. */
void stats_sum(struct stats *s, struct comm *c);
/* What a reader needs: channel records of these sites (NULL ends them), and of their seven rows those whose bit is set; layer
 * records and ablations are always read. */
struct stats_want {
	const char *sites[8];
	unsigned rows;
};
/* want NULL: everything, and all of it verified.  Else, from a file that lists its contents, the frames without a wanted
 * record are passed over, unread and unverified; from stdin they are read and dropped.  Rows not wanted are 0. */
int stats_read(struct stats *s, const char *path, const struct stats_want *want, struct prov *prov, struct err *e);
int stats_write(const struct stats *s, struct art_w *w, struct err *e);
/* stats_delta.c; d is copied */
void stats_delta_add(struct stats *s, const struct stat_delta *d);
void stats_delta_free(struct stats *s);
int stats_delta_merge(struct stats *a, const struct stats *b, struct err *e);
int stats_delta_write(const struct stat_delta *d, struct art_w *w, struct err *e);
int stats_delta_read(struct stats *s, const struct art_r *a, const msgpack_object *rec, struct err *e);
#endif
