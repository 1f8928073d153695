/*
 * head_rows.cuh - one row of logits, one block: losses and the gradient of the logits
 *
 * After the maxima and sums (softmax.cuh): losses and gradient in one walk where no gradient waits for a loss (KL and CE),
 * else in two.  See ref_head.c for the formulas.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_HEAD_ROWS_CUH
#define ADZE_HEAD_ROWS_CUH
#include "softmax.cuh"

/* log(ps/m) for d = log pt - log ps, beta = b */
static __device__ __forceinline__ float log_mix(float d, float b)
{
	return d > 0 ? -d - logf(b + (1 - b) * expf(-d)) : -logf((1 - b) + b * expf(d));
}

static __device__ __forceinline__ float sign_of(float x)
{
	return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f;
}

struct row_args {
	const float *s, *t;        /* [rows, V]; t NULL: no full teacher */
	float *best;               /* [rows, K] room for the student's logits of the teacher's best K */
	const int32_t *label, *ids;
	view logp;                 /* [rows, K+1] */
	view g;                    /* gradient of the logits [rows, V], or absent */
	double *loss;              /* [rows, LOSS_KINDS] */
	int64_t V, K;
	kd_head_args a;
};

/* Sums of a row that gradients or losses need */
enum { Q_KL, Q_RKL, Q_TVD, Q_MSE, Q_JSD, Q_U, Q_G, Q_SS, Q_TT, Q_ST, Q_COUNT };

static __device__ void full_sums(float (&q)[Q_COUNT], const row_args &r, const float *s, const float *t, softmax S, softmax T)
{
	float itau = 1.0f / r.a.tau, beta = r.a.beta;
	bool jsd = r.a.coef[LOSS_JSD] != 0;
	for (int64_t v = threadIdx.x; v < r.V; v += blockDim.x) {
		float x = s[v], y = t[v], lps = (x - S.top) * itau - S.lz, lpt = (y - T.top) * itau - T.lz;
		float ps = expf(lps), pt = expf(lpt);
		q[Q_KL] += pt * (lpt - lps);
		q[Q_RKL] += ps * (lps - lpt);
		q[Q_TVD] += fabsf(pt - ps);
		q[Q_MSE] += (x - y) * (x - y);
		q[Q_G] += ps * sign_of(ps - pt);
		q[Q_SS] += x * x;
		q[Q_TT] += y * y;
		q[Q_ST] += x * y;
		if (jsd) {
			float u = log_mix(lpt - lps, beta);
			q[Q_U] += ps * u;
			q[Q_JSD] += beta * pt * (lpt - lps + u) + (1 - beta) * ps * u;
		}
	}
}

/* Losses with a full teacher into l[], gradient of the row into g */
static __device__ void full_teacher(const row_args &r, int64_t n, softmax S, softmax T, float w, double *l)
{
	__shared__ float pad[Q_COUNT * 32];
	const float *s = r.s + n * r.V, *t = r.t + n * r.V, *coef = r.a.coef;
	float itau = 1.0f / r.a.tau, tau = r.a.tau, beta = r.a.beta, q[Q_COUNT] = {};
	full_sums(q, r, s, t, S, T);
	block_sum(q, pad);
	double ss = fmax((double)q[Q_SS], 1e-16), tt = fmax((double)q[Q_TT], 1e-16);
	l[LOSS_KL] = q[Q_KL], l[LOSS_RKL] = q[Q_RKL], l[LOSS_TVD] = q[Q_TVD] / 2, l[LOSS_JSD] = q[Q_JSD];
	l[LOSS_MSE] = (double)q[Q_MSE] / (double)r.V, l[LOSS_COS] = 1 - (double)q[Q_ST] / sqrt(ss * tt);
	if (!r.g.p)
		return;
	float away = (float)(1 / sqrt(ss * tt)), along = q[Q_SS] > 1e-16f ? (float)((double)q[Q_ST] / sqrt(ss * tt) / ss) : 0.0f;
	bool extra = coef[LOSS_TVD] != 0 || coef[LOSS_MSE] != 0 || coef[LOSS_COS] != 0 || coef[LOSS_JSD] != 0;
	for (int64_t v = threadIdx.x; v < r.V; v += blockDim.x) {
		float x = s[v], y = t[v], lps = (x - S.top) * itau - S.lz, lpt = (y - T.top) * itau - T.lz;
		float ps = expf(lps), pt = expf(lpt);
		float g = coef[LOSS_KL] * tau * (ps - pt) + coef[LOSS_RKL] * tau * ps * (lps - lpt - q[Q_RKL]);
		if (extra) {
			g += coef[LOSS_TVD] * tau * ps * (sign_of(ps - pt) - q[Q_G]) / 2 + coef[LOSS_MSE] * 2 * (x - y) / (float)r.V;
			g += coef[LOSS_COS] * (along * x - away * y);
			if (coef[LOSS_JSD] != 0)
				g += coef[LOSS_JSD] * tau * (1 - beta) * ps * (log_mix(lpt - lps, beta) - q[Q_U]);
		}
		g *= w;
		if (coef[LOSS_CE] != 0)
			g += coef[LOSS_CE] * (expf(x - S.top - S.lz1) - (v == r.label[n] ? 1.0f : 0.0f));
		st1(r.g, n * r.V + v, g);
	}
}

