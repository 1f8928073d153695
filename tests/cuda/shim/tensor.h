/*
 * tensor.h - the shim's tensor cores: mma.sync, ldmatrix and cp.async as the PTX manual lays them out
 *
 * A copy happens when it is waited for, not before, and waits of one thread are nothing to the others.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SHIM_TENSOR_H
#define SHIM_TENSOR_H
#include <math.h>
#include <stdint.h>
#define TENSOR_OPS
static inline float power2(float x)
{
	return exp2f(x);
}
void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void load4(uint32_t (&r)[4], const void *row);
void load4_t(uint32_t (&r)[4], const void *row);
void copy16(void *shared, const void *src, bool live);
void copies_come();
#endif
