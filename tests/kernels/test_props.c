/*
 * test_props.c - what must hold of kernels beyond agreeing with the reference
 *
 * A masked norm is the trimmed model's norm; a teacher equal to the student costs nothing and moves nothing; extreme
 * logits stay finite; neither chunking nor batching nor neighbours change a row's result; bf16 rounds to nearest even;
 * a backend that cannot be had says why.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_ops.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const mat none;

static mat make(const struct backend *b, int64_t rows, int64_t cols, int dtype, uint64_t stream, double scale)
{
	mat m = { b->k->mem_alloc(b->d, (size_t)(rows * cols) * dtype_size(dtype)), rows, cols, dtype, 0 };
	assert_non_null(m.p);
	for (int64_t i = 0; i < rows * cols; i++) {
		double x = noise(stream * 1000003u + (uint64_t)i) * scale;
		if (dtype == DT_BF16)
			((uint16_t *)m.p)[i] = f32_to_bf16((float)x);
		else if (dtype == DT_F32)
			((float *)m.p)[i] = (float)x;
		else if (dtype == DT_F64)
			((double *)m.p)[i] = 0;
		else
			((int32_t *)m.p)[i] = (int32_t)(i * 7 % (int64_t)scale);
	}
	return m;
}

static void drop(const struct backend *b, mat m)
{
	b->k->mem_free(b->d, m.p, (size_t)(m.rows * m.cols) * dtype_size(m.dtype));
}

static float at(mat m, int64_t i)
{
	return m.dtype == DT_BF16 ? bf16_to_f32(((uint16_t *)m.p)[i]) : ((float *)m.p)[i];
}

static void both(void (*test)(const struct backend *))
{
	struct backend ref = backend_open("ref", 1), cpu = backend_open("cpu", 2);
	test(&ref);
	test(&cpu);
	backend_close(&ref);
	backend_close(&cpu);
}

/* Norm of the channels that a 0/1 mask keeps == norm of the shorter vector; the others get 0 */
static void masked_norm_case(const struct backend *b)
{
	enum { N = 4, C = 37 };
	for (int kind = NORM_RMS; kind <= NORM_RMS1P; kind++) {
		int biased = kind == NORM_LAYER1P;
		mat x = make(b, N, C, DT_F32, 1, 1), w = make(b, 1, C, DT_F32, 2, 1), z = make(b, 1, C, DT_F32, 3, 1);
		mat bias = biased ? make(b, 1, C, DT_F32, 4, 1) : none, y = make(b, N, C, DT_F32, 5, 1);
		mat stat = make(b, N, 2, DT_F32, 6, 1), xs = make(b, N, C, DT_F32, 7, 1), ws = make(b, 1, C, DT_F32, 8, 1);
		mat bs = biased ? make(b, 1, C, DT_F32, 9, 1) : none, ys = make(b, N, C, DT_F32, 10, 1);
		int64_t keep[C], k = 0;
		for (int64_t c = 0; c < C; c++) {
			((float *)z.p)[c] = c % 3 != 1;
			if (c % 3 != 1)
				keep[k++] = c;
		}
		xs.cols = ys.cols = k;
		for (int64_t n = 0; n < N; n++)
			for (int64_t c = 0; c < k; c++)
				((float *)xs.p)[n * k + c] = at(x, n * C + keep[c]);
		for (int64_t c = 0; c < k; c++) {
			((float *)ws.p)[c] = at(w, keep[c]);
			if (biased)
				((float *)bs.p)[c] = at(bias, keep[c]);
		}
		b->k->norm(b->d, y, stat, x, w, bias, z, kind, 1e-5f);
		b->k->norm(b->d, ys, stat, xs, ws, bs, none, kind, 1e-5f);
		for (int64_t n = 0; n < N; n++) {
			for (int64_t c = 0; c < k; c++)
				assert_true(fabsf(at(y, n * C + keep[c]) - at(ys, n * k + c)) < 1e-5f);
			for (int64_t c = 1; c < C; c += 3)
				assert_true(at(y, n * C + c) == 0.0f);
		}
		xs.cols = ys.cols = C;
		mat all[] = { x, w, z, y, stat, xs, ws, ys };
		for (int i = 0; i < 8; i++)
			drop(b, all[i]);
		if (biased)
			drop(b, bias), drop(b, bs);
	}
}

static void masked_norm_is_trimmed_norm(void **state)
{
	(void)state;
	both(masked_norm_case);
}

