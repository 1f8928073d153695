/*
 * attn_kv.cu - attention of single rows over a cache
 *
 * A slot of the cache is keys [T, G*D], rotated, then values [T, G*D].  After all rows have stored theirs, a block per row
 * and head walks the keys 128 at a time: a thread scores a key, then the threads share out the value's columns.  What a
 * block computes depends on its row's slot and position alone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "attn.cuh"

enum { THREADS = 128, MAX_WIDTH = 4 * THREADS };

static __global__ void store_k(view kv, view qkv, const int32_t *at, geom g, int64_t slot_elems)
{
	int64_t n = blockIdx.x, slot = at[2 * n], t = at[2 * n + 1], GD = (int64_t)g.G * g.D, HD = (int64_t)g.H * g.D;
	if (slot < 0)
		return;
	for (int64_t c = threadIdx.x; c < GD; c += blockDim.x) {
		int64_t head = n * g.W + HD + c / g.D * g.D, to = slot * slot_elems + t * GD + c;
		st1(kv, to, rotated(qkv, head, (int)(c % g.D), t, g, 1.0f));
		st1(kv, to + g.T * GD, ld1(qkv, n * g.W + HD + GD + c));
	}
}

/* acc = acc * keep + sum over this thread's keys of p v; keys are dealt to `groups` groups of threads */
static __device__ __forceinline__ void add_values(float (&acc)[4], const float *p, view v, int64_t at, int64_t GD, int count, int D,
						  int groups, float keep)
{
	int group = groups > 1 ? threadIdx.x / D : 0, c0 = groups > 1 ? threadIdx.x % D : threadIdx.x;
#pragma unroll
	for (int k = 0; k < 4; k++) {
		int c = c0 + k * THREADS;
		if (c >= D || group >= groups)
			continue;
		float s = acc[k] * keep;
		for (int j = group; j < count; j += groups)
			s += p[j] * ld1(v, at + j * GD + c);
		acc[k] = s;
	}
}

static __global__ void attn_kv_k(view o, view kv, view qkv, const int32_t *at, geom g, int64_t slot_elems)
{
	__shared__ float q[MAX_WIDTH], p[THREADS], part[MAX_WIDTH], pad[32];
	int64_t n = blockIdx.x, slot = at[2 * n], t = at[2 * n + 1], GD = (int64_t)g.G * g.D, out = (n * g.H + blockIdx.y) * g.D;
	int h = blockIdx.y, groups = g.D >= THREADS ? 1 : THREADS / g.D;
	if (slot < 0) {
		for (int c = threadIdx.x; c < g.D; c += THREADS)
			st1(o, out + c, 0);
		return;
	}
	for (int c = threadIdx.x; c < g.D; c += THREADS)
		q[c] = rotated(qkv, n * g.W + (int64_t)h * g.D, c, t, g, 1.0f) * g.scale;
	int64_t keys = slot * slot_elems + h / (g.H / g.G) * g.D;
	float acc[4] = {}, top = -INFINITY, sum = 0;
	for (int64_t j0 = first_key(t, g); j0 <= t; j0 += THREADS) {
		int count = t + 1 - j0 < THREADS ? (int)(t + 1 - j0) : THREADS;
		float s = -INFINITY, m, z[1];
		__syncthreads();
		if ((int)threadIdx.x < count) {
			s = 0;
			for (int c = 0; c < g.D; c++)
				s += q[c] * ld1(kv, keys + (j0 + threadIdx.x) * GD + c);
		}
		m = warp_max(s);
		if (threadIdx.x % 32 == 0)
			pad[threadIdx.x / 32] = m;
		__syncthreads();
		m = top;
		for (int w = 0; w < THREADS / 32; w++)
			m = fmaxf(m, pad[w]);
		p[threadIdx.x] = z[0] = (int)threadIdx.x < count ? expf(s - m) : 0.0f;
		block_sum(z, pad);
		float keep = top > -INFINITY ? expf(top - m) : 0.0f;
		sum = sum * keep + z[0];
		top = m;
		add_values(acc, p, kv, keys + g.T * GD + j0 * GD, GD, count, g.D, groups, keep);
	}
#pragma unroll
	for (int k = 0; k < 4; k++)
		if ((int)threadIdx.x + k * THREADS < (groups > 1 ? groups * g.D : g.D))
			part[threadIdx.x + k * THREADS] = acc[k];
	__syncthreads();
	for (int c = threadIdx.x; c < g.D; c += THREADS) {
		float s = 0;
		for (int k = 0; k < groups; k++)
			s += part[k * g.D + c];
		st1(o, out + c, s / sum);
	}
}

void cuda_attn_kv(struct dev *d, mat o, mat kv, mat qkv, mat rope, mat at, const struct attn_geom *a)
{
	geom g = { a->T, qkv.cols, a->H, a->G, a->D, a->rot, a->window, a->scale, (const float *)rope.p, NULL, NULL, {}, 0 };
	const int32_t *place = (const int32_t *)at.p;
	LAUNCH(d, store_k, (unsigned)qkv.rows, 256, 0, view_of(kv), view_of(qkv), place, g, kv.cols);
	LAUNCH(d, attn_kv_k, dim3((unsigned)qkv.rows, (unsigned)a->H), THREADS, 0, view_of(o), view_of(kv), view_of(qkv), place, g,
	       kv.cols);
}
