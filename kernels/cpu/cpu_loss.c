/*
 * cpu_loss.c - the chunked head: logits, losses and gradients without ever holding N x V
 *
 * Rows with a label are gathered into chunks.  Within a chunk, f32 logits of student and teacher exist for a few rows
 * (two products), one SIMD pass per row turns them into losses and the logits' gradient (simd_loss.h), and the
 * gradient of the whole chunk, in the operands' dtype, goes at once into dhs and dWs (two products).  The chunk is
 * longer than the logits' because dWs, f32 [V,C], is read and written once per chunk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include <string.h>

enum { LOGIT_BYTES = 56 << 20, GRAD_BYTES = 56 << 20, MAX_ROWS = 512 };

struct head {                       /* one call */
	struct dev *d;
	mat hs, Ws, ht, Wt, dhs, dWs;
	const int32_t *label;
	const struct kd_head_args *a;
	int64_t *index, n;          /* rows that count */
	int64_t few, chunk;         /* rows of logits; rows of a chunk */
	int grad, g_dtype;
	float *s, *t;               /* logits [few, V] */
	int64_t K;                  /* ht, Wt are the teacher's best K; 0: they are not */
	char *g;                    /* gradient of the logits [chunk, V] */
	double loss[MAX_ROWS][LOSS_KINDS];
};

/* Rows that count: their indices, in order */
static int64_t gather_index(struct dev *d, mat label, int64_t **index)
{
	const int32_t *l = label.p;
	int64_t n = 0;
	*index = scratch(d, S_INDEX, (size_t)(label.rows + 1) * sizeof **index);
	if (d->planning)
		return 0;
	for (int64_t i = 0; i < label.rows; i++)
		if (l[i] >= 0)
			(*index)[n++] = i;
	return n;
}

/* Rows index[0..n) of h, side by side; h itself when they already are */
static mat gather(struct dev *d, enum slot s, mat h, const int64_t *index, int64_t n)
{
	mat out = { row_at(h, index[0]), n, h.cols, h.dtype, 0 };
	if (index[n - 1] - index[0] == n - 1)
		return out;
	size_t row = (size_t)h.cols * dtype_size(h.dtype);
	out.p = scratch(d, s, (size_t)MAX_ROWS * row);
	for (int64_t i = 0; i < n; i++)
		memcpy(row_at(out, i), row_at(h, index[i]), row);
	return out;
}

/* out [n,V] f32 = rows [r, r+n) of h times W' */
static void logits(struct dev *d, float *out, mat h, int64_t r, int64_t n, mat W)
{
	mat y = { out, n, W.rows, DT_F32, 0 }, x = { row_at(h, r), n, h.cols, h.dtype, 0 };
	cpu_linear(d, y, x, W, (mat){ 0 }, (mat){ 0 });
}

/* How many rows of `bytes` each fit, a multiple of 16 where possible */
static int64_t rows_in(int64_t bytes, int64_t budget, int64_t top)
{
	int64_t n = budget / bytes;
	n = n > top ? top : n;
	return n >= 16 ? n / 16 * 16 : n > 1 ? n : 1;
}

/* Of a chunk: no more than a call has */
static int64_t most_rows(mat h)
{
	return h.rows < MAX_ROWS ? (h.rows + 15) / 16 * 16 : MAX_ROWS;
}

/* Row r of those whose logits are there, the i-th of the chunk */
static struct kd_row row_of(const struct head *h, int64_t c0, int64_t i, int64_t r)
{
	const struct kd_parts *q = h->a->parts;
	int64_t V = h->Ws.rows, at = h->index[c0 + i], label = h->label[at] - (q ? q->rank * q->rows : 0);
	struct kd_row k = { .s = h->s + r * V, .t = h->t ? h->t + r * V : NULL, .g_dtype = h->g_dtype, .V = V, .vocab = q ? q->vocab : V,
			    .g = h->grad ? h->g + (size_t)(i * V) * dtype_size(h->g_dtype) : NULL, .a = h->a,
			    .label = label < V ? label : -1, .K = h->K };
	if (h->K) {
		k.ids = row_at(h->ht, at);
		k.logp = row_at(h->Wt, at);
	}
	return k;
}

