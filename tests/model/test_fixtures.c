/*
 * test_fixtures.c - whole models against what transformers and PyTorch hooks computed (tests/golden, tests/oracle)
 *
 * Logits <= 1e-3, statistics and every aggregation <= 1e-3 relative, rankings in the same order where scores differ.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "../../common/io/safetensors.h"
#include "../../common/prune/ablate.h"
#include "../../common/prune/metric.h"
#include "../../common/prune/observe.h"

/* the first of them have statistics, the others logits only */
static const char *const names[] = { "llama-tied-gqa", "llama-untied", "nemotron", "qwen3", "gemma3", "qwen2", "mistral",
				     "llama-bias" };
enum { MODELS = sizeof names / sizeof *names, MEASURED = 5 };
static const char *const devices[] = { "ref", "cpu" };

struct loaded {
	struct engine g;
	struct weights w;
	struct st_model *fx;
	const int32_t *ids;
	int64_t B, T;
};

static void load(struct loaded *x, const char *name, const char *device)
{
	struct err e = { 0 };
	char path[128];
	snprintf(path, sizeof path, "tests/golden/models/%s", name);
	if (engine_open(&x->g, device, 2, &e) || weights_load(&x->w, &x->g, path, DT_F32, &e))
		fail_msg("%s", e.msg);
	snprintf(path, sizeof path, "tests/golden/%s.safetensors", name);
	x->fx = st_open(path, &e);
	if (!x->fx)
		fail_msg("%s", e.msg);
	const struct st_tensor *t = st_find(x->fx, "ids");
	assert_true(t && t->nd == 2 && t->dtype == ST_I32);
	x->ids = t->data;
	x->B = t->dims[0], x->T = t->dims[1];
}

static void unload(struct loaded *x)
{
	st_close(x->fx);
	weights_free(&x->w);
	engine_close(&x->g);
}

static void logits(const char *name, const char *device)
{
	struct loaded x;
	struct err e = { 0 };
	load(&x, name, device);
	struct build b = { .t = x.w.t, .dtype = DT_F32, .space = SP_PARAM, .prefix = "", .blk1 = x.w.t->arch.layers };
	struct prog *p = prog_new(x.B, x.T);
	val tok = p_input(p, "tokens", x.B * x.T, 1, DT_I32);
	val y = p_linear(p, p_forward(p, &b, tok, NONE), p_head_weight(p, &b), NONE, NONE, DT_F32);
	p_keep(p, y);
	struct frame f;
	if (prog_plan(p, &e) || frame_new(&f, &x.g, p, &e))
		fail_msg("%s", e.msg);
	f.base[SP_PARAM] = x.w.w;
	int32_t *ids = xcalloc((size_t)(x.B * x.T), 4);
	memcpy(ids, x.ids, (size_t)(x.B * x.T) * 4);
	frame_set(&f, tok, ids);
	prog_run(&f);
	const struct st_tensor *want = st_find(x.fx, "logits");
	assert_true(want && want->elems == p->v[y.id].rows * p->v[y.id].cols);
	float *got = xcalloc((size_t)want->elems, 4), *ref = xcalloc((size_t)want->elems, 4);
	frame_get(&f, y, got);
	st_to_f32(ref, want->data, want->dtype, want->elems);
	double worst = 0;
	for (int64_t i = 0; i < want->elems; i++)
		worst = fmax(worst, fabs((double)got[i] - (double)ref[i]));
	if (!(worst <= 1e-3))
		fail_msg("%s on %s: logits differ by %g", name, device, worst);
	free(ids), free(got), free(ref);
	frame_free(&f);
	prog_free(p);
	unload(&x);
}

static void test_logits(void **s)
{
	(void)s;
	for (int d = 0; d < 2; d++)
		for (int m = 0; m < MODELS; m++)
			logits(names[m], devices[d]);
}

static void close_to(const char *what, int64_t layer, const double *got, const double *want, int64_t n, double scale)
{
	for (int64_t i = 0; i < n; i++)
		if (!(fabs(got[i] - want[i]) <= 1e-3 * fabs(want[i]) + 1e-6 * scale))
			fail_msg("%s of layer %lld, [%lld]: %.9g, PyTorch has %.9g", what, (long long)layer, (long long)i, got[i],
				 want[i]);
}

static double largest(const double *x, int64_t n)
{
	double m = 0;
	for (int64_t i = 0; i < n; i++)
		m = fmax(m, fabs(x[i]));
	return m;
}