/* Teacher == student: KL and RKL 0, no gradient, in both dtypes */
static void same_teacher_case(const struct backend *b)
{
	const struct kd_head_args a = { .coef = { 1 }, .tau = 1.5f };
	for (int dt = DT_F32; dt <= DT_BF16; dt++) {
		mat h = make(b, 33, 24, dt, 1, 1), W = make(b, 301, 24, dt, 2, 1), label = make(b, 33, 1, DT_I32, 3, 301);
		mat sums = make(b, 1, LOSS_KINDS, DT_F64, 0, 0), dh = make(b, 33, 24, dt, 4, 1), dW = make(b, 301, 24, DT_F32, 0, 0);
		b->k->kd_head(b->d, sums, dh, dW, h, W, h, W, label, &a);
		assert_true(fabs(((double *)sums.p)[LOSS_KL]) <= 1e-6 && fabs(((double *)sums.p)[LOSS_RKL]) <= 1e-6);
		for (int64_t i = 0; i < 33 * 24; i++)
			assert_true(fabsf(at(dh, i)) < 1e-6f);
		for (int64_t i = 0; i < 301 * 24; i++)
			assert_true(fabsf(at(dW, i)) < 1e-6f);
		mat all[] = { h, W, label, sums, dh, dW };
		for (int i = 0; i < 6; i++)
			drop(b, all[i]);
	}
}

static void same_teacher_costs_nothing(void **state)
{
	(void)state;
	both(same_teacher_case);
}

/* Logits of about +-1e4: every loss and gradient finite, every loss >= 0 */
static void extreme_case(const struct backend *b)
{
	static const struct kd_head_args a[] = { { .coef = { 1 }, .tau = 1 }, { .coef = { 0.4f, 0.3f, 0.3f }, .tau = 2 } };
	for (int v = 0; v < 4; v++) {
		int dt = v & 1 ? DT_BF16 : DT_F32;
		mat hs = make(b, 9, 16, dt, 1, 50), Ws = make(b, 77, 16, dt, 2, 50), label = make(b, 9, 1, DT_I32, 3, 77);
		mat ht = make(b, 9, 16, dt, 4, 50), Wt = make(b, 77, 16, dt, 5, 50), sums = make(b, 1, LOSS_KINDS, DT_F64, 0, 0);
		mat dh = make(b, 9, 16, dt, 6, 1), dW = make(b, 77, 16, DT_F32, 0, 0), lp = make(b, 9, 2, DT_F32, 7, 1);
		b->k->kd_head(b->d, sums, dh, dW, hs, Ws, ht, Wt, label, &a[v / 2]);
		b->k->logprob(b->d, lp, hs, Ws, label);
		for (int k = 0; k <= LOSS_CE; k++)
			assert_true(isfinite(((double *)sums.p)[k]) && ((double *)sums.p)[k] > 1000);
		for (int64_t i = 0; i < 9 * 16; i++)
			assert_true(isfinite(at(dh, i)));
		for (int64_t i = 0; i < 77 * 16; i++)
			assert_true(isfinite(at(dW, i)));
		for (int64_t i = 0; i < 18; i++)
			assert_true(isfinite(at(lp, i)));
		mat all[] = { hs, Ws, label, ht, Wt, sums, dh, dW, lp };
		for (int i = 0; i < 9; i++)
			drop(b, all[i]);
	}
}

static void extreme_logits_stay_finite(void **state)
{
	(void)state;
	both(extreme_case);
}

/* Rows in pieces of `size`: losses, dhs and dWs of all pieces together against those of one call */
static void chunk_case(const struct backend *b, int64_t size, const struct kd_head_args *a)
{
	enum { N = 600, V = 211, C = 8 };
	mat hs = make(b, N, C, DT_F32, 1, 1), Ws = make(b, V, C, DT_F32, 2, 1), ht = make(b, N, C, DT_F32, 3, 1);
	mat Wt = make(b, V, C, DT_F32, 4, 1), label = make(b, N, 1, DT_I32, 5, V), dh = make(b, N, C, DT_F32, 6, 1);
	mat dh2 = make(b, N, C, DT_F32, 7, 1), dW = make(b, V, C, DT_F32, 0, 0), dW2 = make(b, V, C, DT_F32, 0, 0);
	mat sums = make(b, 1, LOSS_KINDS, DT_F64, 0, 0), sums2 = make(b, 1, LOSS_KINDS, DT_F64, 0, 0);
	for (int64_t n = 0; n < N; n += 7)
		((int32_t *)label.p)[n] = -1;
	b->k->kd_head(b->d, sums, dh, dW, hs, Ws, ht, Wt, label, a);
	for (int64_t n = 0; n < N; n += size) {
		int64_t m = N - n < size ? N - n : size;
		mat s = { (float *)hs.p + n * C, m, C, DT_F32, 0 }, t = { (float *)ht.p + n * C, m, C, DT_F32, 0 };
		mat g = { (float *)dh2.p + n * C, m, C, DT_F32, 0 }, l = { (int32_t *)label.p + n, m, 1, DT_I32, 0 };
		b->k->kd_head(b->d, sums2, g, dW2, s, Ws, t, Wt, l, a);
	}
	for (int k = 0; k < LOSS_KINDS; k++)
		assert_true(fabs(((double *)sums.p)[k] - ((double *)sums2.p)[k]) <= 1e-6 * fabs(((double *)sums.p)[k]));
	for (int64_t i = 0; i < N * C; i++)
		assert_true(fabsf(at(dh, i) - at(dh2, i)) < 1e-4f);
	for (int64_t i = 0; i < V * C; i++)
		assert_true(fabsf(at(dW, i) - at(dW2, i)) < 1e-3f);
	mat all[] = { hs, Ws, ht, Wt, label, dh, dh2, dW, dW2, sums, sums2 };
	for (int i = 0; i < 11; i++)
		drop(b, all[i]);
}

