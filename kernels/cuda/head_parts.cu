/*
 * head_parts.cu - rows of logits whose columns are spread over several processes
 *
 * Each has the maxima, sums and divergences of its own columns' distributions; those of all are gathered where they lie, on the
 * GPUs, and every process merges them alike.  With part p's share of a row's probability, P_p of the teacher and Q_p of the
 * student, from its maximum and sum against those of all:
 *
 *	KL = sum P_p (KL_p + log P_p - log Q_p)         RKL = sum Q_p (RKL_p + log Q_p - log P_p)
 *
 * where nothing large cancels, and equal logits give 0.  Losses and gradients then follow as if all columns were here
 * (head_rows.cuh).  Losses that need the whole softmaxes first have sums of their own, which add up: a second gathering.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "head_rows.cuh"

enum { MERGE_THREADS = 128 };

struct part_sums {                 /* of a row's columns in one part, or in all */
	softmax S, T;
	float kl, rkl;
	float s_at, t_at;          /* logits of the label; 0 where it is not among the columns */
};
struct part_more {
	float q[Q_COUNT];
};
static_assert(sizeof(part_more) <= sizeof(part_sums), "room for the second sums");

/* out [rows] of our own columns; r has no g */
static __global__ void part_first_k(row_args r, part_sums *out)
{
	__shared__ float pad[64];
	int64_t n = blockIdx.x, at = label_of(r, n);
	float itau = 1.0f / r.a.tau;
	bool here = at >= 0 && at < r.V;
	double l[LOSS_KINDS] = {};
	part_sums z = {};
	if (r.label[n] < 0)
		return;
	z.S = row_softmax(r.s + n * r.V, r.V, itau, pad);
	z.s_at = here ? r.s[n * r.V + at] : 0.0f;
	if (r.t) {
		z.T = row_softmax(r.t + n * r.V, r.V, itau, pad);
		z.t_at = here ? r.t[n * r.V + at] : 0.0f;
		plain_teacher(r, n, z.S, z.T, 1, l);
		z.kl = (float)l[LOSS_KL];
		z.rkl = (float)l[LOSS_RKL];
	}
	if (threadIdx.x == 0)
		out[n] = z;
}

/* Log of a part's share of a distribution */
static __device__ __forceinline__ double log_share(softmax part, float top, double lz, double itau)
{
	return ((double)part.top - (double)top) * itau + (double)part.lz - lz;
}

/* out [rows] of all: in [parts,rows]; a thread a row */
static __global__ void merge_k(part_sums *out, const part_sums *in, const int32_t *label, int64_t rows, int parts, float tau)
{
	int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	double itau = (double)(1.0f / tau), zs = 0, zt = 0, zs1 = 0, zt1 = 0, kl = 0, rkl = 0;
	if (n >= rows || label[n] < 0)
		return;
	part_sums z = in[n];
	z.s_at = z.t_at = 0;
	for (int p = 1; p < parts; p++) {
		z.S.top = fmaxf(z.S.top, in[p * rows + n].S.top);
		z.T.top = fmaxf(z.T.top, in[p * rows + n].T.top);
	}
	for (int p = 0; p < parts; p++) {
		part_sums q = in[p * rows + n];
		zs += exp(log_share(q.S, z.S.top, 0, itau));
		zt += exp(log_share(q.T, z.T.top, 0, itau));
		zs1 += exp((double)q.S.top - (double)z.S.top + (double)q.S.lz1);
		zt1 += exp((double)q.T.top - (double)z.T.top + (double)q.T.lz1);
		z.s_at += q.s_at;
		z.t_at += q.t_at;
	}
	for (int p = 0; p < parts; p++) {
		part_sums q = in[p * rows + n];
		double ls = log_share(q.S, z.S.top, log(zs), itau), lt = log_share(q.T, z.T.top, log(zt), itau);
		kl += exp(lt) * ((double)q.kl + lt - ls);
		rkl += exp(ls) * ((double)q.rkl + ls - lt);
	}
	z.S.lz = (float)log(zs), z.S.lz1 = (float)log(zs1);
	z.T.lz = (float)log(zt), z.T.lz1 = (float)log(zt1);
	z.kl = (float)kl, z.rkl = (float)rkl;
	out[n] = z;
}