/* data: a->n doubles, which lie anyhow in the file */
static void check_scores(const char *key, const struct rank_axis *a, const void *data, int64_t layer)
{
	double *got = xcalloc((size_t)a->n, 8), *want = xcalloc((size_t)a->n, 8);
	memcpy(want, data, (size_t)a->n * 8);
	for (int64_t i = 0; i < a->n; i++)
		got[i] = (double)a->score[i];
	close_to(key, layer, got, want, a->n, largest(want, a->n));
	for (int64_t i = 1; i < a->n; i++) /* order: sorted by the oracle's scores up to ties */
		if (want[a->order[i]] > want[a->order[i - 1]] + 1e-5 * fabs(want[a->order[i - 1]]) + 1e-12)
			fail_msg("%s of layer %lld: unit %u before %u", key, (long long)layer, a->order[i - 1], a->order[i]);
	free(got), free(want);
}

/* Scores and order of one axis under the aggregation in row k of the fixture. */
static void check_axis(const struct loaded *x, const struct ranking *r, const char *axis, const char *key, int64_t layer, int k)
{
	char name[64];
	const struct rank_axis *a = ranking_find(r, axis, !strcmp(axis, "layer") || !strcmp(axis, "emb") ? -1 : layer);
	snprintf(name, sizeof name, "score.%s.%lld", key, (long long)layer);
	const struct st_tensor *sc = st_find(x->fx, name);
	assert_true(a && sc && sc->dims[1] == a->n);
	check_scores(key, a, (const char *)sc->data + (size_t)k * (size_t)a->n * 8, layer);
}

/* Every other metric, on every axis that the fixture has it for: NAME.AXIS [layers or 1, units]. */
static void other_metrics(const struct loaded *x, const struct stats *st, const char *name)
{
	static const char *const axes[][2] = { { "head", "heads" }, { "mlp", "ffn" }, { "kv", "kv" }, { "emb", "hidden" } };
	char key[64], path[128];
	struct err e = { 0 };
	struct wcols w;
	snprintf(path, sizeof path, "tests/golden/models/%s", name);
	if (wcols_load(&w, path, &e))
		fail_msg("%s", e.msg);
	for (int metric = 0; metric < METRIC_COUNT; metric++) {
		int checked = 0;
		struct ranking r;
		struct metric_args m = { .metric = metric, .batch = AGG_L2, .layers = "bi" };
		assert_int_equal(metric_rank(st, &w, &m, &r, &e), 0);
		for (int i = 0; i < 4; i++) {
			snprintf(key, sizeof key, "%s.%s", metric_word(metric), axes[i][1]);
			const struct st_tensor *t = st_find(x->fx, key);
			for (int64_t l = 0; t && l < t->dims[0]; l++, checked++) {
				const struct rank_axis *a = ranking_find(&r, axes[i][0], i < 3 ? l : -1);
				if (!a && i == 2 && st->kv_heads == st->heads)
					continue;      /* groups of one head are ranked as heads */
				assert_true(a && a->n == t->dims[1]);
				check_scores(key, a, (const char *)t->data + (size_t)(l * t->dims[1]) * 8, l);
			}
		}
		if (!checked && metric != METRIC_minitron && metric != METRIC_random)
			fail_msg("%s: PyTorch's scores of %s are missing", name, metric_word(metric));
		ranking_free(&r);
	}
	wcols_free(&w);
}

