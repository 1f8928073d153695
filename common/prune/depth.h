/*
 * depth.h - rankings of layers and of their halves, from block importance or from ablations
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_DEPTH_H
#define ADZE_DEPTH_H
#include "ranking.h"
#include "stats.h"

/* Adds what s allows: "layer", and "sub_attn", "sub_mlp" for the halves.  metric: "bi", one of stat_delta_metrics, or "auto"
 * (the ablations when there are any, else bi); anything but auto must be there for blocks or halves.  The method of r gets
 * a word about it unless it is bi.  EXIT_DATA: several metrics or modes at once, a greedy run with holes. */
int depth_rank(const struct stats *s, const char *metric, struct ranking *r, struct err *e);
#endif
