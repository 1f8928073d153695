/*
 * test_ablate.c - ablations against whole programs without the parts, and what they cost
 *
 * The judge records a full program with build.drop for every ablation, takes all logits to the host and computes losses
 * in double.  Blocks are counted where they cannot be argued away: in the attention kernel.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../train/aux_tiny.h"
#include "../../common/base/outfile.h"
#include "../../common/prune/ablate.h"
#include "../../common/prune/ablate_state.h"
#include "../../common/prune/depth.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

enum { V = 31, L = 5, BATCHES = 3, ROWS = 7 + 14 + 10 };

static const struct tiny shapes[] = {
	{ "llama", 1, L, 16, 24, 4, 2, 4, V, 0 },
	{ "nemotron", 0, L, 12, 20, 3, 3, 6, V, 0.5 },
	{ "gemma3_text", 1, L, 12, 20, 4, 2, 4, V, 0 },   /* a norm after each part */
};
static struct kernels counting;        /* the reference kernels with a counter */
static int64_t attn_calls;
static struct engine g;
static struct err e;
static struct ablate_batch batch[BATCHES];
static const uint8_t nothing[L];

static void count_attn(struct dev *d, mat o, mat lse, mat qkv, mat rope, mat start, const struct attn_geom *a)
{
	attn_calls++;
	kernels_ref.attn(d, o, lse, qkv, rope, start, a);
}

static int setup(void **s)
{
	static const int64_t B[] = { 1, 2, 2 }, T[] = { 7, 7, 5 };
	(void)s;
	counting = kernels_ref;
	counting.attn = count_attn;
	g = (struct engine){ .k = &counting, .d = counting.dev_open(1), .threads = 1 };
	for (int k = 0; k < BATCHES; k++) {
		size_t n = (size_t)(B[k] * T[k]);
		batch[k] = (struct ablate_batch){ B[k], T[k], xcalloc(n, sizeof(int32_t)), xcalloc(n, sizeof(int32_t)) };
		tiny_tokens(batch[k].ids, batch[k].label, B[k], T[k], V, (uint64_t)k + 5);
	}
	return 0;
}

static int teardown(void **s)
{
	(void)s;
	for (int k = 0; k < BATCHES; k++)
		free(batch[k].ids), free(batch[k].label);
	engine_close(&g);
	return 0;
}

static void model_new(struct weights *m, const struct tiny *shape, int dtype)
{
	struct arch a = tiny_arch(shape);
	*m = (struct weights){ .t = ptable_new(&a), .dtype = dtype, .g = &g };
	m->w = g.k->mem_alloc(g.d, (size_t)m->t->elems * dtype_size(dtype));
	tiny_fill(m->t, m->w, dtype, 7);
}

/* Logits [B*T, V] of a whole program without the parts in drop. */
static float *logits_new(const struct weights *m, const struct ablate_batch *b, const uint8_t *drop)
{
	struct build w = { .t = m->t, .dtype = DT_F32, .space = SP_PARAM, .prefix = "", .blk1 = m->t->arch.layers, .drop = drop };
	struct prog *p = prog_new(b->B, b->T);
	struct frame f;
	val tok = p_input(p, "tok", b->B * b->T, 1, DT_I32);
	val y = p_linear(p, p_forward(p, &w, tok, NONE), p_head_weight(p, &w), NONE, NONE, DT_F32);
	p_keep(p, y);
	if (prog_plan(p, &e) || frame_new(&f, m->g, p, &e))
		fail_msg("%s", e.msg);
	f.base[SP_PARAM] = m->w;
	frame_set(&f, tok, b->ids);
	prog_run(&f);
	float *out = xcalloc((size_t)(b->B * b->T * V), sizeof *out);
	frame_get(&f, y, out);
	frame_free(&f);
	prog_free(p);
	return out;
}

static double lse(const float *x)
{
	double s = 0;
	for (int v = 0; v < V; v++)
		s += exp((double)x[v]);
	return log(s);
}