/* out [rows] of our own columns, by the softmaxes of all */
static __global__ void part_second_k(row_args r, part_more *out, const part_sums *all)
{
	__shared__ float pad[Q_COUNT * 32];
	int64_t n = blockIdx.x;
	float q[Q_COUNT] = {};
	if (r.label[n] < 0)
		return;
	full_sums(q, r, n, all[n].S, all[n].T);
	block_sum(q, pad);
	if (threadIdx.x == 0)
		for (int k = 0; k < Q_COUNT; k++)
			out[n].q[k] = q[k];
}

/* out [rows] = sum of in [parts,rows] */
static __global__ void add_k(part_more *out, const part_more *in, const int32_t *label, int64_t rows, int parts)
{
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, n = i / Q_COUNT;
	float x = 0;
	if (n >= rows || label[n] < 0)
		return;
	for (int p = 0; p < parts; p++)
		x += in[p * rows + n].q[i % Q_COUNT];
	out[n].q[i % Q_COUNT] = x;
}

/* Losses of the whole row, gradient of our columns; more NULL: there are no second sums */
static __global__ void part_third_k(row_args r, const part_sums *all, const part_more *more)
{
	int64_t n = blockIdx.x;
	double l[LOSS_KINDS] = {};
	float q[Q_COUNT] = {}, w = 1;
	if (r.label[n] < 0) {
		empty_row(r, n);
		return;
	}
	part_sums z = all[n];
	float ce = z.S.top + z.S.lz1 - z.s_at;
	if (r.t) {
		w = trust(r, ce, z.T.top + z.T.lz1 - z.t_at);
		for (int k = 0; more && k < Q_COUNT; k++)
			q[k] = more[n].q[k];
		q[Q_KL] = z.kl, q[Q_RKL] = z.rkl;
		if (r.g.p && only_kl(r.a.coef))
			plain_teacher(r, n, z.S, z.T, w, l);
		else if (r.g.p)
			full_gradient(r, n, label_of(r, n), z.S, z.T, w, q);
		full_losses(r, q, l);
	} else {
		no_teacher(r, n, z.S);
	}
	put_losses(r, n, ce, w, l);
}

/* x [parts,rows] of size bytes each */
static void gather(struct dev *d, const kd_parts *q, void *x, int64_t rows, size_t size)
{
	if (!d->planning)
		q->gather(q->arg, x, rows * (int64_t)size);
}

void rows_of_parts(struct dev *d, const row_args &r, int64_t rows, int64_t room)
{
	const kd_parts *q = r.a.parts;
	part_sums *sums = (part_sums *)scratch(d, S_PARTS, (size_t)((q->size + 2) * room) * sizeof *sums), *all = sums + q->size * room;
	part_more *more = (part_more *)sums, *total = (part_more *)(all + room);
	row_args values = r;
	bool again = false;
	values.g.p = NULL;
	for (int k = LOSS_JSD; k < LOSS_KINDS; k++)
		again |= r.t && r.a.coef[k] != 0.0f;
	LAUNCH(d, part_first_k, (unsigned)rows, ROW_THREADS, 0, values, sums + q->rank * rows);
	gather(d, q, sums, rows, sizeof *sums);
	LAUNCH(d, merge_k, blocks_for(rows, MERGE_THREADS), MERGE_THREADS, 0, all, sums, r.label, rows, q->size, r.a.tau);
	if (again) {
		LAUNCH(d, part_second_k, (unsigned)rows, ROW_THREADS, 0, r, more + q->rank * rows, all);
		gather(d, q, more, rows, sizeof *more);
		LAUNCH(d, add_k, blocks_for(rows * Q_COUNT, MERGE_THREADS), MERGE_THREADS, 0, total, more, r.label, rows, q->size);
	}
	LAUNCH(d, part_third_k, (unsigned)rows, ROW_THREADS, 0, r, all, again ? total : NULL);
}
