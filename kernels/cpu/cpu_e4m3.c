/*
 * cpu_e4m3.c - linears with weights in 8 bits, emulated
 *
 *   y = sx sW (x/sx rounded) (W/sW)' + bias + res
 *
 * Every e4m3 number is a bf16 number, so the product of the rounded operands is a bf16 product with f32 sums: the effect of
 * the rounding can be studied here, and nothing is faster.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include <math.h>
#include <string.h>

enum { PIECE = 1 << 14 };

static float element(mat a, int64_t i)
{
	return a.dtype == DT_BF16 ? bf16_to_f32(((const uint16_t *)a.p)[i]) : ((const float *)a.p)[i];
}

static float largest(struct dev *d, mat x)
{
	int64_t n = x.rows * x.cols;
	float top = 0;
#pragma omp parallel for num_threads(d->threads) schedule(static) reduction(max : top)
	for (int64_t i = 0; i < n; i++) {
		float a = fabsf(element(x, i));
		top = a > top ? a : top;
	}
	return top;
}

static void codes(struct dev *d, uint8_t *out, mat x, float in)
{
	int64_t n = x.rows * x.cols;
#pragma omp parallel for num_threads(d->threads) schedule(static, PIECE)
	for (int64_t i = 0; i < n; i++)
		out[i] = f32_to_e4m3(element(x, i) * in);
}

/* out (bf16) = what the n codes stand for */
static void values(struct dev *d, uint16_t *out, const uint8_t *code, int64_t n)
{
	uint16_t of[256];
	for (int q = 0; q < 256; q++)
		of[q] = f32_to_bf16(e4m3_to_f32((uint8_t)q));
#pragma omp parallel for num_threads(d->threads) schedule(static, PIECE)
	for (int64_t i = 0; i < n; i++)
		out[i] = of[code[i]];
}

void cpu_quantise(struct dev *d, mat Q, mat W)
{
	struct e4m3_by by = e4m3_factors(largest(d, W));
	size_t n = (size_t)(W.rows * W.cols);
	uint8_t *code = scratch(d, S_E4M3_W, n);     /* Q may lie on W */
	codes(d, code, W, by.in);
	memcpy(Q.p, code, n);
	*e4m3_scale(Q) = by.out;
}

int cpu_e4m3(struct dev *d)
{
	(void)d;
	return 1;
}

void cpu_linear_e4m3(struct dev *d, mat y, mat x, mat W, mat bias, mat res)
{
	int64_t N = x.rows, I = W.cols, O = W.rows;
	char *room = scratch(d, S_E4M3_X, (size_t)(N * I) * 3);
	uint16_t *xv = (uint16_t *)room, *wv = scratch(d, S_E4M3_W, (size_t)(O * I) * sizeof *wv);
	uint8_t *xq = (uint8_t *)(xv + N * I);
	float *t = scratch(d, S_E4M3_Y, (size_t)(N * O) * sizeof *t), scale = 0;
	if (!d->planning) {
		struct e4m3_by by = e4m3_factors(largest(d, x));
		codes(d, xq, x, by.in);
		values(d, xv, xq, N * I);
		values(d, wv, W.p, O * I);
		scale = by.out * *e4m3_scale(W);
	}
	struct product q = { .M = N, .N = O, .K = I, .A = { xv, DT_BF16, 0, I }, .B = { wv, DT_BF16, 1, I }, .C = t, .ldc = O, .c_dtype = DT_F32 };
	gemm(d, &q);
	if (d->planning)
		return;
#pragma omp parallel for num_threads(d->threads) schedule(dynamic, 16)
	for (int64_t n = 0; n < N; n++) {
		for (int64_t o = 0; o < O; o++)
			t[n * O + o] = scale * t[n * O + o] + (bias.p ? element(bias, o) : 0.0f) + (res.p ? element(res, n * O + o) : 0.0f);
		d->simd->cvt(row_at(y, n), y.dtype, t + n * O, DT_F32, 1.0f, O);
	}
}