/* The value of one metric summed over all batches; task: sequences whose sum of log-probabilities is above -20. */
static double direct(const struct weights *m, int metric, const uint8_t *drop)
{
	double sum = 0;
	for (int k = 0; k < BATCHES; k++) {
		const struct ablate_batch *b = &batch[k];
		float *s = logits_new(m, b, drop), *t = logits_new(m, b, nothing);
		double seq = 0;
		for (int64_t i = 0; i < b->B * b->T; i++) {
			const float *x = s + i * V, *y = t + i * V;
			if (b->label[i] >= 0) {
				double ls = lse(x), lt = lse(y), ce = ls - (double)x[b->label[i]];
				seq += ce;
				for (int v = 0; v < V && metric == ABLATE_KL; v++)
					sum += exp((double)y[v] - lt) * ((double)y[v] - lt - (double)x[v] + ls);
				for (int v = 0; v < V && metric == ABLATE_MSE; v++)
					sum += ((double)x[v] - (double)y[v]) * ((double)x[v] - (double)y[v]) / V;
				sum += metric == ABLATE_LOSS ? ce : 0;
			}
			if ((i + 1) % b->T == 0) {
				sum += metric == ABLATE_TASK && -seq > -20;
				seq = 0;
			}
		}
		free(s), free(t);
	}
	return sum;
}

static double above(void *arg, const double *v)
{
	double n = 0;
	(void)arg;
	for (int i = 0; i < 5; i++)
		n += v[i] > -20;
	return n;
}

static struct ablate_args args_of(const struct weights *m, int metric, int part)
{
	return (struct ablate_args){ .g = &g, .w = m, .metric = metric, .part = part, .count = 1, .batch = batch,
				     .n_batch = BATCHES, .score = metric == ABLATE_TASK ? above : NULL, .items = 5,
				     .hidden_budget = 1 << 20 };
}

static void run(const struct ablate_args *a, struct stats *s)
{
	stats_init(s, &a->w->t->arch, "0123456789abcdef0123456789abcdef", 7);
	if (ablate_run(a, s, &e))
		fail_msg("%s", e.msg);
}

static void close_to(double got, double want, const struct stat_delta *d)
{
	if (!(fabs(got - want) <= 2e-5 * (1 + fabs(want))))
		fail_msg("%s of %s %lld, step %lld: %.9g, expected %.9g", d->metric, d->site, (long long)d->layer, (long long)d->step,
			 got, want);
}

/* Each record against whole programs. */
static void check_records(const struct stats *s, const struct ablate_args *a)
{
	double base = direct(a->w, a->metric, nothing);
	for (int i = 0; i < s->n_delta; i++) {
		const struct stat_delta *d = &s->delta[i];
		uint8_t drop[L] = { 0 };
		for (int64_t k = 0; k < d->n_dropped; k++)
			drop[d->dropped[k]] |= (uint8_t)a->part;
		for (int64_t l = d->layer; l < d->layer + d->count; l++)
			drop[l] |= (uint8_t)a->part;
		double want = direct(a->w, a->metric, drop);
		close_to(d->delta, a->metric == ABLATE_TASK ? base - want : want - base, d);
		close_to(d->base, base, d);
		assert_int_equal(d->tokens, a->metric == ABLATE_TASK ? 5 : ROWS - 5);
	}
}

static void test_single(void **x)
{
	static const int parts[] = { DROP_LAYER, DROP_ATTN, DROP_FFN };
	(void)x;
	for (int k = 0; k < 3; k++) {
		struct weights m;
		model_new(&m, &shapes[k], DT_F32);
		for (int p = 0; p < 3; p++)
			for (int metric = ABLATE_LOSS; metric <= ABLATE_TASK; metric++) {
				struct ablate_args a = args_of(&m, metric, parts[p]);
				struct stats s;
				run(&a, &s);
				assert_int_equal(s.n_delta, L);
				check_records(&s, &a);
				stats_free(&s);
			}
		weights_free(&m);
	}
}

