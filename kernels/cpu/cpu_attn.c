/*
 * cpu_attn.c - attention: cuts a call into independent items; simd_attn.h does them
 *
 * Forward items are query blocks of one (sequence, kv-head), after keys and values have been packed once; backward
 * items are whole (sequence, kv-head) pairs, whose key and value gradients stay in one thread's cache.  Where that
 * makes too few items for the threads, a pair is dealt out in parts, whose gradients are added up in order.  bf16
 * operands are multiplied in bf16 where the machine has a fast dot product, otherwise in f32.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t up(int64_t n, int64_t to)
{
	return (n + to - 1) / to * to;
}

static void check_width(const struct attn_geom *g)
{
	if (g->D > 512) {
		fprintf(stderr, "cpu kernels: heads wider than 512 are not supported\n");
		abort();
	}
}

static struct attn_call call_of(const struct attn_geom *g, mat o, mat lse, mat qkv, mat rope, mat start)
{
	struct attn_call c = { .g = *g, .o = o, .lse = lse, .qkv = qkv, .rope = rope, .start = start.p };
	int64_t bq;
	check_width(g);
	c.R = g->H / g->G;
	bq = up(192 / c.R, 16) < 128 ? up(192 / c.R, 16) : 128;
	c.BQ = (int)(bq < up(g->T, 16) ? bq : up(g->T, 16));
	c.Dp = (int)up(g->D, 16);
	c.Tp = up(g->T, KEY_BLOCK);
	c.nq = (g->T + c.BQ - 1) / c.BQ;
	return c;
}

static const struct attn_ops *ops_for(const struct dev *d, int dtype)
{
	return dtype == DT_BF16 && d->bf16_dot ? d->simd->attn_bf16 : d->simd->attn_f32;
}

static void forward(struct dev *d, const struct attn_call *call)
{
	struct attn_call c = *call;
	const struct attn_geom *g = &c.g;
	const struct attn_ops *a = ops_for(d, c.o.dtype); /* what follows reads bf16: q, k and v of f32 are rounded once, after rope */
	int64_t nbg = g->B * g->G, nk = c.Tp / KEY_BLOCK;
	c.k = scratch(d, S_ATTN_K, (size_t)(nbg * c.Tp * c.Dp) * a->elem);
	c.v = scratch(d, S_ATTN_V, (size_t)(nbg * c.Tp * c.Dp) * a->elem);
	size_t mine = a->fwd_bytes(&c);
	char *tmp = scratch(d, S_ATTN_THREAD, mine * (size_t)d->threads);
	if (d->planning)
		return;
#pragma omp parallel num_threads(d->threads)
	{
		char *t = tmp + mine * (size_t)omp_get_thread_num();
#pragma omp for schedule(dynamic)
		for (int64_t i = 0; i < nbg * nk; i++)
			a->pack(&c, i / nk, i % nk, t);
#pragma omp for schedule(dynamic)
		for (int64_t i = 0; i < nbg * c.nq; i++) /* long rows first */
			a->fwd(&c, i % nbg, c.nq - 1 - i / nbg, t);
	}
}

void cpu_attn(struct dev *d, mat o, mat lse, mat qkv, mat rope, mat start, const struct attn_geom *g)
{
	struct attn_call c = call_of(g, o, lse, qkv, rope, start);
	forward(d, &c);
}

void cpu_attn_tree(struct dev *d, mat o, mat qkv, mat past, mat rope, mat node, const struct attn_geom *g)
{
	struct attn_call c = call_of(g, o, (mat){ 0 }, qkv, rope, (mat){ 0 });
	c.node = node.p;
	c.past = past;
	c.nq = (g->T - past.rows + c.BQ - 1) / c.BQ;
	forward(d, &c);
}

void cpu_attn_bwd(struct dev *d, mat dqkv, mat dout, mat o, mat lse, mat qkv, mat rope, mat start, const struct attn_geom *g)
{
	struct attn_call c = call_of(g, o, lse, qkv, rope, start);
	const struct attn_ops *a = ops_for(d, qkv.dtype);
	c.dqkv = dqkv;
	c.dout = dout;
	int64_t nbg = g->B * g->G, want = 4 * (int64_t)d->threads, nk = c.Tp / KEY_BLOCK;
	c.parts = d->threads == 1 || nbg >= want ? 1 : (int)((want + nbg - 1) / nbg);
	c.parts = c.parts > c.nq ? (int)c.nq : c.parts;
	size_t mine = a->bwd_bytes(&c), sums = c.parts > 1 ? (size_t)(nbg * c.parts * c.Tp * c.Dp) * sizeof(float) : 0;
	char *tmp = scratch(d, S_ATTN_THREAD, mine * (size_t)d->threads);
	float *k = c.k = scratch(d, S_ATTN_K, sums), *v = c.v = scratch(d, S_ATTN_V, sums);
	if (d->planning)
		return;
#pragma omp parallel num_threads(d->threads)
	{
#pragma omp for schedule(dynamic)
		for (int64_t i = 0; i < nbg * c.parts; i++)
			a->bwd(&c, i / c.parts, i % c.parts, tmp + mine * (size_t)omp_get_thread_num());
#pragma omp for schedule(dynamic)
		for (int64_t i = 0; i < (c.parts > 1 ? nbg * nk : 0); i++) {
			int64_t at = i / nk * c.parts * c.Tp * c.Dp, t0 = i % nk * KEY_BLOCK;
			a->finish(&c, i / nk, k + at, v + at, t0, t0 + KEY_BLOCK);
		}
	}
}

/* Items are (row, kv-head) pairs: all keys are in place before any is read. */
void cpu_attn_kv(struct dev *d, mat o, mat kv, mat qkv, mat rope, mat at, const struct attn_geom *g)
{
	struct kv_call c = { .g = *g, .o = o, .kv = kv, .qkv = qkv, .rope = rope, .at = at };
	int64_t items = qkv.rows * g->G, last = 0;
	check_width(g);
	for (int64_t n = 0; n < qkv.rows; n++) {
		int64_t t = ((const int32_t *)at.p)[2 * n + 1];
		last = ((const int32_t *)at.p)[2 * n] >= 0 && t > last ? t : last;
	}
	c.keys = up(last + 1, KV_BLOCK);
	int64_t mine = up(g->H / g->G * (g->D + c.keys), 16);
	float *tmp = scratch(d, S_ATTN_THREAD, (size_t)(mine * d->threads) * sizeof *tmp);
#pragma omp parallel num_threads(d->threads)
	{
#pragma omp for schedule(static)
		for (int64_t i = 0; i < items; i++)
			d->simd->kv_put(&c, i / g->G, i % g->G);
#pragma omp for schedule(dynamic)
		for (int64_t i = 0; i < items; i++)
			d->simd->kv_attend(&c, i / g->G, i % g->G, tmp + mine * omp_get_thread_num());
	}
}
