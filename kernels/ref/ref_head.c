/*
 * ref_head.c - the output head: losses on logits with their gradients, log-probabilities, the best K
 *
 *   kd_head   s = hs Ws', t = ht Wt';  see struct kd_head_args.  With a = log ps, b = log pt, gradients with respect to
 *             the student's logits, tau^2 included:
 *             KL: tau (ps - pt)                       RKL: tau ps (a - b - RKL)           CE: softmax(s) - onehot
 *             JSD: tau (1-beta) ps (u - sum ps u), u = log(ps/m)       TVD: tau ps (g - sum ps g), g = sign(ps - pt)/2
 *             MSE: 2 (s - t)/V                        COS: (cos s/|s| - t/|t|)/|s|
 *             best K:  RENORM tau (qs - qt) on K     ZERO tau (ps - qt 1[K])
 *                      GHOST tau (ps - pt) on K, tau ps (1 - rest_t/rest_s) elsewhere
 * One row of logits at a time; of parts, the logits themselves are gathered, each computes all and keeps its columns.
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

/* log sum exp(x/tau); -inf entries are nothing */
static double logsumexp(const double *x, int64_t n, double tau)
{
	double top = -INFINITY, s = 0;
	for (int64_t i = 0; i < n; i++)
		top = x[i] > top ? x[i] : top;
	if (top == -INFINITY)
		return top;
	for (int64_t i = 0; i < n; i++)
		s += exp((x[i] - top) / tau);
	return top / tau + log(s);
}

/* One row: logits s of the student and t of the teacher (NULL: none), or the teacher's best K */
struct row {
	int64_t V, K, label;
	const double *s, *t, *logp;    /* logp [K+1] */
	const int32_t *ids;            /* [K] */
	double *ds;                    /* gradient with respect to s */
	double ls, lt;                 /* log of the sums of exp(./tau) */
};

/* log(ps/m) for d = log pt - log ps, beta = b */
static double log_mix(double d, double b)
{
	return d > 0 ? -d - log(b + (1 - b) * exp(-d)) : -log((1 - b) + b * exp(d));
}

static double sign(double x)
{
	return x > 0 ? 1 : x < 0 ? -1 : 0;
}

/* Losses with a full teacher into l[]; U = sum ps u, G = sum ps g, q: s.s, t.t, s.t */
static void full_losses(const struct row *r, const struct kd_head_args *a, double *l, double *U, double *G, double q[3])
{
	double tau = (double)a->tau, beta = (double)a->beta;
	for (int64_t v = 0; v < r->V; v++) {
		double x = r->s[v], y = r->t[v], lps = x / tau - r->ls, lpt = y / tau - r->lt, ps = exp(lps), pt = exp(lpt);
		l[LOSS_KL] += pt * (lpt - lps);
		l[LOSS_RKL] += ps * (lps - lpt);
		l[LOSS_TVD] += fabs(pt - ps) / 2;
		l[LOSS_MSE] += (x - y) * (x - y) / (double)r->V;
		*G += ps * sign(ps - pt) / 2;
		q[0] += x * x;
		q[1] += y * y;
		q[2] += x * y;
		if (a->coef[LOSS_JSD] != 0.0f) {
			double u = log_mix(lpt - lps, beta);
			*U += ps * u;
			l[LOSS_JSD] += beta * pt * (lpt - lps + u) + (1 - beta) * ps * u;
		}
	}
	l[LOSS_COS] = 1 - q[2] / sqrt(fmax(q[0], 1e-16) * fmax(q[1], 1e-16));
}

static void full_teacher(const struct row *r, const struct kd_head_args *a, double *l, double w)
{
	double tau = (double)a->tau, U = 0, G = 0, q[3] = { 0 }, c[LOSS_KINDS];
	full_losses(r, a, l, &U, &G, q);
	for (int k = 0; k < LOSS_KINDS; k++)
		c[k] = w * (double)a->coef[k];
	double n2 = fmax(q[0], 1e-16), away = 1 / sqrt(n2 * fmax(q[1], 1e-16));
	double along = q[0] > 1e-16 ? q[2] * away / n2 : 0; /* a clamped norm is a constant */
	for (int64_t v = 0; v < r->V; v++) {
		double lps = r->s[v] / tau - r->ls, lpt = r->t[v] / tau - r->lt, ps = exp(lps), pt = exp(lpt);
		double g = c[LOSS_KL] * tau * (ps - pt) + c[LOSS_RKL] * tau * ps * (lps - lpt - l[LOSS_RKL]);
		g += c[LOSS_TVD] * tau * ps * (sign(ps - pt) / 2 - G) + c[LOSS_MSE] * 2 * (r->s[v] - r->t[v]) / (double)r->V;
		g += c[LOSS_COS] * (along * r->s[v] - away * r->t[v]);
		if (a->coef[LOSS_JSD] != 0.0f)
			g += c[LOSS_JSD] * tau * (1 - (double)a->beta) * ps * (log_mix(lpt - lps, (double)a->beta) - U);
		r->ds[v] += g;
	}
	for (int k = 0; k < LOSS_KINDS; k++)
		l[k] *= k == LOSS_CE ? 1 : w;
}

