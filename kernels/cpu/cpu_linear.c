/*
 * cpu_linear.c - y = x W' + bias + res, and both gradients, as products; sums into some of the columns
 *
 *   y [N,O] = x [N,I] W' + ...      dx [N,I] = dy [N,O] W      dW [O,I] += dy' x
 *
 * With few rows the weights are read once and the order of additions does not depend on N (simd_decode.h).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include <string.h>

static struct factor factor(mat a, int trans)
{
	return (struct factor){ a.p, a.dtype, trans, a.cols };
}

static void few_rows(struct dev *d, mat y, mat x, mat W, mat bias, mat res)
{
	enum { STEP = 64 };
	struct few_call c = { .N = x.rows, .K = x.cols, .y = y, .w = W, .bias = bias, .res = res };
	float *dense = x.dtype == DT_F32 ? x.p : scratch(d, S_GEMM_A, (size_t)(x.rows * x.cols) * sizeof *dense);
	if (d->planning)
		return;
	if (x.dtype != DT_F32)
		d->simd->cvt(dense, DT_F32, x.p, x.dtype, 1.0f, x.rows * x.cols);
	c.x = dense;
#pragma omp parallel for num_threads(d->threads) schedule(static)
	for (int64_t o = 0; o < W.rows; o += STEP)
		d->simd->few(&c, o, o + STEP < W.rows ? o + STEP : W.rows);
}

void cpu_linear(struct dev *d, mat y, mat x, mat W, mat bias, mat res)
{
	if (W.dtype == DT_E4M3) {
		cpu_linear_e4m3(d, y, x, W, bias, res);
		return;
	}
	if (x.rows <= FEW_ROWS) {
		few_rows(d, y, x, W, bias, res);
		return;
	}
	struct product q = { .M = x.rows, .N = W.rows, .K = W.cols, .A = factor(x, 0), .B = factor(W, 1), .C = y.p,
			     .ldc = y.cols, .c_dtype = y.dtype, .bias = bias, .res = res };
	gemm(d, &q);
}

void cpu_linear_dx(struct dev *d, mat dx, mat dy, mat W, int acc)
{
	struct product q = { .M = dy.rows, .N = W.cols, .K = W.rows, .A = factor(dy, 0), .B = factor(W, 0), .C = dx.p,
			     .ldc = dx.cols, .c_dtype = dx.dtype, .acc = acc };
	gemm(d, &q);
}

/* dbias [1,O] += column sums of dy, by row blocks added up in order */
static void column_sums(struct dev *d, mat dbias, mat dy)
{
	int nb = row_blocks(dy.rows);
	int64_t O = dy.cols;
	float *part = scratch(d, S_PART, (size_t)(nb * O) * sizeof *part);
	if (d->planning)
		return;
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (int b = 0; b < nb; b++) {
		float *s = part + b * O;
		memset(s, 0, (size_t)O * sizeof *s);
		for (int64_t n = block_start(dy.rows, nb, b); n < block_start(dy.rows, nb, b + 1); n++)
			d->simd->axpy(s, row_at(dy, n), dy.dtype, 1.0f, O);
	}
	for (int b = 0; b < nb; b++)
		d->simd->axpy(dbias.p, part + b * O, DT_F32, 1.0f, O);
}

void cpu_linear_dw(struct dev *d, mat dW, mat dbias, mat dy, mat x)
{
	if (dW.p && x.rows > 0) {
		struct product q = { .M = dy.cols, .N = x.cols, .K = x.rows, .A = factor(dy, 1), .B = factor(x, 0),
				     .C = dW.p, .ldc = dW.cols, .c_dtype = dW.dtype, .acc = 1 };
		gemm(d, &q);
	}
	if (dbias.p)
		column_sums(d, dbias, dy);
}

enum { ROWS_AT_ONCE = 16 };

void cpu_add_cols(struct dev *d, mat y, mat a, mat z, int64_t at, float c)
{
#pragma omp parallel for num_threads(d->threads) schedule(dynamic, ROWS_AT_ONCE)
	for (int64_t n = 0; n < y.rows; n++) {
		void *to = elem_at(y, n * y.cols + at);
		if (y.p != a.p)
			d->simd->cvt(row_at(y, n), y.dtype, row_at(a, n), a.dtype, 1.0f, y.cols);
		d->simd->lincomb(to, y.dtype, 0, elem_at(a, n * a.cols + at), a.dtype, 1.0f, row_at(z, n), z.dtype, c, z.cols);
	}
}

void cpu_take_cols(struct dev *d, mat y, mat x, int64_t at, float c)
{
#pragma omp parallel for num_threads(d->threads) schedule(dynamic, ROWS_AT_ONCE)
	for (int64_t n = 0; n < y.rows; n++)
		d->simd->cvt(row_at(y, n), y.dtype, elem_at(x, n * x.cols + at), x.dtype, c, y.cols);
}
