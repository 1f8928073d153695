/*
 * ablate_pass.c - block by block, every stream that is in flight
 *
 * One block is recorded per batch shape, with names for the stream before, within and after it.  The outer loop goes over
 * the blocks, so each block's weights are needed once for a group of batches: the model may be read from disk as it goes.
 * Slot 0 is the prefix that a round's ablations share; the ablation that begins at block l copies it there and goes on by
 * itself.  To leave a part out its ops are not walked and the stream is carried over:
 *
 *	x_l --attn--> m_l --ffn--> x_(l+1)          without attn: m_l := x_l          without ffn: x_(l+1) := m_l
 *
 * After the last block come final norm and head of all slots.  Logits never exist for more than a few rows: the head is a
 * chunked op, or rows of both final hidden states are taken a few at a time.  For angles all that enters a block of the
 * prefix is kept, slot l before block l.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ablate_pass.h"
#include "../base/log.h"
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

static int64_t rows_of(const struct pass *q, int64_t batch)
{
	return q->row0[batch + 1] - q->row0[batch];
}

static int64_t full_bytes(const struct pass *q, int64_t rows)
{
	return rows * q->C * (int64_t)dtype_size(q->w.dtype);
}

/* ---- programs ---- */

static val kept(const struct prog *p, const char *site, int64_t layer)
{
	char name[48];
	snprintf(name, sizeof name, "keep.%s.%lld", site, (long long)layer);
	val v = prog_find(p, name);
	if (!v.id)
		BUG("no value %s", name);
	return v;
}

/* The program of one block for batches of B x T; it stays while blocks are of one kind. */
static int shape(struct pass *q, int64_t B, int64_t T, int64_t l, struct err *e)
{
	const struct arch *a = &q->w.t->arch;
	const struct probe pr[] = { { SITE_MID, -1, PROBE_KEEP, 1, NULL }, { SITE_BLOCK_OUT, -1, PROBE_KEEP, 1, NULL } };
	struct build b = { .t = q->w.t, .dtype = q->w.dtype, .wide = 1, .space = SP_PARAM, .prefix = "", .blk0 = l, .blk1 = l + 1,
			   .slice = 1, .probe = pr, .n_probe = 2 };
	if (!q->p || q->p->B != B || q->p->T != T || (l != q->made && (arch_uneven(a) || arch_window(a, l) != arch_window(a, q->made)))) {
		frame_free(&q->f);
		prog_free(q->p);
		struct prog *p = q->p = prog_new(B, T);
		q->in = p_input(p, "hidden", B * T, q->C, DT_F32);
		q->out = p_forward(p, &b, NONE, q->in);
		p_keep(p, q->out);
		q->mid = kept(p, "mid", l);
		q->made = l;
		if (prog_plan(p, e) || frame_new(&q->f, q->a->g, p, e))
			return err_wrap(e, "batch of %lld x %lld tokens", (long long)B, (long long)T);
	}
	q->f.base[SP_PARAM] = blocks_base(&q->w, l, q->made);
	return 0;
}

/* Final norm and head for the batch, with its labels in place. */
static int shape_head(struct pass *q, int64_t batch, struct err *e)
{
	const struct ablate_batch *b = &q->a->batch[batch];
	struct build w = { .dtype = q->w.dtype, .wide = 1, .space = SP_PARAM, .prefix = "" };
	struct pass_head *d = &q->head;
	char *base;
	if (blocks_tail(&q->w, &w.t, &w.blk0, &base, e))
		return -1;
	w.blk1 = w.blk0;
	if (!d->p || d->p->B != b->B || d->p->T != b->T) {
		int64_t N = b->B * b->T;
		frame_free(&d->f);
		prog_free(d->p);
		struct prog *p = d->p = prog_new(b->B, b->T);
		d->x = p_input(p, "hidden", N, q->C, DT_F32);
		d->label = p_input(p, "labels", N, 1, DT_I32);
		d->h = p_forward(p, &w, NONE, d->x);
		p_keep(p, d->h);
		d->full = q->a->metric == ABLATE_KL ? p_input(p, "full", N, q->C, q->w.dtype) : NONE;
		d->sums = NONE;
		val W = p_head_weight(p, &w);
		if (q->a->metric == ABLATE_LOSS || q->a->metric == ABLATE_KL)
			d->sums = p_kd_head(p, d->h, W, d->full, d->full.id ? W : NONE, d->label);
		else if (q->a->metric == ABLATE_TASK)
			p_keep(p, d->sums = p_logprob(p, d->h, W, d->label));
		if (prog_plan(p, e) || frame_new(&d->f, q->a->g, p, e))
			return err_wrap(e, "head for a batch of %lld x %lld tokens", (long long)b->B, (long long)b->T);
	}
	d->f.base[SP_PARAM] = base;
	frame_set(&d->f, d->label, b->label);
	return 0;
}

