/*
 * rank - turns statistics into a ranking of layers, heads, MLP neurons and embedding channels
 *
 * Reads a "stats" artifact, writes a "ranking" artifact; no model and no forward pass.  Aggregation over the sequence
 * comes first, then over samples (arXiv 2407.14679, section 2.2); the default L2 over samples of the mean absolute
 * value over tokens is the paper's winner.
 *
 *	rank teacher.stats --agg batch=l2,seq=mean -o teacher.rank
 *	rank teacher.stats ablations.stats -o teacher.rank
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/prune/metric.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_INPUTS = 15 };              /* with the model, what a header's list of inputs holds */
static struct {
	const char *model, *agg, *metric, *neuron, *head, *layer_metric, *scope, *show, *diff;
	int64_t top;
} o = { .agg = "batch=l2,seq=mean", .metric = "minitron", .neuron = "post", .head = "channel-first", .layer_metric = "auto", .scope = "layer",
	.top = 20 };

static const struct opt opts[] = {
	OPT_STR('m', "model", &o.model, "DIR", "model directory, for metrics that look at weights"),
	OPT_OUT_ROW("ranking to write (default: stdout)"),
	OPT_STR(0, "agg", &o.agg, "LIST", "aggregation: batch=mean|l2|var,seq=mean|l2|var"),
	OPT_STR(0, "metric", &o.metric, "NAME", "minitron, magnitude, wanda-sp, wifv, wnorm-absmean, kv-contrib or random"),
	OPT_CHOICE(0, "neuron", &o.neuron, "post|pre", "MLP neurons after or before the activation"),
	OPT_CHOICE(0, "head", &o.head, "channel-first|norm-first", "heads: aggregate channels then norm, or norm per token first"),
	OPT_CHOICE(0, "layer-metric", &o.layer_metric, "auto|bi|loss|kl|mse|task|angular",
		"importance of layers: block importance or what ablate measured; auto: the ablations if there are any"),
	OPT_CHOICE(0, "scope", &o.scope, "layer|global", "neurons and heads compete within their block, or all blocks together"),
	OPT_STR(0, "show", &o.show, "AXIS[:LAYER]", "print a ranking given as operand: layer, sub_attn, emb, head:3, kv:3, mlp:3"),
	OPT_I64(0, "top", &o.top, "N", "lines of --show, 0: all", 0, 1e12),
	OPT_STR(0, "diff", &o.diff, "OTHER", "compare the ranking given as operand with another"),
	OPT_SEED_ROW,
	OPT_COMMON_ROWS,
	OPT_END,
};
static const struct usage usage = {
	"rank",
	"Turns statistics into a ranking of layers, heads, MLP neurons and embedding channels.",
	"[STATS]... [--metric NAME -m DIR] [-o RANKING] | --show AXIS[:LAYER] RANKING | --diff OTHER RANKING",
	"rank teacher.stats --agg batch=l2,seq=mean -o teacher.rank\n"
	"rank width.stats ablations.stats --layer-metric kl | trim -m teacher --layers 24 --ffn 8192 -o student\n"
	"rank --show mlp:3 --top 20 teacher.rank",
	opts,
};

static int show(const char *path, struct err *e)
{
	struct ranking r;
	char axis[12] = "", *end;
	const char *colon = strchr(o.show, ':');
	int64_t layer = -1;
	snprintf(axis, sizeof axis, "%.*s", (int)(colon ? colon - o.show : (long)strlen(o.show)), o.show);
	if (!strcmp(axis, "ffn"))
		strcpy(axis, "mlp");
	if (!strcmp(axis, "hidden"))
		strcpy(axis, "emb");
	if (colon) {
		layer = strtoll(colon + 1, &end, 10);
		if (*end || end == colon + 1)
			return err_set(e, EXIT_USAGE, "--show %s: '%s' is not a layer", o.show, colon + 1);
	}
	if (ranking_read(&r, path, NULL, e))
		return -1;
	const struct rank_axis *x = ranking_find(&r, axis, layer);
	if (!x)
		return err_set(e, EXIT_USAGE, "--show %s: the ranking has no such axis", o.show);
	printf("%6s %8s %14s   # %s\n", "place", "unit", "score", r.method);
	for (int64_t i = 0; i < x->n && (!o.top || i < o.top); i++)
		printf("%6lld %8u %14.6g\n", (long long)i + 1, x->order[i], (double)x->score[x->order[i]]);
	ranking_free(&r);
	return 0;
}

/* Kendall's tau (a) over all pairs up to 4096 units, and the overlap of the kept halves. */
static void compare(const struct rank_axis *x, const struct rank_axis *y, double *tau, double *half)
{
	int64_t n = x->n < 4096 ? x->n : 4096, keep = (x->n + 1) / 2, both = 0;
	double s = 0;
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = i + 1; j < n; j++) {
			double a = (double)x->score[i] - (double)x->score[j], b = (double)y->score[i] - (double)y->score[j];
			s += (a * b > 0) - (a * b < 0);
		}
	*tau = n > 1 ? s / ((double)n * (double)(n - 1) / 2) : 1;
	uint8_t *in = xcalloc((size_t)x->n, 1);
	for (int64_t i = 0; i < keep; i++)
		in[x->order[i]] = 1;
	for (int64_t i = 0; i < keep; i++)
		both += in[y->order[i]];
	free(in);
	*half = (double)both / (double)keep;
}

