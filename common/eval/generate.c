/*
 * generate.c - prompts become rows of programs: many at once while reading, one per sequence while writing
 *
 * All tokens of a prompt but the last are read alone, in pieces of fixed sizes; then the sequence joins the others, and
 * every pass gives one row of logits for each.  So a prompt is read by the same products whatever else is going on, and
 * in the joint passes rows do not feel each other (FEW_ROWS, attn_kv): results are independent of the company, to the bit.
 *
 * Programs differ in their number of rows only and share weights and cache; each is recorded when it is first needed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "generate.h"
#include "../base/log.h"
#include "../base/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void gen_set_free(struct gen_set *s)
{
	for (int64_t i = 0; i < s->n; i++)
		free(s->r[i].out);
	free(s->ids);
	free(s->r);
	*s = (struct gen_set){ 0 };
}

int gen_add(struct gen_set *s, const uint32_t *ids, int64_t n, int64_t max_new, int64_t max_length, struct err *e)
{
	if (n <= 0)
		return err_set(e, EXIT_DATA, "the prompt has no tokens");
	if (max_new < 1 || max_new >= max_length)
		return err_set(e, EXIT_DATA, "%lld new tokens leave no place for the prompt: the model reads at most %lld",
			       (long long)max_new, (long long)max_length);
	int64_t keep = n < max_length - max_new ? n : max_length - max_new;
	if (s->n >= s->cap) {
		s->cap = s->cap ? 2 * s->cap : 64;
		s->r = xrealloc(s->r, (size_t)s->cap, sizeof *s->r);
	}
	if (s->n_ids + keep > s->cap_ids) {
		s->cap_ids = 2 * (s->n_ids + keep);
		s->ids = xrealloc(s->ids, (size_t)s->cap_ids, sizeof *s->ids);
	}
	s->r[s->n] = (struct gen_req){ .off = s->n_ids, .n = keep, .max_new = max_new, .top_p = 1, .stream = (uint64_t)s->n };
	s->r[s->n++].out = xcalloc((size_t)max_new, sizeof(int32_t));
	for (int64_t i = n - keep; i < n; i++)
		s->ids[s->n_ids++] = (int32_t)ids[i];
	return 0;
}

/* A program of N rows; with logits for each, or only to fill the cache. */
struct pass {
	struct prog *p;
	struct frame f;
	val tok, at, out;
	int64_t N;
};
enum { READ_MIN = 32, READ_MAX = 256, N_READ = 4, N_WRITE = 6 }; /* 32 .. 256 rows; 1 .. 32 rows */
struct seq {
	int64_t req, pos;      /* request, -1: free slot; position of the next token to read */
	int32_t tok;
};
struct generator {
	struct gen_set *s;
	const struct weights *m;
	const struct gen_opts *o;
	int64_t slots, kv_len, V, read;
	size_t kv_bytes;
	void *kv;
	struct pass reads[N_READ], writes[N_WRITE];
	struct seq seq[GEN_SLOTS];
	float *logits;         /* [GEN_SLOTS, V] */
};

static int64_t cache_len(const struct gen_set *s)
{
	int64_t len = 1;
	for (int64_t i = 0; i < s->n; i++)
		if (s->r[i].n + s->r[i].max_new > len)
			len = s->r[i].n + s->r[i].max_new;
	return (len + KV_BLOCK - 1) / KV_BLOCK * KV_BLOCK;
}

static int pass_ready(struct generator *g, struct pass *q, int64_t N, int logits, struct err *e)
{
	if (q->p)
		return 0;
	q->N = N;
	q->p = prog_new(1, N);
	q->tok = p_input(q->p, "tok", N, 1, DT_I32);
	q->at = p_input(q->p, "at", N, 2, DT_I32);
	struct build b = { .t = g->m->t, .dtype = g->m->dtype, .wide = 1, .space = SP_PARAM, .prefix = "",
			   .blk1 = g->m->t->arch.layers, .at = q->at, .slots = g->slots, .kv_len = g->kv_len };
	q->out = p_forward(q->p, &b, q->tok, NONE);
	if (logits)
		q->out = p_linear(q->p, q->out, p_head_weight(q->p, &b), NONE, NONE, DT_F32);
	p_keep(q->p, q->out);
	if (prog_plan(q->p, e) || frame_new(&q->f, g->m->g, q->p, e))
		return err_wrap(e, "%lld rows", (long long)N);
	if (!g->kv) {
		char buf[32];
		g->kv_bytes = (size_t)q->p->bytes[SP_STATE];
		g->kv = g->m->g->k->mem_alloc(g->m->g->d, g->kv_bytes);
		if (!g->kv)
			return err_set(e, EXIT_RESOURCE, "no memory for %s of keys and values of %lld sequences",
				       fmt_bytes(buf, (double)g->kv_bytes), (long long)g->slots);
	}
	q->f.base[SP_PARAM] = g->m->w;
	q->f.base[SP_STATE] = g->kv;
	return 0;
}

