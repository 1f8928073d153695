/*
 * attn.cuh - what both attention forms share: where heads lie in a row, rotation, the keys that a query sees
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ATTN_CUH
#define ADZE_ATTN_CUH
#include "device.cuh"
#include <math.h>

struct geom {
	int64_t T, W;              /* positions of a sequence; columns of qkv */
	int H, G, D, rot, window;
	float scale;
	const float *rope;         /* [T, rot] */
	const int32_t *node;       /* attn_tree: position and end of subtree of each row; else NULL */
	const int32_t *start;      /* first position that a row sees, or NULL; rows of the sequence, see at_sequence */
	view past;                 /* attn_tree: [P, W], the first P of the T positions */
	int64_t P;
};

struct attn_args {
	view qkv, o, dout, dqkv;
	float *lse, *delta;        /* [N,H]; delta = sum over the head of dout o */
	geom g;
	int tile;
	bool vec;
};

/* a.delta, in scratch (attn_plain.cu); n = rows times heads */
void attn_delta(struct dev *, attn_args *a, int64_t n);
/* On tensor cores where dtypes, widths and addresses allow it (attn_flash.cu); false: not done */
bool attn_flash(struct dev *, const attn_args *, int64_t B);
bool attn_flash_bwd(struct dev *, const attn_args *, int64_t B);

static __device__ __forceinline__ int64_t first_key(int64_t i, const geom &g)
{
	if (g.node)
		return 0;
	int64_t lo = g.start ? g.start[i] : 0, near = i - g.window + 1;
	return g.window > 0 && near > lo ? near : lo;
}

/* The geometry of the sequence whose rows begin at row0 */
static __device__ __forceinline__ geom at_sequence(geom g, int64_t row0)
{
	if (g.start)
		g.start += row0;
	return g;
}

/* Where row t stands in its text: its row of rope */
static __device__ __forceinline__ int64_t place_of(int64_t t, const geom &g)
{
	return g.node ? g.node[2 * t] : g.start ? t - g.start[t] : t;
}

/* Whether row i of a sequence sees row j of it */
static __device__ __forceinline__ bool sees(int64_t i, int64_t j, const geom &g)
{
	if (!g.node)
		return j <= i && j >= first_key(i, g);
	return j <= i && i < g.node[2 * j + 1] && (g.window <= 0 || g.node[2 * i] - g.node[2 * j] < g.window);
}

/* Column c of a head that starts at element `at` of x, rotated for position t; sign -1: the inverse */
static __device__ __forceinline__ float rotated(view x, int64_t at, int c, int64_t t, const geom &g, float sign)
{
	float a = ld1(x, at + c);
	if (c >= g.rot)
		return a;
	int half = g.rot / 2, i = c < half ? c : c - half;
	float cs = g.rope[t * g.rot + i], sn = sign * g.rope[t * g.rot + half + i];
	return c < half ? a * cs - ld1(x, at + c + half) * sn : a * cs + ld1(x, at + c - half) * sn;
}
#endif
