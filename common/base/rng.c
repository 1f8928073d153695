/*
 * rng.c - Philox-2x64-10: the counter is (index, stream), the key is the seed
 *
 * Unbiased bounded numbers need a rare second draw; it takes the other output word, then bumps the key, so the
 * result stays a pure function of its arguments.  Checked against the Random123 known answers in tests/base.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rng.h"
#include <math.h>

#define MULT UINT64_C(0xD2B74407B1CE6E93)
#define BUMP UINT64_C(0x9E3779B97F4A7C15)

static uint64_t philox(uint64_t key, uint64_t hi, uint64_t lo, uint64_t *second)
{
	for (int r = 0; r < 10; r++, key += BUMP) {
		unsigned __int128 p = (unsigned __int128)lo * MULT;
		lo = (uint64_t)(p >> 64) ^ key ^ hi;
		hi = (uint64_t)p;
	}
	*second = hi;
	return lo;
}

uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t i)
{
	uint64_t second;
	return philox(seed, stream, i, &second);
}

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t i)
{
	return (double)(rng_u64(seed, stream, i) >> 11) * 0x1p-53;
}

uint64_t rng_below(uint64_t seed, uint64_t stream, uint64_t i, uint64_t n)
{
	if (n < 2)
		return 0;
	uint64_t limit = -n % n, key = seed, x[2];
	for (;; key = ~key * MULT + BUMP) {
		x[0] = philox(key, stream, i, &x[1]);
		for (int k = 0; k < 2; k++) {
			unsigned __int128 m = (unsigned __int128)x[k] * n;
			if ((uint64_t)m >= limit)
				return (uint64_t)(m >> 64);
		}
	}
}

double rng_normal(uint64_t seed, uint64_t stream, uint64_t i)
{
	double u = 1.0 - rng_uniform(seed, stream, 2 * i); /* (0,1]: the logarithm is finite */
	double v = rng_uniform(seed, stream, 2 * i + 1);
	return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}

void rng_permute(uint64_t seed, uint64_t stream, int64_t *perm, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		int64_t j = (int64_t)rng_below(seed, stream, (uint64_t)i, (uint64_t)i + 1);
		perm[i] = i;
		perm[i] = perm[j];
		perm[j] = i;
	}
}
