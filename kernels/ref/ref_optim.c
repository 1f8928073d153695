/*
 * ref_optim.c - AdamW with decoupled weight decay (Loshchilov & Hutter 2019), and the sum of squares for clipping
 *
 *   g' = grad_scale g;  m = b1 m + (1-b1) g';  v = b2 v + (1-b2) g'^2
 *   w -= lr ( (m/(1-b1^t)) / (sqrt(v/(1-b2^t)) + eps) + wd w )
 *   bf16 moments are rounded to a neighbour at random; ema = d ema + (1-d) w
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ref.h"
#include <math.h>

static void st_moment(mat a, int64_t i, double x, uint64_t key, uint32_t r)
{
	if (a.dtype == DT_BF16 && key)
		((uint16_t *)a.p)[i] = f32_to_bf16_random((float)x, r);
	else
		st(a, i, x);
}

void ref_adamw(struct dev *d, mat w, mat m, mat v, mat g, mat wb, mat ema, const struct adamw_args *a)
{
	(void)d;
	if (a->live && a->live->skip)
		return;
	double b1 = (double)a->beta1, b2 = (double)a->beta2;
	double c1 = 1.0 - pow(b1, (double)a->step), c2 = 1.0 - pow(b2, (double)a->step);
	for (int64_t i = 0; i < w.rows * w.cols; i++) {
		double x = ld(g, i) * (double)(a->live ? a->live->scale : a->grad_scale), old = ld(w, i);
		double mi = b1 * ld(m, i) + (1.0 - b1) * x, vi = b2 * ld(v, i) + (1.0 - b2) * x * x;
		double step = mi / c1 / (sqrt(vi / c2) + (double)a->eps) + (double)a->weight_decay * old;
		uint32_t r = rounding_bits(a->key, (uint64_t)(a->first + i));
		st_moment(m, i, mi, a->key, r);
		st_moment(v, i, vi, a->key, r >> 16);
		st(w, i, old - (double)a->lr * step);
		if (wb.p)
			st(wb, i, ld(w, i));
		if (ema.p)
			st(ema, i, (double)a->ema * ld(ema, i) + (1.0 - (double)a->ema) * ld(w, i));
	}
}

void ref_sumsq(struct dev *d, mat out, mat x)
{
	(void)d;
	double s = 0;
	for (int64_t i = 0; i < x.rows * x.cols; i++)
		s += ld(x, i) * ld(x, i);
	*(double *)out.p += s;
}

void ref_guard(struct dev *d, struct step_now *now, mat sums, uint32_t which)
{
	(void)d;
	step_settle(now, sums.p, sums.cols, which);
}
