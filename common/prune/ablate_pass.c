/*
 * ablate_pass.c - prefix and suffix of a forward pass
 *
 * The whole model is recorded once per batch shape.  The probes give a name to the residual stream before, within and
 * after every block, so the op list falls into runs that can be walked alone: embedding, each block's two halves, head.  To
 * start at block l the kept stream is uploaded into the value that block l reads; to leave a part out its ops are
 * not walked and the stream is carried over to the value that the next part reads:
 *
 *	x_l --attn--> m_l --ffn--> x_(l+1)          without attn: m_l := x_l          without ffn: x_(l+1) := m_l
 *
 * Logits never exist for more than a few rows: the head is a chunked op, or rows of both final hidden states are taken
 * a few at a time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ablate_pass.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LOGIT_BYTES = 64 << 20 };

int64_t pass_n_out(const struct ablate_args *a, int64_t batch)
{
	return a->metric == ABLATE_TASK ? a->batch[batch].B : 1;
}

static int against_full(const struct pass *q)
{
	return q->a->metric == ABLATE_KL || q->a->metric == ABLATE_MSE;
}

static int64_t slot_bytes(const struct pass *q)
{
	return q->most * q->C * (int64_t)sizeof(float);
}

static int64_t full_bytes(const struct pass *q, int64_t rows)
{
	return rows * q->C * (int64_t)dtype_size(q->a->w->dtype);
}

static val kept(const struct pass *q, const char *site, int64_t layer)
{
	char name[48];
	snprintf(name, sizeof name, "keep.%s.%lld", site, (long long)layer);
	val v = prog_find(q->p, name);
	if (!v.id)
		BUG("no value %s", name);
	return v;
}

/* The program for batches of one shape; its memory replaces that of the last shape. */
static int shape(struct pass *q, int64_t B, int64_t T, struct err *e)
{
	if (q->p && q->p->B == B && q->p->T == T)
		return 0;
	frame_free(&q->f);
	prog_free(q->p);
	const struct weights *w = q->a->w;
	const struct probe pr[] = { { SITE_EMBED, -1, PROBE_KEEP, 1, NULL }, { SITE_MID, -1, PROBE_KEEP, 1, NULL },
				    { SITE_BLOCK_OUT, -1, PROBE_KEEP, 1, NULL } };
	struct build b = { .t = w->t, .dtype = w->dtype, .wide = 1, .space = SP_PARAM, .prefix = "", .blk1 = q->L,
			   .probe = pr, .n_probe = 3 };
	struct prog *p = q->p = prog_new(B, T);
	q->tok = p_input(p, "tokens", B * T, 1, DT_I32);
	q->label = p_input(p, "labels", B * T, 1, DT_I32);
	q->h = p_forward(p, &b, q->tok, NONE);
	p_keep(p, q->h);
	q->full = q->head = NONE;
	if (q->a->metric == ABLATE_KL)
		q->full = p_input(p, "full", B * T, q->C, w->dtype);
	if (q->a->metric == ABLATE_LOSS || q->a->metric == ABLATE_KL) {
		val W = p_head_weight(p, &b);
		q->head = p_kd_head(p, q->h, W, q->full, q->full.id ? W : NONE, q->label);
	} else if (q->a->metric == ABLATE_TASK) {
		q->head = p_logprob(p, q->h, p_head_weight(p, &b), q->label);
		p_keep(p, q->head);
	}
	for (int64_t l = 0; l < q->L; l++) {
		q->in[l] = l ? kept(q, "block_out", l - 1) : kept(q, "embed", -1);
		q->mid[l] = kept(q, "mid", l);
	}
	q->in[q->L] = kept(q, "block_out", q->L - 1);
	if (prog_plan(p, e) || frame_new(&q->f, q->a->g, p, e))
		return err_wrap(e, "batch of %lld x %lld tokens", (long long)B, (long long)T);
	q->f.base[SP_PARAM] = w->w;
	q->batch = -1;
	return 0;
}

static int load(struct pass *q, int64_t batch, struct err *e)
{
	const struct ablate_batch *b = &q->a->batch[batch];
	if (shape(q, b->B, b->T, e))
		return -1;
	if (q->batch == batch)
		return 0;
	frame_set(&q->f, q->tok, b->ids);
	frame_set(&q->f, q->label, b->label);
	q->batch = batch;
	return 0;
}

/* Rows of logits that fit, both models, f32. */
static int mse_open(struct pass *q, struct err *e)
{
	const struct weights *w = q->a->w;
	int64_t V = w->t->arch.vocab, rows = LOGIT_BYTES / (8 * V);
	rows = rows < 1 ? 1 : rows > q->most ? q->most : rows;
	struct build b = { .t = w->t, .dtype = w->dtype, .space = SP_PARAM, .prefix = "" };
	struct prog *p = q->mp = prog_new(1, rows);
	q->ma = p_input(p, "rows", rows, q->C, w->dtype);
	q->mb = p_input(p, "full", rows, q->C, w->dtype);
	val W = p_head_weight(p, &b);
	q->mlabel = p_input(p, "labels", rows, 1, DT_I32);
	q->msum = p_inner_loss(p, OP_MSE, p_linear(p, q->ma, W, NONE, NONE, DT_F32), p_linear(p, q->mb, W, NONE, NONE, DT_F32),
			       q->mlabel, -1);
	if (prog_plan(p, e) || frame_new(&q->mf, q->a->g, p, e))
		return -1;
	q->mf.base[SP_PARAM] = w->w;
	return 0;
}

