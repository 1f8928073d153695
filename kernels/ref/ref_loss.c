/*
 * ref_loss.c - losses, each with its gradient
 *
 *   kd_head   s = hs Ws', t = ht Wt';  see struct kd_head_args.  Gradients with respect to the student's logits:
 *             tau^2 KL: tau (ps - pt)     tau^2 RKL: tau ps (log ps - log pt - RKL)     CE: softmax(s) - onehot
 *   logprob   log softmax(h W')[label], and whether label is the arg max
 *   mse       mean_c (a-b)^2            cosine: 1 - cos(a,b), norms clamped at 1e-8
 * One row of logits at a time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ref.h"
#include <math.h>

/* out [V] = row n of h W' */
static void logits(double *out, mat h, mat W, int64_t n)
{
	for (int64_t v = 0; v < W.rows; v++) {
		double s = 0;
		for (int64_t c = 0; c < W.cols; c++)
			s += ld(h, n * W.cols + c) * ld(W, v * W.cols + c);
		out[v] = s;
	}
}

static double logsumexp(const double *x, int64_t n, double tau)
{
	double top = x[0], s = 0;
	for (int64_t i = 1; i < n; i++)
		top = x[i] > top ? x[i] : top;
	for (int64_t i = 0; i < n; i++)
		s += exp((x[i] - top) / tau);
	return top / tau + log(s);
}

/* Losses of one row into sum[]; ds [V] = gradient with respect to s. */
static void row_loss(double *sum, double *ds, const double *s, const double *t, int64_t V, int64_t label,
		     const struct kd_head_args *a)
{
	double tau = (double)a->tau, ls = logsumexp(s, V, tau), l1 = logsumexp(s, V, 1.0), kl = 0, rkl = 0;
	double lt = t ? logsumexp(t, V, tau) : 0;
	for (int64_t v = 0; t && v < V; v++) {
		double ps = s[v] / tau - ls, pt = t[v] / tau - lt;
		kl += exp(pt) * (pt - ps);
		rkl += exp(ps) * (ps - pt);
	}
	sum[LOSS_KL] += kl;
	sum[LOSS_RKL] += rkl;
	sum[LOSS_CE] += l1 - s[label];
	for (int64_t v = 0; v < V; v++) {
		double g = (double)a->coef[LOSS_CE] * (exp(s[v] - l1) - (v == label));
		if (t) {
			double ps = s[v] / tau - ls, pt = t[v] / tau - lt;
			g += (double)a->coef[LOSS_KL] * tau * (exp(ps) - exp(pt));
			g += (double)a->coef[LOSS_RKL] * tau * exp(ps) * (ps - pt - rkl);
		}
		ds[v] = g;
	}
}

/* dhs row n (=, +=) ds Ws;  dW [V,C] += ds' hs row n */
static void row_grad(mat dhs, double *dW, const double *ds, mat hs, mat Ws, int64_t n, int acc)
{
	int64_t C = hs.cols;
	for (int64_t c = 0; c < C; c++) {
		double s = 0, x = ld(hs, n * C + c);
		for (int64_t v = 0; v < Ws.rows; v++) {
			if (dhs.p)
				s += ds[v] * ld(Ws, v * C + c);
			if (dW)
				dW[v * C + c] += ds[v] * x;
		}
		if (dhs.p)
			st_acc(dhs, n * C + c, s, acc);
	}
}

void ref_kd_head(struct dev *d, mat sums, mat dhs, mat dWs, mat hs, mat Ws, mat ht, mat Wt, mat label,
		 const struct kd_head_args *a)
{
	(void)d;
	int64_t V = Ws.rows, C = hs.cols;
	double *s = ref_tmp(V), *t = ref_tmp(V), *ds = ref_tmp(V), sum[LOSS_KINDS] = { 0 };
	double *dW = dWs.p ? ref_tmp(V * C) : NULL;
	for (int64_t n = 0; n < hs.rows; n++) {
		if (ref_int(label, n) < 0) {
			for (int64_t c = 0; dhs.p && !a->acc && c < C; c++)
				st(dhs, n * C + c, 0);
			continue;
		}
		logits(s, hs, Ws, n);
		if (ht.p)
			logits(t, ht, Wt, n);
		row_loss(sum, ds, s, ht.p ? t : NULL, V, ref_int(label, n), a);
		row_grad(dhs, dW, ds, hs, Ws, n, a->acc);
	}
	for (int k = 0; k < LOSS_KINDS; k++)
		st_acc(sums, k, sum[k], 1);
	for (int64_t i = 0; dW && i < V * C; i++)
		st_acc(dWs, i, dW[i], 1);
	free(s);
	free(t);
	free(ds);
	free(dW);
}

void ref_logprob(struct dev *d, mat out, mat h, mat W, mat label)
{
	(void)d;
	double *s = ref_tmp(W.rows);
	for (int64_t n = 0; n < h.rows; n++) {
		int64_t l = ref_int(label, n), best = 0;
		st(out, 2 * n, 0);
		st(out, 2 * n + 1, 0);
		if (l < 0)
			continue;
		logits(s, h, W, n);
		for (int64_t v = 1; v < W.rows; v++)
			if (s[v] > s[best])
				best = v;
		st(out, 2 * n, s[l] - logsumexp(s, W.rows, 1.0));
		st(out, 2 * n + 1, best == l);
	}
	free(s);
}

void ref_mse(struct dev *d, mat sums, mat da, mat a, mat b, float coef, int acc)
{
	(void)d;
	double sum = 0, C = (double)a.cols;
	for (int64_t i = 0; i < a.rows * a.cols; i++) {
		double e = ld(a, i) - ld(b, i);
		sum += e * e / C;
		if (da.p)
			st_acc(da, i, (double)coef * 2 * e / C, acc);
	}
	st_acc(sums, 0, sum, 1);
}

void ref_cosine(struct dev *d, mat sums, mat da, mat a, mat b, float coef, int acc)
{
	(void)d;
	int64_t C = a.cols;
	double sum = 0;
	for (int64_t n = 0; n < a.rows; n++) {
		double aa = 0, bb = 0, ab = 0;
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
