/*
 * loglik.c - requests become batches, batches become programs
 *
 * Two ways to pack.  A forest (forest.h) for backends that have attn_tree: common starts once, no padding; keys and values of a
 * trunk are kept from a pass of its own for the batches that begin behind it.  Else, and for
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
	int64_t past;             /* rows of the trunk, 0: none */
	int tree;
	val tok, node, pick, label, out;
	int32_t *h_tok, *h_node;  /* [N], [past + N, 2] */
	int32_t *h_pick, *h_label; /* [M] */
	float *h_out;             /* [M, 2] */
};

/* Programs of a batch have four sizes: tokens read, places scored, length of the padded sequences (0: a forest), rows of the trunk */
struct size {
	int64_t N, M, T, past;
};

static struct prog *record(struct scorer *q, const struct ptable *t, int dtype, const struct size *z)
{
	const int64_t N = z->N, M = z->M, T = z->T;
	struct build b = { .t = t, .dtype = dtype, .wide = 1, .space = SP_PARAM, .prefix = "", .blk1 = t->arch.layers };
	struct prog *p = T ? prog_new(N / T, T) : prog_new(1, N);
	*q = (struct scorer){ .p = p, .N = N, .M = M, .tree = !T, .past = z->past };
	q->tok = p_input(p, "tok", N, 1, DT_I32);
	if (q->tree) {
		b.node = q->node = p_input(p, "node", z->past + N, 2, DT_I32);
		b.past = z->past;
		b.pick = q->pick = p_input(p, "pick", M, 1, DT_I32); /* a place that starts several continuations is there for each */
	}
	q->label = p_input(p, "label", M, 1, DT_I32);
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
	free(q->h_node);
	free(q->h_pick);
	free(q->h_label);
	free(q->h_out);
	*q = (struct scorer){ 0 };
}

