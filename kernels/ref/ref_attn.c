/*
 * ref_attn.c - causal grouped-query attention with rotary positions, forward and backward
 *
 *   q', k' = rope(q), rope(k);   s_ij = scale q'_i . k'_j  (start_i <= j <= i, j > i - window);   p = softmax_j(s)
 *   o_i = sum_j p_ij v_j         lse_i = log sum_j exp s_ij
 * Backward from lse:  p_ij = exp(s_ij - lse_i);  dv_j += p_ij do_i;  ds_ij = p_ij (do_i . v_j - do_i . o_i);
 *   dq'_i += scale ds_ij k'_j;  dk'_j += scale ds_ij q'_i;  then dq, dk by the inverse rotation.
 * With documents (start) positions count from the first row that is seen.  One row of scores at a time; the rotated copy of qkv is kept in double.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ref.h"
#include <math.h>

/* Rotate the first rot dimensions of every q and k head of a [N, W] row in place; sign -1 is the inverse. */
static void rotate(double *row, mat rope, int64_t t, const struct attn_geom *g, double sign)
{
	int half = g->rot / 2;
	for (int h = 0; h < g->H + g->G; h++)
		for (int i = 0; i < half; i++) {
			double c = ld(rope, t * g->rot + i), s = sign * ld(rope, t * g->rot + half + i);
			double *a = row + h * g->D + i, *b = a + half, x = *a, y = *b;
			*a = x * c - y * s;
			*b = y * c + x * s;
		}
}

static int64_t start_of(mat start, int64_t n)
{
	return start.p ? ((const int32_t *)start.p)[n] : 0;
}

static double *rotated(mat qkv, mat rope, mat start, const struct attn_geom *g)
{
	int64_t W = qkv.cols;
	double *r = ref_tmp(qkv.rows * W);
	for (int64_t n = 0; n < qkv.rows; n++) {
		for (int64_t c = 0; c < W; c++)
			r[n * W + c] = ld(qkv, n * W + c);
		rotate(r + n * W, rope, n % g->T - start_of(start, n), g, 1.0);
	}
	return r;
}

static double dot(const double *a, const double *b, int n)
{
	double s = 0;
	for (int i = 0; i < n; i++)
		s += a[i] * b[i];
	return s;
}

/* Position i of a document that begins at position `first` */
static int64_t first_key(int64_t i, int64_t first, const struct attn_geom *g)
{
	return g->window > 0 && i - first >= g->window ? i - g->window + 1 : first;
}

void ref_attn(struct dev *d, mat o, mat lse, mat qkv, mat rope, mat start, const struct attn_geom *g)
{
	(void)d;
	int64_t W = qkv.cols, T = g->T;
	double *r = rotated(qkv, rope, start, g), *p = ref_tmp(T);
	for (int64_t n = 0; n < g->B * T; n++)
		for (int h = 0; h < g->H; h++) {
			int64_t i = n % T, j0 = first_key(i, start_of(start, n), g), row0 = n - i;
			int kv = h / (g->H / g->G);
			const double *q = r + n * W + h * g->D, *k = r + row0 * W + (g->H + kv) * g->D;
			const double *v = k + g->G * g->D;
			double top = -INFINITY, sum = 0;
			for (int64_t j = j0; j <= i; j++) {
				p[j] = (double)g->scale * dot(q, k + j * W, g->D);
				top = p[j] > top ? p[j] : top;
			}
			for (int64_t j = j0; j <= i; j++)
				sum += p[j] = exp(p[j] - top);
			for (int c = 0; c < g->D; c++) {
				double s = 0;
				for (int64_t j = j0; j <= i; j++)
					s += p[j] * v[j * W + c];
				st(o, n * o.cols + h * g->D + c, s / sum);
			}
			if (lse.p)
				st(lse, n * g->H + h, top + log(sum));
		}
	free(p);
	free(r);
}

/* One query row of one head: adds to dq (row n), dk and dv (rows j) of dr, all in the rotated frame. */
static void bwd_row(double *dr, const double *r, mat dout, mat o, mat lse, mat start, int64_t n, int h,
		    const struct attn_geom *g)
{
	int64_t W = (g->H + 2 * g->G) * (int64_t)g->D, T = g->T, i = n % T, row0 = n - i;
	int kv = h / (g->H / g->G), D = g->D;
	int64_t qo = n * W + h * D, ko = row0 * W + (g->H + kv) * D, vo = ko + g->G * D, oo = n * o.cols + h * D;
	double delta = 0, l = ld(lse, n * g->H + h);
	for (int c = 0; c < D; c++)
		delta += ld(dout, oo + c) * ld(o, oo + c);
	for (int64_t j = first_key(i, start_of(start, n), g); j <= i; j++) {
		double p = exp((double)g->scale * dot(r + qo, r + ko + j * W, D) - l), dp = 0;
		for (int c = 0; c < D; c++)
			dp += ld(dout, oo + c) * r[vo + j * W + c];
		double ds = (double)g->scale * p * (dp - delta);
		for (int c = 0; c < D; c++) {
			dr[vo + j * W + c] += p * ld(dout, oo + c);
			dr[qo + c] += ds * r[ko + j * W + c];
			dr[ko + j * W + c] += ds * r[qo + c];
		}
	}
}

