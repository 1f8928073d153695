/*
 * test_decode.c - attention over a cache is attention, and a row does not feel its neighbours
 *
 * Sequences of different lengths are pushed through attn_kv in pieces, in turn, and must come out as attn makes them from
 * the whole.  Products and attention of few rows are repeated with every number of rows: the same bits are asked for.
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

static const char *const levels[] = { "v1", "v3", "v4", "v4b" };

static struct backend cpu_at(int level)
{
	setenv("ADZE_CPU_ISA", levels[level], 1);
	struct backend b = backend_open("cpu", 2);
	unsetenv("ADZE_CPU_ISA");
	return b;
}

static mat make(const struct backend *b, int64_t rows, int64_t cols, int dtype, uint64_t stream)
{
	mat m = { b->k->mem_alloc(b->d, (size_t)(rows * cols) * dtype_size(dtype)), rows, cols, dtype, 0 };
	assert_non_null(m.p);
	for (int64_t i = 0; dtype != DT_I32 && i < rows * cols; i++) {
		float x = (float)noise(stream * 1000003u + (uint64_t)i);
		if (dtype == DT_BF16)
			((uint16_t *)m.p)[i] = f32_to_bf16(x);
		else
			((float *)m.p)[i] = x;
	}
	return m;
}

static void drop(const struct backend *b, mat m)
{
	b->k->mem_free(b->d, m.p, (size_t)(m.rows * m.cols) * dtype_size(m.dtype));
}

static mat row(mat m, int64_t n)
{
	m.p = (char *)m.p + (size_t)(n * m.cols) * dtype_size(m.dtype);
	m.rows = 1;
	return m;
}

enum { CAP = 192 };

/* Two sequences of T and T - 5 tokens in slots 2 and 0, in pieces of `step` rows of either in turn, against attn */
static void pieces(const struct backend *b, struct attn_geom g, int64_t T, int64_t step)
{
	int64_t W = (g.H + 2 * g.G) * (int64_t)g.D, C = g.H * (int64_t)g.D, len[2] = { T, T - 5 }, done[2] = { 0, 0 };
	mat qkv = make(b, 2 * T, W, DT_F32, 1), rope = make(b, CAP, g.rot, DT_F32, 2), want = make(b, 2 * T, C, DT_F32, 3);
	mat kv = make(b, 3, 2 * (int64_t)g.G * g.D * CAP, DT_F32, 4), in = make(b, step, W, DT_F32, 5);
	mat o = make(b, step, C, DT_F32, 6), at = make(b, step, 2, DT_I32, 0);
	struct attn_geom whole = g;
	whole.B = 2;
	whole.T = T;
	b->k->attn(b->d, want, (mat){ 0 }, qkv, rope, (mat){ 0 }, &whole);
	g.B = 3;
	g.T = CAP;
	for (int s = 0; done[0] < len[0] || done[1] < len[1]; s ^= 1) {
		int32_t *place = at.p;
		for (int64_t i = 0; i < step; i++) {
			int64_t t = done[s] + i, from = s * T + (t < len[s] ? t : 0);
			place[2 * i] = t < len[s] ? 2 - 2 * s : -1;
			place[2 * i + 1] = t < len[s] ? (int32_t)t : 0;
			memcpy((float *)in.p + i * W, (float *)qkv.p + from * W, (size_t)W * sizeof(float));
		}
		b->k->attn_kv(b->d, o, kv, in, rope, at, &g);
		for (int64_t i = 0; i < step && done[s] < len[s]; i++, done[s]++)
			for (int64_t c = 0; c < C; c++) {
				float x = ((float *)o.p)[i * C + c], y = ((float *)want.p)[(s * T + done[s]) * C + c];
				if (!(fabsf(x - y) <= 2e-5f * (1 + fabsf(y))))
					fail_msg("slot %d, position %ld, column %ld: %g from the cache, %g from the whole", s,
						 (long)done[s], (long)c, (double)x, (double)y);
			}
	}
	mat all[] = { qkv, rope, want, kv, in, o, at };
	for (int i = 0; i < 7; i++)
		drop(b, all[i]);
}

