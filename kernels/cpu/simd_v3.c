/*
 * simd_v3.c - row functions for AVX2 with FMA
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#pragma GCC target("avx2,fma")
#define SIMD_TABLE simd_v3
#define SIMD_NAME "v3"
#include "simd_table.h"
