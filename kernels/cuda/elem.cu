/*
 * elem.cu - ops that touch each element once: activations, add, copy, scale, mask, AdamW
 *
 * Eight neighbours a thread.  A row of F elements is ceil(F/8) vectors; vector i of the matrix belongs to row i / that.
 *
 *   silu(x) = x sigma(x)      gelu(x) = x/2 (1 + tanh(k (x + 0.044715 x^3))), k = sqrt(2/pi)      relu2(x) = max(x,0)^2
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "device.cuh"
#include <math.h>

enum { THREADS = 256 };

struct fdf {
	float f, df;
};

static __device__ __forceinline__ fdf act_of(float x, int kind)
{
	if (kind == ACT_SWIGLU) {
		float s = 1.0f / (1.0f + expf(-x));
		return { x * s, s * (1.0f + x * (1.0f - s)) };
	}
	if (kind == ACT_RELU2) {
		float p = x > 0 ? x : 0;
		return { p * p, 2 * p };
	}
	const float k = 0.7978845608028654f, c = 0.044715f;
	float t = tanhf(k * (x + c * x * x * x)), h = 0.5f * (1.0f + t);
	return { x * h, h + 0.5f * x * (1.0f - t * t) * k * (1.0f + 3.0f * c * x * x) };
}

static __device__ __forceinline__ bool gated_kind(int kind)
{
	return kind == ACT_SWIGLU || kind == ACT_GEGLU;
}

/* This thread's vector: row and first column; false when there is none */
static __device__ __forceinline__ bool my_vector(uint32_t per_row, int64_t rows, int64_t &n, int64_t &c)
{
	uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	if (i >= per_row * (uint64_t)rows)
		return false;
	n = i / per_row;
	c = (int64_t)(i % per_row) * 8;
	return true;
}

static __global__ void act_k(view y, view x, int64_t rows, int64_t F, int kind, bool vec)
{
	int64_t n, c, wide = gated_kind(kind) ? 2 * F : F;
	if (!my_vector((uint32_t)((F + 7) / 8), rows, n, c))
		return;
	float a[8], u[8];
	ld8(a, x, n * wide + c, F - c, vec);
	if (gated_kind(kind))
		ld8(u, x, n * wide + F + c, F - c, vec);
#pragma unroll
	for (int k = 0; k < 8; k++) {
		float f = act_of(a[k], kind).f;
		a[k] = gated_kind(kind) ? f * u[k] : f;
	}
	st8(y, n * F + c, a, F - c, vec);
}

static __global__ void act_dx_k(view dx, view dy, view x, int64_t rows, int64_t F, int kind, bool vec)
{
	int64_t n, c, wide = gated_kind(kind) ? 2 * F : F;
	if (!my_vector((uint32_t)((F + 7) / 8), rows, n, c))
		return;
	float a[8], u[8], e[8];
	ld8(a, x, n * wide + c, F - c, vec);
	ld8(e, dy, n * F + c, F - c, vec);
	if (gated_kind(kind))
		ld8(u, x, n * wide + F + c, F - c, vec);
#pragma unroll
	for (int k = 0; k < 8; k++) {
		fdf g = act_of(a[k], kind);
		a[k] = e[k] * g.df * (gated_kind(kind) ? u[k] : 1.0f);
		u[k] = e[k] * g.f;
	}
	st8(dx, n * wide + c, a, F - c, vec);
	if (gated_kind(kind))
		st8(dx, n * wide + F + c, u, F - c, vec);
}

/* y = ca a + cb b; b may be absent */
static __global__ void lincomb_k(view y, view a, float ca, view b, float cb, int64_t n, bool vec)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
	if (i >= n)
		return;
	bool v = vec && n - i >= 8;
	float x[8], z[8];
	ld8(x, a, i, n - i, v);
	if (b.p)
		ld8(z, b, i, n - i, v);
#pragma unroll
	for (int k = 0; k < 8; k++)
		x[k] = ca * x[k] + (b.p ? cb * z[k] : 0.0f);
	st8(y, i, x, n - i, v);
}

