/*
 * test_trainer.c - the optimizer step: decay by parameter, NaN guard, bf16 learns, runs repeat, validation
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_tiny.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct tiny small = { "llama", 1, 1, 12, 20, 4, 2, 4, 23, 1 };
static const struct tiny large = { "nemotron", 0, 2, 16, 24, 4, 2, 4, 23, 0.5 };
enum { SEQ = 8, BATCH = 4 };
static struct engine eng;
static int32_t ids[SEQ * BATCH], labels[SEQ * BATCH];

static struct trainer_spec spec(int dtype)
{
	struct trainer_spec o = { .seq = SEQ, .micro = 2, .batch = BATCH, .dtype = dtype, .clip = 1, .beta1 = 0.9,
				  .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1 };
	o.loss.weight[LOSS_KL] = 1;
	o.loss.tau = 1;
	return o;
}

static void start(struct trainer *t, int dtype)
{
	struct trainer_spec o = spec(dtype);
	tiny_trainer(t, &eng, &small, &large, &o, 51);
	tiny_tokens(ids, labels, BATCH, SEQ, small.vocab, 6);
}

static void test_spans(void **state)
{
	struct trainer t;
	int64_t at = 0;
	(void)state;
	start(&t, DT_F32);
	for (int i = 0; i < t.n_span; i++) {
		assert_int_equal(t.span[i].off, at);
		at += t.span[i].n;
	}
	assert_int_equal(at, t.student->elems);
	for (int i = 0; i < t.student->n; i++) {
		const struct param *p = &t.student->p[i];
		int k = 0;
		while (t.span[k].off + t.span[k].n <= p->off)
			k++;
		assert_int_equal(t.span[k].decay, p->row->decay);
		assert_true(p->off + p->rows * p->cols <= t.span[k].off + t.span[k].n);
		assert_int_equal(p->row->decay, p->rows > 1);
	}
	trainer_free(&t);
}

/* Exempt matrices differ from decayed ones by lr * decay * w after one step, all others by nothing. */
static void test_no_decay(void **state)
{
	(void)state;
	struct trainer_spec o = spec(DT_F32);
	struct trainer a, b;
	struct step_result r;
	tiny_trainer(&a, &eng, &small, &large, &o, 51);
	o.no_decay = "embed_tokens,o_proj";
	tiny_trainer(&b, &eng, &small, &large, &o, 51);
	tiny_tokens(ids, labels, BATCH, SEQ, small.vocab, 6);
	float *w = xmalloc((size_t)a.trained * 4);
	memcpy(w, a.w, (size_t)a.trained * 4);
	assert_int_equal(trainer_step(&a, ids, labels, 1e-2, &r), 0);
	assert_int_equal(trainer_step(&b, ids, labels, 1e-2, &r), 0);
	for (int i = 0; i < a.n_param; i++) {
		const struct param *p = a.param[i];
		bool exempt = !strcmp(p->name, "embed") || !strcmp(p->name, "blk.0.attn.o");
		for (int64_t k = p->off; k < p->off + p->rows * p->cols; k++)
			assert_true(fabs((double)(b.w[k] - a.w[k]) - (exempt ? 1e-3 * (double)w[k] : 0)) < 1e-7);
	}
	free(w);
	trainer_free(&a);
	trainer_free(&b);
}

/* average = d average + (1-d) weights, from the weights at the start */
static void test_ema(void **state)
{
	(void)state;
	struct trainer_spec o = spec(DT_F32);
	struct trainer t;
	struct step_result r;
	o.ema = 0.75;
	tiny_trainer(&t, &eng, &small, &large, &o, 51);
	tiny_tokens(ids, labels, BATCH, SEQ, small.vocab, 6);
	double *e = xcalloc((size_t)t.trained, sizeof *e);
	for (int64_t i = 0; i < t.trained; i++)
		e[i] = (double)t.w[i];
	for (int s = 0; s < 4; s++) {
		assert_int_equal(trainer_step(&t, ids, labels, 1e-2, &r), 0);
		for (int64_t i = 0; i < t.trained; i++)
			e[i] = 0.75 * e[i] + 0.25 * (double)t.w[i];
	}
	for (int64_t i = 0; i < t.trained; i++)
		assert_true(fabs(e[i] - (double)t.ema[i]) < 1e-6);
	free(e);
	trainer_free(&t);
}

/* Rounding at random: a neighbour, right on average, a function of (seed, step, element) alone */
static void test_random_rounding(void **state)
{
	(void)state;
	const float x[] = { 1.0f, 1.00390625f, -0.3337f, 3.1e-39f, 1e30f };
	for (int k = 0; k < 5; k++) {
		double sum = 0;
		for (uint32_t i = 0; i < 65536; i++) {
			float y = bf16_to_f32(f32_to_bf16_random(x[k], i));
			assert_true(fabsf(y - x[k]) <= fabsf(x[k]) / 128 + 1e-40f);
			sum += (double)y / 65536;
		}
		assert_true(fabs(sum - (double)x[k]) <= 1e-7 * fabs((double)x[k]));
	}
	double mean = 0;
	for (uint64_t i = 0; i < 100000; i++)
		mean += (double)(rounding_bits(12345, i) & 0xffff) / 65536 / 100000;
	assert_true(fabs(mean - 0.5) < 0.005);
	assert_int_equal(f32_to_bf16_random(INFINITY, 0xffff), f32_to_bf16(INFINITY));
	float *w[2];
	size_t n = 0;
	for (int k = 0; k < 2; k++) {  /* cut into other spans, the elements keep their bits */
		struct trainer_spec o = spec(DT_F32);
		struct trainer t;
		struct step_result r;
		o.low_moments = true;
		o.seed = 9;
		o.weight_decay = 0;
		o.no_decay = k ? "o_proj" : NULL;
		tiny_trainer(&t, &eng, &small, &large, &o, 51);
		tiny_tokens(ids, labels, BATCH, SEQ, small.vocab, 6);
		for (int s = 0; s < 3; s++)
			assert_int_equal(trainer_step(&t, ids, labels, 1e-2, &r), 0);
		n = (size_t)t.trained * 4;
		w[k] = memcpy(xmalloc(n), t.w, n);
		trainer_free(&t);
	}
	assert_memory_equal(w[0], w[1], n);
	free(w[0]);
	free(w[1]);
}

