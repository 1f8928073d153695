/*
 * ref_linear.c - y = x W' + bias + res, and both gradients; sums into some of the columns
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ref.h"

/* y [N,O], x [N,I], W [O,I] */
void ref_linear(struct dev *d, mat y, mat x, mat W, mat bias, mat res)
{
	(void)d;
	int64_t O = W.rows, I = W.cols;
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