int pass_open(struct pass *q, const struct ablate_args *a, struct err *e)
{
	const struct arch *m = &a->w->t->arch;
	int64_t rows = 0;
	*q = (struct pass){ .a = a, .L = m->layers, .C = m->hidden, .batch = -1, .kept.fd = -1, .fulls.fd = -1 };
	q->in = xcalloc((size_t)q->L + 1, sizeof *q->in);
	q->mid = xcalloc((size_t)q->L, sizeof *q->mid);
	q->row0 = xcalloc((size_t)a->n_batch, sizeof *q->row0);
	q->full_done = xcalloc((size_t)a->n_batch, 1);
	for (int64_t k = 0; k < a->n_batch; k++) {
		int64_t n = a->batch[k].B * a->batch[k].T;
		q->row0[k] = rows;
		rows += n;
		q->most = n > q->most ? n : q->most;
	}
	q->x = big_alloc((size_t)slot_bytes(q));
	q->y = big_alloc((size_t)slot_bytes(q));
	int64_t need = (q->L + 1) * slot_bytes(q), left = a->hidden_budget - (need <= a->hidden_budget ? need : 0);
	if (hidden_open(&q->kept, need, a->hidden_budget, e) ||
	    (against_full(q) && hidden_open(&q->fulls, full_bytes(q, rows), left, e)))
		return -1;
	return a->metric == ABLATE_MSE ? mse_open(q, e) : 0;
}

void pass_close(struct pass *q)
{
	frame_free(&q->f);
	prog_free(q->p);
	frame_free(&q->mf);
	prog_free(q->mp);
	hidden_close(&q->kept);
	hidden_close(&q->fulls);
	if (q->x)
		big_free(q->x, (size_t)slot_bytes(q));
	if (q->y)
		big_free(q->y, (size_t)slot_bytes(q));
	free(q->in), free(q->mid), free(q->row0), free(q->full_done);
	*q = (struct pass){ 0 };
}

/* The ops after the one that defines `from`, up to the one that defines `to`. */
static void walk(struct pass *q, val from, val to)
{
	prog_run_part(&q->f, from.id ? q->p->v[from.id].def + 1 : 0, to.id ? q->p->v[to.id].def + 1 : q->p->n);
}

/* The stream lies in `from` and is wanted in `to`. */
static void carry(struct pass *q, val from, val to)
{
	if (from.id == to.id)
		return;
	frame_get(&q->f, from, q->x);
	frame_set(&q->f, to, q->x);
}

/* Block l without the parts in `drop`; returns the value in which the stream lies. */
static val block(struct pass *q, int64_t l, int drop, val cur)
{
	if (drop & DROP_LAYER || (drop & DROP_ATTN && drop & DROP_FFN))
		return cur;
	q->executed++;
	if (!(drop & DROP_ATTN)) {
		carry(q, cur, q->in[l]);
		walk(q, q->in[l], q->mid[l]);
		cur = q->mid[l];
	}
	if (!(drop & DROP_FFN)) {
		carry(q, cur, q->mid[l]);
		walk(q, q->mid[l], q->in[l + 1]);
		cur = q->in[l + 1];
	}
	return cur;
}

/* One sum of log-probabilities for each sequence. */
static void sequence_sums(struct pass *q, const struct ablate_batch *b, double *v)
{
	float *out = xcalloc((size_t)(2 * b->B * b->T), sizeof *out);
	frame_get(&q->f, q->head, out);
	for (int64_t i = 0; i < b->B; i++) {
		v[i] = 0;
		for (int64_t t = 0; t < b->T; t++)
			v[i] += (double)out[2 * (i * b->T + t)];
	}
	free(out);
}

/* Squared error of the logits of the rows that count, R at a time. */
static double squared_error(struct pass *q, const struct ablate_batch *b, const char *full)
{
	int64_t R = q->mp->T, n = 0, row = full_bytes(q, 1);
	char *h = (char *)q->x, *a = xcalloc((size_t)R, (size_t)row), *f = xcalloc((size_t)R, (size_t)row);
	int32_t *label = xcalloc((size_t)R, sizeof *label);
	double sum = 0;
	frame_get(&q->f, q->h, h);
	frame_zero_stats(&q->mf);
	for (int64_t i = 0; i < b->B * b->T; i++) {
		if (b->label[i] >= 0) {
			memcpy(a + n * row, h + i * row, (size_t)row);
			memcpy(f + n++ * row, full + i * row, (size_t)row);
		}
		if (n < R && (i + 1 < b->B * b->T || !n))
			continue;
		for (int64_t k = 0; k < R; k++)
			label[k] = k < n ? 0 : -1;
		frame_set(&q->mf, q->ma, a);
		frame_set(&q->mf, q->mb, f);
		frame_set(&q->mf, q->mlabel, label);
		prog_run(&q->mf);
		n = 0;
	}
	frame_get(&q->mf, q->msum, &sum);
	free(a), free(f), free(label);
	return sum;
}

