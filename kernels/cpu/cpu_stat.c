/*
 * cpu_stat.c - statistics of importance, the losses on hidden states, and sums of squares: all f64 sums
 *
 * See ref_stat.c and ref_loss.c for the equations.  Sums over rows are kept per row block (or per unit) and added in
 * order, so they do not depend on which thread did what.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include <math.h>
#include <omp.h>
#include <string.h>

/* The seven sums of one unit from its moments over T rows */
static void add_unit(mat acc, int64_t u, double sum, double abs, double sq, double var, double T)
{
	double *a = acc.p, m = abs / T, v = var / T;
	const double row[STAT_ROWS] = { sum, m, m * m, sqrt(sq), sq, v, v * v };
	for (int r = 0; r < STAT_ROWS; r++)
		a[r * acc.cols + u] += row[r];
}

/* Row blocks of a sample: short enough to be shared, and for f32 sums about a value of their own */
enum { TALL = 512 };

/*
 * Moments of rows x [n, C], columns [c, c+w), into to[0..3]: sums of x, |x|, x^2 and (x - mean)^2.
 * With d = x - k for a k near the mean (that of some rows), S = sum d:
 *   sum x = S + n k     sum (x - mean)^2 = sum d^2 - S^2 / n
 */
static void tile_moments(const struct dev *d, double *const to[4], mat x, int64_t r, int64_t n, int64_t c, int64_t w)
{
	enum { SOME = 8 };
	float about[MOMENTS] = { 0 };
	int64_t some = n < SOME ? n : SOME, apart = n / some;
	for (int m = 0; m < 4; m++)
		memset(to[m], 0, (size_t)w * sizeof *to[m]);
	d->simd->moments(to, about, elem_at(x, (r + apart / 2) * x.cols + c), x.dtype, apart * x.cols, some, w);
	for (int64_t i = 0; i < w; i++)
		about[i] = (float)(to[0][i] / (double)some);
	for (int m = 0; m < 4; m++)
		memset(to[m], 0, (size_t)w * sizeof *to[m]);
	d->simd->moments(to, about, elem_at(x, r * x.cols + c), x.dtype, x.cols, n, w);
	for (int64_t i = 0; i < w; i++) {
		double S = to[0][i];
		to[0][i] = S + (double)n * (double)about[i];
		to[3][i] = fmax(to[3][i] - S * S / (double)n, 0);
	}
}

/* Column u of a sample from those of its blocks, part [blocks,4,C]; (x - mean)^2 of two parts together is their sum and
 * what the distance of their means adds */
static void add_blocks(mat acc, const double *part, int blocks, int64_t T, int64_t u)
{
	double sum = 0, abs = 0, sq = 0, var = 0;
	for (int b = 0; b < blocks; b++, part += 4 * acc.cols) {
		double from = (double)block_start(T, blocks, b), n = (double)block_start(T, blocks, b + 1) - from;
		if (b) {
			double apart = part[u] * (1 / n) - sum * (1 / from);
			var += apart * apart * (from * n / (from + n));
		}
		var += part[3 * acc.cols + u];
		sum += part[u];
		abs += part[acc.cols + u];
		sq += part[2 * acc.cols + u];
	}
	add_unit(acc, u, sum, abs, sq, var, (double)T);
}

/* Units of one column */
static void column_stat(struct dev *d, mat acc, mat x, int64_t T)
{
	int64_t C = x.cols, wide = (C + MOMENTS - 1) / MOMENTS, samples = x.rows / T;
	int blocks = (int)((T + TALL - 1) / TALL);
	double *part = scratch(d, S_PART, (size_t)(samples * blocks * 4 * C) * sizeof *part);
	if (d->planning)
		return;
#pragma omp parallel num_threads(d->threads)
	{
#pragma omp for schedule(dynamic)
		for (int64_t i = 0; i < samples * blocks * wide; i++) {
			int64_t k = i / wide, b = k % blocks, r = block_start(T, blocks, (int)b), n = block_start(T, blocks, (int)b + 1) - r;
			int64_t c = C * (i % wide) / wide, w = C * (i % wide + 1) / wide - c;
			double *at = part + k * 4 * C + c, *const to[4] = { at, at + C, at + 2 * C, at + 3 * C };
			tile_moments(d, to, x, k / blocks * T + r, n, c, w);
		}
#pragma omp for schedule(static)
		for (int64_t u = 0; u < C; u++)
			for (int64_t s = 0; s < samples; s++)
				add_blocks(acc, part + s * blocks * 4 * C, blocks, T, u);
	}
}

/* The seven sums of one sample's T values, which are norms */
static void add_norms(mat acc, int64_t u, const double *a, int64_t T)
{
	double sum = 0, sq = 0, var = 0;
	for (int64_t t = 0; t < T; t++) {
		sum += a[t];
		sq += a[t] * a[t];
	}
	for (int64_t t = 0; t < T; t++)
		var += (a[t] - sum / (double)T) * (a[t] - sum / (double)T);
	add_unit(acc, u, sum, sum, sq, var, (double)T);
}

