/*
 * cpu_rows.c - the ops that go row by row: embed, norm, act, add, copy, scale, zero, mask
 *
 * Rows are independent, so they are handed out in small blocks to whoever is free; sums over rows (weight gradients)
 * are kept per row block and added up in the order of the blocks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include <string.h>

enum { SMALL = 1 << 14, PIECE = 1 << 15 }; /* elements: below SMALL one thread; flat arrays go in pieces */
#define PRAGMA(x) _Pragma(#x)
#define ROWS(d, n, work) \
	PRAGMA(omp parallel for num_threads((d)->threads) schedule(dynamic, 16) if ((work) > SMALL)) \
	for (int64_t n = 0; n < rows; n++)

void cpu_embed(struct dev *d, mat y, mat tok, mat W, float scale)
{
	const int32_t *t = tok.p;
	int64_t rows = y.rows;
	ROWS(d, n, rows * y.cols)
		if (t[n] >= 0)
			d->simd->cvt(row_at(y, n), y.dtype, row_at(W, t[n]), W.dtype, scale, y.cols);
		else
			memset(row_at(y, n), 0, (size_t)y.cols * dtype_size(y.dtype));
}

/* Each thread owns columns, so that rows add up in their own order */
void cpu_embed_dw(struct dev *d, mat dW, mat tok, mat dy, float scale)
{
	enum { SLICE = 64 };
	const int32_t *t = tok.p;
	int64_t C = dy.cols;
#pragma omp parallel for num_threads(d->threads) schedule(dynamic) if (dy.rows * C > SMALL)
	for (int64_t c = 0; c < C; c += SLICE)
		for (int64_t n = 0; n < dy.rows; n++)
			if (t[n] >= 0)
				d->simd->axpy((float *)dW.p + t[n] * C + c, elem_at(dy, n * C + c), dy.dtype, scale,
					      C - c < SLICE ? C - c : SLICE);
}

static float get(mat a, int64_t i)
{
	return a.dtype == DT_BF16 ? bf16_to_f32(((const uint16_t *)a.p)[i]) : ((const float *)a.p)[i];
}

/* Gain, bias and mask of one call as f32 vectors in tmp [3,C] */
static struct norm_row norm_fill(float *tmp, int64_t C, mat w, mat b, mat z, int kind, float eps)
{
	float *gain = tmp, *bias = gain + C, *ind = bias + C;
	struct norm_row r = { .gain = gain, .bias = b.p ? bias : NULL, .ind = z.p ? ind : NULL, .eps = eps, .kind = kind,
			      .C = C };
	for (int64_t c = 0; c < C; c++) {
		float m = z.p ? get(z, c) : 1.0f;
		ind[c] = m != 0.0f;
		gain[c] = (get(w, c) + (kind == NORM_RMS ? 0.0f : 1.0f)) * m;
		bias[c] = b.p ? get(b, c) * m : 0.0f;
		r.width += ind[c];
	}
	r.width = r.width > 0 ? r.width : 1;
	return r;
}

static struct norm_row norm_setup(struct dev *d, mat x, mat w, mat b, mat z, int kind, float eps)
{
	return norm_fill(scratch(d, S_VEC, (size_t)(3 * x.cols) * sizeof(float)), x.cols, w, b, z, kind, eps);
}

void cpu_norm(struct dev *d, mat y, mat stat, mat x, mat w, mat b, mat z, int kind, float eps)
{
	struct norm_row r = norm_setup(d, x, w, b, z, kind, eps);
	int64_t rows = x.rows;
	ROWS(d, n, rows * x.cols) {
		float s[2];
		d->simd->norm(&r, row_at(y, n), y.dtype, s, row_at(x, n), x.dtype);
		if (stat.p)
			memcpy((float *)stat.p + 2 * n, s, sizeof s);
	}
}

