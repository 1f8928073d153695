/*
 * topk.cu - the best K of a row of logits, a block per row
 *
 * Radix selection: keys that order as the floats do are narrowed to the K-th largest, eight bits at a time, by histograms
 * in shared memory (integer sums, so the order of the threads does not matter).  Then one walk in order of the ids takes
 * all above it and the first of those equal to it, which leaves ids ascending and ties to the lower id.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "softmax.cuh"

static __device__ __forceinline__ uint32_t key_of(float x)
{
	uint32_t u = __float_as_uint(x + 0.0f);    /* -0 ties with 0 */
	return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* The K-th largest key of the row; *equal: how many of that key belong to the best K */
static __device__ uint32_t kth_key(const float *x, int64_t V, int64_t K, unsigned *hist, int64_t *equal)
{
	__shared__ uint32_t prefix_s;
	__shared__ int64_t left_s;
	uint32_t prefix = 0, mask = 0;
	int64_t left = K;
	for (int shift = 24; shift >= 0; shift -= 8) {
		for (int i = threadIdx.x; i < 256; i += blockDim.x)
			hist[i] = 0;
		__syncthreads();
		for (int64_t v = threadIdx.x; v < V; v += blockDim.x) {
			uint32_t k = key_of(x[v]);
			if ((k & mask) == prefix)
				atomicAdd(&hist[k >> shift & 255], 1u);
		}
		__syncthreads();
		if (threadIdx.x == 0) {
			int bin = 255;
			while (hist[bin] < left)
				left -= hist[bin--];
			prefix_s = prefix | (uint32_t)bin << shift;
			left_s = left;
		}
		__syncthreads();
		prefix = prefix_s;
		left = left_s;
		mask |= 255u << shift;
		__syncthreads();
	}
	*equal = left;
	return prefix;
}

static __global__ void topk_k(int32_t *ids, float *logp, float *s, const int32_t *label, int64_t V, int64_t K, float itau)
{
	__shared__ float pad[64];
	__shared__ unsigned hist[256];
	__shared__ int above[ROW_THREADS / 32], ties[ROW_THREADS / 32];
	float *x = s + blockIdx.x * V;
	int64_t n = blockIdx.x, equal, taken = 0, tied = 0;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	if (label[n] < 0)
		return;
	softmax S = row_softmax(x, V, itau, pad);
	uint32_t kth = kth_key(x, V, K, hist, &equal);
	for (int64_t v0 = 0; v0 < V; v0 += ROW_THREADS) {
		int64_t v = v0 + threadIdx.x;
		uint32_t k = v < V ? key_of(x[v]) : 0;
		bool up = v < V && k > kth, eq = v < V && k == kth;
		unsigned bu = __ballot_sync((unsigned)FULL_WARP, up), be = __ballot_sync((unsigned)FULL_WARP, eq), low = (1u << lane) - 1;
		__syncthreads();
		if (lane == 0) {
			above[warp] = __popc(bu);
			ties[warp] = __popc(be);
		}
		__syncthreads();
		int64_t ups = taken + __popc(bu & low), eqs = tied + __popc(be & low);
		for (int w = 0; w < ROW_THREADS / 32; w++) {
			ups += w < warp ? above[w] : 0;
			eqs += w < warp ? ties[w] : 0;
			taken += above[w];
			tied += ties[w];
		}
		if (up || (eq && eqs < equal)) {
			int64_t at = ups + (eqs < equal ? eqs : equal);    /* taken before this one */
			ids[n * K + at] = (int32_t)v;
			logp[n * (K + 1) + at] = (x[v] - S.top) * itau - S.lz;
			x[v] = -INFINITY;
		}
	}
	__syncthreads();
	softmax R = row_softmax(x, V, itau, pad);
	if (threadIdx.x == 0)
		logp[n * (K + 1) + K] = K < V ? (R.top - S.top) * itau + R.lz - S.lz : -INFINITY;
}

struct topk_args {
	int32_t *ids;
	float *logp, itau;
	const int32_t *label;
	int64_t K;
};

static void topk_piece(struct dev *d, const head_piece *p, void *arg)
{
	const topk_args *a = (const topk_args *)arg;
	LAUNCH(d, topk_k, (unsigned)p->rows, ROW_THREADS, 0, a->ids + p->first * a->K, a->logp + p->first * (a->K + 1),
	       p->s, a->label + p->first, p->V, a->K, a->itau);
}

void cuda_topk(struct dev *d, mat ids, mat logp, mat h, mat W, mat label, float tau)
{
	topk_args a = { (int32_t *)ids.p, (float *)logp.p, 1.0f / tau, (const int32_t *)label.p, ids.cols };
	cuda_zero(d, ids);
	cuda_zero(d, logp);
	head_pieces(d, h, W, topk_piece, &a);
}
