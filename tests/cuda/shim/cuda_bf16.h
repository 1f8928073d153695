/*
 * cuda_bf16.h - the shim's bf16: round to nearest even, as the hardware converts
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SHIM_CUDA_BF16_H
#define SHIM_CUDA_BF16_H
#include "cuda_runtime.h"
#include "../../../kernels/kernels.h"

struct __nv_bfloat16 {
	uint16_t bits;
};
struct __nv_bfloat162 {
	__nv_bfloat16 x, y;
};
static inline float __bfloat162float(__nv_bfloat16 b)
{
	return bf16_to_f32(b.bits);
}
static inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
	return { f32_to_bf16(f) };
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b)
{
	return { __float2bfloat16_rn(a), __float2bfloat16_rn(b) };
}
#endif
