/*
 * loglik.c - requests become batches, batches become programs
 *
 * Requests are taken longest first (a batch that does not fit fails at once, and the remaining time is never
 * underestimated).  Input length is rounded up to a bucket, eight per power of two, so that at most 1/8 is padding;
 * neighbours of one bucket share a batch.  Padding is on the right: attention is causal, so no row that counts
 * sees it, and a result does not depend on what else was in its batch (up to the kernels' own blocking).
 *
 * Because the order is sorted, equal shapes follow one another: keeping the last program and frame reuses all of them.
 * Labels are -1 where nothing is scored and OP_LOGPROB skips those rows: the output matrix, a third of a small
 * model's work, is spent on scored rows only.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "loglik.h"
#include "../base/log.h"
#include <stdlib.h>
#include <string.h>

void ll_set_free(struct ll_set *s)
{
	free(s->ids);
	free(s->r);
	*s = (struct ll_set){ 0 };
}

static void append(struct ll_set *s, const uint32_t *ids, int64_t n)
{
	if (s->n_ids + n > s->cap_ids) {
		s->cap_ids = 2 * (s->n_ids + n);
		s->ids = xrealloc(s->ids, (size_t)s->cap_ids, sizeof *s->ids);
	}
	for (int64_t i = 0; i < n; i++)
		s->ids[s->n_ids++] = (int32_t)ids[i];
}

int ll_add(struct ll_set *s, const uint32_t *ctx, int64_t n_ctx, const uint32_t *cont, int64_t n_cont,
	   int64_t max_length, struct err *e)
{
	if (n_cont <= 0)
		return err_set(e, EXIT_DATA, "the continuation has no token of its own");
	if (n_cont > max_length)
		return err_set(e, EXIT_DATA, "the continuation has %lld tokens, the model reads at most %lld",
			       (long long)n_cont, (long long)max_length);
	if (n_ctx <= 0)
		BUG("request without context");
	int64_t keep = max_length + 1 - n_cont;
	if (keep > n_ctx)
		keep = n_ctx;
	if (s->n >= s->cap) {
		s->cap = s->cap ? 2 * s->cap : 64;
		s->r = xrealloc(s->r, (size_t)s->cap, sizeof *s->r);
	}
	s->r[s->n++] = (struct ll_req){ .off = s->n_ids, .n = keep + n_cont, .n_cont = n_cont };
	append(s, ctx + (n_ctx - keep), keep);
	append(s, cont, n_cont);
	return 0;
}

void ll_add_rolling(struct ll_set *s, uint32_t prefix, const uint32_t *ids, int64_t n, int64_t max_length)
{
	int64_t p = n < max_length ? n : max_length;
	if (p > 0 && ll_add(s, &prefix, 1, ids, p, max_length, NULL))
		BUG("first window");
	while (p < n) {
		int64_t k = n - p < max_length ? n - p : max_length, end = p + k, start = end - max_length - 1;
		if (ll_add(s, ids + start, p - start, ids + p, k, max_length, NULL))
			BUG("window at %lld", (long long)p);
		p = end;
	}
}

/* The next multiple of an eighth of the power of two below n, at least 16. */
static int64_t bucket(int64_t n)
{
	int64_t step = 16;
	while (step * 16 <= n)
		step *= 2;
	return (n + step - 1) / step * step;
}

struct by_length {
	int64_t n, i;
};

static int longest_first(const void *x, const void *y)
{
	const struct by_length *a = x, *b = y;
	return a->n != b->n ? (a->n > b->n ? -1 : 1) : a->i < b->i ? -1 : a->i > b->i;
}

void ll_batches_make(struct ll_batches *q, const struct ll_set *s, int64_t budget)
{
	struct by_length *key = xcalloc((size_t)s->n + 1, sizeof *key);
	*q = (struct ll_batches){ .order = xcalloc((size_t)s->n + 1, sizeof *q->order) };
	for (int64_t i = 0; i < s->n; i++)
		key[i] = (struct by_length){ s->r[i].n, i };
	qsort(key, (size_t)s->n, sizeof *key, longest_first);
	for (int64_t i = 0; i < s->n; i++) {
		int64_t T = bucket(key[i].n - 1);
		struct ll_batch *b = q->n ? &q->b[q->n - 1] : NULL;
		q->order[i] = key[i].i;
		if (b && b->T == T && (b->n + 1) * T <= budget) {
			b->n++;
			continue;
		}
		if (q->n >= q->cap) {
			q->cap = q->cap ? 2 * q->cap : 64;
			q->b = xrealloc(q->b, (size_t)q->cap, sizeof *q->b);
		}
		q->b[q->n++] = (struct ll_batch){ .first = i, .n = 1, .T = T };
	}
	free(key);
}

void ll_batches_free(struct ll_batches *q)
{
	free(q->order);
	free(q->b);
}

void ll_batch_fill(const struct ll_set *s, const struct ll_batches *q, int64_t i, int32_t *tok, int32_t *label)
{
	const struct ll_batch *b = &q->b[i];
	const int64_t T = b->T;
	for (int64_t k = 0; k < b->n; k++) {
		const struct ll_req *r = &s->r[q->order[b->first + k]];
		const int32_t *ids = s->ids + r->off;
		for (int64_t t = 0; t < T; t++) {
			tok[k * T + t] = t < r->n - 1 ? ids[t] : 0;
			label[k * T + t] = t < r->n - 1 && t >= r->n - 1 - r->n_cont ? ids[t + 1] : -1;
		}
	}
}