static void test_skips_nan(void **state)
{
	struct trainer t;
	struct step_result r;
	(void)state;
	start(&t, DT_F32);
	size_t n = (size_t)t.student->elems * 4;
	const struct param *p = ptable_find(t.student, "blk.0.mlp.up");
	float good = t.w[p->off];
	t.w[p->off] = NAN;
	float *w = xmalloc(n);
	memcpy(w, t.w, n);
	for (int i = 1; i <= 3; i++) {
		assert_int_equal(trainer_step(&t, ids, labels, 1e-2, &r), 0);
		assert_true(r.skipped);
		assert_int_equal(t.skipped_row, i);
	}
	assert_memory_equal(w, t.w, n);
	assert_int_equal(t.updates, 0);
	for (int64_t i = 0; i < t.student->elems; i++)
		assert_true(((float *)t.m)[i] == 0 && ((float *)t.v)[i] == 0);
	t.w[p->off] = good;
	assert_int_equal(trainer_step(&t, ids, labels, 1e-2, &r), 0);
	assert_false(r.skipped);
	assert_int_equal(t.skipped_row, 0);
	assert_int_equal(t.skipped, 3);
	assert_int_equal(t.updates, 1);
	free(w);
	trainer_free(&t);
}

static void test_learns(void **state)
{
	(void)state;
	for (int dtype = DT_F32; dtype <= DT_BF16; dtype++) {
		struct trainer t;
		struct step_result r;
		double first = 0;
		start(&t, dtype);
		for (int i = 0; i < 60; i++) {
			assert_int_equal(trainer_step(&t, ids, labels, 1e-2, &r), 0);
			first = i ? first : r.loss;
		}
		if (!(r.loss < 0.5 * first))
			fail_msg("dtype %d: loss %.4f after %.4f", dtype, r.loss, first);
		for (int64_t i = 0; t.wb && i < t.student->elems; i++)
			assert_int_equal(t.wb[i], f32_to_bf16(t.w[i]));
		trainer_free(&t);
	}
}

static void test_repeats(void **state)
{
	struct trainer a, b;
	struct step_result r, q;
	(void)state;
	start(&a, DT_BF16);
	start(&b, DT_BF16);
	for (int i = 0; i < 5; i++) {
		trainer_step(&a, ids, labels, 1e-2, &r);
		trainer_step(&b, ids, labels, 1e-2, &q);
		assert_memory_equal(&r, &q, sizeof r);
	}
	assert_memory_equal(a.w, b.w, (size_t)a.student->elems * 4);
	trainer_free(&a);
	trainer_free(&b);
}

/* Held-out means are those of training before any step, for any number of windows, and change nothing. */
static void test_measure(void **state)
{
	enum { N = 5 };
	struct trainer t;
	struct step_result r, one;
	struct batches b;
	uint32_t tok[N * SEQ];
	int32_t x[BATCH * SEQ], y[BATCH * SEQ];
	double sum = 0;
	(void)state;
	start(&t, DT_F32);
	for (int i = 0; i < N * SEQ; i++)
		tok[i] = (uint32_t)(i * 7 % 23);
	assert_int_equal(batches_from(&b, tok, N, SEQ, SEQ, 1), 0);
	memset(x, 0, sizeof x);
	trainer_measure(&t, &b, N, x, y, &r);
	assert_int_equal(r.labels, N * (SEQ - 1));
	for (int w = 0; w < N; w++) {
		for (int i = 0; i < BATCH; i++)
			batches_window(&b, w, x + i * SEQ, y + i * SEQ);
		assert_int_equal(trainer_gradients(&t, x, y, &one), 0);
		sum += one.mean[LOSS_KL] / N;
	}
	assert_true(fabs(sum - r.mean[LOSS_KL]) < 1e-6 * sum);
	batches_free(&b);
	trainer_free(&t);
}

static void test_other_vocabulary(void **state)
{
	struct trainer t;
	struct trainer_spec o = spec(DT_F32);
	struct tiny other = large;
	struct err e;
	(void)state;
	other.vocab = 24;
	struct arch s = tiny_arch(&small), u = tiny_arch(&other);
	assert_int_equal(trainer_plan(&t, ptable_new(&s), ptable_new(&u), &o, &e), -1);
	assert_int_equal(e.code, EXIT_DATA);
	assert_non_null(strstr(e.msg, "24"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spans),
		cmocka_unit_test(test_no_decay), cmocka_unit_test(test_ema), cmocka_unit_test(test_random_rounding),
		cmocka_unit_test(test_skips_nan),
		cmocka_unit_test(test_learns),
		cmocka_unit_test(test_repeats),
		cmocka_unit_test(test_measure),
		cmocka_unit_test(test_other_vocabulary),
	};
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	if (eng.d)
		eng.k->dev_close(eng.d);
	return rc;
}
