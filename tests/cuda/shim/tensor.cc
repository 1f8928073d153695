/*
 * tensor.cc - products of fragments, loads of 8 x 8 matrices and late copies, lane by lane
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../../kernels/kernels.h"
#include "cuda_runtime.h"
#include <stdio.h>
#include <stdlib.h>
#include <vector>

static float half_of(uint32_t x, int high)
{
	return bf16_to_f32((uint16_t)(x >> 16 * high));
}

void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	struct part {
		uint32_t a[4], b[2];
	} mine = { { a[0], a[1], a[2], a[3] }, { b0, b1 } };
	const char *all = shim_meet(~0u, &mine, sizeof mine);
	auto lane = [all](int l) { return (const part *)(all + l * SHIM_LANE_BYTES); };
	int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
	for (int i = 0; i < 4; i++) {
		int row = g, high = i / 2, n = 2 * t + i % 2;      /* row g or g + 8, column n */
		for (int k = 0; k < 16; k++) {
			const part *pa = lane(row * 4 + k % 8 / 2), *pb = lane(n * 4 + k % 8 / 2);
			c[i] += half_of(pa->a[high + 2 * (k / 8)], k % 2) * half_of(pb->b[k / 8], k % 2);
		}
	}
}

static void load(uint32_t (&r)[4], const void *row, bool trans)
{
	const char *all = shim_meet(~0u, &row, sizeof row);
	int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
	if ((uintptr_t)row % 16) {
		fprintf(stderr, "cuda shim: ldmatrix from an address that is no multiple of 16\n");
		abort();
	}
	for (int i = 0; i < 4; i++) {
		uint16_t x[2];
		unsigned banks = 0;            /* eight rows of 16 bytes: each in other banks, or the hardware takes turns */
		for (int at = 0; at < 8; at++) {
			uintptr_t p;
			memcpy(&p, all + (8 * i + at) * SHIM_LANE_BYTES, sizeof p);
			banks |= 1u << p / 16 % 8;
		}
		if (banks != 255) {
			fprintf(stderr, "cuda shim: ldmatrix with a bank conflict\n");
			abort();
		}
		for (int k = 0; k < 2; k++) {
			int at = trans ? 2 * t + k : g, col = trans ? g : 2 * t + k;
			const char *p;
			memcpy(&p, all + (8 * i + at) * SHIM_LANE_BYTES, sizeof p);
			memcpy(&x[k], p + 2 * col, 2);
		}
		r[i] = x[0] | (uint32_t)x[1] << 16;
	}
}

void load4(uint32_t (&r)[4], const void *row)
{
	load(r, row, false);
}

void load4_t(uint32_t (&r)[4], const void *row)
{
	load(r, row, true);
}

struct copy {
	void *to;
	const void *from;
	bool live;
};
static std::vector<copy> pending[1024];        /* of each thread */

void copy16(void *shared, const void *src, bool live)
{
	if (((uintptr_t)shared | (live ? (uintptr_t)src : 0)) % 16) {
		fprintf(stderr, "cuda shim: cp.async from or to an address that is no multiple of 16\n");
		abort();
	}
	pending[threadIdx.x].push_back({ shared, src, live });
}

void copies_come()
{
	for (const copy &c : pending[threadIdx.x])
		if (c.live)
			memcpy(c.to, c.from, 16);
		else
			memset(c.to, 0, 16);
	pending[threadIdx.x].clear();
}
