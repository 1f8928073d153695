/*
 * test_mask_trim.c - the masked model is the trimmed model
 *
 * Random models (all families, sliding windows, GQA, tied and untied, explicit head_dim) are ranked at random and cut by the `trim`
 * program; the uncut model runs with 0/1 masks at its sites instead (heads, neurons), with dropped layers, and with the
 * hidden mask whose norms divide by the kept width.  Logits agree to fp32 rounding.  Keeping everything gives the same
 * weights, byte for byte.  Expects mkmodel and trim on PATH, as tests/run.sh arranges.
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
#include <unistd.h>
#include "../../common/base/outfile.h"
#include "../../common/base/rng.h"
#include "../../common/model/params.h"
#include "../../common/prog/prog.h"
#include "../../common/prune/ranking.h"

enum { B = 2, T = 9, CASES = 12 };
static char dir[] = "/tmp/adze-mask-XXXXXX";

struct cut {
	int64_t layers, hidden, ffn, heads, kv;
};

static void sh(const char *fmt, ...)
{
	char cmd[2048];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(cmd, sizeof cmd, fmt, ap);
	va_end(ap);
	if (system(cmd))
		fail_msg("failed: %s", cmd);
}

static uint64_t pick(int k, int what, uint64_t n)
{
	return rng_below(77, (uint64_t)what, (uint64_t)k, n);
}

static void make_model(int k, struct arch *a)
{
	struct err e = { 0 };
	int64_t kv = 1 + (int64_t)pick(k, 1, 3), per = 1 + (int64_t)pick(k, 2, 3);
	static const char *const families[CASES] = { "llama", "nemotron", "qwen2", "qwen3", "gemma3_text", "mistral",
		"llama --biases", "nemotron --biases", "qwen2", "qwen3 --biases", "gemma3_text", "mistral" };
	sh("mkmodel -q -f --family %s --window 4 --window-pattern 2 --layers %d --hidden %d --ffn %d --heads %d --kv-heads %d --head-dim %d --vocab %d %s --seed %d "
	   "-o %s/m%d", families[k], 2 + (int)pick(k, 3, 3), 8 + (int)pick(k, 4, 9), 5 + (int)pick(k, 5, 12),
	   (int)(kv * per), (int)kv, 4 + 2 * (int)pick(k, 6, 3), 19 + (int)pick(k, 7, 10), (k / 6 + k) & 1 ? "--tied" : "", k, dir, k);
	char path[128];
	snprintf(path, sizeof path, "%s/m%d", dir, k);
	if (arch_load(a, path, &e))
		fail_msg("%s", e.msg);
}

static void random_axis(struct ranking *r, const char *axis, int64_t layer, int64_t n, int k)
{
	double *s = xcalloc((size_t)n, sizeof *s);
	for (int64_t i = 0; i < n; i++)
		s[i] = rng_uniform((uint64_t)k, (uint64_t)(layer + 2) * 8 + (uint64_t)axis[0], (uint64_t)i);
	ranking_add(r, axis, layer, s, n);
	free(s);
}

static void make_ranking(struct ranking *r, const struct arch *a, int k)
{
	struct err e = { 0 };
	struct prov prov = { 0 };
	char model[128], path[128];
	snprintf(model, sizeof model, "%s/m%d", dir, k);
	snprintf(path, sizeof path, "%s/r%d", dir, k);
	*r = (struct ranking){ .method = "random", .layers = a->layers, .hidden = a->hidden, .ffn = a->ffn, .heads = a->heads,
			       .kv_heads = a->kv_heads, .head_dim = a->head_dim };
	if (model_fingerprint(model, r->model, &e))
		fail_msg("%s", e.msg);
	random_axis(r, "layer", -1, a->layers, k);
	random_axis(r, "emb", -1, a->hidden, k);
	for (int64_t l = 0; l < a->layers; l++) {
		random_axis(r, "head", l, a->heads, k);
		random_axis(r, "mlp", l, a->ffn, k);
		random_axis(r, "kv", l, a->kv_heads, k);
	}
	struct art_w *w = art_create(path, "ranking", 1, &prov, true, &e);
	if (!w)
		fail_msg("%s", e.msg);
	ranking_meta(r, w);
	if (ranking_write(r, w, &e) || art_commit(w, &e))
		fail_msg("%s", e.msg);
}

/* 1 for the `keep` best units; heads: the best keep/G of each query group */
static void best(const struct rank_axis *x, int64_t keep, int64_t groups, float *z)
{
	int64_t per = x->n / groups, *taken = xcalloc((size_t)groups, sizeof *taken);
	for (int64_t i = 0; i < x->n; i++) {
		int64_t u = x->order[i], g = u / per;
		z[u] = taken[g] < keep / groups;
		taken[g] += 1;
	}
	free(taken);
}