static void generator_free(struct generator *g)
{
	for (int i = 0; i < N_READ + N_WRITE; i++) {
		struct pass *q = i < N_READ ? &g->reads[i] : &g->writes[i - N_READ];
		frame_free(&q->f);
		prog_free(q->p);
	}
	if (g->kv)
		g->m->g->k->mem_free(g->m->g->d, g->kv, g->kv_bytes);
	free(g->logits);
}

static void run(struct generator *g, struct pass *q, const int32_t *tok, const int32_t *at, int64_t rows)
{
	frame_set(&q->f, q->tok, tok);
	frame_set(&q->f, q->at, at);
	prog_run(&q->f);
	g->read += rows;
	if (g->o->step)
		g->o->step(g->o->step_arg, g->read);
}

static int interrupted(struct err *e)
{
	return stop_requested() ? err_set(e, 128 + stop_requested(), "stopped by a signal, nothing written") : 0;
}

/* Reads all but the last token of request i into a slot. */
static int admit(struct generator *g, int64_t slot, int64_t i, struct err *e)
{
	const struct gen_req *r = &g->s->r[i];
	const int32_t *ids = g->s->ids + r->off;
	int32_t tok[READ_MAX], at[2 * READ_MAX];
	for (int64_t t = 0; t < r->n - 1;) {
		int64_t left = r->n - 1 - t, N = READ_MIN;
		int k = 0;
		while (N < READ_MAX && N < left)
			N *= 2, k++;
		if (interrupted(e) || pass_ready(g, &g->reads[k], N, 0, e))
			return -1;
		for (int64_t j = 0; j < N; j++) {
			tok[j] = j < left ? ids[t + j] : 0;
			at[2 * j] = j < left ? (int32_t)slot : -1;
			at[2 * j + 1] = j < left ? (int32_t)(t + j) : 0;
		}
		run(g, &g->reads[k], tok, at, N < left ? N : left);
		t += N < left ? N : left;
	}
	g->seq[slot] = (struct seq){ i, r->n - 1, ids[r->n - 1] };
	return 0;
}

static double log_softmax_at(const float *l, int64_t V, int32_t id)
{
	double top = -INFINITY, sum = 0;
	for (int64_t v = 0; v < V; v++)
		top = (double)l[v] > top ? (double)l[v] : top;
	for (int64_t v = 0; v < V; v++)
		sum += exp((double)l[v] - top);
	return (double)l[id] - top - log(sum);
}

/* Takes the next token of one sequence; it may be done then. */
static void take(struct generator *g, struct seq *q, const float *logits)
{
	struct gen_req *r = &g->s->r[q->req];
	int32_t id = gen_pick(logits, g->V, r->temperature, r->top_p, rng_uniform(g->o->seed, r->stream, (uint64_t)r->n_out));
	int ended = 0;
	for (int64_t k = 0; k < g->o->n_eos; k++)
		ended |= (uint32_t)id == g->o->eos[k];
	if (ended) {
		r->end = GEN_EOS;
	} else {
		r->logprob += log_softmax_at(logits, g->V, id);
		r->out[r->n_out++] = id;
		if (g->o->stop && g->o->stop(g->o->stop_arg, r))
			ended = 1, r->end = GEN_STOP;
		else if (r->n_out >= r->max_new)
			ended = 1, r->end = GEN_LIMIT;
	}
	q->tok = id;
	q->pos++;
	r->done = ended;
}

/* One token for every sequence in a slot. */
static int write_all(struct generator *g, struct err *e)
{
	int32_t tok[GEN_SLOTS], at[2 * GEN_SLOTS];
	int64_t who[GEN_SLOTS], n = 0, N = 1;
	int k = 0;
	for (int64_t s = 0; s < g->slots; s++)
		if (g->seq[s].req >= 0)
			who[n++] = s;
	while (N < n)
		N *= 2, k++;
	for (int64_t j = 0; j < N; j++) {
		tok[j] = j < n ? g->seq[who[j]].tok : 0;
		at[2 * j] = j < n ? (int32_t)who[j] : -1;
		at[2 * j + 1] = j < n ? (int32_t)g->seq[who[j]].pos : 0;
	}
	if (pass_ready(g, &g->writes[k], N, 1, e))
		return -1;
	run(g, &g->writes[k], tok, at, n);
	frame_get(&g->writes[k].f, g->writes[k].out, g->logits);
	for (int64_t j = 0; j < n; j++) {
		struct seq *q = &g->seq[who[j]];
		int64_t i = q->req;
		take(g, q, g->logits + j * g->V);
		if (!g->s->r[i].done)
			continue;
		q->req = -1;
		if (g->o->ended && g->o->ended(g->o->ended_arg, i, e))
			return -1;
	}
	return 0;
}