/* Rows of logits that fit, both models, f32. */
static int shape_mse(struct pass *q, struct err *e)
{
	int64_t V = q->w.t->arch.vocab, rows = LOGIT_BYTES / (8 * V), at;
	struct build b = { .dtype = q->w.dtype, .space = SP_PARAM, .prefix = "" };
	char *base;
	if (blocks_tail(&q->w, &b.t, &at, &base, e))
		return -1;
	if (!q->mp) {
		rows = rows < 1 ? 1 : rows > q->most ? q->most : rows;
		struct prog *p = q->mp = prog_new(1, rows);
		q->ma = p_input(p, "rows", rows, q->C, q->w.dtype);
		q->mb = p_input(p, "full", rows, q->C, q->w.dtype);
		val W = p_head_weight(p, &b);
		q->mlabel = p_input(p, "labels", rows, 1, DT_I32);
		q->msum = p_inner_loss(p, OP_MSE, p_linear(p, q->ma, W, NONE, NONE, DT_F32),
				       p_linear(p, q->mb, W, NONE, NONE, DT_F32), q->mlabel, -1);
		if (prog_plan(p, e) || frame_new(&q->mf, q->a->g, p, e))
			return -1;
	}
	q->mf.base[SP_PARAM] = base;
	return 0;
}

/* x = embeddings of the batch */
static int embed(struct pass *q, int64_t batch, struct err *e)
{
	const struct ablate_batch *b = &q->a->batch[batch];
	struct build w = { .t = q->w.t, .dtype = q->w.dtype, .space = SP_PARAM, .prefix = "" };
	struct frame f;
	if (!q->w.whole) {
		blocks_embed(&q->w, b->ids, b->B * b->T, q->x);
		return 0;
	}
	struct prog *p = prog_new(b->B, b->T);
	val tok = p_input(p, "tokens", b->B * b->T, 1, DT_I32), x = p_forward(p, &w, tok, NONE);
	p_keep(p, x);
	int rc = prog_plan(p, e) || frame_new(&f, q->a->g, p, e) ? -1 : 0;
	if (!rc) {
		f.base[SP_PARAM] = q->w.whole;
		frame_set(&f, tok, b->ids);
		prog_run(&f);
		frame_get(&f, x, q->x);
		frame_free(&f);
	}
	prog_free(p);
	return rc;
}

/* ---- life ---- */

/* Batches that are run together: one, or where weights are read from disk as many as fit in the budget. */
static int64_t group_size(const struct pass *q)
{
	int64_t n = 1, rows = 0, k0 = 0;
	for (int64_t k = 0; k < q->a->n_batch && !q->a->w; k++) {
		rows = q->row0[k + 1] - q->row0[k0];
		if (k > k0 && q->slots * rows * q->C * 4 > q->a->hidden_budget)
			return n;
		n = k + 1 - k0;
	}
	return n;
}

