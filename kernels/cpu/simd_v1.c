/*
 * simd_v1.c - row functions for any x86-64 (SSE2)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define SIMD_TABLE simd_v1
#define SIMD_NAME "v1"
#include "simd_table.h"
