/*
 * loglik.c - requests become batches, batches become programs
 *
 * Two ways to pack.  A forest (forest.h) for backends that have attn_tree: common starts once, no padding.  Else, and for
 * programs of whole sequences, padded batches: longest first, input lengths rounded up to a bucket, eight per power of
 * two, so that at most 1/8 is padding; padding is on the right, where causal attention sees none of it.  Either way a
 * result does not depend on what else was in its batch (up to the kernels' own blocking).
 *
 * The largest batch comes first: one that does not fit fails at once.  Equal shapes follow one another, so keeping the last
 * program and frame reuses nearly all.  The output matrix, a third of a small model's work, is spent on scored places only.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "forest.h"
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

int64_t ll_bucket(int64_t n)
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
		int64_t T = ll_bucket(key[i].n - 1);
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
	int64_t N, M;             /* tokens read; places scored (a forest's picks, else N) */
	int tree;
	val tok, node, pick, label, out;
	int32_t *h_tok, *h_node;  /* [N], [N, 2] */
	int32_t *h_pick, *h_label; /* [M] */
	float *h_out;             /* [M, 2] */
};

/* T: length of the padded sequences, 0 for a forest of N tokens */
static struct prog *record(struct scorer *q, const struct ptable *t, int dtype, int64_t N, int64_t M, int64_t T)
{
	struct build b = { .t = t, .dtype = dtype, .wide = 1, .space = SP_PARAM, .prefix = "", .blk1 = t->arch.layers };
	struct prog *p = T ? prog_new(N / T, T) : prog_new(1, N);
	*q = (struct scorer){ .p = p, .N = N, .M = M, .tree = !T };
	q->tok = p_input(p, "tok", N, 1, DT_I32);
	if (q->tree) {
		b.node = q->node = p_input(p, "node", N, 2, DT_I32);
		q->pick = p_input(p, "pick", M, 1, DT_I32);
	}
	q->label = p_input(p, "label", M, 1, DT_I32);
	val h = p_forward(p, &b, q->tok, NONE);
	if (q->tree) /* rows of h, not of a table: a place that starts several continuations is scored for each */
		h = p_embed(p, q->pick, h, 1);
	q->out = p_logprob(p, h, p_head_weight(p, &b), q->label);
	p_keep(p, q->out);
	return p;
}

static void scorer_free(struct scorer *q)
{
	frame_free(&q->f);
	prog_free(q->p);
	free(q->h_tok);
	free(q->h_node);
	free(q->h_pick);
	free(q->h_label);
	free(q->h_out);
	*q = (struct scorer){ 0 };
}

static int scorer_fit(struct scorer *q, const struct weights *m, int64_t N, int64_t M, int64_t T, struct err *e)
{
	if (q->p && q->N == N && q->M == M && q->tree == !T && (q->tree || q->p->T == T))
		return 0;
	scorer_free(q);
	record(q, m->t, m->dtype, N, M, T);
	if (prog_plan(q->p, e) || frame_new(&q->f, m->g, q->p, e)) {
		scorer_free(q);
		return err_wrap(e, "batch of %lld tokens", (long long)N);
	}
	q->f.base[SP_PARAM] = m->w;
	q->h_tok = xcalloc((size_t)N, sizeof *q->h_tok);
	q->h_node = xcalloc(2 * (size_t)N, sizeof *q->h_node);
	q->h_pick = xcalloc((size_t)M, sizeof *q->h_pick);
	q->h_label = xcalloc((size_t)M, sizeof *q->h_label);
	q->h_out = xcalloc(2 * (size_t)M, sizeof *q->h_out);
	return 0;
}

static void scorer_run(struct scorer *q)
{
	frame_set(&q->f, q->tok, q->h_tok);
	frame_set(&q->f, q->label, q->h_label);
	if (q->tree) {
		frame_set(&q->f, q->node, q->h_node);
		frame_set(&q->f, q->pick, q->h_pick);
	}
	prog_run(&q->f);
	frame_get(&q->f, q->out, q->h_out);
}

/* Sums n rows of the output */
static void take(struct ll_req *r, const float *out)
{
	r->sum = 0;
	r->greedy = 1;
	for (int64_t t = 0; t < r->n_cont; t++) {
		r->sum += (double)out[2 * t];
		r->greedy &= out[2 * t + 1] != 0;
	}
	r->done = 1;
}

/* Either packing, seen from the loop that runs it */
struct packing {
	int tree;
	struct forest f;
	struct ll_batches q;
	int64_t n;
};

static void pack(struct packing *p, const struct ll_set *s, const struct ll_opts *o, int tree)
{
	*p = (struct packing){ .tree = tree };
	if (tree)
		forest_make(&p->f, s, o->alone ? 1 : o->batch_tokens, !o->alone);
	else
		ll_batches_make(&p->q, s, o->alone ? 1 : o->batch_tokens);
	p->n = tree ? p->f.n : p->q.n;
}

static void unpack(struct packing *p)
{
	if (p->tree)
		forest_free(&p->f);
	else
		ll_batches_free(&p->q);
}