/* Heads of block l: of the best groups the best; where every head is a group of its own, the best heads. */
static void best_heads(const struct ranking *r, int64_t l, const struct arch *a, const struct cut *c, float *z)
{
	int64_t per = a->heads / a->kv_heads;
	float *group = xcalloc((size_t)a->kv_heads, sizeof *group);
	if (per == 1) {
		best(ranking_find(r, "head", l), c->heads, 1, z);
	} else {
		best(ranking_find(r, "kv", l), c->kv, 1, group);
		best(ranking_find(r, "head", l), c->heads / c->kv * a->kv_heads, a->kv_heads, z);
		for (int64_t h = 0; h < a->heads; h++)
			z[h] *= group[h / per];
	}
	free(group);
}

static float *logits_new(const struct engine *g, const char *model, const struct build *masks, const int32_t *ids, int64_t *n)
{
	struct err e = { 0 };
	struct weights w;
	if (weights_load(&w, g, model, DT_F32, &e))
		fail_msg("%s", e.msg);
	struct build b = *masks;
	b.t = w.t, b.dtype = DT_F32, b.space = SP_PARAM, b.prefix = "", b.blk1 = w.t->arch.layers;
	struct prog *p = prog_new(B, T);
	val tok = p_input(p, "tokens", B * T, 1, DT_I32);
	val y = p_linear(p, p_forward(p, &b, tok, NONE), p_head_weight(p, &b), NONE, NONE, DT_F32);
	struct frame f;
	p_keep(p, y);
	if (prog_plan(p, &e) || frame_new(&f, g, p, &e))
		fail_msg("%s", e.msg);
	f.base[SP_PARAM] = w.w;
	frame_set(&f, tok, ids);
	prog_run(&f);
	*n = p->v[y.id].rows * p->v[y.id].cols;
	float *out = xcalloc((size_t)*n, sizeof *out);
	frame_get(&f, y, out);
	frame_free(&f);
	prog_free(p);
	weights_free(&w);
	return out;
}

static float *masked_new(const struct engine *g, const struct arch *a, const struct ranking *r, const struct cut *c, int k,
			 const int32_t *ids, int64_t *n)
{
	struct probe pr[64];
	int np = 0;
	char path[128];
	float *hid = xcalloc((size_t)a->hidden, sizeof *hid), *keep = xcalloc((size_t)a->layers, sizeof *keep);
	uint8_t *drop = xcalloc((size_t)a->layers, 1);
	float *z = xcalloc((size_t)(a->layers * (a->heads + a->ffn)), sizeof *z), *at = z;
	best(ranking_find(r, "emb", -1), c->hidden, 1, hid);
	best(ranking_find(r, "layer", -1), c->layers, 1, keep);
	for (int64_t l = 0; l < a->layers; l++) {
		drop[l] = keep[l] == 0;
		best_heads(r, l, a, c, at);
		pr[np++] = (struct probe){ SITE_ATTN_OUT, (int)l, PROBE_MASK, 1, at };
		at += a->heads;
		best(ranking_find(r, "mlp", l), c->ffn, 1, at);
		pr[np++] = (struct probe){ SITE_FFN_ACT, (int)l, PROBE_MASK, 1, at };
		at += a->ffn;
	}
	struct build b = { .drop = drop, .probe = pr, .n_probe = np, .hidden_mask = c->hidden < a->hidden ? hid : NULL };
	snprintf(path, sizeof path, "%s/m%d", dir, k);
	float *y = logits_new(g, path, &b, ids, n);
	free(hid), free(keep), free(drop), free(z);
	return y;
}

