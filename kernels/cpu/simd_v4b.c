/*
 * simd_v4b.c - row functions for AVX-512 with bf16 dot products
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,prefer-vector-width=512")
#define SIMD_TABLE simd_v4b
#define SIMD_NAME "v4b"
#include "simd_table.h"
