/*
 * cpu_tiles.c - tiles that threads finish together
 *
 * Whole rows of C as long as that gives enough tiles: each tile rearranges its part of B, or of A where A is transposed, and few
 * rows would pay for that too often.  One thread takes C whole.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu_tiles.h"
#include <stdbool.h>

/* How many parts of at most `most` n is cut into, and (*step) how long they are: a multiple of 64, the last one may be shorter */
static int64_t cut(int64_t n, int64_t most, int64_t *step)
{
	int64_t parts = (n + most - 1) / most;
	*step = ((n + parts - 1) / parts + 63) / 64 * 64;
	return (n + *step - 1) / *step;
}

/*
 * How many tiles of at most `most` rows M is cut into, and (*step) how many rows they have: multiples of 16, the last one may be
 * shorter.  Of the counts that leave `least` rows or more, the one with which threads that take tiles in turn are done first,
 * where a tile costs its rows and START more.
 */
static int64_t level(int64_t M, int64_t least, int64_t most, int threads, int64_t *step)
{
	enum { START = 6 };
	int64_t parts = (M + most - 1) / most, best = INT64_MAX, count = 1;
	do {
		int64_t rows = ((M + parts - 1) / parts + 15) / 16 * 16, whole = (M - 1) / rows, last = M - whole * rows;
		int64_t end = whole / threads * (rows + START) + (whole % threads ? rows : last) + START;
		if (end < best) {
			best = end;
			count = whole + 1;
			*step = rows;
		}
	} while (++parts <= M / least);
	return count;
}

struct tiles tiles_of(int64_t M, int64_t N, int trans, int f32, int threads)
{
	enum { EACH = 6, MOST = 512, COLS = 256, F32_MOST = 1024 };
	struct tiles t = { 1, 1, M, N };
	if (threads == 1)
		return t;
	int64_t least = trans ? 128 : 256, rows = M / (EACH * threads), most = rows < least ? least : rows > MOST ? MOST : rows;
	bool across = f32 && N > F32_MOST; /* which is enough tiles: one more or less hardly matters */
	t.m = across ? cut(M, most, &t.dm) : level(M, least, most, threads, &t.dm);
	int64_t cols = N * t.m / (EACH * threads);
	if (f32 && cols > F32_MOST)
		cols = F32_MOST;
	if (cols < N)
		t.n = cut(N, cols < COLS ? COLS : cols, &t.dn);
	return t;
}
