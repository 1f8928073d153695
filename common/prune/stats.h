/*
 * stats.h - statistics of a model's sites as plain sums: they add over samples, shards and processes
 *
 * Width entries hold the seven sums of kernels.h stat_width per unit; layer entries ("block", "attn", "ffn") hold
 * the sum over tokens of 1 - cos(input, output).  Square roots are taken only when a ranking is made.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_STATS_H
#define ADZE_STATS_H
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
struct stats {
	char model[33], family[24];
	int64_t layers, hidden, ffn, heads, kv_heads, head_dim, seq, samples, tokens;
	struct stat_entry *e;  /* owned */
	int n;
};
void stats_init(struct stats *s, const struct arch *a, const char *model, int64_t seq);
void stats_free(struct stats *s);
/* Finds or appends. */
struct stat_entry *stats_entry(struct stats *s, const char *site, int64_t layer, int64_t unit, int64_t units);
/* True when nothing of the block was measured: it was left out. */
bool stats_left_out(const struct stats *s, int64_t layer);
const struct stat_entry *stats_find(const struct stats *s, const char *site, int64_t layer);
/* a += b; both must be of one model and shape. */
int stats_add(struct stats *a, const struct stats *b, struct err *e);
int stats_read(struct stats *s, const char *path, struct prov *prov, struct err *e);
int stats_write(const struct stats *s, struct art_w *w, struct err *e);
#endif