static void statistics(const char *name, const char *device)
{
	struct loaded x;
	struct err e = { 0 };
	struct stats st;
	struct observer ob;
	load(&x, name, device);
	stats_init(&st, &x.w.t->arch, "0", x.T);
	observe_init(&ob, &x.g, &x.w, &st, OBSERVE_ALL);
	int32_t *ids = xcalloc((size_t)(x.B * x.T), 4);
	memcpy(ids, x.ids, (size_t)(x.B * x.T) * 4);
	for (int64_t b = 0; b < x.B; b++)      /* one by one: sums add */
		if (observe_batch(&ob, ids + b * x.T, 1, x.T, &e))
			fail_msg("%s", e.msg);
	observe_flush(&ob);
	static const char *const sites[][2] = { { "attn_in", "attn_in" }, { "ffn_in", "ffn_in" }, { "attn_out", "attn_out" },
						{ "attn_out_norm", "attn_norm" }, { "ffn_pre", "ffn_pre" }, { "ffn_act", "ffn_act" } };
	for (int64_t l = 0; l < st.layers; l++)
		for (int k = 0; k < 6; k++) {
			char key[64];
			snprintf(key, sizeof key, "stat.%s.%lld", sites[k][1], (long long)l);
			const struct st_tensor *t = st_find(x.fx, key);
			const struct stat_entry *y = stats_find(&st, sites[k][0], l);
			assert_true(t && y && t->elems == y->units * STAT_ROWS && y->n == x.B && y->tokens == x.B * x.T);
			double *want = xcalloc((size_t)t->elems, 8);
			memcpy(want, t->data, t->bytes);
			for (int row = 0; row < STAT_ROWS; row++)
				close_to(key, l, y->sums + row * y->units, want + row * y->units, y->units,
					 largest(want + row * y->units, y->units) * 100);
			free(want);
		}
	for (int k = 0; k < 9; k++)
		for (int norm_first = 0; norm_first < 2; norm_first++) {
			struct metric_args m = { METRIC_minitron, k / 3, k % 3, norm_first, 0, norm_first, 0, "bi" };
			struct ranking r;
			assert_int_equal(metric_rank(&st, NULL, &m, &r, &e), 0);
			for (int64_t l = 0; l < st.layers; l++) {
				check_axis(&x, &r, "head", norm_first ? "heads_norm" : "heads", l, k);
				check_axis(&x, &r, "mlp", norm_first ? "ffn_pre" : "ffn", l, k);
			}
			check_axis(&x, &r, "emb", "hidden", 0, k);
			check_axis(&x, &r, "layer", "layers", 0, 0);
			ranking_free(&r);
		}
	for (int k = 0; k < 3; k++) {          /* cosines of blocks and of their halves */
		static const char *const parts[] = { "block", "attn", "ffn" };
		char key[64];
		double want[2];
		snprintf(key, sizeof key, "stat.%s", parts[k]);
		const struct st_tensor *t = st_find(x.fx, key);
		assert_true(t && t->dims[0] == st.layers);
		for (int64_t l = 0; l < st.layers; l++) {
			const struct stat_entry *y = stats_find(&st, parts[k], l);
			memcpy(want, (const char *)t->data + l * 16, 16);
			assert_true(y && y->tokens == (int64_t)want[1]);
			close_to(key, l, y->sums, want, 1, 1);
		}
	}
	other_metrics(&x, &st, name);
	free(ids);
	observe_free(&ob);
	stats_free(&st);
	unload(&x);
}

static void test_statistics(void **s)
{
	(void)s;
	for (int d = 0; d < 2; d++)
		for (int m = 0; m < MEASURED; m++)
			statistics(names[m], devices[d]);
}

/* Statistics of samples [from, to) in passes of `micro`. */
static void measure(const struct loaded *x, int64_t from, int64_t to, int64_t micro, struct stats *st)
{
	struct err e = { 0 };
	struct observer ob;
	stats_init(st, &x->w.t->arch, "0", x->T);
	observe_init(&ob, &x->g, &x->w, st, OBSERVE_ALL);
	for (int64_t b = from; b < to; b += micro)
		if (observe_batch(&ob, x->ids + b * x->T, micro, x->T, &e))
			fail_msg("%s", e.msg);
	observe_flush(&ob);
	observe_free(&ob);
}

static void same_scores(const struct ranking *a, const struct ranking *b, const char *metric)
{
	assert_int_equal(a->n, b->n);
	for (int i = 0; i < a->n; i++)
		for (int64_t u = 0; u < a->ax[i].n; u++) {
			double p = (double)a->ax[i].score[u], q = (double)b->ax[i].score[u];
			if (!(fabs(p - q) <= 1e-6 * fabs(q)))
				fail_msg("%s, %s of layer %lld, unit %lld: shards %.9g, one pass %.9g", metric, a->ax[i].axis,
					 (long long)a->ax[i].layer, (long long)u, p, q);
		}
}

/* Two shards added are one pass over both, for every metric and aggregation, to 1e-6. */
static void shards(const char *name, const char *device)
{
	struct loaded x;
	struct stats one, sum, more;
	struct err e = { 0 };
	struct wcols w;
	char path[128];
	load(&x, name, device);
	snprintf(path, sizeof path, "tests/golden/models/%s", name);
	measure(&x, 0, 2, strcmp(device, "ref") ? 1 : 2, &one); /* cpu products round differently in a larger batch */
	measure(&x, 0, 1, 1, &sum);
	measure(&x, 1, 2, 1, &more);
	if (stats_add(&sum, &more, &e) || wcols_load(&w, path, &e))
		fail_msg("%s", e.msg);
	for (int k = 0; k < METRIC_COUNT * 9 * 2; k++) {
		struct metric_args m = { .metric = k / 18, .batch = k % 9 / 3, .seq = k % 3, .neuron_pre = k / 9 & 1,
					 .head_norm_first = k / 9 & 1, .layers = "bi" };
		struct ranking a, b;
		assert_int_equal(metric_rank(&sum, &w, &m, &a, &e) || metric_rank(&one, &w, &m, &b, &e), 0);
		same_scores(&a, &b, a.method);
		ranking_free(&a);
		ranking_free(&b);
	}
	wcols_free(&w);
	stats_free(&one);
	stats_free(&sum);
	stats_free(&more);
	unload(&x);
}

