/*
 * device.cuh - what the kernels share: operands as views, 8 elements at a time, sums over warps and blocks
 *
 * A view is read and written as f32, eight neighbours (16 or 32 bytes) per access where rows allow it (`vec`: the
 * pointer is 16-byte aligned and a row is a multiple of 8), else one by one.  Sums go lane by lane through shuffles,
 * then warp by warp through shared memory, always in the same order.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_DEVICE_CUH
#define ADZE_DEVICE_CUH
#include "cuda.h"

struct view {
	void *p;
	int32_t dtype;
};

static inline view view_of(mat m)
{
	return { m.p, m.dtype };
}

/* Whether all these operands can be read eight at a time */
static inline bool vec_ok(int64_t cols)
{
	return cols % 8 == 0;
}
template <class... M> static inline bool vec_ok(int64_t cols, mat m, M... more)
{
	return ((uintptr_t)m.p & 15) == 0 && vec_ok(cols, more...);
}

/* Threads for a row of C elements, eight each */
static inline unsigned row_threads(int64_t C)
{
	int64_t t = (C + 255) / 256 * 32;
	return (unsigned)(t < 32 ? 32 : t > 256 ? 256 : t);
}

static __device__ __forceinline__ float ld1(view v, int64_t i)
{
	if (v.dtype == DT_BF16)
		return __bfloat162float(((const __nv_bfloat16 *)v.p)[i]);
	return ((const float *)v.p)[i];
}

static __device__ __forceinline__ void st1(view v, int64_t i, float x)
{
	if (v.dtype == DT_BF16)
		((__nv_bfloat16 *)v.p)[i] = __float2bfloat16_rn(x);
	else
		((float *)v.p)[i] = x;
}

static __device__ __forceinline__ uint32_t pack2(float lo, float hi)
{
	__nv_bfloat162 b = __floats2bfloat162_rn(lo, hi);
	uint32_t u;
	memcpy(&u, &b, 4);
	return u;
}

static __device__ __forceinline__ void unpack2(float *x, uint32_t u)
{
	x[0] = __uint_as_float(u << 16);
	x[1] = __uint_as_float(u & 0xffff0000u);
}

/* x = elements [i, i+8) of v; those from n on count as 0 */
static __device__ __forceinline__ void ld8(float (&x)[8], view v, int64_t i, int64_t n, bool vec)
{
	if (!vec) {
#pragma unroll
		for (int k = 0; k < 8; k++)
			x[k] = k < n ? ld1(v, i + k) : 0.0f;
	} else if (v.dtype == DT_BF16) {
		uint4 u = *(const uint4 *)((const __nv_bfloat16 *)v.p + i);
		unpack2(x, u.x), unpack2(x + 2, u.y), unpack2(x + 4, u.z), unpack2(x + 6, u.w);
	} else {
		const float4 *p = (const float4 *)((const float *)v.p + i);
		float4 a = p[0], b = p[1];
		x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
	}
}

static __device__ __forceinline__ void st8(view v, int64_t i, const float (&x)[8], int64_t n, bool vec)
{
	if (!vec) {
#pragma unroll
		for (int k = 0; k < 8; k++)
			if (k < n)
				st1(v, i + k, x[k]);
	} else if (v.dtype == DT_BF16) {
		*(uint4 *)((__nv_bfloat16 *)v.p + i) =
			make_uint4(pack2(x[0], x[1]), pack2(x[2], x[3]), pack2(x[4], x[5]), pack2(x[6], x[7]));
	} else {
		float4 *p = (float4 *)((float *)v.p + i);
		p[0] = make_float4(x[0], x[1], x[2], x[3]);
		p[1] = make_float4(x[4], x[5], x[6], x[7]);
	}
}

/* v[i..i+8) = x, or += */
static __device__ __forceinline__ void put8(view v, int64_t i, float (&x)[8], int64_t n, bool vec, int acc)
{
	if (acc) {
		float old[8];
		ld8(old, v, i, n, vec);
#pragma unroll
		for (int k = 0; k < 8; k++)
			x[k] += old[k];
	}
	st8(v, i, x, n, vec);
}

enum { FULL_WARP = -1 };

template <class T> static __device__ __forceinline__ T warp_sum(T x)
{
#pragma unroll
	for (int m = 16; m; m >>= 1)
		x += __shfl_xor_sync((unsigned)FULL_WARP, x, m);
	return x;
}

template <class T> static __device__ __forceinline__ T warp_max(T x)
{
#pragma unroll
	for (int m = 16; m; m >>= 1) {
		T y = __shfl_xor_sync((unsigned)FULL_WARP, x, m);
		x = y > x ? y : x;
	}
	return x;
}

/* Each x[k] becomes its sum over the block, in every thread; `pad` [N * 32] is free again when all have returned */
template <int N, class T> static __device__ __forceinline__ void block_sum(T (&x)[N], T *pad)
{
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
#pragma unroll
	for (int k = 0; k < N; k++)
		x[k] = warp_sum(x[k]);
	if (warps == 1)
		return;
	__syncthreads();           /* readers of an earlier sum are done */
#pragma unroll
	for (int k = 0; k < N; k++)
		if (lane == 0)
			pad[k * 32 + warp] = x[k];
	__syncthreads();
#pragma unroll
	for (int k = 0; k < N; k++) {
		x[k] = 0;
		for (int w = 0; w < warps; w++)
			x[k] += pad[k * 32 + w];
	}
}
#endif
