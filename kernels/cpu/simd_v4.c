/*
 * simd_v4.c - row functions for AVX-512
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#define SIMD_TABLE simd_v4
#define SIMD_NAME "v4"
#include "simd_table.h"