/* Results of all processes; each request was run by one of them, zeros of the others change nothing. */
static void exchange(struct gen_set *s, struct comm *world)
{
	int64_t n = 3 * s->n;
	for (int64_t i = 0; i < s->n; i++)
		n += s->r[i].max_new;
	if (!world || world->size < 2)
		return;
	int64_t *x = xcalloc((size_t)n + 1, sizeof *x), *at = x;
	double *lp = xcalloc((size_t)s->n + 1, sizeof *lp);
	for (int64_t i = 0; i < s->n; i++) {
		const struct gen_req *r = &s->r[i];
		lp[i] = r->logprob;
		*at++ = r->done;
		*at++ = r->n_out;
		*at++ = (int64_t)r->end;
		for (int64_t k = 0; k < r->max_new; k++)
			*at++ = k < r->n_out ? r->out[k] : 0;
	}
	comm_sum_i64(world, x, n);
	comm_sum_f64(world, lp, s->n);
	at = x;
	for (int64_t i = 0; i < s->n; i++) {
		struct gen_req *r = &s->r[i];
		r->logprob = lp[i];
		r->done = (int)*at++;
		r->n_out = *at++;
		r->end = (enum gen_end)*at++;
		for (int64_t k = 0; k < r->max_new; k++)
			r->out[k] = (int32_t)*at++;
	}
	free(x);
	free(lp);
}

/* The next request of this process from *next on that is not done, -1: none */
static int64_t next_request(const struct gen_set *s, struct comm *world, int64_t *next)
{
	while (*next < s->n && (s->r[*next].done || !comm_mine(world, *next)))
		++*next;
	return *next < s->n ? (*next)++ : -1;
}

int gen_run(struct gen_set *s, const struct weights *m, const struct gen_opts *o, struct err *e)
{
	struct generator g = { .s = s, .m = m, .o = o, .slots = o->slots < s->n ? o->slots : s->n, .kv_len = cache_len(s),
			       .V = m->t->arch.vocab };
	int64_t next = 0, busy = 0, i;
	int rc = 0;
	if (o->slots < 1 || o->slots > GEN_SLOTS)
		BUG("%lld slots", (long long)o->slots);
	g.logits = xcalloc((size_t)(GEN_SLOTS * g.V), sizeof *g.logits);
	for (int64_t k = 0; k < GEN_SLOTS; k++)
		g.seq[k].req = -1;
	for (int64_t k = 0; k < s->n; k++)
		g.read += s->r[k].done ? s->r[k].n + s->r[k].n_out : 0;
	do {
		busy = 0;
		for (int64_t k = 0; k < g.slots && !rc; k++) {
			if (g.seq[k].req < 0 && (i = next_request(s, o->world, &next)) >= 0)
				rc = admit(&g, k, i, e);
			busy += g.seq[k].req >= 0;
		}
		if (!rc && busy)
			rc = interrupted(e) ? -1 : write_all(&g, e);
	} while (busy && !rc);
	generator_free(&g);
	if (!rc)
		exchange(s, o->world);
	return rc;
}

void gen_cost(const struct gen_set *s, const struct arch *a, int dtype, int64_t slots, struct gen_cost *c)
{
	int64_t n = slots < s->n ? slots : s->n, wide = 0;
	*c = (struct gen_cost){ 0 };
	for (int64_t l = 0; l < a->layers; l++)
		wide += 2 * arch_at(a, l).kv_heads * a->head_dim;
	for (int64_t i = 0; i < s->n; i++) {
		int64_t len = s->r[i].n + s->r[i].max_new;
		c->tokens += len;
		c->flops += (double)len * arch_forward_flops(a, len, 0) +
			    2.0 * (double)s->r[i].max_new * (double)a->vocab * (double)a->hidden;
	}
	c->kv_bytes = n * wide * cache_len(s) * (int64_t)dtype_size(dtype);
}