/* One program with its memory, and the host side of its inputs and output. */
struct scorer {
	struct prog *p;
	struct frame f;
	val tok, label, out;
	int32_t *h_tok, *h_label; /* [B*T] */
	float *h_out;             /* [B*T, 2] */
};

static struct prog *record(struct scorer *q, const struct ptable *t, int dtype, int64_t B, int64_t T)
{
	struct build b = { .t = t, .dtype = dtype, .wide = 1, .space = SP_PARAM, .prefix = "", .blk1 = t->arch.layers };
	struct prog *p = prog_new(B, T);
	q->tok = p_input(p, "tok", B * T, 1, DT_I32);
	q->label = p_input(p, "label", B * T, 1, DT_I32);
	val h = p_forward(p, &b, q->tok, NONE);
	q->out = p_logprob(p, h, p_head_weight(p, &b), q->label);
	p_keep(p, q->out);
	return p;
}

static void scorer_free(struct scorer *q)
{
	frame_free(&q->f);
	prog_free(q->p);
	free(q->h_tok);
	free(q->h_label);
	free(q->h_out);
	*q = (struct scorer){ 0 };
}

static int scorer_fit(struct scorer *q, const struct weights *m, int64_t B, int64_t T, struct err *e)
{
	if (q->p && q->p->B == B && q->p->T == T)
		return 0;
	scorer_free(q);
	q->p = record(q, m->t, m->dtype, B, T);
	if (prog_plan(q->p, e) || frame_new(&q->f, m->g, q->p, e)) {
		scorer_free(q);
		return err_wrap(e, "batch of %lld x %lld tokens", (long long)B, (long long)T);
	}
	q->f.base[SP_PARAM] = m->w;
	size_t n = (size_t)(B * T);
	q->h_tok = xcalloc(n, sizeof *q->h_tok);
	q->h_label = xcalloc(n, sizeof *q->h_label);
	q->h_out = xcalloc(2 * n, sizeof *q->h_out);
	return 0;
}

static void run_batch(struct scorer *q, struct ll_set *s, const struct ll_batches *all, int64_t k)
{
	const struct ll_batch *b = &all->b[k];
	const int64_t T = b->T, *order = all->order;
	ll_batch_fill(s, all, k, q->h_tok, q->h_label);
	frame_set(&q->f, q->tok, q->h_tok);
	frame_set(&q->f, q->label, q->h_label);
	prog_run(&q->f);
	frame_get(&q->f, q->out, q->h_out);
	for (int64_t i = 0; i < b->n; i++) {
		struct ll_req *r = &s->r[order[b->first + i]];
		r->sum = 0;
		r->greedy = 1;
		for (int64_t t = r->n - 1 - r->n_cont; t < r->n - 1; t++) {
			r->sum += (double)q->h_out[2 * (i * T + t)];
			r->greedy &= q->h_out[2 * (i * T + t) + 1] != 0;
		}
	}
}

int ll_score(struct ll_set *s, const struct weights *m, const struct ll_opts *o,
	     void (*step)(void *arg, int64_t padded), void *arg, struct err *e)
{
	struct ll_batches q;
	struct scorer sc = { 0 };
	int64_t done = 0;
	int rc = 0;
	ll_batches_make(&q, s, o->batch_tokens);
	for (int64_t i = 0; i < q.n && !rc; i++) {
		if (stop_requested()) {
			rc = err_set(e, 128 + stop_requested(), "stopped by a signal, nothing written");
			break;
		}
		rc = scorer_fit(&sc, m, q.b[i].n, q.b[i].T, e);
		if (rc)
			break;
		run_batch(&sc, s, &q, i);
		done += q.b[i].n * q.b[i].T;
		if (step)
			step(arg, done);
	}
	scorer_free(&sc);
	ll_batches_free(&q);
	return rc;
}

int ll_cost(const struct ll_set *s, const struct ptable *t, int dtype, const struct ll_opts *o, struct ll_cost *c,
	    struct err *e)
{
	struct ll_batches q;
	int64_t big = 0;
	*c = (struct ll_cost){ 0 };
	ll_batches_make(&q, s, o->batch_tokens);
	for (int64_t i = 0; i < q.n; i++) {
		int64_t n = q.b[i].n * q.b[i].T;
		c->padded += n;
		c->flops += (double)n * arch_forward_flops(&t->arch, q.b[i].T, 0);
		if (n > q.b[big].n * q.b[big].T)
			big = i;
	}
	for (int64_t i = 0; i < s->n; i++) {
		c->tokens += s->r[i].n - 1;
		c->scored += s->r[i].n_cont;
	}
	c->flops += 2.0 * (double)c->scored * (double)t->arch.vocab * (double)t->arch.hidden;
	int rc = 0;
	if (q.n) {
		struct scorer sc = { 0 };
		sc.p = record(&sc, t, dtype, q.b[big].n, q.b[big].T);
		rc = prog_plan(sc.p, e);
		c->act_bytes = sc.p->bytes[SP_ACT] + sc.p->bytes[SP_INPUT] + sc.p->bytes[SP_CONST];
		scorer_free(&sc);
	}
	ll_batches_free(&q);
	return rc;
}
