/*
 * ranking.h - the one artifact between any importance method and trim: units of each axis with score and order
 *
 * Any program that writes a valid ranking can feed trim (formats/ranking.md).  Axis words: "layer", "head", "mlp",
 * "emb", "kv", "sub_attn", "sub_mlp"; layer is -1 for model-wide axes (layer, its halves, emb).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_RANKING_H
#define ADZE_RANKING_H
#include "../io/artifact.h"
#include "../model/arch.h"

struct rank_axis {
	char axis[12];
	int64_t layer;
	int64_t n;             /* units */
	float *score;          /* higher: keep */
	uint32_t *order;       /* units, most important first; ties by lower index */
	int prefix;            /* order is valid only as a whole prefix (greedy methods) */
};
struct ranking {
	char model[33];        /* fingerprint of the model that was measured */
	char method[128];
	int64_t layers, hidden, ffn, heads, kv_heads, head_dim;
	bool global;           /* scores of neurons and heads compare across blocks, not only within one */
	struct rank_axis *ax;  /* owned */
	int n;
};
/* Everything checked: sizes against the shape, order a permutation, scores finite.  r may be NULL-initialised memory;
 * free with ranking_free.  *prov (may be NULL) gets the input's digest under role "ranking". */
int ranking_read(struct ranking *r, const char *path, struct prov *prov, struct err *e);
int ranking_write(const struct ranking *r, struct art_w *w, struct err *e);  /* records only; meta by ranking_meta */
void ranking_meta(const struct ranking *r, struct art_w *w);
/* The ranking must be of the model `model` with shape a and fingerprint print; name is for messages. */
int ranking_check(const struct ranking *r, const char *name, const struct arch *a, const char *model, const char *print,
		  struct err *e);
void ranking_free(struct ranking *r);
/* NULL when the axis was not ranked. */
const struct rank_axis *ranking_find(const struct ranking *r, const char *axis, int64_t layer);
/* Adds an axis with its scores (copied) and computes the order. */
void ranking_add(struct ranking *r, const char *axis, int64_t layer, const double *score, int64_t n);
/* The same with an order of its own, valid only as a prefix. */
void ranking_add_prefix(struct ranking *r, const char *axis, int64_t layer, const double *score, const uint32_t *order,
		int64_t n);
/* order[0..n) by descending score, ties by lower index. */
void order_by_score(const float *score, int64_t n, uint32_t *order);
#endif