static void best_k(const struct row *r, const struct kd_head_args *a, double *l)
{
	int64_t K = r->K, ghost = a->tail == TAIL_GHOST && K < r->V;
	double tau = (double)a->tau, c = (double)a->coef[LOSS_KL] * tau, ls = r->ls, lt = logsumexp(r->logp, K + ghost, 1);
	double *rest = ref_tmp(r->V), *in = ref_tmp(K);
	memcpy(rest, r->s, (size_t)r->V * sizeof *rest);
	for (int64_t i = 0; i < K; i++) {
		in[i] = r->s[r->ids[i]];
		rest[r->ids[i]] = -INFINITY;
	}
	if (a->tail == TAIL_RENORM)
		ls = logsumexp(in, K, tau);
	double lrest = logsumexp(rest, r->V, tau), pt = ghost ? exp(r->logp[K] - lt) : 0;
	if (pt > 0)
		l[LOSS_KL] += pt * (r->logp[K] - lt - (lrest - ls));
	for (int64_t v = 0; a->tail != TAIL_RENORM && v < r->V; v++)
		if (rest[v] > -INFINITY)
			r->ds[v] += c * (exp(r->s[v] / tau - ls) - pt * exp(r->s[v] / tau - lrest));
	for (int64_t i = 0; i < K; i++) {
		double lpt = r->logp[i] - lt, lps = in[i] / tau - ls;
		if (exp(lpt) > 0)
			l[LOSS_KL] += exp(lpt) * (lpt - lps);
		r->ds[r->ids[i]] += c * (exp(lps) - exp(lpt));
	}
	free(rest);
	free(in);
}

/* Losses of one row into sum[], its gradient into r->ds */
static void row_loss(double *sum, struct row *r, const struct kd_head_args *a)
{
	double l1 = logsumexp(r->s, r->V, 1), l[LOSS_KINDS] = { 0 }, w = 1;
	r->ls = logsumexp(r->s, r->V, (double)a->tau);
	l[LOSS_CE] = l1 - r->s[r->label];
	for (int64_t v = 0; v < r->V; v++)
		r->ds[v] = (double)a->coef[LOSS_CE] * (exp(r->s[v] - l1) - (v == r->label));
	if (r->t) {
		r->lt = logsumexp(r->t, r->V, (double)a->tau);
		if (a->wsl)
			w = 1 - exp(-l[LOSS_CE] / fmax(logsumexp(r->t, r->V, 1) - r->t[r->label], 1e-8));
		full_teacher(r, a, l, w);
	} else if (r->ids) {
		best_k(r, a, l);
	}
	for (int k = 0; k < LOSS_KINDS; k++)
		if (k <= LOSS_CE || a->coef[k] != 0.0f)
			sum[k] += l[k];
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

/* Logits of all parts, from those of our own */
static void whole(const struct kd_parts *q, double *s)
{
	if (q)
		q->gather(q->arg, s, q->rows * (int64_t)sizeof *s);
}

void ref_kd_head(struct dev *d, mat sums, mat dhs, mat dWs, mat hs, mat Ws, mat ht, mat Wt, mat label,
		 const struct kd_head_args *a)
{
	(void)d;
	const struct kd_parts *q = a->parts;
	int64_t V = q ? q->vocab : Ws.rows, C = hs.cols, best = ht.p && ht.dtype == DT_I32, K = best ? ht.cols : 0;
	int64_t first = q ? q->rank * q->rows : 0, room = q ? q->size * q->rows : V;
	double *s = ref_tmp(room), *t = ref_tmp(room), *ds = ref_tmp(V), *lp = ref_tmp(K + 1), sum[LOSS_KINDS] = { 0 };
	double *dW = dWs.p ? ref_tmp(Ws.rows * C) : NULL;
	for (int64_t n = 0; n < hs.rows; n++) {
		if (ref_int(label, n) < 0) {
			for (int64_t c = 0; dhs.p && !a->acc && c < C; c++)
				st(dhs, n * C + c, 0);
			continue;
		}
		struct row r = { .V = V, .K = K, .label = ref_int(label, n), .s = s, .ds = ds, .t = ht.p && !best ? t : NULL };
		logits(s + first, hs, Ws, n);
		whole(q, s);
		if (r.t) {
			logits(t + first, ht, Wt, n);
			whole(q, t);
		}
		if (best) {
			r.ids = (const int32_t *)ht.p + n * K;
			r.logp = lp;
			for (int64_t i = 0; i <= K; i++)
				lp[i] = ld(Wt, n * (K + 1) + i);
		}
		row_loss(sum, &r, a);
		row_grad(dhs, dW, ds + first, hs, Ws, n, a->acc);
	}
	for (int k = 0; k < LOSS_KINDS; k++)
		st_acc(sums, k, sum[k], 1);
	for (int64_t i = 0; dW && i < Ws.rows * C; i++)
		st_acc(dWs, i, dW[i], 1);
	free(s);
	free(t);
	free(ds);
	free(lp);
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


void ref_topk(struct dev *d, mat ids, mat logp, mat h, mat W, mat label, float tau)
{
	(void)d;
	int64_t V = W.rows, K = ids.cols;
	double *s = ref_tmp(V);
	for (int64_t n = 0; n < h.rows; n++) {
		for (int64_t i = 0; i < K; i++)
			st(ids, n * K + i, 0);
		for (int64_t i = 0; i <= K; i++)
			st(logp, n * (K + 1) + i, 0);
		if (ref_int(label, n) < 0)
			continue;
		logits(s, h, W, n);
		double all = logsumexp(s, V, (double)tau);
		for (int64_t v = 0, k = 0; v < V; v++) {
			int64_t better = 0;
			for (int64_t u = 0; u < V && better < K; u++)
				better += s[u] > s[v] || (s[u] == s[v] && u < v);
			if (better >= K)
				continue;
			st(ids, n * K + k, (double)v);
			st(logp, n * (K + 1) + k++, s[v] / (double)tau - all);
		}
		for (int64_t i = 0; i < K; i++)
			s[ref_int(ids, n * K + i)] = -INFINITY;
		st(logp, n * (K + 1) + K, logsumexp(s, V, (double)tau) - all);
	}
	free(s);
}
