/*
 * cuda_fp8.h - the shim's 8-bit floats
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SHIM_CUDA_FP8_H
#define SHIM_CUDA_FP8_H
#include "../../../kernels/kernels.h"

enum { __NV_SATFINITE, __NV_E4M3 };
static inline uint8_t __nv_cvt_float_to_fp8(float x, int, int)
{
	return f32_to_e4m3(x);
}
#endif
