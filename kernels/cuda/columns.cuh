/*
 * columns.cuh - sums over rows for each column: gradients of norm weights, biases and masks
 *
 * A functor says what row r adds to column c (one or two sums).  A thread owns a column of a chunk of rows; the chunks'
 * sums meet in order, so a result does not depend on timing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_COLUMNS_CUH
#define ADZE_COLUMNS_CUH
#include "device.cuh"

enum { COLUMN_THREADS = 128 };

/* part [chunks, N, cols] */
template <class F> static __global__ void columns_k(float *part, F f, int64_t rows, int64_t cols, int64_t step)
{
	int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, r0 = blockIdx.y * step;
	int64_t r1 = r0 + step < rows ? r0 + step : rows;
	if (c >= cols)
		return;
	float s[F::SUMS] = {};
	for (int64_t r = r0; r < r1; r++)
		f.add(s, r, c);
#pragma unroll
	for (int k = 0; k < F::SUMS; k++)
		part[((int64_t)blockIdx.y * F::SUMS + k) * cols + c] = s[k];
}

/* out [U] += sum over chunks and over the unit's neighbouring columns of part [chunks, stride], from column c0 on */
static __global__ void fold_k(float *out, const float *part, int64_t chunks, int64_t stride, int64_t U, int64_t unit)
{
	int64_t u = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (u >= U)
		return;
	float s = 0;
	for (int64_t p = 0; p < chunks; p++)
		for (int64_t c = u * unit; c < (u + 1) * unit; c++)
			s += part[p * stride + c];
	out[u] += s;
}

/* out[k] [cols / unit] f32 += the sums of f over the rows; absent outputs are skipped */
template <class F> static void columns(struct dev *d, mat (&out)[F::SUMS], F f, int64_t rows, int64_t cols, int64_t unit)
{
	int64_t chunks = (rows + 63) / 64;
	chunks = chunks > 128 ? 128 : chunks;
	if (!chunks || !cols)
		return;
	int64_t step = (rows + chunks - 1) / chunks, stride = F::SUMS * cols;
	float *part = (float *)scratch(d, S_PART, (size_t)(chunks * stride) * sizeof *part);
	LAUNCH(d, columns_k<F>, dim3(blocks_for(cols, COLUMN_THREADS), (unsigned)chunks), COLUMN_THREADS, 0, part, f, rows, cols, step);
	for (int k = 0; k < F::SUMS; k++)
		if (out[k].p)
			LAUNCH(d, fold_k, blocks_for(cols / unit, COLUMN_THREADS), COLUMN_THREADS, 0, (float *)out[k].p, part + k * cols,
			       chunks, stride, cols / unit, unit);
}
#endif