static void test_shards(void **s)
{
	(void)s;
	for (int d = 0; d < 2; d++)
		for (int m = 0; m < MEASURED; m++)
			shards(names[m], devices[d]);
}

static double kept[64];                /* log-likelihoods of a call of keep_scores, of all of them in turn */
static int n_kept;

static double keep_scores(void *arg, const double *v)
{
	for (int64_t i = 0; i < *(int64_t *)arg; i++)
		kept[n_kept++] = v[i];
	return 0;
}

/* Ablations of one kind against tensor key [rows, ...], of which column `col` of `cols` counts. */
static void ablation(const struct loaded *x, struct ablate_args *a, const char *key, int64_t col, int64_t cols)
{
	struct stats st;
	struct err e = { 0 };
	const struct st_tensor *t = st_find(x->fx, key);
	assert_true(t && t->elems <= 64 && t->dtype == ST_F64);
	double want[64], pick[64], got[64];
	memcpy(want, t->data, t->bytes);
	n_kept = 0;
	stats_init(&st, &x->w.t->arch, "0", x->T);
	if (ablate_run(a, &st, &e))
		fail_msg("%s", e.msg);
	int64_t n = a->metric == ABLATE_TASK ? t->elems : st.n_delta;
	assert_int_equal(n * cols, t->elems);
	for (int64_t i = 0; i < n; i++) {
		pick[i] = want[i * cols + col];
		got[i] = a->metric == ABLATE_TASK ? kept[(i + x->B) % n] : st.delta[i].delta; /* the full model's come first */
	}
	close_to(key, -1, got, pick, n, 10 * largest(pick, n));
	stats_free(&st);
}

static void ablations(const char *name, const char *device)
{
	static const char *const metrics[] = { "loss", "kl", "mse", "task" }, *const parts[] = { "block", "attn", "ffn" };
	static const int bits[] = { DROP_LAYER, DROP_ATTN, DROP_FFN };
	struct loaded x;
	char key[64];
	load(&x, name, device);
	int64_t N = x.B * x.T, B = x.B;
	struct ablate_batch b = { x.B, x.T, xcalloc((size_t)N, 4), xcalloc((size_t)N, 4) };
	memcpy(b.ids, x.ids, (size_t)N * 4);
	for (int64_t i = 0; i < N; i++)
		b.label[i] = (i + 1) % x.T ? b.ids[i + 1] : -1;
	struct ablate_args a = { .g = &x.g, .w = &x.w, .count = 1, .batch = &b, .n_batch = 1, .hidden_budget = 1 << 24, .arg = &B, .items = 1 };
	for (a.metric = ABLATE_LOSS; a.metric <= ABLATE_TASK; a.metric++)
		for (int p = 0; p < 3; p++) {
			a.part = bits[p];
			a.score = a.metric == ABLATE_TASK ? keep_scores : NULL;
			snprintf(key, sizeof key, "ablate.%s.%s", metrics[a.metric], parts[p]);
			ablation(&x, &a, key, 0, 1);
		}
	a.score = NULL;
	a.metric = ABLATE_ANGULAR;
	a.part = DROP_LAYER;
	for (a.count = 1; a.count <= 2; a.count++)
		for (a.last = 0; a.last < 2; a.last++) {
			snprintf(key, sizeof key, "ablate.angular.%d", (int)a.count);
			ablation(&x, &a, key, !a.last, 2);
		}
	free(b.ids), free(b.label);
	unload(&x);
}

static void test_ablations(void **s)
{
	(void)s;
	for (int d = 0; d < 2; d++)
		for (int m = 0; m < MEASURED; m++)
			ablations(names[m], devices[d]);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_logits), cmocka_unit_test(test_statistics),
					    cmocka_unit_test(test_shards), cmocka_unit_test(test_ablations) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
