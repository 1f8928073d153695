/*
 * cpu_relation.c - KL between attention relations, by tiles of rows
 *
 * A tile holds the scores of TILE rows against the keys before them, for a and for b, f32: T x T never exists.  A score
 * row is a row of logits whose vocabulary are the positions seen, so value and gradient g = coef (R_a - R_b) are kd_head's
 * (simd_loss.h).  With x the vectors of one head:  dx[tile] += g x,  dx += g' x[tile].  Widths of products are multiples
 * of WIDE, so that few shapes occur; keys after a row, and of documents before its own, have g = 0.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include <math.h>
#include <string.h>

enum { TILE = 128, WIDE = 1024 };

struct call {
	struct dev *d;
	mat a, b, da;
	const int32_t *label, *start;
	const struct relation *r;
	struct kd_head_args kl;
	float *s, *t, *g, *dx;      /* scores of a and b, gradient [TILE, T]; dx [T, columns of a head] */
	double loss[TILE];
};

/* Rows from `row` on of head h of m: its columns, as they lie */
static struct factor vectors(mat m, int64_t first, int64_t width, int h, int64_t row, int trans)
{
	return (struct factor){ elem_at(m, row * m.cols + first + h * width), m.dtype, trans, m.cols };
}

/* out [n,w] = x[row0 + t0 ...] x[row0 ...]' */
static void scores(struct call *c, float *out, mat m, int64_t first, int64_t width, int h, int64_t row0, int64_t t0, int64_t n, int64_t w)
{
	struct product q = { .M = n, .N = w, .K = width, .A = vectors(m, first, width, h, row0 + t0, 0),
			     .B = vectors(m, first, width, h, row0, 1), .C = out, .ldc = w, .c_dtype = DT_F32 };
	gemm(c->d, &q);
}

static void gradients(struct call *c, int h, int64_t row0, int64_t t0, int64_t n, int64_t w)
{
	int64_t D = c->r->da;
	struct product near = { .M = n, .N = D, .K = w, .A = { c->g, DT_F32, 0, w }, .B = vectors(c->a, c->r->a0, D, h, row0, 0),
				.C = c->dx + t0 * D, .ldc = D, .c_dtype = DT_F32, .acc = 1 };
	struct product far = { .M = w, .N = D, .K = n, .A = { c->g, DT_F32, 1, w }, .B = vectors(c->a, c->r->a0, D, h, row0 + t0, 0),
			       .C = c->dx, .ldc = D, .c_dtype = DT_F32, .acc = 1 };
	gemm(c->d, &near);
	gemm(c->d, &far);
}

/* Rows [t0, t0 + n) of one head; returns the sum of their losses */
static double tile(struct call *c, int h, int64_t row0, int64_t t0, int64_t n)
{
	const struct relation *r = c->r;
	int64_t wide = (t0 + n + WIDE - 1) / WIDE * WIDE, w = wide < r->T ? wide : r->T;
	double sum = 0;
	scores(c, c->s, c->a, r->a0, r->da, h, row0, t0, n, w);
	scores(c, c->t, c->b, r->b0, r->db, h, row0, t0, n, w);
#pragma omp parallel for num_threads(c->d->threads) schedule(dynamic)
	for (int64_t i = 0; i < n; i++) {
		int64_t from = c->start ? c->start[row0 + t0 + i] : 0, end = t0 + i + 1;
		from = r->window && end - r->window > from ? end - r->window : from;
		int64_t seen = end - from;
		float *s = c->s + i * w + from, *t = c->t + i * w + from, *g = c->da.p ? c->g + i * w : NULL;
		c->loss[i] = 0;
		if (g)
			memset(g, 0, (size_t)w * sizeof *g);
		g = g ? g + from : NULL;
		if (c->label && c->label[row0 + t0 + i] < 0)
			continue;
		c->d->simd->cvt(s, DT_F32, s, DT_F32, 1.0f / sqrtf((float)r->da), seen);
		c->d->simd->cvt(t, DT_F32, t, DT_F32, 1.0f / sqrtf((float)r->db), seen);
		struct kd_row k = { .s = s, .t = t, .g = g, .g_dtype = DT_F32, .V = seen, .label = 0, .a = &c->kl };
		c->d->simd->kd_row(&k);
		c->loss[i] = k.loss[LOSS_KL];
	}
	for (int64_t i = 0; i < n; i++)
		sum += c->loss[i];
	if (c->da.p)
		gradients(c, h, row0, t0, n, w);
	return sum;
}

void cpu_relation(struct dev *d, mat sums, mat da, mat a, mat b, mat label, mat start, const struct relation *r, float coef,
		  const float *live, int acc)
{
	(void)live;
	struct call c = { .d = d, .a = a, .b = b, .da = da, .label = label.p, .start = start.p, .r = r, .kl = { .tau = 1 } };
	int64_t T = r->T, D = r->da;
	size_t room = (size_t)(TILE * T) * sizeof(float);
	double sum = 0;
	c.kl.coef[LOSS_KL] = coef / (float)r->heads;
	c.s = scratch(d, S_LOGIT_S, room);
	c.t = scratch(d, S_LOGIT_T, room);
	c.g = da.p ? scratch(d, S_DLOGIT, room) : NULL;
	c.dx = da.p ? scratch(d, S_HEAD_D, (size_t)(T * D) * sizeof(float)) : NULL;
	if (d->planning) {
		int64_t n = T < TILE ? T : TILE, w = T < WIDE ? T : WIDE;
		scores(&c, c.s, a, r->a0, r->da, 0, 0, 0, n, w);
		scores(&c, c.t, b, r->b0, r->db, 0, 0, 0, n, w);
		if (da.p)
			gradients(&c, 0, 0, 0, n, w);
		return;
	}
	if (da.p && !acc)
		cpu_zero(d, da);
	for (int64_t row0 = 0; row0 < a.rows; row0 += T)
		for (int h = 0; h < r->heads; h++) {
			if (da.p)
				memset(c.dx, 0, (size_t)(T * D) * sizeof(float));
			for (int64_t t0 = 0; t0 < T; t0 += TILE)
				sum += tile(&c, h, row0, t0, T - t0 < TILE ? T - t0 : TILE);
			for (int64_t t = 0; da.p && t < T; t++)
				d->simd->lincomb(elem_at(da, (row0 + t) * da.cols + r->a0 + h * D), da.dtype, 1, c.dx + t * D, DT_F32,
						 1.0f / sqrtf((float)D), NULL, DT_F32, 0.0f, D);
		}
	((double *)sums.p)[0] += sum / r->heads;
}