void cpu_norm_bwd(struct dev *d, mat dx, mat dw, mat db, mat dy, mat x, mat w, mat stat, mat z, int kind, int acc)
{
	struct norm_row r = norm_setup(d, x, w, (mat){ 0 }, z, kind, 0);
	int64_t C = x.cols;
	int nb = row_blocks(x.rows);
	float *part = scratch(d, S_PART, (size_t)(2 * nb * C) * sizeof *part);
#pragma omp parallel for num_threads(d->threads) schedule(dynamic) if (x.rows * C > SMALL)
	for (int b = 0; b < nb; b++) {
		float *sw = dw.p ? part + 2 * b * C : NULL, *sb = db.p ? part + (2 * b + 1) * C : NULL;
		memset(part + 2 * b * C, 0, (size_t)(2 * C) * sizeof *part);
		for (int64_t n = block_start(x.rows, nb, b); n < block_start(x.rows, nb, b + 1); n++)
			d->simd->norm_bwd(&r, row_at(dx, n), dx.dtype, acc, sw, sb, row_at(dy, n), dy.dtype, row_at(x, n),
					  x.dtype, (const float *)stat.p + 2 * n);
	}
	for (int k = 0; k < 2; k++) {
		float *out = k ? db.p : dw.p;
		for (int b = 1; b < nb && out; b++)
			d->simd->axpy(part + k * C, part + (2 * b + k) * C, DT_F32, 1.0f, C);
		for (int64_t c = 0; c < C && out; c++) {
			float m = z.p ? get(z, c) : 1.0f;
			out[c] += m != 0.0f ? part[k * C + c] * m : 0.0f;
		}
	}
}

/* Rows for q and for k heads */
static void qk_setup(struct dev *d, struct norm_row r[2], mat wq, mat wk, int64_t D, int kind, float eps)
{
	float *tmp = scratch(d, S_VEC, (size_t)(6 * D) * sizeof(float));
	r[0] = norm_fill(tmp, D, wq, (mat){ 0 }, (mat){ 0 }, kind, eps);
	r[1] = norm_fill(tmp + 3 * D, D, wk, (mat){ 0 }, (mat){ 0 }, kind, eps);
}

void cpu_qknorm(struct dev *d, mat y, mat stat, mat x, mat wq, mat wk, const struct attn_geom *g, int kind, float eps)
{
	int64_t rows = x.rows, D = g->D, heads = g->H + g->G, at = heads * D;
	struct norm_row r[2];
	qk_setup(d, r, wq, wk, D, kind, eps);
	ROWS(d, n, rows * x.cols) {
		float *s = (float *)stat.p + 2 * n * heads;
		for (int64_t h = 0; h < heads; h++)
			d->simd->norm(&r[h >= g->H], elem_at(y, n * y.cols + h * D), y.dtype, s + 2 * h,
				      elem_at(x, n * x.cols + h * D), x.dtype);
		d->simd->cvt(elem_at(y, n * y.cols + at), y.dtype, elem_at(x, n * x.cols + at), x.dtype, 1.0f, x.cols - at);
	}
}

void cpu_qknorm_bwd(struct dev *d, mat dx, mat dwq, mat dwk, mat dy, mat x, mat wq, mat wk, mat stat,
		    const struct attn_geom *g, int kind)
{
	int64_t D = g->D, heads = g->H + g->G, at = heads * D;
	int nb = row_blocks(x.rows);
	float *part = scratch(d, S_PART, (size_t)(2 * nb * D) * sizeof *part);
	struct norm_row r[2];
	qk_setup(d, r, wq, wk, D, kind, 0);
#pragma omp parallel for num_threads(d->threads) schedule(dynamic) if (x.rows * x.cols > SMALL)
	for (int b = 0; b < nb; b++) {
		float *sw = part + 2 * b * D;
		memset(sw, 0, (size_t)(2 * D) * sizeof *sw);
		for (int64_t n = block_start(x.rows, nb, b); n < block_start(x.rows, nb, b + 1); n++) {
			const float *s = (const float *)stat.p + 2 * n * heads;
			for (int64_t h = 0; h < heads; h++) {
				int k = h >= g->H;
				int64_t i = n * x.cols + h * D;
				d->simd->norm_bwd(&r[k], elem_at(dx, i), dx.dtype, 0, sw + k * D, NULL, elem_at(dy, i), dy.dtype,
						  elem_at(x, i), x.dtype, s + 2 * h);
			}
			d->simd->cvt(elem_at(dx, n * x.cols + at), dx.dtype, elem_at(dy, n * x.cols + at), dy.dtype, 1.0f,
				     x.cols - at);
		}
	}
	for (int b = 0; b < nb; b++) {
		if (dwq.p)
			d->simd->axpy(dwq.p, part + 2 * b * D, DT_F32, 1.0f, D);
		if (dwk.p)
			d->simd->axpy(dwk.p, part + (2 * b + 1) * D, DT_F32, 1.0f, D);
	}
}

void cpu_act(struct dev *d, mat y, mat x, int kind)
{
	int64_t rows = y.rows;
	ROWS(d, n, rows * y.cols)
		d->simd->act(row_at(y, n), y.dtype, row_at(x, n), x.dtype, kind, y.cols);
}