static void chunking_changes_nothing(void **state)
{
	(void)state;
	static const int64_t size[] = { 1, 2, 3, 40, 129, 512, 600 };
	struct backend cpu = backend_open("cpu", 2); /* its chunk is 512 rows at most */
	struct kd_head_args all = { .tau = 1, .beta = 0.3f }, logits = { .coef = { 0.7f, 0, 0.3f }, .tau = 2 };
	for (int k = 0; k < LOSS_KINDS; k++)
		all.coef[k] = 0.1f;
	for (int i = 0; i < 7; i++) {
		chunk_case(&cpu, size[i], &all);
		chunk_case(&cpu, size[i], &logits);
	}
	backend_close(&cpu);
}

/* Packed documents with `start` are the documents run alone, forward and backward: bit for bit in the reference */
static void documents(const struct backend *b)
{
	enum { T = 300, H = 4, G = 2, D = 16, W = (H + 2 * G) * D, O = H * D };
	static const int64_t length[] = { 1, 130, 7, 64, 98 };
	struct attn_geom all = { 1, T, H, G, D, D, 0.25f, 0 };
	mat qkv = make(b, T, W, DT_F32, 1, 1), rope = make(b, T, D, DT_F32, 2, 1), o = make(b, T, O, DT_F32, 3, 1);
	mat lse = make(b, T, H, DT_F32, 4, 1), go = make(b, T, O, DT_F32, 5, 1), dx = make(b, T, W, DT_F32, 6, 1);
	mat o1 = make(b, T, O, DT_F32, 7, 1), lse1 = make(b, T, H, DT_F32, 8, 1), dx1 = make(b, T, W, DT_F32, 9, 1);
	mat start = make(b, T, 1, DT_I32, 10, 1);
	for (int64_t i = 0, at = 0, k = 0; i < T; i++) {
		if (i == at + length[k])
			at += length[k++];
		((int32_t *)start.p)[i] = (int32_t)at;
	}
	b->k->attn(b->d, o, lse, qkv, rope, start, &all);
	b->k->attn_bwd(b->d, dx, go, o, lse, qkv, rope, start, &all);
	for (int64_t k = 0, at = 0; k < 5; at += length[k++]) {
		struct attn_geom g = all;
		int64_t n = g.T = length[k];
#define ROWS(m) ((mat){ (float *)(m).p + at * (m).cols, n, (m).cols, DT_F32, 0 })
		b->k->attn(b->d, ROWS(o1), ROWS(lse1), ROWS(qkv), rope, none, &g);
		b->k->attn_bwd(b->d, ROWS(dx1), ROWS(go), ROWS(o1), ROWS(lse1), ROWS(qkv), rope, none, &g);
#undef ROWS
	}
	int exact = !strcmp(b->k->name, "ref");
	for (int64_t i = 0; i < T * O; i++)
		assert_true(exact ? at(o, i) == at(o1, i) : fabs(at(o, i) - at(o1, i)) < 2e-6);
	for (int64_t i = 0; i < T * W; i++)
		assert_true(exact ? at(dx, i) == at(dx1, i) : fabs(at(dx, i) - at(dx1, i)) < 2e-5);
	mat own[] = { qkv, rope, o, lse, go, dx, o1, lse1, dx1, start };
	for (int i = 0; i < 10; i++)
		drop(b, own[i]);
}

static void documents_do_not_meet(void **state)
{
	(void)state;
	both(documents);
}

