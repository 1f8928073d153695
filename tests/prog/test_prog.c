/*
 * test_prog.c - programs against the hand-written decoder, recomputation, the planner and its checker
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
#include "../../common/base/outfile.h"
#include "../../common/base/rng.h"
#include "../../common/prog/internal.h"
#include "../oracle/explicit_block.h"

struct shape {
	const char *family;
	int64_t layers, hidden, ffn, heads, kv, dim, vocab;
	int tied;
	double frac;
};
static const struct shape shapes[] = {
	{ "llama", 2, 12, 10, 4, 2, 6, 17, 1, 1 },
	{ "llama", 3, 9, 7, 3, 1, 4, 11, 0, 1 },
	{ "nemotron", 2, 10, 13, 2, 2, 8, 13, 0, 0.5 },
	{ "nemotron", 1, 6, 5, 6, 3, 2, 7, 0, 1 },
};
enum { B = 2, T = 7 };

static struct ptable *table(const struct shape *s)
{
	struct arch a = { .family = family_find(s->family), .layers = s->layers, .hidden = s->hidden, .ffn = s->ffn,
			  .heads = s->heads, .kv_heads = s->kv, .head_dim = s->dim, .vocab = s->vocab, .tied = s->tied,
			  .norm_eps = 1e-5, .rope_theta = 100, .rope_frac = s->frac, .rope_factor = 1, .embed_scale = 1,
			  .max_positions = 64, .bos = -1, .eos = -1, .pad = -1 };
	int nemo = !strcmp(s->family, "nemotron");
	a.norm = nemo ? NORM_LAYER1P : NORM_RMS;
	a.act = nemo ? ACT_RELU2 : ACT_SWIGLU;
	return ptable_new(&a);
}

static float *weights(const struct ptable *t, uint64_t seed)
{
	float *w = xcalloc((size_t)t->elems, sizeof *w);
	for (int64_t i = 0; i < t->elems; i++)
		w[i] = 0.4f * (float)rng_normal(seed, 1, (uint64_t)i);
	return w;
}

struct run {
	struct prog *p;
	struct frame f;
	val tok, label, sums, hidden;
	float *grad, *pool;
	double loss[LOSS_KINDS];
};

static struct comm alone = { .size = 1 };

/* A bucket for each block and for what lies before and behind; returns how many */
static int buckets(const struct ptable *t, struct grad_bucket *b)
{
	int n = 0;
	for (int i = 0; i < t->n; i++) {
		int64_t end = i + 1 < t->n ? t->p[i + 1].off : t->elems;
		if (!i || t->p[i].layer != t->p[i - 1].layer)
			b[n++] = (struct grad_bucket){ .off = t->p[i].off, .at = t->p[i].off };
		b[n - 1].n = b[n - 1].each = end - b[n - 1].off;
	}
	return n;
}

/* With in_buckets, gradients are added to r->grad as buckets are complete, of a pool that r->f.base[SP_GRAD] is. */
static void run_ce(struct run *r, const struct engine *g, const struct ptable *t, float *w, const int32_t *tok,
		   const int32_t *label, int recompute, int counted, int in_buckets)
{
	struct err e = { 0 };
	struct build b = { .t = t, .dtype = DT_F32, .space = SP_PARAM, .prefix = "", .blk1 = t->arch.layers, .train = 1 };
	r->p = prog_new(B, T);
	r->tok = p_input(r->p, "tokens", B * T, 1, DT_I32);
	r->label = p_input(r->p, "labels", B * T, 1, DT_I32);
	r->hidden = p_forward(r->p, &b, r->tok, NONE);
	p_keep(r->p, r->hidden);
	r->sums = p_kd_head(r->p, r->hidden, p_head_weight(r->p, &b), NONE, NONE, r->label);
	r->p->coef[LOSS_CE] = 1 / (float)counted;
	prog_grad(r->p, recompute);
	struct grad_bucket b_of[8];
	if (in_buckets)
		prog_overlap(r->p, b_of, buckets(t, b_of));
	if (prog_plan(r->p, &e))
		fail_msg("%s", e.msg);
	if (frame_new(&r->f, g, r->p, &e))
		fail_msg("%s", e.msg);
	r->grad = xcalloc((size_t)t->elems, sizeof *r->grad);
	r->f.base[SP_PARAM] = (char *)w;
	r->pool = in_buckets ? xcalloc((size_t)r->p->bytes[SP_GRAD], 1) : NULL;
	r->f.base[SP_GRAD] = (char *)(in_buckets ? r->pool : r->grad);
	r->f.base[SP_SHARD] = (char *)r->grad;
	r->f.comm = &alone;
	frame_set(&r->f, r->tok, tok);
	frame_set(&r->f, r->label, label);
	prog_run(&r->f);
	frame_get(&r->f, r->sums, r->loss);
}