/* Losses and logit gradients of rows [c0, c0+n) of the call, whose hidden states are hs, ht */
static void chunk_losses(struct head *h, mat hs, mat ht, int64_t c0, int64_t n)
{
	struct kd_row part[MAX_ROWS];
	for (int64_t r0 = 0; r0 < n; r0 += h->few) {
		int64_t m = n - r0 < h->few ? n - r0 : h->few;
		logits(h->d, h->s, hs, r0, m, h->Ws);
		if (h->t)
			logits(h->d, h->t, ht, r0, m, h->Wt);
		for (int64_t r = 0; h->a->parts && r < m; r++)
			part[r] = row_of(h, c0, r0 + r, r);
		if (h->a->parts)
			kd_rows_of_parts(h->d, part, m, h->few);
#pragma omp parallel for num_threads(h->d->threads) schedule(dynamic)
		for (int64_t r = 0; r < m; r++) {
			struct kd_row k = h->a->parts ? part[r] : row_of(h, c0, r0 + r, r);
			if (!h->a->parts)
				h->d->simd->kd_row(&k);
			memcpy(h->loss[r0 + r], k.loss, sizeof k.loss);
		}
	}
}

/* dhs rows (=, +=) g Ws;  dWs += g' hs */
static void chunk_grads(struct head *h, mat hs, int64_t c0, int64_t n)
{
	int64_t C = hs.cols;
	mat g = { h->g, n, h->Ws.rows, h->g_dtype, 0 };
	if (h->dhs.p) {
		mat dx = { scratch(h->d, S_HEAD_D, (size_t)(MAX_ROWS * C) * sizeof(float)), n, C, DT_F32, 0 };
		cpu_linear_dx(h->d, dx, g, h->Ws, 0);
		for (int64_t r = 0; r < n; r++)
			h->d->simd->lincomb(row_at(h->dhs, h->index[c0 + r]), h->dhs.dtype, h->a->acc, row_at(dx, r), DT_F32,
					    1.0f, NULL, DT_F32, 0.0f, C);
	}
	if (h->dWs.p)
		cpu_linear_dw(h->d, h->dWs, (mat){ 0 }, g, hs);
}

/* While planning: the products and buffers of a whole chunk; labels may stand anywhere */
static void note_chunk(const struct head *h, int teacher)
{
	int64_t n = h->chunk < h->hs.rows ? h->chunk : h->hs.rows, few = h->few < n ? h->few : n, C = h->hs.cols;
	mat x = { h->hs.p, n, C, h->hs.dtype, 0 }, g = { h->g, n, h->Ws.rows, h->g_dtype, 0 }, dx = { h->g, n, C, DT_F32, 0 };
	scratch(h->d, S_HEAD_S, (size_t)(MAX_ROWS * C) * dtype_size(h->hs.dtype));
	logits(h->d, h->s, x, 0, few, h->Ws);
	if (teacher) {
		scratch(h->d, S_HEAD_T, (size_t)(MAX_ROWS * h->ht.cols) * dtype_size(h->ht.dtype));
		logits(h->d, h->t, h->ht, 0, few, h->Wt);
	}
	if (h->grad && h->dhs.p) {
		scratch(h->d, S_HEAD_D, (size_t)(MAX_ROWS * C) * sizeof(float));
		cpu_linear_dx(h->d, dx, g, h->Ws, 0);
	}
	if (h->grad && h->dWs.p)
		cpu_linear_dw(h->d, h->dWs, (mat){ 0 }, g, x);
}