/* y [rows,C] = a + c z in columns [at, at + w), z [rows,w] */
static __global__ void add_cols_k(view y, view a, view z, int64_t rows, int64_t C, int64_t w, int64_t at, float c)
{
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (i >= rows * C)
		return;
	int64_t k = i % C - at;
	st1(y, i, ld1(a, i) + (k >= 0 && k < w ? c * ld1(z, i / C * w + k) : 0.0f));
}

/* y [rows,w] = c x[:, at .. at + w), x [rows,C] */
static __global__ void take_cols_k(view y, view x, int64_t rows, int64_t C, int64_t w, int64_t at, float c)
{
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (i < rows * w)
		st1(y, i, c * ld1(x, i / w * C + at + i % w));
}

static __global__ void mask_k(view y, view x, const float *z, int64_t rows, int64_t C, int64_t unit, bool vec)
{
	int64_t n, c;
	if (!my_vector((uint32_t)((C + 7) / 8), rows, n, c))
		return;
	float a[8];
	ld8(a, x, n * C + c, C - c, vec);
#pragma unroll
	for (int k = 0; k < 8; k++)
		if (c + k < C)
			a[k] *= z[(uint32_t)(c + k) / (uint32_t)unit];
	st8(y, n * C + c, a, C - c, vec);
}

struct adam_now {
	float b1, b2, c1, c2, lr, eps, wd, scale;
	uint64_t key;
	int64_t first;
	float ema;
	const step_now *live;
};

/* rounding_bits and f32_to_bf16_random of kernels.h */
static __device__ uint16_t random_bf16(float f, uint32_t r)
{
	union { float f; uint32_t u; } x = { f };
	if ((x.u & 0x7f800000u) == 0x7f800000u)
		return (uint16_t)(x.u >> 16 | (x.u & 0x7fffffu ? 0x40u : 0u));
	return (uint16_t)((x.u + (r & 0xffffu)) >> 16);
}

static __device__ uint32_t random_bits(uint64_t key, uint64_t i)
{
	uint32_t x = (uint32_t)i * 0x9e3779b1u ^ (uint32_t)key ^ (uint32_t)(i >> 32) * 0x85ebca6bu;
	x = (x ^ x >> 16) * 0x7feb352du;
	x = (x ^ x >> 15) + (uint32_t)(key >> 32);
	x = (x ^ x >> 16) * 0x846ca68bu;
	return x ^ x >> 16;
}

static __global__ void adamw_k(view w, view m, view v, view g, view wb, view ema, adam_now a, int64_t n, bool vec)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
	if (i >= n)
		return;
	if (a.live) {
		if (a.live->skip)
			return;
		a.lr = a.live->lr, a.c1 = a.live->c1, a.c2 = a.live->c2, a.scale = a.live->scale, a.key = a.live->key;
	}
	bool whole = vec && n - i >= 8;
	float W[8], M[8], V[8], G[8];
	ld8(W, w, i, n - i, whole);
	ld8(M, m, i, n - i, whole);
	ld8(V, v, i, n - i, whole);
	ld8(G, g, i, n - i, whole);
#pragma unroll
	for (int k = 0; k < 8; k++) {
		float x = G[k] * a.scale;
		M[k] = a.b1 * M[k] + (1.0f - a.b1) * x;
		V[k] = a.b2 * V[k] + (1.0f - a.b2) * x * x;
		W[k] -= a.lr * (M[k] * a.c1 / (sqrtf(V[k] * a.c2) + a.eps) + a.wd * W[k]);
	}
	if (a.key) {
		for (int k = 0; k < 8 && i + k < n; k++) {
			uint32_t r = random_bits(a.key, (uint64_t)(a.first + i + k));
			((uint16_t *)m.p)[i + k] = random_bf16(M[k], r);
			((uint16_t *)v.p)[i + k] = random_bf16(V[k], r >> 16);
		}
	} else {
		st8(m, i, M, n - i, whole);
		st8(v, i, V, n - i, whole);
	}
	if (ema.p) {
		ld8(G, ema, i, n - i, whole);
#pragma unroll
		for (int k = 0; k < 8; k++)
			G[k] = a.ema * G[k] + (1.0f - a.ema) * W[k];
		st8(ema, i, G, n - i, whole);
	}
	st8(w, i, W, n - i, whole);
	if (wb.p)
		st8(wb, i, W, n - i, whole);
}