static void test_blocks_and_protection(void **x)
{
	static const uint8_t protect[L] = { 1, 0, 0, 0, 0 };
	(void)x;
	for (int k = 0; k < 2; k++) {
		struct weights m;
		struct stats s;
		model_new(&m, &shapes[k], DT_F32);
		struct ablate_args a = args_of(&m, ABLATE_KL, DROP_LAYER);
		a.count = 2, a.protect = protect, a.hidden_budget = 0;  /* everything spilled to a file */
		run(&a, &s);
		assert_int_equal(s.n_delta, 3);
		assert_int_equal(s.delta[0].layer, 1);
		check_records(&s, &a);
		a.count = 5;
		assert_int_equal(ablate_run(&a, &s, &e), -1);
		assert_int_equal(e.code, EXIT_USAGE);
		stats_free(&s);
		weights_free(&m);
	}
}

static void test_greedy(void **x)
{
	static const uint8_t protect[L] = { 0, 0, 0, 0, 1 };
	(void)x;
	for (int k = 0; k < 4; k++) {
		struct weights m;
		struct stats s;
		struct ranking r = { 0 };
		uint8_t drop[L] = { 0 };
		model_new(&m, &shapes[k & 1], DT_F32);
		struct ablate_args a = args_of(&m, k < 2 ? ABLATE_LOSS : ABLATE_MSE, k == 3 ? DROP_FFN : DROP_LAYER);
		a.greedy = 1, a.protect = protect;
		run(&a, &s);
		assert_int_equal(s.n_delta, 4 + 3 + 2);
		check_records(&s, &a);
		if (depth_rank(&s, "auto", &r, &e))
			fail_msg("%s", e.msg);
		assert_int_equal(r.n, 1);
		assert_string_equal(r.ax[0].axis, k == 3 ? "sub_mlp" : "layer");
		assert_int_equal(r.ax[0].prefix, 1);
		assert_int_equal(r.ax[0].order[0], 4);         /* protected */
		for (int t = 0; t < 3; t++) {
			double least = INFINITY;
			int best = -1;
			for (int l = 0; l < 4; l++)
				if (!drop[l]) {
					drop[l] = (uint8_t)a.part;
					double v = direct(&m, a.metric, drop);
					drop[l] = 0;
					if (v < least)
						least = v, best = l;
				}
			drop[best] = (uint8_t)a.part;
			assert_int_equal(r.ax[0].order[L - 1 - t], best);
		}
		ranking_free(&r);
		stats_free(&s);
		weights_free(&m);
	}
}

static void test_angular(void **x)
{
	struct weights m;
	struct stats s;
	(void)x;
	model_new(&m, &shapes[0], DT_F32);
	struct ablate_args a = args_of(&m, ABLATE_ANGULAR, DROP_LAYER);
	a.count = 2, a.last = 1;
	run(&a, &s);
	assert_int_equal(s.n_delta, L - 1);
	assert_int_equal(s.block_runs, L * BATCHES);
	double want[L] = { 0 };
	for (int k = 0; k < BATCHES; k++) {
		const struct ablate_batch *b = &batch[k];
		struct probe pr[] = { { SITE_EMBED, -1, PROBE_KEEP, 1, NULL }, { SITE_BLOCK_OUT, -1, PROBE_KEEP, 1, NULL } };
		struct build w = { .t = m.t, .dtype = DT_F32, .wide = 1, .space = SP_PARAM, .prefix = "", .blk1 = L, .probe = pr,
				   .n_probe = 2 };
		struct prog *p = prog_new(b->B, b->T);
		struct frame f;
		float *h[L + 1];
		val tok = p_input(p, "tok", b->B * b->T, 1, DT_I32), at[L + 1];
		p_forward(p, &w, tok, NONE);
		for (int l = 0; l <= L; l++) {
			char name[32];
			snprintf(name, sizeof name, l ? "keep.block_out.%d" : "keep.embed.%d", l - 1);
			at[l] = prog_find(p, name);
			p_keep(p, at[l]);
			h[l] = xcalloc((size_t)(b->B * b->T * 16), sizeof *h[l]);
		}
		if (prog_plan(p, &e) || frame_new(&f, &g, p, &e))
			fail_msg("%s", e.msg);
		f.base[SP_PARAM] = m.w;
		frame_set(&f, tok, b->ids);
		prog_run(&f);
		for (int l = 0; l <= L; l++)
			frame_get(&f, at[l], h[l]);
		for (int l = 0; l + 2 <= L; l++)
			for (int64_t i = b->T - 1; i < b->B * b->T; i += b->T) {
				double dot = 0, xx = 0, yy = 0;
				for (int c = 0; c < 16; c++) {
					double u = (double)h[l][i * 16 + c], v = (double)h[l + 2][i * 16 + c];
					dot += u * v, xx += u * u, yy += v * v;
				}
				want[l] += acos(dot / sqrt(xx * yy)) / 3.14159265358979323846;
			}
		for (int l = 0; l <= L; l++)
			free(h[l]);
		frame_free(&f);
		prog_free(p);
	}
	for (int i = 0; i < s.n_delta; i++) {
		close_to(s.delta[i].delta, want[s.delta[i].layer], &s.delta[i]);
		assert_int_equal(s.delta[i].tokens, 5);
	}
	stats_free(&s);
	weights_free(&m);
}