void cpu_kd_head(struct dev *d, mat sums, mat dhs, mat dWs, mat hs, mat Ws, mat ht, mat Wt, mat label,
		 const struct kd_head_args *a)
{
	struct head h = { .d = d, .hs = hs, .Ws = Ws, .ht = ht, .Wt = Wt, .dhs = dhs, .dWs = dWs, .label = label.p, .a = a };
	int64_t V = a->parts ? a->parts->rows : Ws.rows; /* of parts, all cut alike */
	h.n = gather_index(d, label, &h.index);
	h.grad = dhs.p || dWs.p;
	h.g_dtype = hs.dtype == DT_BF16 && Ws.dtype == DT_BF16 && d->bf16_gemm ? DT_BF16 : DT_F32;
	h.chunk = rows_in(V * (int64_t)dtype_size(h.g_dtype), GRAD_BYTES, most_rows(hs));
	h.K = ht.p && ht.dtype == DT_I32 ? ht.cols : 0;
	int teacher = ht.p && !h.K;
	h.few = rows_in(V * (teacher ? 8 : 4), LOGIT_BYTES, h.chunk);
	h.s = scratch(d, S_LOGIT_S, (size_t)(h.few * V) * sizeof *h.s);
	h.t = teacher ? scratch(d, S_LOGIT_T, (size_t)(h.few * V) * sizeof *h.t) : NULL;
	h.g = h.grad ? scratch(d, S_DLOGIT, (size_t)(h.chunk * V) * dtype_size(h.g_dtype)) : NULL;
	if (d->planning && a->parts)
		kd_rows_of_parts(d, &(struct kd_row){ .a = a }, 0, h.few);
	if (d->planning)
		note_chunk(&h, teacher);
	else if (dhs.p && !a->acc && h.n < hs.rows)
		cpu_zero(d, dhs);
	for (int64_t c0 = 0; c0 < h.n; c0 += h.chunk) {
		int64_t n = h.n - c0 < h.chunk ? h.n - c0 : h.chunk;
		mat xs = gather(d, S_HEAD_S, hs, h.index + c0, n), xt = ht;
		if (teacher)
			xt = gather(d, S_HEAD_T, ht, h.index + c0, n);
		chunk_losses(&h, xs, xt, c0, n);
		if (h.grad)
			chunk_grads(&h, xs, c0, n);
		for (int64_t r = 0; r < n; r++)
			for (int k = 0; k < LOSS_KINDS; k++)
				((double *)sums.p)[k] += h.loss[r][k];
	}
}

void cpu_logprob(struct dev *d, mat out, mat h, mat W, mat label)
{
	int64_t *index, n = gather_index(d, label, &index), V = W.rows, few = rows_in(V * 4, LOGIT_BYTES, most_rows(h));
	float *s = scratch(d, S_LOGIT_S, (size_t)(few * V) * sizeof *s), *o = out.p;
	const int32_t *l = label.p;
	if (d->planning) {
		scratch(d, S_HEAD_S, (size_t)(MAX_ROWS * h.cols) * dtype_size(h.dtype));
		logits(d, s, h, 0, few < h.rows ? few : h.rows, W);
		return;
	}
	memset(o, 0, (size_t)(2 * out.rows) * sizeof *o);
	for (int64_t c0 = 0; c0 < n; c0 += few) {
		int64_t m = n - c0 < few ? n - c0 : few;
		mat x = gather(d, S_HEAD_S, h, index + c0, m);
		logits(d, s, x, 0, m, W);
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
		for (int64_t r = 0; r < m; r++)
			d->simd->logprob(o + 2 * index[c0 + r], s + r * V, V, l[index[c0 + r]]);
	}
}

void cpu_topk(struct dev *d, mat ids, mat logp, mat h, mat W, mat label, float tau)
{
	int64_t *index, n = gather_index(d, label, &index), V = W.rows, few = rows_in(V * 4, LOGIT_BYTES, most_rows(h));
	float *s = scratch(d, S_LOGIT_S, (size_t)(few * V) * sizeof *s);
	if (d->planning) {
		scratch(d, S_HEAD_T, (size_t)(MAX_ROWS * h.cols) * dtype_size(h.dtype));
		logits(d, s, h, 0, few < h.rows ? few : h.rows, W);
		return;
	}
	cpu_zero(d, ids);
	cpu_zero(d, logp);
	for (int64_t c0 = 0; c0 < n; c0 += few) {
		int64_t m = n - c0 < few ? n - c0 : few;
		mat x = gather(d, S_HEAD_T, h, index + c0, m);
		logits(d, s, x, 0, m, W);
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
		for (int64_t r = 0; r < m; r++)
			d->simd->topk(row_at(ids, index[c0 + r]), row_at(logp, index[c0 + r]), s + r * V, V, ids.cols, 1.0f / tau);
	}
}