static const int64_t *requests(const struct packing *p, int64_t i, int64_t *n)
{
	*n = p->tree ? p->f.b[i].n : p->q.b[i].n;
	return p->tree ? p->f.order + p->f.b[i].first : p->q.order + p->q.b[i].first;
}

static void shape(const struct packing *p, int64_t i, int64_t *N, int64_t *M, int64_t *T)
{
	*T = p->tree ? 0 : p->q.b[i].T;
	if (p->tree)
		forest_shape(&p->f.b[i], N, M);
	else
		*N = *M = p->q.b[i].n * *T;
}

static void run_batch(struct scorer *sc, struct ll_set *s, const struct packing *p, int64_t i)
{
	int64_t n, m = 0;
	const int64_t *req = requests(p, i, &n);
	if (p->tree)
		forest_fill(&p->f, s, i, sc->N, sc->M, sc->h_tok, sc->h_node, sc->h_pick, sc->h_label);
	else
		ll_batch_fill(s, &p->q, i, sc->h_tok, sc->h_label);
	scorer_run(sc);
	for (int64_t k = 0; k < n; k++) {
		struct ll_req *r = &s->r[req[k]];
		if (!p->tree)
			m = k * p->q.b[i].T + r->n - 1 - r->n_cont;
		take(r, sc->h_out + 2 * m);
		m += r->n_cont;
	}
}

static int all_done(const struct ll_set *s, const int64_t *req, int64_t n)
{
	while (n > 0 && s->r[req[n - 1]].done)
		n--;
	return !n;
}

/* Results of all processes; each request was scored by one of them, zeros of the others change nothing. */
static void exchange(struct ll_set *s, struct comm *world)
{
	if (!world || world->size < 2)
		return;
	double *sum = xcalloc((size_t)s->n + 1, sizeof *sum);
	int64_t *flag = xcalloc((size_t)s->n + 1, sizeof *flag);
	for (int64_t i = 0; i < s->n; i++)
		if (s->r[i].done) {
			sum[i] = s->r[i].sum;
			flag[i] = 1 + (s->r[i].greedy ? INT64_C(1) << 32 : 0);
		}
	comm_sum_f64(world, sum, s->n);
	comm_sum_i64(world, flag, s->n);
	for (int64_t i = 0; i < s->n; i++) {
		int64_t times = flag[i] & INT32_MAX;
		s->r[i].done = times > 0;
		s->r[i].sum = times ? sum[i] / (double)times : 0;
		s->r[i].greedy = flag[i] >> 32 > 0;
	}
	free(sum);
	free(flag);
}

int ll_score(struct ll_set *s, const struct weights *m, const struct ll_opts *o, struct err *e)
{
	struct packing p;
	struct scorer sc = { 0 };
	int64_t tokens = 0, n, N, M, T;
	int rc = 0;
	pack(&p, s, o, m->g->k->attn_tree != NULL);
	for (int64_t i = 0; i < p.n && !rc; i++) {
		const int64_t *req = requests(&p, i, &n);
		shape(&p, i, &N, &M, &T);
		tokens += N;
		if (!comm_mine(o->world, i) || all_done(s, req, n))
			continue;
		if (stop_requested())
			rc = err_set(e, 128 + stop_requested(), "stopped by a signal");
		else
			rc = scorer_fit(&sc, m, N, M, T, e);
		if (rc)
			break;
		run_batch(&sc, s, &p, i);
		if (o->step)
			rc = o->step(o->arg, req, n, tokens, e);
	}
	scorer_free(&sc);
	unpack(&p);
	if (!rc)
		exchange(s, o->world);
	return rc;
}

int ll_cost(const struct ll_set *s, const struct ptable *t, int dtype, const struct ll_opts *o, struct ll_cost *c,
	    struct err *e)
{
	struct packing p;
	int64_t big[3] = { 0 }, N, M, T;
	*c = (struct ll_cost){ 0 };
	pack(&p, s, o, 1);
	for (int64_t i = 0; i < p.n; i++) {
		shape(&p, i, &N, &M, &T);
		c->padded += N;
		if (N > big[0])
			big[0] = N, big[1] = M, big[2] = T;
	}
	for (int64_t i = 0; i < s->n; i++) {
		c->tokens += s->r[i].n - 1;
		c->scored += s->r[i].n_cont;
	}
	c->flops = (double)c->padded * arch_forward_flops(&t->arch, s->n ? c->tokens / s->n + 1 : 1, 0) +
		   2.0 * (double)c->scored * (double)t->arch.vocab * (double)t->arch.hidden;
	int rc = 0;
	if (p.n) {
		struct scorer sc = { 0 };
		record(&sc, t, dtype, big[0], big[1], big[2]);
		rc = prog_plan(sc.p, e);
		c->act_bytes = sc.p->bytes[SP_ACT] + sc.p->bytes[SP_INPUT] + sc.p->bytes[SP_CONST];
		scorer_free(&sc);
	}
	unpack(&p);
	return rc;
}