static void one_case(const struct engine *g, int k, int axes)
{
	struct arch a;
	struct ranking r;
	make_model(k, &a);
	make_ranking(&r, &a, k);
	int64_t per = a.heads / a.kv_heads;
	struct cut c = { a.layers, a.hidden, a.ffn, a.heads, a.kv_heads };
	if (axes & 1)
		c.layers = 1 + (int64_t)pick(k, 11, (uint64_t)a.layers - 1);
	if (axes & 2)
		c.hidden = 3 + (int64_t)pick(k, 12, (uint64_t)a.hidden - 3);
	if (axes & 4)
		c.ffn = 1 + (int64_t)pick(k, 13, (uint64_t)a.ffn - 1);
	if (axes & 16)
		c.kv = 1 + (int64_t)pick(k, 15, (uint64_t)a.kv_heads);
	if (axes & 8)
		per = 1 + (int64_t)pick(k, 14, (uint64_t)per);
	c.heads = c.kv * per;
	sh("trim -q -f -m %s/m%d -r %s/r%d --layers %d --hidden %d --ffn %d %s %d --kv-heads %d -o %s/t%d", dir, k, dir, k, (int)c.layers,
	   (int)c.hidden, (int)c.ffn, axes & 8 ? "--heads" : "--align", axes & 8 ? (int)c.heads : 0, (int)c.kv, dir, k);
	int32_t ids[B * T];
	for (int i = 0; i < B * T; i++)
		ids[i] = (int32_t)rng_below(9, (uint64_t)k, (uint64_t)i, (uint64_t)a.vocab);
	int64_t n, m;
	char path[128];
	snprintf(path, sizeof path, "%s/t%d", dir, k);
	struct build none = { 0 };
	float *cut = logits_new(g, path, &none, ids, &n), *mask = masked_new(g, &a, &r, &c, k, ids, &m);
	assert_int_equal(n, m);
	double worst = 0, most = 0;
	for (int64_t i = 0; i < n; i++) {
		worst = fmax(worst, fabs((double)cut[i] - (double)mask[i]));
		most = fmax(most, fabs((double)mask[i]));
	}
	if (!(worst <= 1e-5 * (1 + most)))
		fail_msg("case %d, axes %d: masked and trimmed logits differ by %g (largest %g)", k, axes, worst, most);
	free(cut), free(mask);
	ranking_free(&r);
	arch_free(&a);
}

static void each(int axes)
{
	struct engine g;
	struct err e = { 0 };
	if (engine_open(&g, "ref", 1, &e))
		fail_msg("%s", e.msg);
	for (int k = 0; k < CASES; k++)
		one_case(&g, k, axes);
	engine_close(&g);
}

static void test_layers(void **s)
{
	(void)s;
	each(1);
}

static void test_hidden(void **s)
{
	(void)s;
	each(2);
}

static void test_ffn(void **s)
{
	(void)s;
	each(4);
}

static void test_heads(void **s)
{
	(void)s;
	each(8);
}

static void test_groups(void **s)
{
	(void)s;
	each(24);
}

static void test_all_axes(void **s)
{
	(void)s;
	each(31);
}

static void test_nothing_cut(void **s)
{
	(void)s;
	for (int k = 0; k < CASES; k++) {
		struct arch a;
		struct ranking r;
		make_model(k, &a);
		make_ranking(&r, &a, k);
		sh("trim -q -f -m %s/m%d -r %s/r%d --layers %d --hidden %d --ffn %d --heads %d -o %s/t%d", dir, k, dir, k,
		   (int)a.layers, (int)a.hidden, (int)a.ffn, (int)a.heads, dir, k);
		sh("cmp %s/m%d/model.safetensors %s/t%d/model.safetensors", dir, k, dir, k);
		ranking_free(&r);
		arch_free(&a);
	}
}

static int setup(void **s)
{
	(void)s;
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **s)
{
	struct err e;
	(void)s;
	return remove_tree(dir, &e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layers), cmocka_unit_test(test_hidden),	cmocka_unit_test(test_ffn),
		cmocka_unit_test(test_heads),  cmocka_unit_test(test_groups),	cmocka_unit_test(test_all_axes),
		cmocka_unit_test(test_nothing_cut),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