static void run_free(struct run *r)
{
	frame_free(&r->f);
	prog_free(r->p);
	free(r->grad);
	free(r->pool);
}

static void batch(const struct shape *s, int32_t *tok, int32_t *label, int *counted)
{
	*counted = 0;
	for (int i = 0; i < B * T; i++) {
		tok[i] = (int32_t)rng_below(3, 0, (uint64_t)i, (uint64_t)s->vocab);
		label[i] = i % 5 == 4 ? -1 : (int32_t)rng_below(3, 1, (uint64_t)i, (uint64_t)s->vocab);
		*counted += label[i] >= 0;
	}
}

static void against_explicit(const char *device, double tol)
{
	struct engine g;
	struct err e = { 0 };
	if (engine_open(&g, device, 2, &e))
		fail_msg("%s", e.msg);
	for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
		struct ptable *t = table(&shapes[k]);
		float *w = weights(t, k), *dw = xcalloc((size_t)t->elems, sizeof *dw), *hid;
		double *h = xcalloc((size_t)(B * T * t->arch.hidden), sizeof *h), most = 0;
		int32_t tok[B * T], label[B * T];
		int counted;
		batch(&shapes[k], tok, label, &counted);
		double loss = explicit_model(t, w, tok, label, B, T, dw, h);
		struct run r;
		run_ce(&r, &g, t, w, tok, label, 0, counted, 0);
		assert_true(fabs(r.loss[LOSS_CE] / counted - loss) < tol * loss);
		hid = xcalloc((size_t)(B * T * t->arch.hidden), sizeof *hid);
		frame_get(&r.f, r.hidden, hid);
		for (int64_t i = 0; i < B * T * t->arch.hidden; i++)
			assert_true(fabs((double)hid[i] - h[i]) < tol * (1 + fabs(h[i])));
		for (int64_t i = 0; i < t->elems; i++)
			most = fmax(most, fabs((double)dw[i]));
		assert_true(most > 1e-3);
		for (int i = 0; i < t->n; i++)
			for (int64_t j = 0; j < t->p[i].rows * t->p[i].cols; j++) {
				int64_t at = t->p[i].off + j;
				if (!(fabs((double)r.grad[at] - (double)dw[at]) < tol * (most + fabs((double)dw[at]))))
					fail_msg("%s %s[%lld]: %g, expected %g", shapes[k].family, t->p[i].name, (long long)j,
						 (double)r.grad[at], (double)dw[at]);
			}
		run_free(&r);
		free(w), free(dw), free(h), free(hid);
		ptable_free(t);
	}
	engine_close(&g);
}

static void test_explicit_ref(void **s)
{
	(void)s;
	against_explicit("ref", 1e-5);
}

static void test_explicit_cpu(void **s)
{
	(void)s;
	against_explicit("cpu", 1e-4);
}

/* The judge itself: its gradient against central differences of its own loss. */
static void test_explicit_differences(void **s)
{
	(void)s;
	for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
		struct ptable *t = table(&shapes[k]);
		float *w = weights(t, k + 10), *dw = xcalloc((size_t)t->elems, sizeof *dw), *no = xcalloc((size_t)t->elems, sizeof *no);
		int32_t tok[B * T], label[B * T];
		int counted;
		batch(&shapes[k], tok, label, &counted);
		explicit_model(t, w, tok, label, B, T, dw, NULL);
		for (int i = 0; i < 40; i++) {
			const struct param *p = &t->p[rng_below(5, 2, (uint64_t)i, (uint64_t)t->n)];
			int64_t at = p->off + (int64_t)rng_below(5, 3, (uint64_t)i, (uint64_t)(p->rows * p->cols));
			float keep = w[at], h = 1e-3f;
			w[at] = keep + h;
			double up = explicit_model(t, w, tok, label, B, T, no, NULL), x1 = (double)w[at];
			w[at] = keep - h;
			double down = explicit_model(t, w, tok, label, B, T, no, NULL), x0 = (double)w[at];
			w[at] = keep;
			double fd = (up - down) / (x1 - x0);
			if (fabs(fd - (double)dw[at]) > 2e-4 * (1 + fabs(fd)))
				fail_msg("%s: %g, differences give %g", p->name, (double)dw[at], fd);
		}
		free(w), free(dw), free(no);
		ptable_free(t);
	}
}