/* Units of several columns: a [U,N] is the norm of each unit's part of each row */
static void unit_stat(struct dev *d, mat acc, mat x, int64_t T, int unit)
{
	int64_t U = x.cols / unit, N = x.rows;
	double *a = scratch(d, S_PART, (size_t)(U * N) * sizeof *a);
	if (d->planning)
		return;
#pragma omp parallel num_threads(d->threads)
	{
#pragma omp for schedule(static)
		for (int64_t n = 0; n < N; n++)
			for (int64_t u = 0; u < U; u++)
				a[u * N + n] = sqrt(d->simd->sumsq(elem_at(x, n * x.cols + u * unit), x.dtype, unit));
#pragma omp for schedule(static)
		for (int64_t u = 0; u < U; u++)
			for (int64_t s = 0; s < N / T; s++)
				add_norms(acc, u, a + u * N + s * T, T);
	}
}

void cpu_stat_width(struct dev *d, mat acc, mat x, int64_t T, int unit)
{
	if (unit == 1)
		column_stat(d, acc, x, T);
	else
		unit_stat(d, acc, x, T, unit);
}

/* A few rows at a time: what unit u adds to them is a product over its columns, where they lie */
void cpu_stat_contrib(struct dev *d, mat acc, mat x, mat W, mat z, int64_t T)
{
	enum { ROWS = 512 };
	int64_t unit = x.cols / acc.cols, O = W.rows;
	float *y = scratch(d, S_CONTRIB, (size_t)((x.rows < ROWS ? x.rows : ROWS) * O) * sizeof *y);
	double *a = scratch(d, S_PART, (size_t)x.rows * sizeof *a);
	for (int64_t u = 0; u < acc.cols; u++) {
		for (int64_t n0 = 0; n0 < x.rows; n0 += ROWS) {
			int64_t n = x.rows - n0 < ROWS ? x.rows - n0 : ROWS;
			struct product q = { .M = n, .N = O, .K = unit, .C = y, .ldc = O, .c_dtype = DT_F32,
					     .A = { elem_at(x, n0 * x.cols + u * unit), x.dtype, 0, x.cols },
					     .B = { elem_at(W, u * unit), W.dtype, 1, W.cols } };
			gemm(d, &q);
#pragma omp parallel for num_threads(d->threads) schedule(static)
			for (int64_t i = 0; i < n; i++) {
				if (z.p)
					d->simd->mul(y + i * O, DT_F32, y + i * O, DT_F32, z.p, O);
				a[n0 + i] = sqrt(d->simd->sumsq(y + i * O, DT_F32, O));
			}
		}
		for (int64_t s = 0; s < x.rows / T; s++)
			add_norms(acc, u, a + s * T, T);
	}
}

static double cosine(const double q[3])
{
	return q[2] / sqrt(fmax(q[0], 1e-16) * fmax(q[1], 1e-16));
}

static double total(const double *part, int n)
{
	double s = 0;
	for (int i = 0; i < n; i++)
		s += part[i];
	return s;
}

void cpu_stat_cos(struct dev *d, mat acc, mat a, mat b)
{
	int nb = row_blocks(a.rows);
	double part[MAX_BLOCKS] = { 0 };
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (int k = 0; k < nb; k++)
		for (int64_t n = block_start(a.rows, nb, k); n < block_start(a.rows, nb, k + 1); n++) {
			double q[3];
			d->simd->dot3(q, row_at(a, n), a.dtype, row_at(b, n), b.dtype, a.cols);
			part[k] += 1.0 - cosine(q);
		}
	((double *)acc.p)[0] += total(part, nb);
	((double *)acc.p)[1] += (double)a.rows;
}

/* Whether row n counts for nothing; its gradient then is 0 */
static int masked(mat da, mat label, int64_t n, int acc)
{
	if (!label.p || ((const int32_t *)label.p)[n] >= 0)
		return 0;
	if (da.p && !acc)
		memset(row_at(da, n), 0, (size_t)da.cols * dtype_size(da.dtype));
	return 1;
}

void cpu_mse(struct dev *d, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc)
{
	(void)live;
	int nb = row_blocks(a.rows);
	double part[MAX_BLOCKS] = { 0 };
	float k2 = (float)(2.0 * (double)coef / (double)a.cols);
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (int k = 0; k < nb; k++)
		for (int64_t n = block_start(a.rows, nb, k); n < block_start(a.rows, nb, k + 1); n++) {
			if (masked(da, label, n, acc))
				continue;
			part[k] += d->simd->sqdiff(row_at(a, n), a.dtype, row_at(b, n), b.dtype, a.cols) / (double)a.cols;
			if (da.p)
				d->simd->lincomb(row_at(da, n), da.dtype, acc, row_at(a, n), a.dtype, k2, row_at(b, n),
						 b.dtype, -k2, a.cols);
		}
	((double *)sums.p)[0] += total(part, nb);
}