/* KL alone of the losses that need the teacher: value and gradient in one walk */
static __device__ void plain_teacher(const row_args &r, int64_t n, softmax S, softmax T, float w, double *l)
{
	__shared__ float pad[2 * 32];
	const float *s = r.s + n * r.V, *t = r.t + n * r.V;
	float itau = 1.0f / r.a.tau, ckl = r.a.coef[LOSS_KL] * r.a.tau * w, cce = r.a.coef[LOSS_CE], q[2] = { 0, 0 };
	for (int64_t v = threadIdx.x; v < r.V; v += blockDim.x) {
		float x = s[v], lps = (x - S.top) * itau - S.lz, lpt = (t[v] - T.top) * itau - T.lz;
		float ps = expf(lps), pt = expf(lpt), g = ckl * (ps - pt);
		q[0] += pt * (lpt - lps);
		q[1] += ps * (lps - lpt);
		if (cce != 0)
			g += cce * ((itau == 1.0f ? ps : expf(x - S.top - S.lz1)) - (v == r.label[n] ? 1.0f : 0.0f));
		if (r.g.p)
			st1(r.g, n * r.V + v, g);
	}
	block_sum(q, pad);
	l[LOSS_KL] = q[0], l[LOSS_RKL] = q[1];
}

/* No teacher: CE alone */
static __device__ void no_teacher(const row_args &r, int64_t n, softmax S)
{
	const float *s = r.s + n * r.V;
	for (int64_t v = threadIdx.x; r.g.p && v < r.V; v += blockDim.x)
		st1(r.g, n * r.V + v, r.a.coef[LOSS_CE] * (expf(s[v] - S.top - S.lz1) - (v == r.label[n] ? 1.0f : 0.0f)));
}

/* Sum over the teacher's K of exp(logp - top), and top: -> log of the sum over K (and the rest with ghost) */
static __device__ float teacher_mass(const row_args &r, int64_t n, int64_t count, float *pad)
{
	float top = -INFINITY, z[1] = { 0 };
	for (int64_t i = 0; i < count; i++)
		top = fmaxf(top, ld1(r.logp, n * (r.K + 1) + i));
	for (int64_t i = threadIdx.x; i < count; i += blockDim.x)
		z[0] += expf(ld1(r.logp, n * (r.K + 1) + i) - top);
	block_sum(z, pad);
	return top + logf(z[0]);
}

/* The teacher's best K.  The student's logits of the K go to r.best, and -inf into their place, so that the rest is
 * what is left of the row. */
static __device__ void best_k(const row_args &r, int64_t n, softmax S, double *l)
{
	__shared__ float pad[64];
	float *s = (float *)r.s + n * r.V, *in = r.best + n * r.K, itau = 1.0f / r.a.tau, q[1] = { 0 };
	const int32_t *ids = r.ids + n * r.K;
	bool ghost = r.a.tail == TAIL_GHOST && r.K < r.V, renorm = r.a.tail == TAIL_RENORM;
	float lt = teacher_mass(r, n, r.K + ghost, pad), c = r.a.coef[LOSS_KL] * r.a.tau, cce = r.a.coef[LOSS_CE];
	for (int64_t i = threadIdx.x; i < r.K; i += blockDim.x) {
		in[i] = s[ids[i]];
		s[ids[i]] = -INFINITY;
	}
	__syncthreads();
	softmax R = row_softmax(s, r.V, itau, pad), In = row_softmax(in, r.K, itau, pad);
	float top = renorm ? In.top : S.top, lz = renorm ? In.lz : S.lz;      /* log ps = (x - top)/tau - lz */
	float lrest = (R.top - top) * itau + R.lz - lz;                       /* log of the student's rest */
	float last = ghost ? ld1(r.logp, n * (r.K + 1) + r.K) - lt : -INFINITY, pt = ghost ? expf(last) : 0.0f;
	if (threadIdx.x == 0 && pt > 0)
		q[0] = pt * (last - lrest);
	for (int64_t v = threadIdx.x; r.g.p && v < r.V; v += blockDim.x) {
		float x = s[v], g = 0;
		if (x == -INFINITY)
			continue;
		if (!renorm)
			g = c * (expf((x - top) * itau - lz) - (pt > 0 ? pt * expf((x - R.top) * itau - R.lz) : 0.0f));
		g += cce * (expf(x - S.top - S.lz1) - (v == r.label[n] ? 1.0f : 0.0f));
		st1(r.g, n * r.V + v, g);
	}
	for (int64_t i = threadIdx.x; i < r.K; i += blockDim.x) {
		float lpt = ld1(r.logp, n * (r.K + 1) + i) - lt, lps = (in[i] - top) * itau - lz, p = expf(lpt);
		if (p > 0)
			q[0] += p * (lpt - lps);
		if (r.g.p)
			st1(r.g, n * r.V + ids[i],
			    c * (expf(lps) - p) + cce * (expf(in[i] - S.top - S.lz1) - (ids[i] == r.label[n] ? 1.0f : 0.0f)));
	}
	block_sum(q, pad);
	l[LOSS_KL] = q[0];
}
#endif
