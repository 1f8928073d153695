/*
 * head_rows.cuh - one row of logits, one block: losses and the gradient of the logits
 *
 * After the maxima and sums (softmax.cuh): losses and gradient in one walk where no gradient waits for a loss (KL and CE),
 * else in two.  See ref_head.c for the formulas.  The columns may be one part of a vocabulary (head_parts.cu): maxima and sums
 * are then those of all parts, and `label` counts from our first column.
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
	int64_t first, vocab;      /* 0 and V, or of a part: its first column, the columns of all */
	kd_head_args a;
};

/* The label's column here; < 0, or V and above: it is elsewhere */
static __device__ __forceinline__ int64_t label_of(const row_args &r, int64_t n)
{
	return r.label[n] - r.first;
}

/* A row without a label */
static __device__ void empty_row(const row_args &r, int64_t n)
{
	for (int64_t v = threadIdx.x; r.g.p && v < r.V; v += blockDim.x)
		st1(r.g, n * r.V + v, 0);
	if (threadIdx.x < LOSS_KINDS)
		r.loss[n * LOSS_KINDS + threadIdx.x] = 0;
}

/* Weight of the terms with the teacher, by the cross entropies of student and teacher */
static __device__ __forceinline__ float trust(const row_args &r, float student, float teacher)
{
	return r.a.wsl ? 1 - expf(-student / fmaxf(teacher, 1e-8f)) : 1.0f;
}

/* Whether KL and CE are all that has a weight */
static __device__ __forceinline__ bool only_kl(const float *c)
{
	return c[LOSS_RKL] == 0 && c[LOSS_JSD] == 0 && c[LOSS_TVD] == 0 && c[LOSS_MSE] == 0 && c[LOSS_COS] == 0;
}

static __device__ __forceinline__ void put_losses(const row_args &r, int64_t n, float ce, float w, const double *l)
{
	if (threadIdx.x == 0)
		for (int k = 0; k < LOSS_KINDS; k++)
			r.loss[n * LOSS_KINDS + k] = k == LOSS_CE ? ce : k < LOSS_CE || r.a.coef[k] != 0 ? w * l[k] : 0;
}

/* Sums of a row that gradients or losses need */
enum { Q_KL, Q_RKL, Q_TVD, Q_MSE, Q_JSD, Q_U, Q_G, Q_SS, Q_TT, Q_ST, Q_COUNT };

static __device__ void full_sums(float (&q)[Q_COUNT], const row_args &r, int64_t n, softmax S, softmax T)
{
	const float *s = r.s + n * r.V, *t = r.t + n * r.V;
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

static __device__ void full_losses(const row_args &r, const float (&q)[Q_COUNT], double *l)
{
	double ss = fmax((double)q[Q_SS], 1e-16), tt = fmax((double)q[Q_TT], 1e-16);
	l[LOSS_KL] = q[Q_KL], l[LOSS_RKL] = q[Q_RKL], l[LOSS_TVD] = q[Q_TVD] / 2, l[LOSS_JSD] = q[Q_JSD];
	l[LOSS_MSE] = (double)q[Q_MSE] / (double)r.vocab, l[LOSS_COS] = 1 - (double)q[Q_ST] / sqrt(ss * tt);
}

static __device__ void full_gradient(const row_args &r, int64_t n, int64_t label, softmax S, softmax T, float w, const float (&q)[Q_COUNT])
{
	const float *s = r.s + n * r.V, *t = r.t + n * r.V, *coef = r.a.coef;
	float itau = 1.0f / r.a.tau, tau = r.a.tau, beta = r.a.beta;
	double ss = fmax((double)q[Q_SS], 1e-16), tt = fmax((double)q[Q_TT], 1e-16);
	float away = (float)(1 / sqrt(ss * tt)), along = q[Q_SS] > 1e-16f ? (float)((double)q[Q_ST] / sqrt(ss * tt) / ss) : 0.0f;
	bool extra = coef[LOSS_TVD] != 0 || coef[LOSS_MSE] != 0 || coef[LOSS_COS] != 0 || coef[LOSS_JSD] != 0;
	for (int64_t v = threadIdx.x; v < r.V; v += blockDim.x) {
		float x = s[v], y = t[v], lps = (x - S.top) * itau - S.lz, lpt = (y - T.top) * itau - T.lz;
		float ps = expf(lps), pt = expf(lpt);
		float g = coef[LOSS_KL] * tau * (ps - pt) + coef[LOSS_RKL] * tau * ps * (lps - lpt - q[Q_RKL]);
		if (extra) {
			g += coef[LOSS_TVD] * tau * ps * (sign_of(ps - pt) - q[Q_G]) / 2 + coef[LOSS_MSE] * 2 * (x - y) / (float)r.vocab;
			g += coef[LOSS_COS] * (along * x - away * y);
			if (coef[LOSS_JSD] != 0)
				g += coef[LOSS_JSD] * tau * (1 - beta) * ps * (log_mix(lpt - lps, beta) - q[Q_U]);
		}
		g *= w;
		if (coef[LOSS_CE] != 0)
			g += coef[LOSS_CE] * (expf(x - S.top - S.lz1) - (v == label ? 1.0f : 0.0f));
		st1(r.g, n * r.V + v, g);
	}
}

/* KL alone of the losses that need the teacher: value and gradient in one walk */
static __device__ void plain_teacher(const row_args &r, int64_t n, softmax S, softmax T, float w, double *l)
{
	__shared__ float pad[2 * 32];
	const float *s = r.s + n * r.V, *t = r.t + n * r.V;
	float itau = 1.0f / r.a.tau, ckl = r.a.coef[LOSS_KL] * r.a.tau * w, cce = r.a.coef[LOSS_CE], q[2] = { 0, 0 };
	int64_t label = label_of(r, n);
	for (int64_t v = threadIdx.x; v < r.V; v += blockDim.x) {
		float x = s[v], lps = (x - S.top) * itau - S.lz, lpt = (t[v] - T.top) * itau - T.lz;
		float ps = expf(lps), pt = expf(lpt), g = ckl * (ps - pt);
		q[0] += pt * (lpt - lps);
		q[1] += ps * (lps - lpt);
		if (cce != 0)
			g += cce * ((itau == 1.0f ? ps : expf(x - S.top - S.lz1)) - (v == label ? 1.0f : 0.0f));
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
	int64_t label = label_of(r, n);
	for (int64_t v = threadIdx.x; r.g.p && v < r.V; v += blockDim.x)
		st1(r.g, n * r.V + v, r.a.coef[LOSS_CE] * (expf(s[v] - S.top - S.lz1) - (v == label ? 1.0f : 0.0f)));
}

/* Losses and gradients of `rows` rows whose columns are one part of several (head_parts.cu); room: the most rows of a call */
void rows_of_parts(struct dev *, const row_args &r, int64_t rows, int64_t room);
#endif
