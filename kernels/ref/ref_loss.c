/*
 * ref_loss.c - losses between hidden states, each with its gradient
 *
 *   mse       mean_c (a-b)^2            cosine: 1 - cos(a,b), norms clamped at 1e-8
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ref.h"
#include <math.h>

/* Whether row n counts for nothing; its gradient then is 0 */
static int masked(mat da, mat label, int64_t n, int64_t c, int acc)
{
	if (!label.p || ref_int(label, n) >= 0)
		return 0;
	if (da.p && !acc)
		st(da, n * da.cols + c, 0);
	return 1;
}

void ref_mse(struct dev *d, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc)
{
	(void)d, (void)live;
	double sum = 0, C = (double)a.cols;
	for (int64_t i = 0; i < a.rows * a.cols; i++) {
		if (masked(da, label, i / a.cols, i % a.cols, acc))
			continue;
		double e = ld(a, i) - ld(b, i);
		sum += e * e / C;
		if (da.p)
			st_acc(da, i, (double)coef * 2 * e / C, acc);
	}
	st_acc(sums, 0, sum, 1);
}

void ref_cosine(struct dev *d, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc)
{
	(void)d, (void)live;
	int64_t C = a.cols;
	double sum = 0;
	for (int64_t n = 0; n < a.rows; n++) {
		double aa = 0, bb = 0, ab = 0;
		int off = 0;
		for (int64_t c = 0; c < C; c++)
			off = masked(da, label, n, c, acc);
		if (off)
			continue;
		for (int64_t c = 0; c < C; c++) {
			double x = ld(a, n * C + c), y = ld(b, n * C + c);
			aa += x * x;
			bb += y * y;
			ab += x * y;
		}
		double ka = fmax(aa, 1e-16), r = 1.0 / sqrt(ka * fmax(bb, 1e-16)), cs = ab * r;
		double drop = aa > 1e-16 ? cs / ka : 0.0; /* a clamped norm is a constant */
		sum += 1.0 - cs;
		for (int64_t c = 0; da.p && c < C; c++)
			st_acc(da, n * C + c, (double)coef * (ld(a, n * C + c) * drop - ld(b, n * C + c) * r), acc);
	}
	st_acc(sums, 0, sum, 1);
}
