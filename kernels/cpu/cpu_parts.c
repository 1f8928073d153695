/*
 * cpu_parts.c - rows of logits whose columns are spread over several processes
 *
 * Each sums over its own columns, relative to its own maximum; all sums are gathered and every process merges them in the
 * same order.  With a part's maxima ms, mt below those of all by a = (ms - max)/tau, b = (mt - max)/tau <= 0:
 *
 *	S = sum e^a S_p     T = sum e^b T_p     A = sum e^b (A_p + T_p (b - a))     B = sum e^a (B_p + S_p (a - b))
 *
 * Losses and gradients then follow as if all columns were here.  Losses that need S and T first have sums of their own,
 * which add up: a second gathering.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include <math.h>

/* The sums p[0], p[every], ... of n parts */
static struct kd_sums merged(const struct kd_sums *p, int64_t every, int n, double itau)
{
	struct kd_sums z = p[0];
	for (int i = 1; i < n; i++) {
		z.ms = fmax(z.ms, p[i * every].ms);
		z.mt = fmax(z.mt, p[i * every].mt);
	}
	z.S = z.T = z.A = z.B = z.S1 = z.T1 = z.s_at = z.t_at = 0;
	for (int i = 0; i < n; i++) {
		const struct kd_sums *q = &p[i * every];
		double a = (q->ms - z.ms) * itau, b = (q->mt - z.mt) * itau;
		z.S += exp(a) * q->S;
		z.T += exp(b) * q->T;
		z.A += exp(b) * (q->A + q->T * (b - a));
		z.B += exp(a) * (q->B + q->S * (a - b));
		z.S1 += exp(q->ms - z.ms) * q->S1;
		z.T1 += exp(q->mt - z.mt) * q->T1;
		z.s_at += q->s_at;
		z.t_at += q->t_at;
	}
	return z;
}

static struct kd_more added(const struct kd_more *p, int64_t every, int n)
{
	struct kd_more z = { 0 };
	for (int i = 0; i < n; i++) {
		const struct kd_more *q = &p[i * every];
		z.jsd += q->jsd;
		z.tvd += q->tvd;
		z.mse += q->mse;
		z.U += q->U;
		z.G += q->G;
		for (int k = 0; k < 3; k++)
			z.q[k] += q->q[k];
	}
	return z;
}

static void step(struct dev *d, int which, struct kd_row *row, int64_t n)
{
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (int64_t r = 0; r < n; r++)
		d->simd->kd_step[which](&row[r]);
}

void kd_rows_of_parts(struct dev *d, struct kd_row *row, int64_t n, int64_t room)
{
	const struct kd_head_args *a = row->a;
	const struct kd_parts *q = a->parts;
	struct kd_sums *sums = scratch(d, S_PARTS, (size_t)(q->size * room) * sizeof *sums);
	struct kd_more *more = (struct kd_more *)sums; /* is no larger, and comes later */
	int again = 0;
	_Static_assert(sizeof *more <= sizeof *sums, "room for the second sums");
	if (d->planning)
		return;
	for (int k = LOSS_JSD; k < LOSS_KINDS; k++)
		again |= row->t && a->coef[k] != 0.0f;
	step(d, 0, row, n);
	for (int64_t r = 0; r < n; r++)
		sums[q->rank * n + r] = row[r].z;
	q->gather(q->arg, sums, n * (int64_t)sizeof *sums);
	for (int64_t r = 0; r < n; r++)
		row[r].z = merged(sums + r, n, q->size, (double)(1.0f / a->tau));
	if (again) {
		step(d, 1, row, n);
		for (int64_t r = 0; r < n; r++)
			more[q->rank * n + r] = row[r].more;
		q->gather(q->arg, more, n * (int64_t)sizeof *more);
		for (int64_t r = 0; r < n; r++)
			row[r].more = added(more + r, n, q->size);
	}
	step(d, 2, row, n);
}
