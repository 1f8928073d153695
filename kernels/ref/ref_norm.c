/*
 * ref_norm.c - RMSNorm and LayerNorm1p with an optional hidden mask
 *
 *   RMS      y = x rstd w z                  rstd = 1/sqrt(mean x^2 + eps)
 *   LAYER1P  y = ((x - mean) rstd (1+w) + b) z
 *
 * With a mask the means run over S = {c : z[c] != 0} and divide by |S|: the norm of the trimmed model.  Backward, with
 * h = (x-mean) rstd and e = dy z w (or 1+w):  dx = rstd (e - [mean e] - h mean(e h)) on S and nothing outside.
 * stat row = mean (0 for RMS), rstd.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ref.h"
#include <math.h>

static double mask_at(mat z, int64_t c)
{
	return z.p ? ld(z, c) : 1.0;
}

static double width_of(mat z, int64_t C)
{
	double n = 0;
	for (int64_t c = 0; c < C; c++)
		n += mask_at(z, c) != 0.0;
	return n > 0 ? n : 1;
}

static double gain(mat w, int64_t c, int kind)
{
	return ld(w, c) + (kind == NORM_LAYER1P ? 1.0 : 0.0);
}

void ref_norm(struct dev *d, mat y, mat stat, mat x, mat w, mat b, mat z, int kind, float eps)
{
	(void)d;
	int64_t C = x.cols;
	double width = width_of(z, C);
	for (int64_t n = 0; n < x.rows; n++) {
		double mean = 0, var = 0;
		if (kind == NORM_LAYER1P)
			for (int64_t c = 0; c < C; c++)
				if (mask_at(z, c) != 0.0)
					mean += ld(x, n * C + c) / width;
		for (int64_t c = 0; c < C; c++) {
			double t = ld(x, n * C + c) - mean;
			if (mask_at(z, c) != 0.0)
				var += t * t / width;
		}
		double rstd = 1.0 / sqrt(var + (double)eps);
		for (int64_t c = 0; c < C; c++) {
			double v = (ld(x, n * C + c) - mean) * rstd * gain(w, c, kind);
			if (b.p)
				v += ld(b, c);
			double m = mask_at(z, c);
			st(y, n * C + c, m != 0.0 ? v * m : 0.0);
		}
		if (stat.p) {
			st(stat, 2 * n, mean);
			st(stat, 2 * n + 1, rstd);
		}
	}
}

void ref_norm_bwd(struct dev *d, mat dx, mat dw, mat db, mat dy, mat x, mat w, mat stat, mat z, int kind, int acc)
{
	(void)d;
	int64_t C = x.cols;
	double width = width_of(z, C), *sw = ref_tmp(C), *sb = ref_tmp(C);
	for (int64_t n = 0; n < x.rows; n++) {
		double mean = ld(stat, 2 * n), rstd = ld(stat, 2 * n + 1), me = 0, meh = 0;
		for (int64_t c = 0; c < C; c++) {
			double m = mask_at(z, c), g = m != 0.0 ? ld(dy, n * C + c) * m : 0.0;
			double h = (ld(x, n * C + c) - mean) * rstd, e = g * gain(w, c, kind);
			me += e / width;
			meh += e * h / width;
			sb[c] += g;
			sw[c] += m != 0.0 ? g * h : 0.0;
		}
		if (kind == NORM_RMS)
			me = 0;
		for (int64_t c = 0; dx.p && c < C; c++) {
			double m = mask_at(z, c), h = (ld(x, n * C + c) - mean) * rstd;
			double v = m != 0.0 ? rstd * (ld(dy, n * C + c) * m * gain(w, c, kind) - me - h * meh) : 0.0;
			st_acc(dx, n * C + c, v, acc);
		}
	}
	for (int64_t c = 0; c < C; c++) {
		if (dw.p)
			st_acc(dw, c, sw[c], 1);
		if (db.p)
			st_acc(db, c, sb[c], 1);
	}
	free(sw);
	free(sb);
}
