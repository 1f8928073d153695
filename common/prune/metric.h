/*
 * metric.h - from sums to importance scores
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_METRIC_H
#define ADZE_METRIC_H
#include "stats.h"
#include "wcols.h"
#include "ranking.h"

enum agg { AGG_MEAN, AGG_L2, AGG_VAR };
struct metric_args {
	int metric;            /* METRIC_* */
	int batch, seq;        /* enum agg: sequence first, then batch */
	int neuron_pre;        /* ffn neurons before the activation (the paper as written) instead of after it */
	uint64_t seed;         /* of METRIC_random */
	int head_norm_first;   /* one L2 norm per head and token, then aggregate (paper); else per channel, then L2 */
	int global;            /* scores compare across blocks */
	const char *layers;    /* of layers: "auto", "bi", or an ablation's (depth.h) */
};
enum {
#define METRIC(id, word, stats, weights, what) METRIC_##id,
#include "metrics.def"
#undef METRIC
	METRIC_COUNT
};
int metric_find(const char *word);             /* -1: none */
const char *metric_word(int metric);
int metric_needs_stats(int metric);
int metric_needs_weights(int metric);
const char *metric_list(void);                 /* "minitron, magnitude, ..." */
/* "batch=l2,seq=mean" */
int agg_parse(const char *s, struct metric_args *m, struct err *e);
/* What of the statistics they read; NULL: everything.  *w is the answer's room. */
const struct stats_want *metric_wants(const struct metric_args *m, struct stats_want *w);
/* score[units] of one entry under the aggregation. */
void metric_aggregate(const struct stat_entry *x, const struct metric_args *m, double *score);
/* Every axis that the inputs allow: mlp and head per layer, emb, layers (depth.h).  s may be NULL
 * when the metric needs no statistics, w when it needs no weights. */
int metric_rank(const struct stats *s, const struct wcols *w, const struct metric_args *m, struct ranking *r, struct err *e);
/* The part of it that works column by column (metric_cols.c). */
int metric_rank_cols(const struct stats *s, const struct wcols *w, const struct metric_args *m, struct ranking *r,
		     struct err *e);
#endif