static void cache_is_attention(void **state)
{
	(void)state;
	static const struct attn_geom g[] = {
		{ 0, 0, 4, 2, 16, 16, 0.3f, 0 }, { 0, 0, 3, 1, 24, 8, 0.3f, 0 }, { 0, 0, 2, 2, 8, 8, 0.5f, 9 }, { 0, 0, 4, 1, 64, 64, 0.1f, 70 }
	};
	static const int64_t step[] = { 1, 7, 32, 150 };
	for (int l = -1; l < 4; l++) {
		struct backend b = l < 0 ? backend_open("ref", 1) : cpu_at(l);
		for (int k = 0; k < 4; k++)
			for (int s = l < 0 ? 2 : 0; s < 4; s++)
				pieces(&b, g[k], l < 0 ? 40 : 150, step[s]);
		backend_close(&b);
	}
}

/* y = x W' + bias + res of n rows has the same bits for every n <= FEW_ROWS */
static void linear_case(const struct backend *b, int xt, int wt, int yt, int64_t K, int64_t O)
{
	mat x = make(b, FEW_ROWS, K, xt, 1), W = make(b, O, K, wt, 2), bias = make(b, 1, O, wt, 3), res = make(b, FEW_ROWS, O, yt, 4);
	mat all = make(b, FEW_ROWS, O, yt, 5), one = make(b, FEW_ROWS, O, yt, 6);
	b->k->linear(b->d, all, x, W, bias, res);
	for (int64_t n = 1; n < FEW_ROWS; n++) {
		mat xs = x, rs = res, ys = one;
		xs.rows = rs.rows = ys.rows = n;
		b->k->linear(b->d, ys, xs, W, bias, rs);
		assert_memory_equal(all.p, one.p, (size_t)(n * O) * dtype_size(yt));
	}
	for (int64_t n = 0; n < FEW_ROWS; n++)
		b->k->linear(b->d, row(one, n), row(x, n), W, bias, row(res, n));
	assert_memory_equal(all.p, one.p, (size_t)(FEW_ROWS * O) * dtype_size(yt));
	mat m[] = { x, W, bias, res, all, one };
	for (int i = 0; i < 6; i++)
		drop(b, m[i]);
}

static void few_rows_are_independent(void **state)
{
	(void)state;
	for (int l = 0; l < 4; l++) {
		struct backend b = cpu_at(l);
		linear_case(&b, DT_F32, DT_F32, DT_F32, 67, 131);
		linear_case(&b, DT_BF16, DT_BF16, DT_F32, 64, 66);
		linear_case(&b, DT_BF16, DT_BF16, DT_BF16, 33, 5);
		backend_close(&b);
	}
}

static void cached_rows_are_independent(void **state)
{
	(void)state;
	enum { S = 5, H = 6, G = 2, D = 20, W = (H + 2 * G) * D, LEN = 70 };
	const struct attn_geom g = { S, 128, H, G, D, 20, 0.2f, 0 };
	for (int l = 0; l < 4; l++)
		for (int dt = DT_F32; dt <= DT_BF16; dt++) {
			struct backend b = cpu_at(l);
			mat rope = make(&b, 128, 20, DT_F32, 1), kv[2], o[2], x = make(&b, S, W, dt, 2), at = make(&b, S, 2, DT_I32, 0);
			for (int k = 0; k < 2; k++) {
				kv[k] = make(&b, S, 2 * G * D * 128, dt, 3);
				o[k] = make(&b, S, H * D, dt, 4);
			}
			for (int t = 0; t < LEN; t++) {
				for (int s = 0; s < S; s++) {  /* slots of different lengths */
					((int32_t *)at.p)[2 * s] = t < LEN - 9 * s ? s : -1;
					((int32_t *)at.p)[2 * s + 1] = t;
				}
				b.k->attn_kv(b.d, o[0], kv[0], x, rope, at, &g);
				for (int s = 0; s < S; s++)
					b.k->attn_kv(b.d, row(o[1], s), kv[1], row(x, s), rope, row(at, s), &g);
				assert_memory_equal(o[0].p, o[1].p, S * H * D * dtype_size(dt));
			}
			mat m[] = { rope, kv[0], kv[1], o[0], o[1], x, at };
			for (int i = 0; i < 7; i++)
				drop(&b, m[i]);
			backend_close(&b);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cache_is_attention), cmocka_unit_test(few_rows_are_independent),
		cmocka_unit_test(cached_rows_are_independent),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
