/*
 * metric.c - aggregating activations into importance (Minitron, arXiv 2407.14679 section 2.2)
 *
 * Per sample the sequence was reduced by mean |a|, L2 or variance; stats.h holds the sums over samples of each and of its
 * square.  With s one of the three and n samples, the batch reduction is
 *	mean: S1/n      L2: sqrt(S2)      var: S2/n - (S1/n)^2          S1 = sum s, S2 = sum s^2.
 * Neurons and heads are ranked inside their layer; embedding channels by the sum over both norms of all layers;
 * layers by depth.c.  A query group, a key-value head with its query heads, is the mean of its heads, or by kv-contrib the
 * mean over tokens of |W_o,g x_g|, what it adds to the residual stream (ModelOpt's key-value head contribution).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "metric.h"
#include "depth.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *word;
	int stats, weights;
} metrics[METRIC_COUNT] = {
#define METRIC(id, w, stats, weights, what) { w, stats, weights },
#include "metrics.def"
#undef METRIC
};

int metric_find(const char *word)
{
	for (int i = 0; i < METRIC_COUNT; i++)
		if (!strcmp(metrics[i].word, word))
			return i;
	return -1;
}

const char *metric_word(int metric)
{
	return metrics[metric].word;
}

int metric_needs_stats(int metric)
{
	return metrics[metric].stats;
}

int metric_needs_weights(int metric)
{
	return metrics[metric].weights;
}

const char *metric_list(void)
{
	return ""
#define METRIC(id, w, stats, weights, what) " " w
#include "metrics.def"
#undef METRIC
		;
}

int agg_parse(const char *s, struct metric_args *m, struct err *e)
{
	static const char *const words[] = { "mean", "l2", "var" };
	for (const char *p = s; *p;) {
		size_t n = strcspn(p, ",");
		const char *eq = memchr(p, '=', n);
		int which = eq && eq - p == 5 && !strncmp(p, "batch", 5) ? 0 : eq && eq - p == 3 && !strncmp(p, "seq", 3) ? 1 : -1;
		int agg = -1;
		for (int i = 0; i < 3 && eq; i++)
			if (strlen(words[i]) == n - (size_t)(eq + 1 - p) && !strncmp(eq + 1, words[i], strlen(words[i])))
				agg = i;
		if (which < 0 || agg < 0)
			return err_set(e, EXIT_USAGE, "--agg %s: expected batch=mean|l2|var,seq=mean|l2|var", s);
		*(which ? &m->seq : &m->batch) = agg;
		p += n + (p[n] == ',');
	}
	return 0;
}

static const int first_row[] = { STAT_M, STAT_L, STAT_V };

const struct stats_want *metric_wants(const struct metric_args *m, struct stats_want *w)
{
	if (metric_needs_weights(m->metric))
		return NULL;
	*w = (struct stats_want){ { "attn_in", "ffn_in", m->head_norm_first ? "attn_out_norm" : "attn_out", m->neuron_pre ? "ffn_pre" : "ffn_act",
				    m->metric == METRIC_kv_contrib ? "attn_kv" : NULL },
				 3u << first_row[m->seq] | (m->metric == METRIC_kv_contrib ? 1u << STAT_SUM_X : 0) };
	return w;
}

void metric_aggregate(const struct stat_entry *x, const struct metric_args *m, double *score)
{
	const double *s1 = x->sums + first_row[m->seq] * x->units, *s2 = s1 + x->units, n = (double)x->n;
	for (int64_t i = 0; i < x->units; i++) {
		double mean = s1[i] / n;
		score[i] = m->batch == AGG_MEAN ? mean :
			   m->batch == AGG_L2	? sqrt(fmax(s2[i], 0)) :
						  fmax(s2[i] / n - mean * mean, 0);
	}
}

static void add_heads(const struct stats *s, const struct metric_args *m, struct ranking *r, int64_t layer, double *buf)
{
	const struct stat_entry *x = stats_find(s, m->head_norm_first ? "attn_out_norm" : "attn_out", layer);
	if (!x)
		return;
	metric_aggregate(x, m, buf);
	if (!m->head_norm_first)
		for (int64_t h = 0; h < s->heads; h++) {
			double sum = 0;
			for (int64_t d = 0; d < s->head_dim; d++)
				sum += buf[h * s->head_dim + d] * buf[h * s->head_dim + d];
			buf[h] = sqrt(sum);
		}
	ranking_add(r, "head", layer, buf, s->heads);
}

static int check_units(const struct stats *s, struct err *e)
{
	static const struct { const char *site; int which; } want[] = {
		{ "attn_in", 0 }, { "ffn_in", 0 }, { "attn_out", 1 }, { "attn_out_norm", 2 }, { "ffn_act", 3 },
		{ "attn_kv", 4 }, { "ffn_pre", 5 }
	};
	const int64_t size[] = { s->hidden, s->heads * s->head_dim, s->heads, s->ffn, s->kv_heads };
	for (int i = 0; i < s->n; i++)
		for (int k = 0; k < 7; k++) {
			int64_t u = s->e[i].units;
			if (strcmp(s->e[i].site, want[k].site) || (k < 6 && u == size[want[k].which]) ||
			    (k == 6 && (u == s->ffn || u == 2 * s->ffn)))
				continue;
			return err_set(e, EXIT_DATA, "statistics of %s, layer %lld have %lld units, which does not fit the shape",
				       s->e[i].site, (long long)s->e[i].layer, (long long)u);
		}
	return 0;
}

static void describe(const struct metric_args *m, struct ranking *r)
{
	static const char *const agg[] = { "mean", "l2", "var" };
	if (m->metric == METRIC_minitron || m->metric == METRIC_kv_contrib)
		snprintf(r->method, sizeof r->method, "%sminitron batch=%s seq=%s neuron=%s head=%s",
			 m->metric == METRIC_minitron ? "" : "kv-contrib, ", agg[m->batch], agg[m->seq],
			 m->neuron_pre ? "pre" : "post", m->head_norm_first ? "norm-first" : "channel-first");
	else
		snprintf(r->method, sizeof r->method, "%s", metric_word(m->metric));
}

/* Query groups by what they add; where every head has its own key-value head, those are the heads. */
static int add_contributions(const struct stats *s, struct ranking *r, struct err *e)
{
	double *score = xcalloc((size_t)s->kv_heads, sizeof *score);
	int rc = 0;
	for (int64_t l = 0; l < s->layers && !rc; l++) {
		const struct stat_entry *x = stats_find(s, "attn_kv", l);
		if (!x && !stats_left_out(s, l))
			rc = err_set(e, EXIT_DATA, "the statistics have no attn_kv of layer %lld, which kv-contrib needs", (long long)l);
		if (!x)
			continue;
		for (int64_t g = 0; g < s->kv_heads; g++)
			score[g] = x->sums[STAT_SUM_X * x->units + g] / (double)x->tokens;
		ranking_add(r, s->kv_heads == s->heads ? "head" : "kv", l, score, s->kv_heads);
	}
	free(score);
	return rc;
}