int pass_open(struct pass *q, const struct ablate_args *a, struct err *e)
{
	*q = (struct pass){ .a = a, .kept.fd = -1, .fulls.fd = -1 };
	if (a->w)
		blocks_whole(&q->w, a->w);
	else if (blocks_open(&q->w, a->g, a->dir, a->t, a->dtype, e))
		return -1;
	q->L = q->w.t->arch.layers;
	q->C = q->w.t->arch.hidden;
	q->slots = q->L + 2;
	q->row0 = xcalloc((size_t)a->n_batch + 1, sizeof *q->row0);
	q->full_done = xcalloc((size_t)a->n_batch, 1);
	q->runs = xcalloc((size_t)(q->slots * a->n_batch), sizeof *q->runs);
	for (int64_t k = 0; k < a->n_batch; k++) {
		int64_t n = a->batch[k].B * a->batch[k].T;
		q->row0[k + 1] = q->row0[k] + n;
		q->most = n > q->most ? n : q->most;
	}
	q->x = big_alloc((size_t)(q->most * q->C) * sizeof *q->x);
	q->y = big_alloc((size_t)(q->most * q->C) * sizeof *q->y);
	q->group = group_size(q);
	int64_t rows = 0;
	for (int64_t k = 0; k < a->n_batch; k++) {
		int64_t to = k + q->group < a->n_batch ? k + q->group : a->n_batch;
		rows = q->row0[to] - q->row0[k] > rows ? q->row0[to] - q->row0[k] : rows;
	}
	int64_t need = q->slots * rows * q->C * 4, left = a->hidden_budget - (need <= a->hidden_budget ? need : 0);
	if (hidden_open(&q->kept, need, a->hidden_budget, e) ||
	    (against_full(q) && hidden_open(&q->fulls, full_bytes(q, q->row0[a->n_batch]), left, e)))
		return -1;
	return 0;
}

void pass_close(struct pass *q)
{
	frame_free(&q->f);
	prog_free(q->p);
	frame_free(&q->head.f);
	prog_free(q->head.p);
	frame_free(&q->mf);
	prog_free(q->mp);
	hidden_close(&q->kept);
	hidden_close(&q->fulls);
	if (q->x)
		big_free(q->x, (size_t)(q->most * q->C) * sizeof *q->x);
	if (q->y)
		big_free(q->y, (size_t)(q->most * q->C) * sizeof *q->y);
	free(q->row0), free(q->full_done), free(q->runs);
	blocks_close(&q->w);
	*q = (struct pass){ 0 };
}

/* ---- blocks ---- */

/* Where the stream of a slot lies for a batch of the group that begins with k0. */
static int64_t place(const struct pass *q, int64_t slot, int64_t k0, int64_t batch)
{
	int64_t rows = q->kept.bytes / (q->slots * q->C * 4);
	return (slot * rows + q->row0[batch] - q->row0[k0]) * q->C * 4;
}

static void walk(struct pass *q, val from, val to)
{
	prog_run_part(&q->f, from.id == q->in.id ? 0 : q->p->v[from.id].def + 1, q->p->v[to.id].def + 1);
}

/* x through the block without the parts in `drop`, not all of it. */
static void run_block(struct pass *q, int drop)
{
	val from = drop & DROP_ATTN ? q->mid : q->in, to = drop & DROP_FFN ? q->mid : q->out;
	frame_set(&q->f, from, q->x);
	walk(q, from, to);
	frame_get(&q->f, to, q->x);
	q->executed++;
}

/* Bits of block l in ablation i; i == -1: the prefix, n_cand: the full model. */
static int dropped(const struct pass *q, const struct pass_round *r, int64_t i, int64_t l)
{
	if (i == r->n_cand)
		return 0;
	int in = i >= 0 && l >= r->cand[i] && l < r->cand[i] + q->a->count;
	int d = r->mask[l] | (in ? q->a->part : 0);
	return d & DROP_LAYER || (d & DROP_ATTN && d & DROP_FFN) ? DROP_LAYER : d;
}