/* ---- */

void cuda_act(struct dev *d, mat y, mat x, int kind)
{
	int64_t F = y.cols, n = y.rows * ((F + 7) / 8);
	LAUNCH(d, act_k, blocks_for(n, THREADS), THREADS, 0, view_of(y), view_of(x), y.rows, F, kind, vec_ok(F, y, x));
}

void cuda_act_dx(struct dev *d, mat dx, mat dy, mat x, int kind)
{
	int64_t F = dy.cols, n = dy.rows * ((F + 7) / 8);
	LAUNCH(d, act_dx_k, blocks_for(n, THREADS), THREADS, 0, view_of(dx), view_of(dy), view_of(x), dy.rows, F, kind,
	       vec_ok(F, dx, dy, x));
}

static void lincomb(struct dev *d, mat y, mat a, float ca, mat b, float cb)
{
	int64_t n = y.rows * y.cols;
	LAUNCH(d, lincomb_k, blocks_for(n, 8 * THREADS), THREADS, 0, view_of(y), view_of(a), ca, view_of(b), cb, n,
	       vec_ok(0, y, a, b));
}

void cuda_add(struct dev *d, mat y, mat a, mat b)
{
	lincomb(d, y, a, 1, b, 1);
}

void cuda_copy(struct dev *d, mat y, mat x)
{
	size_t bytes = (size_t)(y.rows * y.cols) * dtype_size(y.dtype);
	if (y.dtype == x.dtype)
		CUDA(cudaMemcpyAsync(y.p, x.p, bytes, cudaMemcpyDeviceToDevice, d->stream));
	else
		lincomb(d, y, x, 1, mat{}, 0);
}

void cuda_scale(struct dev *d, mat y, mat x, float c)
{
	lincomb(d, y, x, c, mat{}, 0);
}

void cuda_zero(struct dev *d, mat y)
{
	if (!d->planning)
		CUDA(cudaMemsetAsync(y.p, 0, (size_t)(y.rows * y.cols) * dtype_size(y.dtype), d->stream));
}

void cuda_add_cols(struct dev *d, mat y, mat a, mat z, int64_t at, float c)
{
	LAUNCH(d, add_cols_k, blocks_for(y.rows * y.cols, THREADS), THREADS, 0, view_of(y), view_of(a), view_of(z), y.rows, y.cols, z.cols,
	       at, c);
}

void cuda_take_cols(struct dev *d, mat y, mat x, int64_t at, float c)
{
	LAUNCH(d, take_cols_k, blocks_for(y.rows * y.cols, THREADS), THREADS, 0, view_of(y), view_of(x), y.rows, x.cols, y.cols, at, c);
}

void cuda_mask(struct dev *d, mat y, mat x, mat z)
{
	int64_t C = y.cols, n = y.rows * ((C + 7) / 8);
	LAUNCH(d, mask_k, blocks_for(n, THREADS), THREADS, 0, view_of(y), view_of(x), (const float *)z.p, y.rows, C, C / z.cols,
	       vec_ok(C, y, x));
}

void cuda_adamw(struct dev *d, mat w, mat m, mat v, mat g, mat wb, mat ema, const struct adamw_args *a)
{
	int64_t n = w.rows * w.cols;
	adam_now now = { a->beta1, a->beta2, (float)(1.0 / (1.0 - pow((double)a->beta1, (double)a->step))),
			 (float)(1.0 / (1.0 - pow((double)a->beta2, (double)a->step))), a->lr, a->eps, a->weight_decay, a->grad_scale,
			 m.dtype == DT_BF16 ? a->key : 0, a->first, a->ema, a->live };
	LAUNCH(d, adamw_k, blocks_for(n, 8 * THREADS), THREADS, 0, view_of(w), view_of(m), view_of(v), view_of(g), view_of(wb),
	       view_of(ema), now, n, vec_ok(0, w, m, v, g, wb) && vec_ok(0, ema));
}