void cpu_act_dx(struct dev *d, mat dx, mat dy, mat x, int kind)
{
	int64_t rows = dy.rows;
	ROWS(d, n, rows * dy.cols)
		d->simd->act_dx(row_at(dx, n), dx.dtype, row_at(dy, n), dy.dtype, row_at(x, n), x.dtype, kind, dy.cols);
}

/* ---- flat arrays, by pieces ---- */

static int64_t pieces(mat y)
{
	return (y.rows * y.cols + PIECE - 1) / PIECE;
}

static int64_t piece_len(mat y, int64_t n)
{
	int64_t left = y.rows * y.cols - n * PIECE;
	return left < PIECE ? left : PIECE;
}

void cpu_add(struct dev *d, mat y, mat a, mat b)
{
#pragma omp parallel for num_threads(d->threads) schedule(dynamic) if (pieces(y) > 1)
	for (int64_t n = 0; n < pieces(y); n++)
		d->simd->lincomb(elem_at(y, n * PIECE), y.dtype, 0, elem_at(a, n * PIECE), a.dtype, 1.0f,
				 elem_at(b, n * PIECE), b.dtype, 1.0f, piece_len(y, n));
}

void cpu_scale(struct dev *d, mat y, mat x, float c)
{
	if (y.p == x.p && y.dtype == x.dtype && c == 1.0f)
		return;
#pragma omp parallel for num_threads(d->threads) schedule(dynamic) if (pieces(y) > 1)
	for (int64_t n = 0; n < pieces(y); n++)
		d->simd->cvt(elem_at(y, n * PIECE), y.dtype, elem_at(x, n * PIECE), x.dtype, c, piece_len(y, n));
}

/* Integers and f64 are only ever copied to their own kind; anything else element by element */
void cpu_copy(struct dev *d, mat y, mat x)
{
	int64_t n = y.rows * y.cols;
	if (y.dtype <= DT_BF16 && x.dtype <= DT_BF16)
		cpu_scale(d, y, x, 1.0f);
	else if (y.dtype == x.dtype)
		memmove(y.p, x.p, (size_t)n * dtype_size(y.dtype));
	else
		for (int64_t i = 0; i < n; i++) {
			double v = x.dtype == DT_F64 ? ((const double *)x.p)[i]
				 : x.dtype == DT_I32 ? (double)((const int32_t *)x.p)[i] : (double)get(x, i);
			if (y.dtype == DT_F64)
				((double *)y.p)[i] = v;
			else if (y.dtype == DT_I32)
				((int32_t *)y.p)[i] = (int32_t)v;
			else if (y.dtype == DT_BF16)
				((uint16_t *)y.p)[i] = f32_to_bf16((float)v);
			else
				((float *)y.p)[i] = (float)v;
		}
}

void cpu_zero(struct dev *d, mat y)
{
	size_t e = dtype_size(y.dtype);
#pragma omp parallel for num_threads(d->threads) schedule(static) if (pieces(y) > 8)
	for (int64_t n = 0; n < pieces(y); n++)
		memset(elem_at(y, n * PIECE), 0, (size_t)piece_len(y, n) * e);
}

/* ---- masks ---- */

void cpu_mask(struct dev *d, mat y, mat x, mat z)
{
	int64_t rows = y.rows, C = y.cols, unit = C / z.cols;
	float *wide = scratch(d, S_VEC, (size_t)C * sizeof *wide);
	for (int64_t c = 0; c < C; c++)
		wide[c] = get(z, c / unit);
	ROWS(d, n, rows * C)
		d->simd->mul(row_at(y, n), y.dtype, row_at(x, n), x.dtype, wide, C);
}

void cpu_mask_dz(struct dev *d, mat dz, mat dy, mat x)
{
	int64_t C = dy.cols, unit = C / dz.cols;
	int nb = row_blocks(dy.rows);
	float *part = scratch(d, S_PART, (size_t)(nb * C) * sizeof *part), *out = dz.p;
#pragma omp parallel for num_threads(d->threads) schedule(dynamic) if (dy.rows * C > SMALL)
	for (int b = 0; b < nb; b++) {
		memset(part + b * C, 0, (size_t)C * sizeof *part);
		for (int64_t n = block_start(dy.rows, nb, b); n < block_start(dy.rows, nb, b + 1); n++)
			d->simd->addmul(part + b * C, row_at(dy, n), dy.dtype, row_at(x, n), x.dtype, C);
	}
	for (int64_t u = 0; u < dz.cols; u++) {
		double s = 0;
		for (int b = 0; b < nb; b++)
			for (int64_t c = u * unit; c < (u + 1) * unit; c++)
				s += (double)part[b * C + c];
		out[u] += (float)s;
	}
}