/* The attention kernel is called once per block execution, and each layer alone costs at most 0.6 of as many passes. */
static void test_counted(void **x)
{
	(void)x;
	for (int64_t layers = 5; layers <= 12; layers += 7)
		for (int metric = ABLATE_LOSS; metric <= ABLATE_TASK; metric++)
			for (int greedy = 0; greedy < 2; greedy++) {
				struct tiny shape = shapes[0];
				struct weights m;
				struct stats s;
				struct ablate_plan p;
				shape.layers = layers;
				model_new(&m, &shape, DT_F32);
				struct ablate_args a = args_of(&m, metric, DROP_LAYER);
				a.greedy = greedy, a.rounds = 2;
				attn_calls = 0;
				run(&a, &s);
				assert_int_equal(attn_calls, s.block_runs);
				assert_int_equal(ablate_plan(&a, &m.t->arch, &p, &e), 0);
				assert_int_equal(s.block_runs_plain, p.plain);
				if (!greedy) {
					assert_int_equal(s.block_runs, p.runs);
					assert_int_equal(s.block_runs, BATCHES * layers * (layers + 1) / 2);
					assert_int_equal(s.block_runs_plain, BATCHES * layers * layers);
					assert_true((double)s.block_runs <= 0.6 * (double)s.block_runs_plain);
				}
				stats_free(&s);
				weights_free(&m);
			}
}

static void same_stats(const struct stats *a, const struct stats *b)
{
	assert_int_equal(a->n_delta, b->n_delta);
	assert_int_equal(a->block_runs, b->block_runs);
	for (int i = 0; i < a->n_delta; i++) {
		assert_memory_equal(&a->delta[i].delta, &b->delta[i].delta, sizeof(double));
		assert_memory_equal(&a->delta[i].base, &b->delta[i].base, sizeof(double));
		assert_int_equal(a->delta[i].layer, b->delta[i].layer);
	}
}

/* Weights read block by block, batches in groups of any size, hidden states in memory or in a file: the same bits. */
static void test_streamed(void **x)
{
	static const int64_t budget[] = { 0, 5000, 1 << 20 };
	char dir[] = "/tmp/test_ablate.XXXXXX";
	(void)x;
	assert_non_null(mkdtemp(dir));
	for (int k = 0; k < 3; k++)
		for (int dtype = DT_F32; dtype <= DT_BF16; dtype++) {
			struct weights m, f;
			struct stats s, t;
			char *path = xasprintf("%s/%d.%d", dir, k, dtype);
			model_new(&m, &shapes[k], dtype);
			model_new(&f, &shapes[k], DT_F32);
			if (params_save(f.t, f.w, path, NULL, "float32", &(struct model_card){ .title = "test" }, false, &e))
				fail_msg("%s", e.msg);
			for (int metric = ABLATE_LOSS; metric <= ABLATE_ANGULAR; metric++)
				for (int i = 0; i < 6; i++) {
					struct ablate_args a = args_of(&m, metric, i < 3 || metric == ABLATE_ANGULAR ? DROP_LAYER : DROP_ATTN << (i & 1));
					a.greedy = metric != ABLATE_ANGULAR && i == 2, a.rounds = 3, a.count = i == 1 ? 2 : 1;
					run(&a, &s);
					a.w = NULL, a.dir = path, a.t = m.t, a.dtype = dtype, a.hidden_budget = budget[i % 3];
					stats_init(&t, &m.t->arch, "0123456789abcdef0123456789abcdef", 7);
					if (ablate_run(&a, &t, &e))
						fail_msg("%s", e.msg);
					same_stats(&s, &t);
					stats_free(&s);
					stats_free(&t);
				}
			free(path);
			weights_free(&m);
			weights_free(&f);
		}
	assert_int_equal(remove_tree(dir, &e), 0);
}

