/*
 * metric_cols.c - importance from a column's weights and the statistics of its input
 *
 * Column c of a matrix W [R,C] with input x_c over T tokens of n samples:
 *	magnitude      sqrt(sum_r W^2)
 *	wanda-sp       mean_r |W| * sqrt(sum_t x^2 / n)
 *	wifv           Var_t(x) * sum_r W^2
 *	wnorm-absmean  sqrt(sum_r W^2) * mean |x|
 * A neuron is its column of down_proj.  A head is the sum over its columns of o_proj (wifv: the mean of squared scores,
 * standardised within the layer).  An embedding channel is the sum over its columns of qkv and up in all layers
 * (magnitude: its column of the embedding).  Sources: reference tables of FLAP, Wanda-sp, ModelOpt.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../base/rng.h"
#include "metric.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct cols {                  /* one matrix and what is known of its input */
	const double *l1, *sq;
	int64_t rows, n;
	const struct stat_entry *x; /* NULL when the metric needs no data */
};

static double column(const struct metric_args *m, const struct cols *k, int64_t c, uint64_t stream)
{
	double n = k->x ? (double)k->x->n : 1, tokens = k->x ? (double)k->x->tokens : 1, sq = 0, mean = 0, abs = 0;
	if (k->x) {
		sq = k->x->sums[STAT_L2 * k->x->units + c];
		mean = k->x->sums[STAT_SUM_X * k->x->units + c] / tokens;
		abs = k->x->sums[STAT_M * k->x->units + c] / n;
	}
	switch (m->metric) {
	case METRIC_magnitude: return sqrt(k->sq[c]);
	case METRIC_wanda_sp: return k->l1[c] / (double)k->rows * sqrt(sq / n);
	case METRIC_wifv: return fmax(sq / tokens - mean * mean, 0) * k->sq[c];
	case METRIC_wabs: return sqrt(k->sq[c]) * abs;
	case METRIC_random: return rng_uniform(m->seed, stream, (uint64_t)c);
	default: BUG("metric %d", m->metric);
	}
}

static int fill(struct cols *k, const struct wcols *w, const struct stats *s, const struct metric_args *m, int64_t layer,
		const char *name, const char *site, struct err *e)
{
	int i = wcols_find(w, layer, name);
	*k = (struct cols){ w->l1[i], w->sq[i], w->t->p[i].rows, w->t->p[i].cols, NULL };
	if (!metric_needs_stats(m->metric) || !site)
		return 0;
	k->x = stats_find(s, site, layer);
	if (!k->x)
		return err_set(e, EXIT_DATA, "the statistics have no %s of layer %lld, which %s needs", site, (long long)layer,
			       metric_word(m->metric));
	return 0;
}

static void heads(const struct metric_args *m, const struct cols *k, const struct arch *a, double *score, uint64_t stream)
{
	int64_t D = a->head_dim;
	double mean = 0, var = 0, *v = xcalloc((size_t)k->n, sizeof *v);
	for (int64_t c = 0; c < k->n; c++) {
		v[c] = column(m, k, c, stream);
		if (m->metric == METRIC_wifv)
			v[c] *= v[c];
		mean += v[c] / (double)k->n;
	}
	for (int64_t c = 0; c < k->n; c++)
		var += (v[c] - mean) * (v[c] - mean) / (double)k->n;
	for (int64_t h = 0; h < a->heads; h++) {
		score[h] = 0;
		for (int64_t d = 0; d < D; d++)
			score[h] += m->metric == METRIC_wifv ? (v[h * D + d] - mean) / sqrt(var + 1e-300) / (double)D : v[h * D + d];
	}
	free(v);
}

int metric_rank_cols(const struct stats *s, const struct wcols *w, const struct metric_args *m, struct ranking *r,
		     struct err *e)
{
	const struct arch *a = &w->t->arch;
	int64_t most = a->heads > a->ffn ? a->heads : a->ffn;
	double *buf = xcalloc((size_t)most, sizeof *buf), *emb = xcalloc((size_t)a->hidden, sizeof *emb);
	int rc = 0, weights_only = m->metric == METRIC_magnitude || m->metric == METRIC_random;
	struct cols k;
	for (int64_t l = 0; l < a->layers && !rc; l++) {
		if (metric_needs_stats(m->metric) && stats_left_out(s, l))
			continue;
		if ((rc = fill(&k, w, s, m, l, "attn.o", "attn_out", e)))
			break;
		heads(m, &k, a, buf, (uint64_t)l * 8 + 1);
		ranking_add(r, "head", l, buf, a->heads);
		if ((rc = fill(&k, w, s, m, l, "mlp.down", "ffn_act", e)))
			break;
		for (int64_t c = 0; c < a->ffn; c++)
			buf[c] = column(m, &k, c, (uint64_t)l * 8 + 2);
		ranking_add(r, "mlp", l, buf, a->ffn);
		for (int i = 0; i < 2 && !weights_only && !rc; i++) {
			rc = fill(&k, w, s, m, l, i ? "mlp.up" : "attn.qkv", i ? "ffn_in" : "attn_in", e);
			for (int64_t c = 0; c < a->hidden && !rc; c++)
				emb[c] += column(m, &k, c, 0);
		}
	}
	if (!rc && weights_only) {
		rc = fill(&k, w, s, m, -1, "embed", NULL, e);
		for (int64_t c = 0; c < a->hidden; c++)
			emb[c] = column(m, &k, c, 3);
	}
	if (!rc)
		ranking_add(r, "emb", -1, emb, a->hidden);
	if (!rc && m->metric == METRIC_random && !ranking_find(r, "layer", -1)) {
		double *lay = xcalloc((size_t)a->layers, sizeof *lay);
		for (int64_t l = 0; l < a->layers; l++)
			lay[l] = rng_uniform(m->seed, 4, (uint64_t)l);
		ranking_add(r, "layer", -1, lay, a->layers);
		free(lay);
	}
	free(buf);
	free(emb);
	return rc;
}