/* Attention: later tokens do not reach earlier rows, and sequences of a batch do not reach each other (bitwise) */
static void attention_is_causal(void **state)
{
	(void)state;
	enum { T = 150, W = (4 + 2 * 2) * 8 };
	struct backend b = backend_open("cpu", 2);
	struct attn_geom g = { 2, T, 4, 2, 8, 8, 0.35f, 0 };
	for (int dt = DT_F32; dt <= DT_BF16; dt++) {
		mat qkv = make(&b, 2 * T, W, dt, 1, 1), rope = make(&b, T, 8, DT_F32, 2, 1), o = make(&b, 2 * T, 32, dt, 3, 1);
		mat o2 = make(&b, 2 * T, 32, dt, 4, 1), lse = make(&b, 2 * T, 4, DT_F32, 5, 1);
		size_t row = 32 * dtype_size(dt);
		b.k->attn(b.d, o, lse, qkv, rope, (mat){ 0 }, &g);
		for (int64_t i = 100 * W; i < T * W; i++) { /* rows 100.. of the first sequence */
			if (dt == DT_F32)
				((float *)qkv.p)[i] += 1;
			else
				((uint16_t *)qkv.p)[i] ^= 0x40;
		}
		b.k->attn(b.d, o2, lse, qkv, rope, (mat){ 0 }, &g);
		assert_memory_equal(o.p, o2.p, 100 * row);
		assert_memory_not_equal((char *)o.p + 100 * row, (char *)o2.p + 100 * row, row);
		assert_memory_equal((char *)o.p + T * row, (char *)o2.p + T * row, T * row);
		mat all[] = { qkv, rope, o, o2, lse };
		for (int i = 0; i < 5; i++)
			drop(&b, all[i]);
	}
	backend_close(&b);
}

/* Warm calls allocate nothing: what the backend holds does not grow */
static void scratch_settles(void **state)
{
	(void)state;
	struct backend b = backend_open("cpu", 2);
	mat x = make(&b, 130, 64, DT_F32, 1, 1), W = make(&b, 96, 64, DT_F32, 2, 1), y = make(&b, 130, 96, DT_F32, 3, 1);
	b.k->linear(b.d, y, x, W, none, none);
	size_t held = b.k->held_bytes(b.d, HELD_PARTS);
	for (int i = 0; i < 5; i++)
		b.k->linear(b.d, y, x, W, none, none);
	assert_int_equal(held, b.k->held_bytes(b.d, HELD_PARTS));
	drop(&b, x), drop(&b, W), drop(&b, y);
	backend_close(&b);
}

static void bf16_rounds_to_even(void **state)
{
	(void)state;
	assert_int_equal(f32_to_bf16(1.0f), 0x3f80);
	assert_int_equal(f32_to_bf16(1.00390625f), 0x3f80);   /* half way: to even, down */
	assert_int_equal(f32_to_bf16(1.01171875f), 0x3f82);   /* half way: to even, up */
	assert_true(isnan(bf16_to_f32(f32_to_bf16(NAN))) && isinf(bf16_to_f32(f32_to_bf16(INFINITY))));
	struct backend b = backend_open("cpu", 1);
	mat x = make(&b, 1, 100, DT_F32, 1, 3), y = make(&b, 1, 100, DT_BF16, 2, 1);
	((float *)x.p)[0] = NAN, ((float *)x.p)[1] = -INFINITY, ((float *)x.p)[2] = 1.00390625f, ((float *)x.p)[3] = 1.01171875f;
	b.k->copy(b.d, y, x);
	for (int i = 1; i < 100; i++)
		assert_int_equal(((uint16_t *)y.p)[i], f32_to_bf16(((float *)x.p)[i]));
	assert_true(isnan(at(y, 0)));
	drop(&b, x), drop(&b, y);
	backend_close(&b);
}

static void nan_reaches_sumsq(void **state)
{
	(void)state;
	struct backend b = backend_open("cpu", 2);
	mat x = make(&b, 1, 200000, DT_F32, 1, 1);
	double s = 0;
	mat out = { &s, 1, 1, DT_F64, 0 };
	b.k->sumsq(b.d, out, x);
	assert_true(isfinite(s));
	((float *)x.p)[150001] = NAN;
	b.k->sumsq(b.d, out, x);
	assert_true(isnan(s));
	drop(&b, x);
	backend_close(&b);
}

static void unknown_backend_says_why(void **state)
{
	(void)state;
	char why[256];
	assert_null(kernels_open("abacus", why));
	assert_non_null(strstr(why, "abacus"));
	assert_null(kernels_open("../x", why));
	assert_ptr_equal(kernels_open("ref", why), &kernels_ref);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(masked_norm_is_trimmed_norm), cmocka_unit_test(same_teacher_costs_nothing),
		cmocka_unit_test(extreme_logits_stay_finite),  cmocka_unit_test(chunking_changes_nothing),
		cmocka_unit_test(attention_is_causal),
		cmocka_unit_test(documents_do_not_meet),         cmocka_unit_test(scratch_settles),
		cmocka_unit_test(bf16_rounds_to_even),         cmocka_unit_test(nan_reaches_sumsq),
		cmocka_unit_test(unknown_backend_says_why),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