void cpu_cosine(struct dev *d, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc)
{
	(void)live;
	int nb = row_blocks(a.rows);
	double part[MAX_BLOCKS] = { 0 };
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (int k = 0; k < nb; k++)
		for (int64_t n = block_start(a.rows, nb, k); n < block_start(a.rows, nb, k + 1); n++) {
			if (masked(da, label, n, acc))
				continue;
			double q[3];
			d->simd->dot3(q, row_at(a, n), a.dtype, row_at(b, n), b.dtype, a.cols);
			double cs = cosine(q), r = 1.0 / sqrt(fmax(q[0], 1e-16) * fmax(q[1], 1e-16));
			double drop = q[0] > 1e-16 ? cs / q[0] : 0.0; /* a clamped norm is a constant */
			part[k] += 1.0 - cs;
			if (da.p)
				d->simd->lincomb(row_at(da, n), da.dtype, acc, row_at(a, n), a.dtype,
						 (float)((double)coef * drop), row_at(b, n), b.dtype,
						 (float)(-(double)coef * r), a.cols);
		}
	((double *)sums.p)[0] += total(part, nb);
}

void cpu_sumsq(struct dev *d, mat out, mat x)
{
	enum { PIECE = 1 << 16 };
	int64_t n = x.rows * x.cols, np = (n + PIECE - 1) / PIECE;
	double *part = scratch(d, S_PART, (size_t)(np + 1) * sizeof *part), s = 0;
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (int64_t p = 0; p < np; p++)
		part[p] = d->simd->sumsq(elem_at(x, p * PIECE), x.dtype, n - p * PIECE < PIECE ? n - p * PIECE : PIECE);
	for (int64_t p = 0; p < np; p++)
		s += part[p];
	*(double *)out.p += s;
}

void cpu_guard(struct dev *d, struct step_now *now, mat sums, uint32_t which)
{
	(void)d;
	step_settle(now, sums.p, sums.cols, which);
}

/* Elements [i, i+n) with bf16 moments, through f32 copies */
static void adamw_low(struct dev *d, mat w, mat m, mat v, mat g, mat wb, const struct adamw_args *a, const float c[2],
		      int64_t i, int64_t n)
{
	enum { FEW = 2048 };
	float x[FEW], y[FEW];
	for (int64_t end = i + n, k; i < end; i += k) {
		uint16_t *mi = (uint16_t *)m.p + i, *vi = (uint16_t *)v.p + i;
		k = end - i < FEW ? end - i : FEW;
		d->simd->cvt(x, DT_F32, mi, DT_BF16, 1.0f, k);
		d->simd->cvt(y, DT_F32, vi, DT_BF16, 1.0f, k);
		d->simd->adamw((float *)w.p + i, x, y, (const float *)g.p + i, wb.p ? (uint16_t *)wb.p + i : NULL, a, c[0], c[1], k);
		if (!a->key) {
			d->simd->cvt(mi, DT_BF16, x, DT_F32, 1.0f, k);
			d->simd->cvt(vi, DT_BF16, y, DT_F32, 1.0f, k);
			continue;
		}
		for (int64_t j = 0; j < k; j++) {
			uint32_t r = rounding_bits(a->key, (uint64_t)(a->first + i + j));
			mi[j] = f32_to_bf16_random(x[j], r);
			vi[j] = f32_to_bf16_random(y[j], r >> 16);
		}
	}
}

/* See ref_optim.c; one pass over the five arrays */
void cpu_adamw(struct dev *d, mat w, mat m, mat v, mat g, mat wb, mat ema, const struct adamw_args *args)
{
	enum { PIECE = 1 << 15 };
	struct adamw_args now = *args, *a = &now;
	if (a->live && a->live->skip)
		return;
	if (a->live)
		now.grad_scale = a->live->scale;
	int64_t all = w.rows * w.cols;
	const float c[2] = { (float)(1.0 / (1.0 - pow((double)a->beta1, (double)a->step))),
			     (float)(1.0 / (1.0 - pow((double)a->beta2, (double)a->step))) };
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (int64_t i = 0; i < all; i += PIECE) {
		int64_t n = all - i < PIECE ? all - i : PIECE;
		float *e = ema.p ? (float *)ema.p + i : NULL, *wi = (float *)w.p + i;
		if (m.dtype == DT_BF16)
			adamw_low(d, w, m, v, g, wb, a, c, i, n);
		else
			d->simd->adamw(wi, (float *)m.p + i, (float *)v.p + i, (const float *)g.p + i,
				       wb.p ? (uint16_t *)wb.p + i : NULL, a, c[0], c[1], n);
		if (ema.p)
			d->simd->lincomb(e, DT_F32, 0, e, DT_F32, a->ema, wi, DT_F32, 1.0f - a->ema, n);
	}
}
