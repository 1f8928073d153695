/*
 * ref_stat.c - masks and the statistics that importance is made of
 *
 *   mask         y = x z[c / unit]              mask_dz: dz[u] += sum over rows and unit of dy x
 *   stat_width   per sample and unit, with a_t = x (unit 1) or ||x_t,unit||: sums of a, m, m^2, l, l^2, v, v^2 where
 *                m = mean|a|, l = sqrt(sum a^2), v = biased variance of a (two passes)
 *   stat_contrib the same of a_t = ||z W_unit x_t,unit||
 *   stat_cos     sum of 1 - cos(a_n, b_n), norms clamped at 1e-8
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ref.h"
#include <math.h>

void ref_mask(struct dev *d, mat y, mat x, mat z)
{
	(void)d;
	int64_t unit = y.cols / z.cols;
	for (int64_t n = 0; n < y.rows; n++)
		for (int64_t c = 0; c < y.cols; c++)
			st(y, n * y.cols + c, ld(x, n * y.cols + c) * ld(z, c / unit));
}

void ref_mask_dz(struct dev *d, mat dz, mat dy, mat x)
{
	(void)d;
	int64_t C = dy.cols, unit = C / dz.cols;
	for (int64_t u = 0; u < dz.cols; u++) {
		double s = 0;
		for (int64_t n = 0; n < dy.rows; n++)
			for (int64_t c = u * unit; c < (u + 1) * unit; c++)
				s += ld(dy, n * C + c) * ld(x, n * C + c);
		st_acc(dz, u, s, 1);
	}
}

static double unit_value(mat x, int64_t n, int64_t u, int unit)
{
	if (unit == 1)
		return ld(x, n * x.cols + u);
	double s = 0;
	for (int64_t c = u * unit; c < (u + 1) * unit; c++)
		s += ld(x, n * x.cols + c) * ld(x, n * x.cols + c);
	return sqrt(s);
}

/* Adds the seven sums of unit u over T values a_t. */
static void add_unit(mat acc, int64_t u, const double *a, int64_t T)
{
	double sum = 0, m = 0, l2 = 0, v = 0;
	for (int64_t t = 0; t < T; t++) {
		sum += a[t];
		m += fabs(a[t]) / (double)T;
		l2 += a[t] * a[t];
	}
	for (int64_t t = 0; t < T; t++)
		v += (a[t] - sum / (double)T) * (a[t] - sum / (double)T) / (double)T;
	const double row[STAT_ROWS] = { sum, m, m * m, sqrt(l2), l2, v, v * v };
	for (int r = 0; r < STAT_ROWS; r++)
		st_acc(acc, r * acc.cols + u, row[r], 1);
}

void ref_stat_width(struct dev *d, mat acc, mat x, int64_t T, int unit)
{
	(void)d;
	double *a = ref_tmp(T);
	for (int64_t s = 0; s < x.rows / T; s++)
		for (int64_t u = 0; u < x.cols / unit; u++) {
			for (int64_t t = 0; t < T; t++)
				a[t] = unit_value(x, s * T + t, u, unit);
			add_unit(acc, u, a, T);
		}
	free(a);
}

/* |z W_u x_n,u| over the columns of unit u */
static double contribution(mat x, mat W, mat z, int64_t n, int64_t u, int64_t unit)
{
	double sq = 0;
	for (int64_t o = 0; o < W.rows; o++) {
		double y = 0;
		for (int64_t c = u * unit; c < (u + 1) * unit; c++)
			y += ld(W, o * W.cols + c) * ld(x, n * x.cols + c);
		y *= z.p ? ld(z, o) : 1;
		sq += y * y;
	}
	return sqrt(sq);
}

void ref_stat_contrib(struct dev *d, mat acc, mat x, mat W, mat z, int64_t T)
{
	(void)d;
	double *a = ref_tmp(T);
	for (int64_t s = 0; s < x.rows / T; s++)
		for (int64_t u = 0; u < acc.cols; u++) {
			for (int64_t t = 0; t < T; t++)
				a[t] = contribution(x, W, z, s * T + t, u, x.cols / acc.cols);
			add_unit(acc, u, a, T);
		}
	free(a);
}

void ref_stat_cos(struct dev *d, mat acc, mat a, mat b)
{
	(void)d;
	for (int64_t n = 0; n < a.rows; n++) {
		double aa = 0, bb = 0, ab = 0;
		for (int64_t c = 0; c < a.cols; c++) {
			double x = ld(a, n * a.cols + c), y = ld(b, n * a.cols + c);
			aa += x * x;
			bb += y * y;
			ab += x * y;
		}
		st_acc(acc, 0, 1.0 - ab / sqrt(fmax(aa, 1e-16) * fmax(bb, 1e-16)), 1);
	}
	st_acc(acc, 1, (double)a.rows, 1);
}