/* Query groups that have no score of their own: the mean of their heads. */
static void add_groups(struct ranking *r)
{
	int64_t G = r->kv_heads, per = r->heads / G;
	double *score = xcalloc((size_t)G, sizeof *score);
	for (int64_t l = 0; l < r->layers && per > 1; l++) {
		const struct rank_axis *x = ranking_find(r, "head", l);
		if (!x || ranking_find(r, "kv", l))
			continue;
		for (int64_t g = 0; g < G; g++) {
			score[g] = 0;
			for (int64_t h = g * per; h < (g + 1) * per; h++)
				score[g] += (double)x->score[h] / (double)per;
		}
		ranking_add(r, "kv", l, score, G);
	}
	free(score);
}

static void rank_minitron(const struct stats *s, const struct metric_args *m, struct ranking *r)
{
	int64_t most = 0;
	for (int i = 0; i < s->n; i++)
		most = s->e[i].units > most ? s->e[i].units : most;
	double *buf = xcalloc((size_t)most, sizeof *buf), *emb = xcalloc((size_t)s->hidden, sizeof *emb);
	int hooks = 0;
	for (int64_t l = 0; l < s->layers; l++) {
		static const char *const norms[] = { "attn_in", "ffn_in" };
		for (int k = 0; k < 2; k++) {
			const struct stat_entry *x = stats_find(s, norms[k], l);
			if (!x)
				continue;
			metric_aggregate(x, m, buf);
			for (int64_t c = 0; c < s->hidden; c++)
				emb[c] += buf[c];
			hooks++;
		}
		if (!ranking_find(r, "head", l))
			add_heads(s, m, r, l, buf);
		const struct stat_entry *f = stats_find(s, m->neuron_pre ? "ffn_pre" : "ffn_act", l);
		if (f) {                       /* gated and pre: the gate's half, which is what the activation sees */
			metric_aggregate(f, m, buf);
			ranking_add(r, "mlp", l, buf, s->ffn);
		}
	}
	if (hooks)
		ranking_add(r, "emb", -1, emb, s->hidden);
	free(buf);
	free(emb);
}

int metric_rank(const struct stats *s, const struct wcols *w, const struct metric_args *m, struct ranking *r, struct err *e)
{
	memset(r, 0, sizeof *r);
	if (s) {
		if (check_units(s, e))
			return -1;
		memcpy(r->model, s->model, sizeof r->model);
		r->layers = s->layers, r->hidden = s->hidden, r->ffn = s->ffn;
		r->heads = s->heads, r->kv_heads = s->kv_heads, r->head_dim = s->head_dim;
	} else {
		const struct arch *a = &w->t->arch;
		r->layers = a->layers, r->hidden = a->hidden, r->ffn = a->ffn;
		r->heads = a->heads, r->kv_heads = a->kv_heads, r->head_dim = a->head_dim;
	}
	describe(m, r);
	r->global = m->global;
	int rc = s ? depth_rank(s, m->layers, r, e) : 0;
	if (!rc && m->metric == METRIC_kv_contrib)
		rc = add_contributions(s, r, e);
	if (!rc && !metric_needs_weights(m->metric))
		rank_minitron(s, m, r);
	else if (!rc)
		rc = metric_rank_cols(s, w, m, r, e);
	if (!rc)
		add_groups(r);
	if (!rc && !r->n)
		rc = err_set(e, EXIT_DATA, "the statistics hold no site that can be ranked");
	if (rc)
		ranking_free(r);
	return rc;
}