static int scorer_fit(struct scorer *q, const struct weights *m, const struct size *z, struct err *e)
{
	const int64_t N = z->N, M = z->M;
	if (q->p && q->N == N && q->M == M && q->past == z->past && q->tree == !z->T && (q->tree || q->p->T == z->T))
		return 0;
	scorer_free(q);
	record(q, m->t, m->dtype, z);
	if (prog_plan(q->p, e) || frame_new(&q->f, m->g, q->p, e)) {
		scorer_free(q);
		return err_wrap(e, "batch of %lld tokens", (long long)N);
	}
	q->f.base[SP_PARAM] = m->w;
	q->h_tok = xcalloc((size_t)N, sizeof *q->h_tok);
	q->h_node = xcalloc(2 * (size_t)(z->past + N), sizeof *q->h_node);
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

/* The trunk of a group of batches: every block's qkv of its rows, as a program of their own leaves it */
struct trunk {
	int64_t group;            /* whose it is, -1: nobody's */
	int64_t rows;
	struct prog *p;
	struct frame f;
	val tok;
	int32_t *h_tok;           /* [rows] */
	void *kept;
	size_t bytes;
};

static void trunk_free(struct trunk *t, const struct weights *m)
{
	frame_free(&t->f);
	prog_free(t->p);
	free(t->h_tok);
	if (t->kept)
		m->g->k->mem_free(m->g->d, t->kept, t->bytes);
	*t = (struct trunk){ .group = -1 };
}

static void trunk_record(struct trunk *t, const struct ptable *table, int dtype, int64_t rows)
{
	struct build b = { .t = table, .dtype = dtype, .wide = 1, .space = SP_PARAM, .prefix = "", .blk1 = table->arch.layers,
			   .keep_past = 1 };
	*t = (struct trunk){ .group = -1, .rows = rows, .p = prog_new(1, rows) };
	t->tok = p_input(t->p, "tok", rows, 1, DT_I32);
	p_keep(t->p, p_forward(t->p, &b, t->tok, NONE));
}

static int trunk_fit(struct trunk *t, const struct weights *m, int64_t rows, struct err *e)
{
	if (t->p && t->rows == rows)
		return 0;
	trunk_free(t, m);
	trunk_record(t, m->t, m->dtype, rows);
	if (prog_plan(t->p, e) || frame_new(&t->f, m->g, t->p, e))
		return err_wrap(e, "common start of %lld tokens", (long long)rows);
	t->bytes = (size_t)t->p->bytes[SP_STATE];
	t->kept = m->g->k->mem_alloc(m->g->d, t->bytes);
	if (!t->kept) {
		char buf[32];
		return err_set(e, EXIT_RESOURCE, "no memory for %s of a common start of %lld tokens", fmt_bytes(buf, (double)t->bytes),
			       (long long)rows);
	}
	t->f.base[SP_PARAM] = m->w;
	t->f.base[SP_STATE] = t->kept;
	t->h_tok = xcalloc((size_t)rows, sizeof *t->h_tok);
	return 0;
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

static struct size shape(const struct packing *p, int64_t i)
{
	struct size z = { .T = p->tree ? 0 : p->q.b[i].T };
	if (p->tree)
		forest_shape(&p->f.b[i], &z.N, &z.M, &z.past);
	else
		z.N = z.M = p->q.b[i].n * z.T;
	return z;
}

/* Does batch i begin a group that has a trunk?  The tokens that are then read first. */
static int64_t trunk_tokens(const struct packing *p, int64_t i, const struct size *z)
{
	return z->past && (i == 0 || p->f.b[i - 1].group != p->f.b[i].group) ? z->past : 0;
}

/* The trunk of batch i, if it has one and it is not there already, is read now. */
static int trunk_ready(struct trunk *t, struct scorer *sc, const struct weights *m, const struct ll_set *s, const struct packing *p,
		       int64_t i, struct err *e)
{
	if (!sc->past)
		return 0;
	if (trunk_fit(t, m, sc->past, e))
		return -1;
	if (t->group != p->f.b[i].group) {
		forest_trunk(&p->f, s, i, t->rows, t->h_tok);
		frame_set(&t->f, t->tok, t->h_tok);
		prog_run(&t->f);
		t->group = p->f.b[i].group;
	}
	if (sc->p->bytes[SP_STATE] != t->p->bytes[SP_STATE])
		BUG("trunk of %lld bytes", (long long)t->bytes);
	sc->f.base[SP_STATE] = t->kept;
	return 0;
}

static void run_batch(struct scorer *sc, struct ll_set *s, const struct packing *p, int64_t i)
{
	int64_t n, m = 0;
	const int64_t *req = requests(p, i, &n);
	if (p->tree)
		forest_fill(&p->f, s, i, sc->N, sc->M, sc->past, sc->h_tok, sc->h_node, sc->h_pick, sc->h_label);
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
	struct trunk tr = { .group = -1 };
	int64_t tokens = 0, n;
	int rc = 0;
	pack(&p, s, o, m->g->k->attn_tree != NULL);
	for (int64_t i = 0; i < p.n && !rc; i++) {
		const int64_t *req = requests(&p, i, &n);
		struct size z = shape(&p, i);
		tokens += z.N + trunk_tokens(&p, i, &z);
		if (!comm_mine(o->world, i) || all_done(s, req, n))
			continue;
		if (stop_requested())
			rc = err_set(e, 128 + stop_requested(), "stopped by a signal");
		else
			rc = scorer_fit(&sc, m, &z, e) || trunk_ready(&tr, &sc, m, s, &p, i, e) ? -1 : 0;
		if (rc)
			break;
		run_batch(&sc, s, &p, i);
		if (o->step)
			rc = o->step(o->arg, req, n, tokens, e);
	}
	scorer_free(&sc);
	trunk_free(&tr, m);
	unpack(&p);
	if (!rc)
		exchange(s, o->world);
	return rc;
}

int ll_cost(const struct ll_set *s, const struct ptable *t, int dtype, const struct ll_opts *o, struct ll_cost *c,
	    struct err *e)
{
	struct packing p;
	struct size big = { 0 };
	*c = (struct ll_cost){ 0 };
	pack(&p, s, o, 1);
	for (int64_t i = 0; i < p.n; i++) {
		struct size z = shape(&p, i);
		c->padded += z.N + trunk_tokens(&p, i, &z);
		if (z.N > big.N)
			big = z;
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
		record(&sc, t, dtype, &big);
		rc = prog_plan(sc.p, e);
		c->act_bytes = sc.p->bytes[SP_ACT] + sc.p->bytes[SP_INPUT] + sc.p->bytes[SP_CONST] + sc.p->bytes[SP_STATE];
		scorer_free(&sc);
	}
	unpack(&p);
	return rc;
}
