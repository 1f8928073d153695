/*
 * pyrand.h - Python's random.Random, as far as lm-evaluation-harness draws from it
 *
 * Few-shot examples and bootstrap samples are chosen by it there; the same seed gives the same choice here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_PYRAND_H
#define ADZE_PYRAND_H
#include <stdint.h>

struct pyrand {
	uint32_t mt[624];
	int i;
};
void pyrand_seed(struct pyrand *r, uint64_t seed);          /* Random(seed), seed >= 0 */
uint32_t pyrand_u32(struct pyrand *r);
double pyrand_double(struct pyrand *r);                     /* random() */
int64_t pyrand_below(struct pyrand *r, int64_t n);          /* randrange(n), 1 <= n < 2^32 */
void pyrand_sample(struct pyrand *r, int64_t n, int64_t k, int64_t *out); /* sample(range(n), k), k <= n */
#endif
