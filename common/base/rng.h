/*
 * rng.h - counter-based random numbers: a pure function of (seed, stream, index)
 *
 * No state to save in checkpoints, the same values in any order and on any number of threads.
 * Philox-2x64 with 10 rounds (Salmon et al., SC 2011).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_RNG_H
#define ADZE_RNG_H
#include <stdint.h>

uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t i);
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t i);          /* [0,1), 53 bits */
uint64_t rng_below(uint64_t seed, uint64_t stream, uint64_t i, uint64_t n); /* [0,n), unbiased by 128-bit multiply */
double rng_normal(uint64_t seed, uint64_t stream, uint64_t i);           /* Box-Muller on draws 2i, 2i+1 */
/* perm[0..n) = a permutation of 0..n-1 (Fisher-Yates driven by the stream) */
void rng_permute(uint64_t seed, uint64_t stream, int64_t *perm, int64_t n);
#endif
