/*
 * rows.cu - embedding and norms: a block (a head of qknorm: a warp) per row
 *
 *   RMS y = x rstd w z      LAYER1P y = ((x - mean) rstd (1+w) + b) z      RMS1P y = x rstd (1+w) z
 * The row is read once from memory and again from the first-level cache.  With a mask, means run over z != 0.
 * Backward, with h = (x-mean) rstd and e = dy z w (or 1+w):  dx = rstd (e - [mean e] - h mean(e h)); dw, db are sums over
 * rows (columns.cuh).
 *
 * The embedding's gradient is deterministic without atomics or sorting: the block of row n goes on only if n is the first
 * row of its token, and then adds all rows of that token in order.  Rows are compared 256 at a time, N^2/2 comparisons at
 * worst: 1.5 ms for 32k rows, against a step of seconds.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "columns.cuh"
#include <math.h>

enum { EMBED_THREADS = 256, EMBED_COLS = 8 * EMBED_THREADS };

/* y [N,C] = W[tok] scale */
static __global__ void embed_k(view y, const int32_t *tok, view W, int64_t rows, int64_t C, float scale, bool vec)
{
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	uint32_t per_row = (uint32_t)((C + 7) / 8);
	int64_t n = (uint32_t)i / per_row, c = (int64_t)((uint32_t)i % per_row) * 8;
	if (n >= rows)
		return;
	float a[8] = { 0 };
	if (tok[n] >= 0)
		ld8(a, W, tok[n] * C + c, C - c, vec);
#pragma unroll
	for (int k = 0; k < 8; k++)
		a[k] *= scale;
	st8(y, n * C + c, a, C - c, vec);
}

/* dW[tok[n]] += scale * rows of dy with that token; block (n, tile of columns) */
static __global__ void embed_dw_k(view dW, const int32_t *tok, view dy, int64_t N, int64_t C, float scale, bool vec)
{
	__shared__ unsigned hit[EMBED_THREADS / 32];
	int64_t n = blockIdx.x, c = (int64_t)blockIdx.y * EMBED_COLS + 8 * (int64_t)threadIdx.x;
	int32_t t = tok[n];
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	if (t < 0)
		return;
	for (int64_t m0 = 0; m0 < n; m0 += EMBED_THREADS) {
		int64_t m = m0 + threadIdx.x;
		if (__syncthreads_or(m < n && tok[m] == t))
			return;
	}
	float s[8] = {}, a[8];
	for (int64_t m0 = n; m0 < N; m0 += EMBED_THREADS) {
		int64_t m = m0 + threadIdx.x;
		unsigned mine = __ballot_sync((unsigned)FULL_WARP, m < N && tok[m] == t);
		__syncthreads();
		if (lane == 0)
			hit[warp] = mine;
		__syncthreads();
		for (int w = 0; c < C && w < EMBED_THREADS / 32; w++)
			for (unsigned bits = hit[w]; bits; bits &= bits - 1) {
				ld8(a, dy, (m0 + 32 * w + __ffs((int)bits) - 1) * C + c, C - c, vec);
#pragma unroll
				for (int k = 0; k < 8; k++)
					s[k] += scale * a[k];
			}
	}
	if (c < C)
		put8(dW, t * C + c, s, C - c, vec, 1);
}

static __device__ __forceinline__ float gain(float w, int kind)
{
	return kind == NORM_RMS ? w : 1.0f + w;
}

/* z[c..c+8), 1 where there is no mask, 0 behind the row's end */
static __device__ __forceinline__ void mask8(float (&m)[8], const float *z, int64_t c, int64_t C)
{
#pragma unroll
	for (int k = 0; k < 8; k++)
		m[k] = c + k < C ? (z ? z[c + k] : 1.0f) : 0.0f;
}

struct norm_args {
	view x, w, b;
	const float *z;
	float *stat;               /* [N,2] or NULL */
	int64_t C;
	float eps;
	int kind;
	bool vec;
};

static __global__ void norm_k(view y, norm_args a)
{
	__shared__ float pad[2 * 32];
	int64_t C = a.C, at = blockIdx.x * C, step = 8 * (int64_t)blockDim.x, c0 = 8 * (int64_t)threadIdx.x;
	float x[8], m[8], w[8], b[8], first[2] = { 0, 0 }, sq[1] = { 0 };
	if (a.kind == NORM_LAYER1P || a.z) {
		for (int64_t c = c0; c < C; c += step) {
			ld8(x, a.x, at + c, C - c, a.vec);
			mask8(m, a.z, c, C);
#pragma unroll
			for (int k = 0; k < 8; k++) {
				first[0] += m[k] != 0 ? x[k] : 0.0f;
				first[1] += m[k] != 0;
			}
		}
		block_sum(first, pad);
	} else {
		first[1] = (float)C;
	}
	float width = first[1] > 0 ? first[1] : 1.0f, mean = a.kind == NORM_LAYER1P ? first[0] / width : 0.0f;
	for (int64_t c = c0; c < C; c += step) {
		ld8(x, a.x, at + c, C - c, a.vec);
		mask8(m, a.z, c, C);
#pragma unroll
		for (int k = 0; k < 8; k++)
			sq[0] += m[k] != 0 ? (x[k] - mean) * (x[k] - mean) : 0.0f;
	}
	block_sum(sq, pad);
	float rstd = 1.0f / sqrtf(sq[0] / width + a.eps);
	for (int64_t c = c0; c < C; c += step) {
		ld8(x, a.x, at + c, C - c, a.vec);
		ld8(w, a.w, c, C - c, a.vec);
		mask8(m, a.z, c, C);
		if (a.b.p)
			ld8(b, a.b, c, C - c, a.vec);
#pragma unroll
		for (int k = 0; k < 8; k++) {
			float v = (x[k] - mean) * rstd * gain(w[k], a.kind) + (a.b.p ? b[k] : 0.0f);
			x[k] = m[k] != 0 ? v * m[k] : 0.0f;
		}
		st8(y, at + c, x, C - c, a.vec);
	}
	if (a.stat && threadIdx.x == 0) {
		a.stat[2 * (int64_t)blockIdx.x] = mean;
		a.stat[2 * (int64_t)blockIdx.x + 1] = rstd;
	}
}

