/*
 * ref_norm.c - RMSNorm and LayerNorm1p with an optional hidden mask
 *
 *   RMS      y = x rstd w z                  rstd = 1/sqrt(mean x^2 + eps)
 *   LAYER1P  y = ((x - mean) rstd (1+w) + b) z
 *   RMS1P    y = x rstd (1+w) z
 *
 * With a mask the means run over S = {c : z[c] != 0} and divide by |S|: the norm of the trimmed model.  Backward, with
 * h = (x-mean) rstd and e = dy z w (or 1+w):  dx = rstd (e - [mean e] - h mean(e h)) on S and nothing outside.
 * stat row = mean (0 for RMS), rstd.  qknorm is the same over each head of q and k, without a mask.
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
	return ld(w, c) + (kind == NORM_RMS ? 0.0 : 1.0);
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
		if (kind != NORM_LAYER1P)
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

void ref_qknorm(struct dev *d, mat y, mat stat, mat x, mat wq, mat wk, const struct attn_geom *g, int kind, float eps)
{
	(void)d;
	int64_t W = x.cols, D = g->D, heads = g->H + g->G;
	for (int64_t n = 0; n < x.rows; n++) {
		for (int64_t h = 0; h < heads; h++) {
			int64_t at = n * W + h * D;
			double sq = 0;
			for (int64_t c = 0; c < D; c++)
				sq += ld(x, at + c) * ld(x, at + c);
			double rstd = 1.0 / sqrt(sq / (double)D + (double)eps);
			for (int64_t c = 0; c < D; c++)
				st(y, at + c, ld(x, at + c) * rstd * gain(h < g->H ? wq : wk, c, kind));
			st(stat, 2 * (n * heads + h), 0);
			st(stat, 2 * (n * heads + h) + 1, rstd);
		}
		for (int64_t c = heads * D; c < W; c++)
			st(y, n * W + c, ld(x, n * W + c));
	}
}

void ref_qknorm_bwd(struct dev *d, mat dx, mat dwq, mat dwk, mat dy, mat x, mat wq, mat wk, mat stat,
		    const struct attn_geom *g, int kind)
{
	(void)d;
	int64_t W = x.cols, D = g->D, heads = g->H + g->G;
	double *sw = ref_tmp(2 * D);
	for (int64_t n = 0; n < x.rows; n++) {
		for (int64_t h = 0; h < heads; h++) {
			int64_t at = n * W + h * D;
			double rstd = ld(stat, 2 * (n * heads + h) + 1), meh = 0, *s = sw + (h < g->H ? 0 : D);
			mat w = h < g->H ? wq : wk;
			for (int64_t c = 0; c < D; c++) {
				double xh = ld(x, at + c) * rstd;
				meh += ld(dy, at + c) * gain(w, c, kind) * xh / (double)D;
				s[c] += ld(dy, at + c) * xh;
			}
			for (int64_t c = 0; c < D; c++)
				st(dx, at + c, rstd * (ld(dy, at + c) * gain(w, c, kind) - ld(x, at + c) * rstd * meh));
		}
		for (int64_t c = heads * D; c < W; c++)
			st(dx, n * W + c, ld(dy, n * W + c));
	}
	for (int64_t c = 0; c < D; c++) {
		if (dwq.p)
			st_acc(dwq, c, sw[c], 1);
		if (dwk.p)
			st_acc(dwk, c, sw[D + c], 1);
	}
	free(sw);
}