/* From any prefix of the state, torn line included, the same results in the end. */
static void resume(const struct weights *m, int metric)
{
	static const char key[] = "00112233445566778899aabbccddeeff";
	char path[] = "/tmp/test_ablate.XXXXXX";
	struct ablate_args a = args_of(m, metric, DROP_LAYER);
	struct stats whole, s;
	int64_t found;
	int other;
	size_t n;
	close(mkstemp(path));
	a.greedy = 1, a.rounds = 2;
	a.state = ablate_state_open(path, key, &found, &other, &e);
	assert_non_null(a.state);
	run(&a, &whole);
	ablate_state_close(a.state, false);
	char *text = file_read_new(path, 1 << 20, &n, &e);
	assert_non_null(text);
	for (size_t cut = 0; cut <= n; cut += 37) {
		if (file_write(path, text, cut, &e))
			fail_msg("%s", e.msg);
		a.state = ablate_state_open(path, key, &found, &other, &e);
		assert_non_null(a.state);
		attn_calls = 0;
		run(&a, &s);
		assert_true(cut == n || cut == 0 || attn_calls <= whole.block_runs + BATCHES * L);
		same_stats(&s, &whole);
		stats_free(&s);
		ablate_state_close(a.state, false);
	}
	a.state = ablate_state_open(path, "ffeeddccbbaa99887766554433221100", &found, &other, &e);
	assert_true(other && !found);
	ablate_state_close(a.state, true);
	assert_int_equal(access(path, F_OK), -1);
	char *broken = xasprintf("adze-ablate 1 %s\n0 -1 0 5 1 0x1p+3 .\n0 0 1 5 1 0x1p+3 .\n", key);
	assert_int_equal(file_write(path, broken, strlen(broken), &e), 0);
	a.state = ablate_state_open(path, key, &found, &other, &e);
	assert_int_equal(found, 2);
	stats_init(&s, &m->t->arch, "", 7);
	assert_int_equal(ablate_run(&a, &s, &e), -1);
	assert_int_equal(e.code, EXIT_DATA);
	ablate_state_close(a.state, true);
	free(text), free(broken);
	stats_free(&s);
	stats_free(&whole);
}

static void test_resume(void **x)
{
	struct weights m;
	(void)x;
	model_new(&m, &shapes[1], DT_F32);
	for (int metric = ABLATE_LOSS; metric <= ABLATE_TASK; metric++)
		resume(&m, metric);
	weights_free(&m);
}

static void test_bf16(void **x)
{
	struct weights m, f;
	struct stats s, t;
	(void)x;
	model_new(&m, &shapes[0], DT_BF16);
	model_new(&f, &shapes[0], DT_F32);
	for (int metric = ABLATE_LOSS; metric <= ABLATE_MSE; metric++) {
		struct ablate_args a = args_of(&m, metric, DROP_LAYER), b = args_of(&f, metric, DROP_LAYER);
		run(&a, &s);
		run(&b, &t);
		for (int i = 0; i < s.n_delta; i++)
			assert_true(fabs(s.delta[i].delta - t.delta[i].delta) < 0.05 * (1 + fabs(t.delta[i].delta)));
		stats_free(&s);
		stats_free(&t);
	}
	weights_free(&m);
	weights_free(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_single),	cmocka_unit_test(test_blocks_and_protection), cmocka_unit_test(test_greedy),
		cmocka_unit_test(test_angular), cmocka_unit_test(test_counted),		      cmocka_unit_test(test_resume),
		cmocka_unit_test(test_bf16),	cmocka_unit_test(test_streamed),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
