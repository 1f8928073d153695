/*
 * qknorm.cu - each head of q and of k normalised over its own columns: a warp per head, v's heads are copied
 *
 *   y = x rstd w (or 1+w)      dx = rstd (e - h mean(e h)), h = x rstd, e = dy w      dw = sum over rows and heads of dy h
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "columns.cuh"
#include <math.h>

enum { THREADS = 128 };

struct heads {
	view x, wq, wk;
	float *stat;               /* [N, 2 (H+G)] */
	int64_t N;
	int H, G, D, kind;
	float eps;
};

static __device__ __forceinline__ float weight_at(const heads &a, int h, int c)
{
	return ld1(h < a.H ? a.wq : a.wk, c) + (a.kind == NORM_RMS ? 0.0f : 1.0f);
}

static __global__ void qknorm_k(view y, heads a)
{
	int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32, all = a.H + 2 * a.G;
	int lane = threadIdx.x % 32;
	if (i >= a.N * all)
		return;
	int64_t n = i / all, at = i * a.D;
	int h = (int)(i % all);
	float sq = 0, rstd = 0;
	if (h < a.H + a.G) {
		for (int c = lane; c < a.D; c += 32) {
			float v = ld1(a.x, at + c);
			sq += v * v;
		}
		rstd = 1.0f / sqrtf(warp_sum(sq) / (float)a.D + a.eps);
		if (lane == 0) {
			a.stat[2 * (n * (a.H + a.G) + h)] = 0;
			a.stat[2 * (n * (a.H + a.G) + h) + 1] = rstd;
		}
	}
	for (int c = lane; c < a.D; c += 32)
		st1(y, at + c, h < a.H + a.G ? ld1(a.x, at + c) * rstd * weight_at(a, h, c) : ld1(a.x, at + c));
}

static __global__ void qknorm_dx_k(view dx, view dy, heads a)
{
	int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32, all = a.H + 2 * a.G;
	int lane = threadIdx.x % 32;
	if (i >= a.N * all)
		return;
	int64_t n = i / all, at = i * a.D;
	int h = (int)(i % all);
	float meh = 0, rstd = 0;
	if (h < a.H + a.G) {
		rstd = a.stat[2 * (n * (a.H + a.G) + h) + 1];
		for (int c = lane; c < a.D; c += 32)
			meh += ld1(dy, at + c) * weight_at(a, h, c) * ld1(a.x, at + c) * rstd;
		meh = warp_sum(meh) / (float)a.D;
	}
	for (int c = lane; c < a.D; c += 32) {
		float g = ld1(dy, at + c);
		st1(dx, at + c, h < a.H + a.G ? rstd * (g * weight_at(a, h, c) - ld1(a.x, at + c) * rstd * meh) : g);
	}
}

/* dwq or dwk: column c of the D, over `count` heads from `first` on of each row */
struct head_columns {
	enum { SUMS = 1 };
	view dy, x;
	const float *stat;
	int64_t W;
	int D, first, count, heads;
	__device__ __forceinline__ void add(float *s, int64_t n, int64_t c) const
	{
		for (int h = first; h < first + count; h++) {
			int64_t at = n * W + h * D + c;
			s[0] += ld1(dy, at) * ld1(x, at) * stat[2 * (n * heads + h) + 1];
		}
	}
};

/* ---- */

static heads heads_of(mat x, mat wq, mat wk, mat stat, const struct attn_geom *g, int kind, float eps)
{
	return { view_of(x), view_of(wq), view_of(wk), (float *)stat.p, x.rows, g->H, g->G, g->D, kind, eps };
}

void cuda_qknorm(struct dev *d, mat y, mat stat, mat x, mat wq, mat wk, const struct attn_geom *g, int kind, float eps)
{
	LAUNCH(d, qknorm_k, blocks_for(x.rows * (g->H + 2 * g->G), THREADS / 32), THREADS, 0, view_of(y),
	       heads_of(x, wq, wk, stat, g, kind, eps));
}

void cuda_qknorm_bwd(struct dev *d, mat dx, mat dwq, mat dwk, mat dy, mat x, mat wq, mat wk, mat stat,
		     const struct attn_geom *g, int kind)
{
	LAUNCH(d, qknorm_dx_k, blocks_for(x.rows * (g->H + 2 * g->G), THREADS / 32), THREADS, 0, view_of(dx), view_of(dy),
	       heads_of(x, wq, wk, stat, g, kind, 0));
	mat dw[2] = { dwq, dwk };
	for (int k = 0; k < 2; k++) {
		head_columns f = { view_of(dy), view_of(x), (const float *)stat.p, x.cols, g->D, k ? g->H : 0, k ? g->G : g->H,
				   g->H + g->G };
		mat out[1] = { dw[k] };
		if (dw[k].p)
			columns(d, out, f, x.rows, g->D, 1);
	}
}
