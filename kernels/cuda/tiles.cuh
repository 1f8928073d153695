/*
 * tiles.cuh - small f32 products in shared memory, for attention and relations in f32
 *
 * A tile is `tile` rows of D elements, D + 1 apart; scores are tile x tile, tile + 1 apart.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TILES_CUH
#define ADZE_TILES_CUH
#include "device.cuh"

enum { TILE_THREADS = 128, SHARED_MAX = 99 << 10 };

/* out [tile,tile] = a b' of two tiles */
static __device__ void scores(float *out, const float *a, const float *b, int tile, int D)
{
	for (int e = threadIdx.x; e < tile * tile; e += TILE_THREADS) {
		const float *x = a + e / tile * (D + 1), *y = b + e % tile * (D + 1);
		float s = 0;
		for (int c = 0; c < D; c++)
			s += x[c] * y[c];
		out[e / tile * (tile + 1) + e % tile] = s;
	}
}

/* out [tile,D] = keep[row] out + p b (or p' b) */
static __device__ void gather_rows(float *out, const float *keep, const float *p, const float *b, int tile, int D, bool trans)
{
	for (int e = threadIdx.x; e < tile * D; e += TILE_THREADS) {
		int r = e / D, c = e % D;
		float s = keep ? out[r * (D + 1) + c] * keep[r] : out[r * (D + 1) + c];
		for (int j = 0; j < tile; j++)
			s += p[trans ? j * (tile + 1) + r : r * (tile + 1) + j] * b[j * (D + 1) + c];
		out[r * (D + 1) + c] = s;
	}
}

/* Widest tile of 32, 16, .. with room for rows of `floats` in all, two of scores and three columns; -> bytes */
static inline size_t widest_tile(int *tile, int floats)
{
	size_t n = 0;
	for (*tile = 32; *tile >= 1; *tile /= 2) {
		n = (size_t)(*tile * floats + 2 * *tile * (*tile + 1) + 3 * *tile) * sizeof(float);
		if (n <= SHARED_MAX || *tile == 1)
			break;
	}
	return n;
}
#endif