static int diff(const char *path, struct err *e)
{
	struct ranking a, b;
	if (ranking_read(&a, path, NULL, e) || ranking_read(&b, o.diff, NULL, e))
		return -1;
	printf("%-6s %6s %8s %12s\n", "axis", "layer", "tau", "top-half");
	for (int i = 0; i < a.n; i++) {
		const struct rank_axis *y = ranking_find(&b, a.ax[i].axis, a.ax[i].layer);
		double tau, half;
		if (!y || y->n != a.ax[i].n)
			return err_set(e, EXIT_DATA, "%s: has no '%s' of layer %lld with %lld units", o.diff, a.ax[i].axis,
				       (long long)a.ax[i].layer, (long long)a.ax[i].n);
		compare(&a.ax[i], y, &tau, &half);
		printf("%-6s %6lld %8.4f %11.1f%%\n", a.ax[i].axis, (long long)a.ax[i].layer, tau, 100 * half);
	}
	ranking_free(&a);
	ranking_free(&b);
	return 0;
}

static int write_ranking(const struct ranking *r, const struct prov *prov, struct err *e)
{
	struct art_w *w = art_create(com.out, "ranking", 1, prov, com.force, e);
	if (!w)
		return -1;
	ranking_meta(r, w);
	if (ranking_write(r, w, e)) {
		art_abort(w);
		return -1;
	}
	return art_commit(w, e);
}

/* Width statistics and ablations of one model, from any number of files. */
static int read_stats(struct stats *s, char **path, int n, const struct metric_args *m, struct prov *prov, struct err *e)
{
	struct stats next;
	struct stats_want need;
	const struct stats_want *want = metric_wants(m, &need);
	if (stats_read(s, n ? path[0] : NULL, want, prov, e))
		return -1;
	for (int i = 1; i < n; i++) {
		if (stats_read(&next, path[i], want, prov, e))
			return -1;
		int rc = stats_join(s, &next, e);
		stats_free(&next);
		if (rc)
			return err_wrap(e, "%s", path[i]);
	}
	return 0;
}

static int rank(char **paths, int n_paths, const struct metric_args *m, struct err *e)
{
	const char *path = n_paths ? paths[0] : NULL;
	struct stats s = { 0 };
	struct wcols w = { 0 };
	struct ranking r;
	struct prov prov = { .seed = com.seed };
	char model[33] = "";
	int use_stats = metric_needs_stats(m->metric) || path;
	if (use_stats && read_stats(&s, paths, n_paths, m, &prov, e))
		return -1;
	if (metric_needs_weights(m->metric)) {
		if (model_fingerprint(o.model, model, e) || wcols_load(&w, o.model, e))
			return -1;
		if (use_stats && strcmp(model, s.model))
			return err_set(e, EXIT_DATA, "%s: statistics are of model %.8s..., not of %s (%.8s...)", path ? path : "stdin",
				       s.model, o.model, model);
		prov_add_digest(&prov, "model", o.model, "model", model);
	}
	if (metric_rank(use_stats ? &s : NULL, metric_needs_weights(m->metric) ? &w : NULL, m, &r, e))
		return err_wrap(e, "%s", path ? path : use_stats ? "stdin" : o.model);
	if (!use_stats)
		memcpy(r.model, model, sizeof r.model);
	if (com.dry_run)
		printf("%d rankings by %s from %lld samples\n", r.n, r.method, (long long)s.samples);
	else if (write_ranking(&r, &prov, e))
		return -1;
	else
		log_summary("%d rankings from %lld samples", r.n, (long long)s.samples);
	ranking_free(&r);
	stats_free(&s);
	wcols_free(&w);
	return 0;
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	struct metric_args m = { .batch = AGG_L2, .seq = AGG_MEAN };
	int n = opt_parse(&usage, argc, argv), rc;
	log_start();
	if (n > ((o.show || o.diff) ? 1 : MAX_INPUTS))
		opt_die("%d inputs at most, got %d", o.show || o.diff ? 1 : MAX_INPUTS, n);
	if (o.show && o.diff)
		opt_die("--show and --diff exclude each other");
	m.metric = metric_find(o.metric);
	if (m.metric < 0)
		opt_die("--metric %s: not one of%s", o.metric, metric_list());
	if (metric_needs_weights(m.metric) && !o.model && !o.show && !o.diff)
		opt_die("--metric %s needs --model", o.metric);
	m.seed = (uint64_t)com.seed;
	m.global = !strcmp(o.scope, "global");
	m.layers = o.layer_metric;
	m.neuron_pre = !strcmp(o.neuron, "pre");
	m.head_norm_first = !strcmp(o.head, "norm-first");
	if (agg_parse(o.agg, &m, &e))
		die_err(&e);
	const char *in = n ? argv[0] : NULL;
	rc = o.show ? show(in, &e) : o.diff ? diff(in, &e) : rank(argv, n, &m, &e);
	if (rc)
		die_err(&e);
	return EXIT_DONE;
}