/* One slot over one batch at block l; the ablation that begins here takes the prefix's stream. */
static int step(struct pass *q, const struct pass_round *r, int64_t i, int64_t l, int64_t k0, int64_t batch, struct err *e)
{
	int angular = q->a->metric == ABLATE_ANGULAR, drop = dropped(q, r, i, l);
	int64_t from = angular ? l : i >= 0 && i < r->n_cand && r->cand[i] == l ? 0 : i + 1, to = angular ? l + 1 : i + 1;
	int64_t bytes = rows_of(q, batch) * q->C * 4;
	if (from == to && drop & DROP_LAYER)
		return 0;
	if (hidden_get(&q->kept, place(q, from, k0, batch), q->x, bytes, e))
		return -1;
	if (!(drop & DROP_LAYER)) {
		run_block(q, drop);
		q->runs[(i + 1) * q->a->n_batch + batch]++;
	}
	if (hidden_put(&q->kept, place(q, to, k0, batch), q->x, bytes, e))
		return -1;
	if (q->a->step)
		q->a->step(q->a->step_arg, (double)q->executed);
	return 0;
}

/* Whether slot i has anything to do at block l. */
static int alive(const struct pass *q, const struct pass_round *r, int64_t i, int64_t l, int full)
{
	if (i < 0)
		return l < r->upto;
	if (i == r->n_cand)
		return full;
	return q->a->metric != ABLATE_ANGULAR && l >= r->cand[i];
}

static int stopped(const struct pass *q, struct err *e)
{
	if (!stop_requested())
		return 0;
	return err_set(e, q->a->state ? EXIT_AGAIN : 128 + stop_requested(),
		       q->a->state ? "stopped, run again to go on" : "stopped, nothing written");
}

static int blocks_over(struct pass *q, const struct pass_round *r, int64_t k0, int64_t k1, int full, struct err *e)
{
	for (int64_t l = 0; l < q->L; l++) {
		int loaded = 0;
		for (int64_t k = k0; k < k1; k++) {
			if (stopped(q, e))
				return -1;
			/* the prefix last: those that begin here take what enters the block */
			for (int64_t i = r->n_cand; i >= -1; i--) {
				if (!alive(q, r, i, l, full))
					continue;
				if (!(dropped(q, r, i, l) & DROP_LAYER) && !loaded++ && blocks_load(&q->w, l, e))
					return -1;
				if (!(dropped(q, r, i, l) & DROP_LAYER) && shape(q, q->a->batch[k].B, q->a->batch[k].T, l, e))
					return -1;
				if (step(q, r, i, l, k0, k, e))
					return -1;
			}
		}
	}
	return 0;
}

/* ---- values ---- */

