/*
 * ref_linear.c - y = x W' + bias + res, and both gradients; weights in 8 bits; sums into some of the columns
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ref.h"

static float largest(mat x)
{
	float top = 0;
	for (int64_t i = 0; i < x.rows * x.cols; i++)
		top = fmaxf(top, fabsf((float)ld(x, i)));
	return top;
}

void ref_quantise(struct dev *d, mat Q, mat W)
{
	(void)d;
	struct e4m3_by by = e4m3_factors(largest(W));
	for (int64_t i = 0; i < W.rows * W.cols; i++)
		((uint8_t *)Q.p)[i] = f32_to_e4m3((float)ld(W, i) * by.in);
	*e4m3_scale(Q) = by.out;
}

int ref_e4m3(struct dev *d)
{
	(void)d;
	return 1;
}

/* y = sx sW (x/sx rounded) (W/sW)' + bias + res */
static void linear_e4m3(mat y, mat x, mat W, mat bias, mat res)
{
	int64_t N = x.rows, O = W.rows, I = W.cols;
	struct e4m3_by by = e4m3_factors(largest(x));
	double *q = ref_tmp(N * I), scale = (double)by.out * (double)*e4m3_scale(W);
	for (int64_t i = 0; i < N * I; i++)
		q[i] = (double)e4m3_to_f32(f32_to_e4m3((float)ld(x, i) * by.in));
	for (int64_t n = 0; n < N; n++)
		for (int64_t o = 0; o < O; o++) {
			double s = 0;
			for (int64_t i = 0; i < I; i++)
				s += q[n * I + i] * ld(W, o * I + i);
			st(y, n * O + o, scale * s + (bias.p ? ld(bias, o) : 0.0) + (res.p ? ld(res, n * O + o) : 0.0));
		}
	free(q);
}

/* y [N,O], x [N,I], W [O,I] */
void ref_linear(struct dev *d, mat y, mat x, mat W, mat bias, mat res)
{
	(void)d;
	int64_t O = W.rows, I = W.cols;
	if (W.dtype == DT_E4M3) {
		linear_e4m3(y, x, W, bias, res);
		return;
	}
	for (int64_t n = 0; n < x.rows; n++)
		for (int64_t o = 0; o < O; o++) {
			double s = bias.p ? ld(bias, o) : 0.0;
			for (int64_t i = 0; i < I; i++)
				s += ld(x, n * I + i) * ld(W, o * I + i);
			st(y, n * O + o, s + (res.p ? ld(res, n * O + o) : 0.0));
		}
}

/* dx [N,I] = dy [N,O] W */
void ref_linear_dx(struct dev *d, mat dx, mat dy, mat W, int acc)
{
	(void)d;
	int64_t O = W.rows, I = W.cols;
	for (int64_t n = 0; n < dy.rows; n++)
		for (int64_t i = 0; i < I; i++) {
			double s = 0;
			for (int64_t o = 0; o < O; o++)
				s += ld(dy, n * O + o) * ld(W, o * I + i);
			st_acc(dx, n * I + i, s, acc);
		}
}

/* dW [O,I] += dy' x;  dbias [1,O] += column sums of dy */
void ref_linear_dw(struct dev *d, mat dW, mat dbias, mat dy, mat x)
{
	(void)d;
	int64_t O = dy.cols, I = x.cols;
	for (int64_t o = 0; o < O; o++) {
		for (int64_t i = 0; dW.p && i < I; i++) {
			double s = 0;
			for (int64_t n = 0; n < x.rows; n++)
				s += ld(dy, n * O + o) * ld(x, n * I + i);
			st_acc(dW, o * I + i, s, 1);
		}
		double s = 0;
		for (int64_t n = 0; dbias.p && n < dy.rows; n++)
			s += ld(dy, n * O + o);
		if (dbias.p)
			st_acc(dbias, o, s, 1);
	}
}

void ref_add_cols(struct dev *d, mat y, mat a, mat z, int64_t at, float c)
{
	(void)d;
	for (int64_t n = 0; n < y.rows; n++)
		for (int64_t i = 0; i < y.cols; i++) {
			int64_t k = i - at;
			st(y, n * y.cols + i, ld(a, n * y.cols + i) + (k >= 0 && k < z.cols ? (double)c * ld(z, n * z.cols + k) : 0.0));
		}
}

void ref_take_cols(struct dev *d, mat y, mat x, int64_t at, float c)
{
	(void)d;
	for (int64_t n = 0; n < y.rows; n++)
		for (int64_t i = 0; i < y.cols; i++)
			st(y, n * y.cols + i, (double)c * ld(x, n * x.cols + at + i));
}
