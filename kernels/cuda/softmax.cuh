/*
 * softmax.cuh - maximum and sums of exponentials of a row of logits, by one block
 *
 * One walk: each thread keeps its own maximum and rescales its sums when that grows.  Everything that follows is taken
 * relative to the maximum, log p = (x - top)/tau - log z, so logits of 1e4 lose nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SOFTMAX_CUH
#define ADZE_SOFTMAX_CUH
#include "device.cuh"
#include <math.h>

enum { ROW_THREADS = 256 };

struct softmax {
	float top, lz, lz1;        /* maximum; log of the sums of exp((x - top)/tau) and exp(x - top) */
};

/* Maximum and sums of a row of V; -inf entries are nothing.  Needs no more than 64 floats of pad. */
static __device__ softmax row_softmax(const float *x, int64_t V, float itau, float *pad)
{
	float top = -INFINITY, z[2] = { 0, 0 };
	for (int64_t v = threadIdx.x; v < V; v += blockDim.x) {
		float a = x[v];
		if (a > top) {
			z[0] *= expf((top - a) * itau);    /* exp(-inf) = 0 at first */
			z[1] *= expf(top - a);
			top = a;
		}
		if (a > -INFINITY) {
			z[0] += expf((a - top) * itau);
			z[1] += itau == 1.0f ? 0.0f : expf(a - top);
		}
	}
	float all = warp_max(top);
	int warps = blockDim.x / 32;
	__syncthreads();
	if (threadIdx.x % 32 == 0)
		pad[threadIdx.x / 32] = all;
	__syncthreads();
	for (int w = 0; w < warps; w++)
		all = fmaxf(all, pad[w]);
	if (top > -INFINITY) {
		z[0] *= expf((top - all) * itau);
		z[1] *= expf(top - all);
	}
	__syncthreads();
	block_sum(z, pad);
	softmax r;
	r.top = all;
	r.lz = logf(z[0]);
	r.lz1 = itau == 1.0f ? r.lz : logf(z[1]);
	return r;
}
#endif