static void test_recompute(void **s)
{
	(void)s;
	static const char *const devices[] = { "ref", "cpu" };
	for (int d = 0; d < 2; d++) {
		struct engine g;
		struct err e = { 0 };
		if (engine_open(&g, devices[d], 2, &e))
			fail_msg("%s", e.msg);
		for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
			struct ptable *t = table(&shapes[k]);
			float *w = weights(t, k);
			int32_t tok[B * T], label[B * T];
			int counted;
			batch(&shapes[k], tok, label, &counted);
			struct run a, b, c;
			run_ce(&a, &g, t, w, tok, label, RECOMPUTE_NONE, counted, 0);
			run_ce(&b, &g, t, w, tok, label, RECOMPUTE_NORMS, counted, 0);
			run_ce(&c, &g, t, w, tok, label, RECOMPUTE_FULL, counted, 0);
			assert_memory_equal(a.grad, b.grad, (size_t)t->elems * sizeof *a.grad);
			assert_memory_equal(a.grad, c.grad, (size_t)t->elems * sizeof *a.grad);
			assert_true(c.p->n > b.p->n && b.p->n > a.p->n);
			for (int i = b.p->n_forward; i < b.p->n; i++)
				assert_true(b.p->op[i].code != OP_LINEAR && b.p->op[i].code != OP_ATTN);
			if (shapes[k].layers > 2)
				assert_true(b.p->bytes[SP_ACT] < a.p->bytes[SP_ACT] && c.p->bytes[SP_ACT] < b.p->bytes[SP_ACT]);
			run_free(&a), run_free(&b), run_free(&c);
			free(w);
			ptable_free(t);
		}
		engine_close(&g);
	}
}

static void test_frozen(void **s)
{
	(void)s;
	struct ptable *t = table(&shapes[1]);
	uint8_t *frozen = xcalloc((size_t)t->n, 1);
	struct err e = { 0 };
	memset(frozen, 1, (size_t)t->n);
	frozen[ptable_find(t, "blk.2.mlp.down") - t->p] = 0;
	struct build b = { .t = t, .dtype = DT_F32, .space = SP_PARAM, .prefix = "", .blk1 = t->arch.layers, .train = 1,
			   .frozen = frozen };
	struct prog *p = prog_new(B, T);
	val tok = p_input(p, "tokens", B * T, 1, DT_I32), label = p_input(p, "labels", B * T, 1, DT_I32);
	p_kd_head(p, p_forward(p, &b, tok, NONE), p_head_weight(p, &b), NONE, NONE, label);
	prog_grad(p, 0);
	assert_int_equal(prog_plan(p, &e), 0);
	int dw = 0, other = 0;
	for (int i = p->n_forward; i < p->n; i++) {
		dw += p->op[i].code == OP_LINEAR_DW;
		other += p->op[i].block >= 0 && p->op[i].block < 2;
	}
	assert_int_equal(dw, 1);       /* only the one trainable matrix, and nothing below its block */
	assert_int_equal(other, 0);
	prog_free(p);
	free(frozen);
	ptable_free(t);
}