void ref_attn_bwd(struct dev *d, mat dqkv, mat dout, mat o, mat lse, mat qkv, mat rope, mat start,
		  const struct attn_geom *g)
{
	(void)d;
	int64_t W = qkv.cols;
	double *r = rotated(qkv, rope, start, g), *dr = ref_tmp(qkv.rows * W);
	for (int64_t n = 0; n < g->B * g->T; n++)
		for (int h = 0; h < g->H; h++)
			bwd_row(dr, r, dout, o, lse, start, n, h, g);
	for (int64_t n = 0; n < g->B * g->T; n++) {
		rotate(dr + n * W, rope, n % g->T - start_of(start, n), g, -1.0);
		for (int64_t c = 0; c < W; c++)
			st(dqkv, n * W + c, dr[n * W + c]);
	}
	free(dr);
	free(r);
}

void ref_attn_tree(struct dev *d, mat o, mat qkv, mat past, mat rope, mat node, const struct attn_geom *g)
{
	(void)d;
	int64_t W = qkv.cols, P = past.rows, N = P + qkv.rows;
	double *r = ref_tmp(N * W), *p = ref_tmp(N);
	for (int64_t n = 0; n < N; n++) {
		for (int64_t c = 0; c < W; c++)
			r[n * W + c] = n < P ? ld(past, n * W + c) : ld(qkv, (n - P) * W + c);
		rotate(r + n * W, rope, ref_int(node, 2 * n), g, 1.0);
	}
	for (int64_t n = P; n < N; n++)
		for (int h = 0; h < g->H; h++) {
			const double *q = r + n * W + h * g->D, *k = r + (g->H + h / (g->H / g->G)) * g->D;
			const double *v = k + g->G * g->D;
			double top = -INFINITY, sum = 0;
			for (int64_t j = 0; j <= n; j++) {
				int64_t far = ref_int(node, 2 * n) - ref_int(node, 2 * j);
				int seen = n < ref_int(node, 2 * j + 1) && (g->window <= 0 || far < g->window);
				p[j] = seen ? (double)g->scale * dot(q, k + j * W, g->D) : -INFINITY;
				top = p[j] > top ? p[j] : top;
			}
			for (int64_t j = 0; j <= n; j++)
				sum += p[j] = exp(p[j] - top);
			for (int c = 0; c < g->D; c++) {
				double s = 0;
				for (int64_t j = 0; j <= n; j++)
					s += p[j] * v[j * W + c];
				st(o, (n - P) * o.cols + h * g->D + c, s / sum);
			}
		}
	free(p);
	free(r);
}

/* A slot of the cache: keys [T, G*D], rotated, then values [T, G*D]. */
void ref_attn_kv(struct dev *d, mat o, mat kv, mat qkv, mat rope, mat at, const struct attn_geom *g)
{
	(void)d;
	int64_t W = qkv.cols, GD = (int64_t)g->G * g->D, HD = (int64_t)g->H * g->D;
	double *r = ref_tmp(qkv.rows * W), *p = ref_tmp(g->T);
	for (int64_t n = 0; n < qkv.rows; n++) {
		int64_t slot = ref_int(at, 2 * n), t = ref_int(at, 2 * n + 1);
		for (int64_t c = 0; c < W; c++)
			r[n * W + c] = ld(qkv, n * W + c);
		if (slot < 0)
			continue;
		rotate(r + n * W, rope, t, g, 1.0);
		for (int64_t c = 0; c < 2 * GD; c++)
			st(kv, slot * kv.cols + (c / GD * g->T + t) * GD + c % GD, r[n * W + HD + c]);
	}
	for (int64_t n = 0; n < qkv.rows; n++)
		for (int h = 0; h < g->H; h++) {
			int64_t slot = ref_int(at, 2 * n), i = ref_int(at, 2 * n + 1), j0 = first_key(i, 0, g);
			int64_t k = slot * kv.cols + h / (g->H / g->G) * g->D, v = k + g->T * GD;
			double top = -INFINITY, sum = 0;
			for (int64_t j = j0; slot >= 0 && j <= i; j++) {
				p[j] = 0;
				for (int c = 0; c < g->D; c++)
					p[j] += r[n * W + h * g->D + c] * ld(kv, k + j * GD + c);
				p[j] *= (double)g->scale;
				top = p[j] > top ? p[j] : top;
			}
			for (int64_t j = j0; slot >= 0 && j <= i; j++)
				sum += p[j] = exp(p[j] - top);
			for (int c = 0; c < g->D; c++) {
				double s = 0;
				for (int64_t j = j0; slot >= 0 && j <= i; j++)
					s += p[j] / sum * ld(kv, v + j * GD + c);
				st(o, n * o.cols + h * g->D + c, s);
			}
		}
	free(p);
	free(r);
}