/* One sum of log-probabilities for each sequence. */
static void sequence_sums(struct pass *q, const struct ablate_batch *b, double *v)
{
	float *out = xcalloc((size_t)(2 * b->B * b->T), sizeof *out);
	frame_get(&q->head.f, q->head.sums, out);
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
	frame_get(&q->head.f, q->head.h, h);
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

/* A slot's stream through final norm and head. */
static int finish(struct pass *q, int64_t slot, int64_t k0, int64_t batch, double *v, struct err *e)
{
	const struct ablate_batch *b = &q->a->batch[batch];
	double sums[LOSS_KINDS];
	if (hidden_get(&q->kept, place(q, slot, k0, batch), q->x, rows_of(q, batch) * q->C * 4, e))
		return -1;
	frame_set(&q->head.f, q->head.x, q->x);
	if (against_full(q)) {
		if (!q->full_done[batch])
			BUG("batch %lld has no full model", (long long)batch);
		if (hidden_get(&q->fulls, full_bytes(q, q->row0[batch]), q->y, full_bytes(q, b->B * b->T), e))
			return -1;
		if (q->head.full.id)
			frame_set(&q->head.f, q->head.full, q->y);
	}
	frame_zero_stats(&q->head.f);
	prog_run(&q->head.f);
	if (q->a->metric == ABLATE_TASK) {
		sequence_sums(q, b, v);
	} else if (q->a->metric == ABLATE_MSE) {
		v[0] = squared_error(q, b, (const char *)q->y);
	} else {
		frame_get(&q->head.f, q->head.sums, sums);
		v[0] = sums[q->a->metric == ABLATE_KL ? LOSS_KL : LOSS_CE];
	}
	return 0;
}

/* The full model's stream after its last block becomes its final hidden states. */
static int keep_full(struct pass *q, int64_t slot, int64_t k0, int64_t batch, struct err *e)
{
	if (hidden_get(&q->kept, place(q, slot, k0, batch), q->x, rows_of(q, batch) * q->C * 4, e))
		return -1;
	frame_set(&q->head.f, q->head.x, q->x);
	prog_run_part(&q->head.f, 0, q->head.p->v[q->head.h.id].def + 1);
	frame_get(&q->head.f, q->head.h, q->x);
	q->full_done[batch] = 1;
	return hidden_put(&q->fulls, full_bytes(q, q->row0[batch]), q->x, full_bytes(q, rows_of(q, batch)), e);
}

/* Sum of angles between what enters blocks l and l + n, over pi. */
static int angle(struct pass *q, int64_t l, int64_t n, int64_t k0, int64_t batch, double *v, struct err *e)
{
	int64_t bytes = rows_of(q, batch) * q->C * 4, T = q->a->batch[batch].T;
	if (hidden_get(&q->kept, place(q, l, k0, batch), q->x, bytes, e) ||
	    hidden_get(&q->kept, place(q, l + n, k0, batch), q->y, bytes, e))
		return -1;
	v[0] = 0;
	for (int64_t i = 0; i < rows_of(q, batch); i++) {
		const float *x = q->x + i * q->C, *y = q->y + i * q->C;
		double xx = 0, yy = 0, xy = 0;
		if (q->a->last && (i + 1) % T)
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

/* All values of one batch; at: where its first one goes. */
static int values(struct pass *q, const struct pass_round *r, int64_t k0, int64_t batch, int64_t at, int full, struct err *e)
{
	if (q->a->metric == ABLATE_ANGULAR) {
		if (r->v0)
			r->v0[at] = 0;
		for (int64_t i = 0; i < r->n_cand; i++)
			if (angle(q, r->cand[i], q->a->count, k0, batch, r->v + i * r->n_out + at, e))
				return -1;
		return 0;
	}
	if (shape_head(q, batch, e) || (q->a->metric == ABLATE_MSE && shape_mse(q, e)))
		return -1;
	if ((full || (against_full(q) && r->v0)) && keep_full(q, full ? r->n_cand + 1 : 0, k0, batch, e))
		return -1;
	if (r->v0 && against_full(q))
		r->v0[at] = 0;
	else if (r->v0 && finish(q, 0, k0, batch, r->v0 + at, e))
		return -1;
	for (int64_t i = 0; i < r->n_cand; i++)
		if (finish(q, i + 1, k0, batch, r->v + i * r->n_out + at, e))
			return -1;
	return 0;
}

int pass_group(struct pass *q, const struct pass_round *r, int64_t k0, int64_t k1, struct err *e)
{
	int64_t at = 0;
	int full = 0;                  /* whether the full model must run beside */
	for (int64_t k = k0; k < k1; k++) {
		full |= against_full(q) && !r->v0 && !q->full_done[k];
		for (int64_t i = 0; i < q->slots; i++)
			q->runs[i * q->a->n_batch + k] = 0;
		if (embed(q, k, e) ||
		    hidden_put(&q->kept, place(q, 0, k0, k), q->x, rows_of(q, k) * q->C * 4, e) ||
		    (full && hidden_put(&q->kept, place(q, r->n_cand + 1, k0, k), q->x, rows_of(q, k) * q->C * 4, e)))
			return -1;
	}
	for (int64_t k = 0; k < k0; k++)
		at += pass_n_out(q->a, k);
	if (blocks_over(q, r, k0, k1, full, e))
		return -1;
	for (int64_t k = k0; k < k1; at += pass_n_out(q->a, k++))
		if (stopped(q, e) || values(q, r, k0, k, at, full, e))
			return -1;
	return 0;
}
