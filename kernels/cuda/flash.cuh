/*
 * flash.cuh - tiles of bf16 in shared memory and their products on tensor cores, for attn_flash.cu
 *
 * Tiles [rows, D] lie with their 16-byte pieces permuted by row, so that eight rows of a column of pieces are in different
 * banks.  A warp has 16 rows of its own; what it accumulates is a fragment C of mma.cuh for each eight columns.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_FLASH_CUH
#define ADZE_FLASH_CUH
#include "attn.cuh"
#include "mma.cuh"

typedef __nv_bfloat16 bf16;
enum { OWN = 16 };     /* rows of a warp */

/* Element where 16-byte piece c of row r begins */
template <int D> static __device__ __forceinline__ int piece(int r, int c)
{
	return r * D + ((c ^ (D % 64 ? r >> 1 & 3 : r & 7)) << 3);
}

/* Begins to copy rows of src into a tile; those from `live` on become 0 */
template <int D, int ROWS, int THREADS>
static __device__ __forceinline__ void fetch(bf16 *tile, const bf16 *src, int64_t stride, int64_t live)
{
#pragma unroll
	for (int i = 0; i < ROWS * (D / 8) / THREADS; i++) {
		int e = i * THREADS + (int)threadIdx.x, r = e / (D / 8), c = e % (D / 8);
		bool there = r < live;
		copy16(tile + piece<D>(r, c), src + (there ? r * stride + c * 8 : 0), there);
	}
}

/* s [16,N] = rows [row, row + 16) of `own` times other' */
template <int D, int N>
static __device__ __forceinline__ void against(float (&s)[N / 8][4], const bf16 *own, int row, const bf16 *other)
{
	int l = threadIdx.x % 32;
#pragma unroll
	for (int n = 0; n < N / 8; n++)
		s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
	for (int k = 0; k < D / 16; k++) {
		uint32_t a[4], b[4];
		load4(a, own + piece<D>(row + l % 16, 2 * k + l / 16));
#pragma unroll
		for (int n = 0; n < N / 16; n++) {
			load4(b, other + piece<D>(16 * n + l / 16 * 8 + l % 8, 2 * k + l / 8 % 2));
			mma16816(s[2 * n], a, b[0], b[1]);
			mma16816(s[2 * n + 1], a, b[2], b[3]);
		}
	}
}

/* acc [16,D] += p [16,N] other [N,D] */
template <int D, int N>
static __device__ __forceinline__ void gather(float (&acc)[D / 8][4], const float (&p)[N / 8][4], const bf16 *other)
{
	int l = threadIdx.x % 32;
#pragma unroll
	for (int k = 0; k < N / 16; k++) {
		const uint32_t a[4] = { pack2(p[2 * k][0], p[2 * k][1]), pack2(p[2 * k][2], p[2 * k][3]), pack2(p[2 * k + 1][0], p[2 * k + 1][1]),
					pack2(p[2 * k + 1][2], p[2 * k + 1][3]) };
#pragma unroll
		for (int n = 0; n < D / 16; n++) {
			uint32_t b[4];
			load4_t(b, other + piece<D>(16 * k + l % 16, 2 * n + l / 16));
			mma16816(acc[2 * n], a, b[0], b[1]);
			mma16816(acc[2 * n + 1], a, b[2], b[3]);
		}
	}
}

template <int N> static __device__ __forceinline__ void clear(float (&x)[N][4])
{
#pragma unroll
	for (int n = 0; n < N; n++)
		x[n][0] = x[n][1] = x[n][2] = x[n][3] = 0;
}

/* The warp's rows [t, t + 16) to columns [col, col + D) of dst, turned back with `turn`; pad [16 (D+4)] f32 of the warp's own */
template <int D>
static __device__ __forceinline__ void store_rows(view dst, int64_t stride, int64_t row0, int64_t t, int64_t col, const float (&acc)[D / 8][4],
						  float *pad, const geom &g, bool turn)
{
	int l = threadIdx.x % 32, half = g.rot / 2;
	view rope = { (void *)g.rope, DT_F32 }, in = { pad, DT_F32 };
#pragma unroll
	for (int n = 0; n < D / 8; n++)
#pragma unroll
		for (int k = 0; k < 4; k++)
			pad[(l / 4 + 8 * (k / 2)) * (D + 4) + 8 * n + 2 * (l % 4) + k % 2] = acc[n][k];
	__syncwarp();
	for (int e = l; e < OWN * (D / 8); e += 32) {
		int r = e / (D / 8), c = e % (D / 8) * 8;
		float x[8], y[8], cs[8], sn[8];
		if (t + r >= g.T)
			continue;
		ld8(x, in, r * (D + 4) + c, 8, true);
		if (turn && c < g.rot) {
			bool low = c < half;
			int64_t at = place_of(t + r, g) * g.rot + (low ? c : c - half);
			ld8(y, in, r * (D + 4) + (low ? c + half : c - half), 8, true);
			ld8(cs, rope, at, 8, true);
			ld8(sn, rope, at + half, 8, true);
#pragma unroll
			for (int k = 0; k < 8; k++)
				x[k] = low ? x[k] * cs[k] + y[k] * sn[k] : x[k] * cs[k] - y[k] * sn[k];
		}
		st8(dst, (row0 + t + r) * stride + col + c, x, 8, true);
	}
	__syncwarp();
}

/* Rows g by `first`, rows g + 8 by `second` */
template <int N> static __device__ __forceinline__ void times(float (&x)[N][4], float first, float second)
{
#pragma unroll
	for (int n = 0; n < N; n++)
		x[n][0] *= first, x[n][1] *= first, x[n][2] *= second, x[n][3] *= second;
}
#endif
