/*
 * cpu_tiles.h - how a matrix product is cut for threads that take its tiles in turn
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_CPU_TILES_H
#define ADZE_CPU_TILES_H
#include <stdint.h>

struct tiles {
	int64_t m, n;       /* tiles down, across */
	int64_t dm, dn;     /* rows, columns of a tile; those of the last ones may be fewer */
};
/* Tiles of C [M,N] = A B, some for every thread; trans: A lies transposed, f32: operands are f32 */
struct tiles tiles_of(int64_t M, int64_t N, int trans, int f32, int threads);
#endif