static __global__ void norm_dx_k(view dx, view dy, norm_args a, int acc)
{
	__shared__ float pad[3 * 32];
	int64_t C = a.C, at = blockIdx.x * C, step = 8 * (int64_t)blockDim.x, c0 = 8 * (int64_t)threadIdx.x;
	float mean = a.stat[2 * (int64_t)blockIdx.x], rstd = a.stat[2 * (int64_t)blockIdx.x + 1];
	float x[8], m[8], w[8], g[8], s[3] = { 0, 0, 0 };    /* sum e, sum e h, width */
	for (int64_t c = c0; c < C; c += step) {
		ld8(x, a.x, at + c, C - c, a.vec);
		ld8(g, dy, at + c, C - c, a.vec);
		ld8(w, a.w, c, C - c, a.vec);
		mask8(m, a.z, c, C);
#pragma unroll
		for (int k = 0; k < 8; k++) {
			float e = m[k] != 0 ? g[k] * m[k] * gain(w[k], a.kind) : 0.0f;
			s[0] += e;
			s[1] += e * (x[k] - mean) * rstd;
			s[2] += m[k] != 0;
		}
	}
	block_sum(s, pad);
	float width = s[2] > 0 ? s[2] : 1.0f, me = a.kind == NORM_LAYER1P ? s[0] / width : 0.0f, meh = s[1] / width;
	for (int64_t c = c0; c < C; c += step) {
		ld8(x, a.x, at + c, C - c, a.vec);
		ld8(g, dy, at + c, C - c, a.vec);
		ld8(w, a.w, c, C - c, a.vec);
		mask8(m, a.z, c, C);
#pragma unroll
		for (int k = 0; k < 8; k++) {
			float h = (x[k] - mean) * rstd;
			x[k] = m[k] != 0 ? rstd * (g[k] * m[k] * gain(w[k], a.kind) - me - h * meh) : 0.0f;
		}
		put8(dx, at + c, x, C - c, a.vec, acc);
	}
}

/* dw and db of a norm */
struct norm_columns {
	enum { SUMS = 2 };
	view dy, x;
	const float *z, *stat;
	int64_t C;
	__device__ __forceinline__ void add(float *s, int64_t n, int64_t c) const
	{
		float m = z ? z[c] : 1.0f, g = m != 0 ? ld1(dy, n * C + c) * m : 0.0f;
		s[0] += m != 0 ? g * (ld1(x, n * C + c) - stat[2 * n]) * stat[2 * n + 1] : 0.0f;
		s[1] += g;
	}
};

/* ---- */

void cuda_embed(struct dev *d, mat y, mat tok, mat W, float scale)
{
	int64_t C = y.cols, n = y.rows * ((C + 7) / 8);
	LAUNCH(d, embed_k, blocks_for(n, 256), 256, 0, view_of(y), (const int32_t *)tok.p, view_of(W), y.rows, C, scale,
	       vec_ok(C, y, W));
}

void cuda_embed_dw(struct dev *d, mat dW, mat tok, mat dy, float scale)
{
	LAUNCH(d, embed_dw_k, dim3((unsigned)dy.rows, blocks_for(dy.cols, EMBED_COLS)), EMBED_THREADS, 0, view_of(dW),
	       (const int32_t *)tok.p, view_of(dy), dy.rows, dy.cols, scale, vec_ok(dy.cols, dW, dy));
}

static norm_args args_of(mat x, mat w, mat b, mat z, mat stat, int kind, float eps, bool vec)
{
	return { view_of(x), view_of(w), view_of(b), (const float *)z.p, (float *)stat.p, x.cols, eps, kind, vec };
}

void cuda_norm(struct dev *d, mat y, mat stat, mat x, mat w, mat b, mat z, int kind, float eps)
{
	norm_args a = args_of(x, w, b, z, stat, kind, eps, vec_ok(x.cols, y, x, w, b));
	LAUNCH(d, norm_k, (unsigned)x.rows, row_threads(x.cols), 0, view_of(y), a);
}

void cuda_norm_bwd(struct dev *d, mat dx, mat dw, mat db, mat dy, mat x, mat w, mat stat, mat z, int kind, int acc)
{
	norm_args a = args_of(x, w, mat{}, z, stat, kind, 0, vec_ok(x.cols, dx, dy, x, w));
	if (dx.p)
		LAUNCH(d, norm_dx_k, (unsigned)x.rows, row_threads(x.cols), 0, view_of(dx), view_of(dy), a, acc);
	if (dw.p || db.p) {
		mat out[2] = { dw, db };
		norm_columns f = { view_of(dy), view_of(x), (const float *)z.p, (const float *)stat.p, x.cols };
		columns(d, out, f, x.rows, x.cols, 1);
	}
}
