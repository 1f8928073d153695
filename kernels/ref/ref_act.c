/*
 * ref_act.c - feed-forward activations, plain and gated, and their gradients
 *
 *   silu(x) = x sigma(x)      gelu(x) = x/2 (1 + tanh(k (x + 0.044715 x^3))), k = sqrt(2/pi)      relu2(x) = max(x,0)^2
 *   gated: x = gate | up, y = f(gate) up, dgate = dy up f'(gate), dup = dy f(gate)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ref.h"
#include <math.h>

struct fdf {
	double f, df;
};

static struct fdf silu(double x)
{
	double s = 1.0 / (1.0 + exp(-x));
	return (struct fdf){ x * s, s * (1.0 + x * (1.0 - s)) };
}

static struct fdf gelu(double x)
{
	const double k = 0.79788456080286535588, c = 0.044715;
	double t = tanh(k * (x + c * x * x * x));
	return (struct fdf){ 0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * k * (1.0 + 3.0 * c * x * x) };
}

static struct fdf relu2(double x)
{
	return x > 0 ? (struct fdf){ x * x, 2 * x } : (struct fdf){ 0, 0 };
}

static struct fdf eval(double x, int kind)
{
	return kind == ACT_SWIGLU ? silu(x) : kind == ACT_RELU2 ? relu2(x) : gelu(x);
}

static int gated(int kind)
{
	return kind == ACT_SWIGLU || kind == ACT_GEGLU;
}

/* y [N,F]; x [N,F] or [N,2F] */
void ref_act(struct dev *d, mat y, mat x, int kind)
{
	(void)d;
	for (int64_t n = 0; n < y.rows; n++)
		for (int64_t f = 0; f < y.cols; f++) {
			struct fdf g = eval(ld(x, n * x.cols + f), kind);
			st(y, n * y.cols + f, gated(kind) ? g.f * ld(x, n * x.cols + y.cols + f) : g.f);
		}
}

/* dx like x */
void ref_act_dx(struct dev *d, mat dx, mat dy, mat x, int kind)
{
	(void)d;
	int64_t F = dy.cols;
	for (int64_t n = 0; n < dy.rows; n++)
		for (int64_t f = 0; f < F; f++) {
			struct fdf g = eval(ld(x, n * x.cols + f), kind);
			double e = ld(dy, n * F + f);
			double up = gated(kind) ? ld(x, n * x.cols + F + f) : 1.0;
			st(dx, n * x.cols + f, e * up * g.df);
			if (gated(kind))
				st(dx, n * x.cols + F + f, e * g.f);
		}
}
