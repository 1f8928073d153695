/*
 * pyrand.c - MT19937 with Python's seeding, and the two branches of its sample()
 *
 * sample() keeps either a pool of what is left (small n: the drawn place is filled from the end) or the set of what was
 * drawn (redrawn while seen); which one is a matter of the sizes of Python's list and set, and decides the numbers.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "pyrand.h"
#include "../base/base.h"
#include <stdlib.h>

enum { N = 624, M = 397 };

static void init_genrand(uint32_t *mt, uint32_t s)
{
	mt[0] = s;
	for (uint32_t i = 1; i < N; i++)
		mt[i] = 1812433253u * (mt[i - 1] ^ mt[i - 1] >> 30) + i;
}

/* init_by_array() with the 32-bit digits of the seed */
void pyrand_seed(struct pyrand *r, uint64_t seed)
{
	const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
	const uint32_t len = key[1] ? 2 : 1;
	uint32_t *mt = r->mt, i = 1, j = 0;
	init_genrand(mt, 19650218u);
	for (int k = 0; k < N; k++) {
		mt[i] = (mt[i] ^ (mt[i - 1] ^ mt[i - 1] >> 30) * 1664525u) + key[j] + j;
		j = (j + 1) % len;
		if (++i == N) {
			mt[0] = mt[N - 1];
			i = 1;
		}
	}
	for (int k = 0; k < N - 1; k++) {
		mt[i] = (mt[i] ^ (mt[i - 1] ^ mt[i - 1] >> 30) * 1566083941u) - i;
		if (++i == N) {
			mt[0] = mt[N - 1];
			i = 1;
		}
	}
	mt[0] = 0x80000000u;
	r->i = N;
}

uint32_t pyrand_u32(struct pyrand *r)
{
	uint32_t *mt = r->mt;
	if (r->i >= N) {
		for (int k = 0; k < N; k++) {
			uint32_t y = (mt[k] & 0x80000000u) | (mt[(k + 1) % N] & 0x7fffffffu);
			mt[k] = mt[(k + M) % N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
		}
		r->i = 0;
	}
	uint32_t y = mt[r->i++];
	y ^= y >> 11;
	y ^= y << 7 & 0x9d2c5680u;
	y ^= y << 15 & 0xefc60000u;
	return y ^ y >> 18;
}

double pyrand_double(struct pyrand *r)
{
	uint32_t a = pyrand_u32(r) >> 5, b = pyrand_u32(r) >> 6;
	return (a * 67108864.0 + b) * (1.0 / 9007199254740992.0);
}

int64_t pyrand_below(struct pyrand *r, int64_t n)
{
	int bits = 64 - __builtin_clzll((unsigned long long)n);
	int64_t x;
	do
		x = pyrand_u32(r) >> (32 - bits);
	while (x >= n);
	return x;
}

void pyrand_sample(struct pyrand *r, int64_t n, int64_t k, int64_t *out)
{
	int64_t setsize = 21, power = 1;
	while (power < 3 * k)
		power *= 4;
	setsize += k > 5 ? power : 0;
	if (n > setsize) {
		for (int64_t i = 0; i < k; i++) {
			int64_t j, seen;
			do {
				j = pyrand_below(r, n);
				seen = 0;
				for (int64_t m = 0; m < i && !seen; m++)
					seen = out[m] == j;
			} while (seen);
			out[i] = j;
		}
		return;
	}
	int64_t *pool = xcalloc((size_t)n + 1, sizeof *pool);
	for (int64_t i = 0; i < n; i++)
		pool[i] = i;
	for (int64_t i = 0; i < k; i++) {
		int64_t j = pyrand_below(r, n - i);
		out[i] = pool[j];
		pool[j] = pool[n - i - 1];
	}
	free(pool);
}