/* Final norm and head; cur is where the stream lies. */
static int finish(struct pass *q, int64_t batch, val cur, double *v, struct err *e)
{
	const struct ablate_batch *b = &q->a->batch[batch];
	double sums[LOSS_KINDS];
	carry(q, cur, q->in[q->L]);
	if (against_full(q)) {
		if (!q->full_done[batch])
			BUG("batch %lld has no full model", (long long)batch);
		if (hidden_get(&q->fulls, full_bytes(q, q->row0[batch]), q->y, full_bytes(q, b->B * b->T), e))
			return -1;
		if (q->full.id)
			frame_set(&q->f, q->full, q->y);
	}
	frame_zero_stats(&q->f);
	walk(q, q->in[q->L], NONE);
	if (q->a->metric == ABLATE_TASK) {
		sequence_sums(q, b, v);
	} else if (q->a->metric == ABLATE_MSE) {
		v[0] = squared_error(q, b, (const char *)q->y);
	} else {
		frame_get(&q->f, q->head, sums);
		v[0] = sums[q->a->metric == ABLATE_KL ? LOSS_KL : LOSS_CE];
	}
	return 0;
}

/* The stream after the full model's last block becomes its final hidden states. */
static int keep_full(struct pass *q, int64_t batch, val cur, struct err *e)
{
	const struct ablate_batch *b = &q->a->batch[batch];
	carry(q, cur, q->in[q->L]);
	walk(q, q->in[q->L], q->h);
	frame_get(&q->f, q->h, q->x);
	if (hidden_put(&q->fulls, full_bytes(q, q->row0[batch]), q->x, full_bytes(q, b->B * b->T), e))
		return -1;
	q->full_done[batch] = 1;
	return 0;
}

int pass_full(struct pass *q, int64_t batch, struct err *e)
{
	if (!against_full(q) || q->full_done[batch])
		return 0;
	if (load(q, batch, e))
		return -1;
	walk(q, NONE, q->in[0]);
	val cur = q->in[0];
	for (int64_t l = 0; l < q->L; l++)
		cur = block(q, l, 0, cur);
	return keep_full(q, batch, cur, e);
}

int pass_prefix(struct pass *q, int64_t batch, const uint8_t *mask, int64_t upto, double *v, struct err *e)
{
	const struct ablate_batch *b = &q->a->batch[batch];
	int64_t bytes = b->B * b->T * q->C * (int64_t)sizeof(float);
	if (load(q, batch, e))
		return -1;
	walk(q, NONE, q->in[0]);
	val cur = q->in[0];
	for (int64_t l = 0; l <= upto; l++) {
		frame_get(&q->f, cur, q->x);
		if (hidden_put(&q->kept, l * slot_bytes(q), q->x, bytes, e))
			return -1;
		if (l < upto)
			cur = block(q, l, mask[l], cur);
	}
	if (upto < q->L || !v)
		return 0;
	v[0] = 0;
	if (q->a->metric == ABLATE_ANGULAR)
		return 0;
	return against_full(q) ? keep_full(q, batch, cur, e) : finish(q, batch, cur, v, e);
}

int pass_suffix(struct pass *q, int64_t batch, const uint8_t *mask, int64_t first, double *v, struct err *e)
{
	const struct ablate_batch *b = &q->a->batch[batch];
	if (load(q, batch, e) ||
	    hidden_get(&q->kept, first * slot_bytes(q), q->x, b->B * b->T * q->C * (int64_t)sizeof(float), e))
		return -1;
	frame_set(&q->f, q->in[first], q->x);
	val cur = q->in[first];
	for (int64_t l = first; l < q->L; l++)
		cur = block(q, l, mask[l], cur);
	return finish(q, batch, cur, v, e);
}

int pass_angle(struct pass *q, int64_t batch, int64_t first, int64_t n, double *v, struct err *e)
{
	const struct ablate_batch *b = &q->a->batch[batch];
	int64_t bytes = b->B * b->T * q->C * (int64_t)sizeof(float);
	if (hidden_get(&q->kept, first * slot_bytes(q), q->x, bytes, e) ||
	    hidden_get(&q->kept, (first + n) * slot_bytes(q), q->y, bytes, e))
		return -1;
	v[0] = 0;
	for (int64_t i = 0; i < b->B * b->T; i++) {
		const float *x = q->x + i * q->C, *y = q->y + i * q->C;
		double xx = 0, yy = 0, xy = 0;
		if (q->a->last && (i + 1) % b->T)
			continue;
		for (int64_t c = 0; c < q->C; c++) {
			xx += (double)x[c] * (double)x[c];
			yy += (double)y[c] * (double)y[c];
			xy += (double)x[c] * (double)y[c];
		}
		double cs = xy / sqrt(fmax(xx * yy, 1e-300));
		v[0] += acos(cs > 1 ? 1 : cs < -1 ? -1 : cs) / acos(-1.0);
	}
	return 0;
}
