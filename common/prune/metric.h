/*
 * metric.h - from sums to importance scores
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_METRIC_H
#define ADZE_METRIC_H
#include "stats.h"
#include "ranking.h"

enum agg { AGG_MEAN, AGG_L2, AGG_VAR };
struct metric_args {
	int metric;            /* METRIC_* */
	int batch, seq;        /* enum agg: sequence first, then batch */
	int neuron_pre;        /* ffn neurons before the activation (the paper as written) instead of after it */
	int head_norm_first;   /* one L2 norm per head and token, then aggregate (paper); else per channel, then L2 */
};
enum {
#define METRIC(id, word, what) METRIC_##id,
#include "metrics.def"
#undef METRIC
	METRIC_COUNT
};
int metric_find(const char *word);             /* -1: none */
/* "batch=l2,seq=mean" */
int agg_parse(const char *s, struct metric_args *m, struct err *e);
/* score[units] of one entry under the aggregation. */
void metric_aggregate(const struct stat_entry *x, const struct metric_args *m, double *score);
/* Every axis that the statistics allow: mlp and head per layer, emb, layer (block importance). */
int metric_rank(const struct stats *s, const struct metric_args *m, struct ranking *r, struct err *e);
#endif