/* Sums as buckets are complete: the same gradients out of less memory, and the checker sees what is out of turn. */
static void test_buckets(void **s)
{
	(void)s;
	struct engine g;
	struct err e = { 0 };
	assert_int_equal(engine_open(&g, "ref", 1, &e), 0);
	for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
		for (int again = RECOMPUTE_NONE; again <= RECOMPUTE_FULL; again++) {
			struct ptable *t = table(&shapes[k]);
			float *w = weights(t, k);
			int32_t tok[B * T], label[B * T];
			int counted;
			struct run plain, r;
			batch(&shapes[k], tok, label, &counted);
			run_ce(&plain, &g, t, w, tok, label, again, counted, 0);
			run_ce(&r, &g, t, w, tok, label, again, counted, 1);
			for (int i = 0; i < t->n; i++)
				assert_memory_equal(r.grad + t->p[i].off, plain.grad + t->p[i].off, (size_t)(t->p[i].rows * t->p[i].cols) * 4);
			assert_true(t->arch.layers < 3 || r.p->bytes[SP_GRAD] < plain.p->bytes[SP_GRAD]);
			int bad = 0, tried = 0;
			for (int i = 0; i + 1 < r.p->n; i++) {
				int code = r.p->op[i + 1].code;
				if (code != OP_REDUCE_SCATTER && code != OP_ZERO && code != OP_WAIT)
					continue;
				struct op o = r.p->op[i + 1];
				r.p->op[i + 1] = (struct op){ .code = OP_COPY, .geom = -1 };
				bad += prog_check(r.p, &e) != 0;
				r.p->op[i + 1] = o;
				tried++;
			}
			assert_true(tried == 3 * (int)(t->arch.layers + 2));
			assert_int_equal(bad, tried);
			run_free(&plain);
			run_free(&r);
			free(w);
			ptable_free(t);
		}
	engine_close(&g);
}

static struct prog *small_prog(struct ptable *t, struct err *e)
{
	struct build b = { .t = t, .dtype = DT_F32, .space = SP_PARAM, .prefix = "", .blk1 = t->arch.layers, .train = 1 };
	struct prog *p = prog_new(B, T);
	val tok = p_input(p, "tokens", B * T, 1, DT_I32), label = p_input(p, "labels", B * T, 1, DT_I32);
	p_kd_head(p, p_forward(p, &b, tok, NONE), p_head_weight(p, &b), NONE, NONE, label);
	prog_grad(p, 0);
	assert_int_equal(prog_plan(p, e), 0);
	return p;
}

/* The checker refuses what a broken planner or recorder could make. */
static void test_checker(void **s)
{
	(void)s;
	struct err e = { 0 };
	struct ptable *t = table(&shapes[0]);
	struct prog *p = small_prog(t, &e);
	assert_int_equal(prog_check(p, &e), 0);
	int caught = 0, tried = 0;
	for (int i = 1; i < p->nv; i++) {      /* move one value on top of another live one */
		struct value *v = &p->v[i];
		if (v->space != SP_ACT || v->def < 0)
			continue;
		for (int j = 1; j < p->nv; j++) {
			const struct value *w = &p->v[j];
			if (j == i || w->space != SP_ACT || w->def < 0 || w->def >= v->def || w->last <= v->def)
				continue;
			int64_t off = v->off;
			v->off = w->off;
			tried++;
			caught += prog_check(p, &e) != 0;
			v->off = off;
			break;
		}
	}
	assert_true(tried > 10);
	assert_int_equal(caught, tried);
	struct op keep = p->op[3];
	for (int k = 0; k < MAX_OUT; k++)      /* an op that loses its result leaves its readers without a write */
		p->op[3].out[k] = NONE;
	assert_int_equal(prog_check(p, &e), -1);
	assert_non_null(strstr(e.msg, "before it is written"));
	p->op[3] = keep;
	prog_free(p);
	ptable_free(t);
}

/* What is printed is what executes: golden text.  ADZE_BLESS=1 rewrites it. */
static void test_explain(void **s)
{
	(void)s;
	struct err e = { 0 };
	static const char *const files[] = { "tests/golden/explain-llama.txt", "tests/golden/explain-nemotron.txt" };
	for (int k = 0; k < 2; k++) {
		struct ptable *t = table(&shapes[k ? 3 : 0]);
		struct prog *p = small_prog(t, &e);
		char *text = NULL;
		size_t n, m;
		FILE *f = open_memstream(&text, &n);
		prog_explain(p, f);
		fclose(f);
		if (getenv("ADZE_BLESS"))
			assert_int_equal(file_write(files[k], text, n, &e), 0);
		char *want = file_read_new(files[k], 1 << 20, &m, &e);
		if (!want)
			fail_msg("%s", e.msg);
		assert_string_equal(text, want);
		free(want), free(text);
		prog_free(p);
		ptable_free(t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_explicit_differences), cmocka_unit_test(test_explicit_ref),
		cmocka_unit_test(test_explicit_cpu),	     cmocka_unit_test(test_recompute),
		cmocka_unit_test(test_frozen),		     cmocka_unit_test(test_buckets),
		cmocka_unit_test(test_checker),
		cmocka_unit_test(test_explain),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
