/*
 * stream.c - block by block: weights of one block, hidden states of all samples
 *
 * Blocks of a dense model have one shape, so one program per batch shape and kind of block (sliding or not) serves all of
 * them (where widths differ, each has its own), rebased onto the weights that blocks.h holds.  The same walk over four
 * tokens tells whether a model that was just written computes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stream.h"
#include "blocks.h"
#include "hidden.h"
#include "observe.h"
#include <stdlib.h>
#include <string.h>

struct batch {
	int64_t B, T, at;      /* rows before it */
};
struct job {
	const struct stream_args *a;
	struct blocks w;
	struct hidden h;
	struct batch *b;
	int n_batch;
	int64_t rows, samples, most;   /* most: rows of the largest batch */
	int32_t *ids;
	float *x;              /* one batch's hidden states */
};

static int read_samples(struct job *j, struct tokenset *ts, struct err *e)
{
	int64_t cap = 0, rc;
	while ((rc = tokenset_next(ts, e)) != 0) {
		if (rc < 0)
			return -1;
		if (j->rows + ts->n > cap) {
			cap = 2 * (j->rows + ts->n);
			j->ids = xrealloc(j->ids, (size_t)cap, sizeof *j->ids);
		}
		memcpy(j->ids + j->rows, ts->ids, (size_t)ts->n * sizeof *j->ids);
		struct batch *last = j->n_batch ? &j->b[j->n_batch - 1] : NULL;
		if (last && last->T == ts->n && last->B < j->a->micro) {
			last->B++;
		} else {
			j->b = xrealloc(j->b, (size_t)j->n_batch + 1, sizeof *j->b);
			j->b[j->n_batch++] = (struct batch){ 1, ts->n, j->rows };
		}
		j->rows += ts->n;
		j->samples++;
	}
	return 0;
}

static int embed(struct job *j, struct err *e)
{
	int64_t C = j->a->t->arch.hidden;
	const float *z = j->a->m ? j->a->m->hidden : NULL;
	for (int k = 0; k < j->n_batch; k++) {
		const struct batch *b = &j->b[k];
		blocks_embed(&j->w, j->ids + b->at, b->B * b->T, j->x);
		for (int64_t i = 0; z && i < b->B * b->T * C; i++)
			j->x[i] *= z[i % C];
		if (hidden_put(&j->h, b->at * C * 4, j->x, b->B * b->T * C * 4, e))
			return -1;
	}
	return 0;
}

/* One block over all batches; o is an observer of one-block programs. */
static int run_block(struct job *j, struct observer *o, int64_t l, struct err *e)
{
	int64_t C = j->a->t->arch.hidden;
	for (int k = 0; k < j->n_batch; k++) {
		const struct batch *b = &j->b[k];
		int64_t bytes = b->B * b->T * C * 4;
		if (stop_requested())
			return err_set(e, 128 + stop_requested(), "stopped in block %lld, nothing written", (long long)l);
		if (hidden_get(&j->h, b->at * C * 4, j->x, bytes, e) || observe_block(o, j->x, b->B, b->T, e) ||
		    hidden_put(&j->h, b->at * C * 4, j->x, bytes, e))
			return -1;
	}
	return 0;
}

/* Room for a batch, and the embeddings of all samples. */
static int start(struct job *j, struct err *e)
{
	const struct stream_args *a = j->a;
	int64_t C = a->t->arch.hidden;
	for (int k = 0; k < j->n_batch; k++)
		j->most = j->b[k].B * j->b[k].T > j->most ? j->b[k].B * j->b[k].T : j->most;
	j->x = big_alloc((size_t)(j->most * C) * 4);
	return hidden_open(&j->h, j->rows * C * 4, a->hidden_budget, e) || embed(j, e) ? -1 : 0;
}

static void end(struct job *j)
{
	if (j->x)
		big_free(j->x, (size_t)(j->most * j->a->t->arch.hidden) * 4);
	hidden_close(&j->h);
	blocks_close(&j->w);
	free(j->ids);
	free(j->b);
}

/* All blocks over all batches; sums of each into s, then done(j, l) if not NULL. */
static int run(struct job *j, struct stats *s, int (*done)(struct job *, int64_t, struct err *), struct err *e)
{
	const struct stream_args *a = j->a;
	struct weights w = { (struct ptable *)a->t, NULL, a->dtype, a->g };
	struct observer o;
	struct progress pr;
	int rc = 0;
	observe_init(&o, a->g, &w, s, a->sites);
	o.m = a->m;
	progress_start(&pr, "blocks", (double)a->t->arch.layers, "tok", (double)j->rows);
	for (int64_t l = 0; l < a->t->arch.layers && !rc; l++) {
		if (a->m && a->m->drop && a->m->drop[l])
			continue;
		o.block = l;
		rc = blocks_load(&j->w, l, e);
		w.w = rc ? NULL : blocks_base(&j->w, l, 0);
		rc = rc || run_block(j, &o, l, e) || (done && done(j, l, e)) ? -1 : 0;
		if (!rc)
			observe_flush(&o);
		progress_step(&pr, (double)l + 1);
	}
	progress_end(&pr);
	observe_free(&o);
	s->samples = j->samples;
	s->tokens = j->rows;
	return rc;
}

int64_t stream_stats(const struct stream_args *a, struct tokenset *ts, struct stats *s, struct err *e)
{
	struct job j = { .a = a, .h.fd = -1 };
	int rc = -1;
	if (!blocks_open(&j.w, a->g, a->dir, a->t, a->dtype, e) && !read_samples(&j, ts, e))
		rc = j.samples ? start(&j, e) || run(&j, s, NULL, e) : 0;
	end(&j);
	return rc ? -1 : j.samples;
}

static int all_finite(const float *x, int64_t n)
{
	double sum = 0;
	for (int64_t i = 0; i < n; i++)
		sum += (double)x[i] * 0;       /* NaN once anything is not finite */
	return sum == 0;
}

static int block_finite(struct job *j, int64_t l, struct err *e)
{
	if (all_finite(j->x, j->rows * j->a->t->arch.hidden))
		return 0;
	return err_set(e, EXIT_DATA, "%s: block %lld gives values that are not finite", j->a->dir, (long long)l);
}

/* x [rows, hidden] through the final norm, in place. */
static int final_norm(struct job *j, struct err *e)
{
	const struct stream_args *a = j->a;
	const struct param *first = ptable_find(a->t, "final.norm.w");
	int64_t es = (int64_t)dtype_size(a->dtype), L = a->t->arch.layers, n = j->rows * a->t->arch.hidden;
	struct build b = { .t = a->t, .dtype = a->dtype, .space = SP_PARAM, .prefix = "", .blk0 = L, .blk1 = L };
	struct prog *p = prog_new(1, j->rows);
	struct frame f;
	val x = p_input(p, "hidden", j->rows, a->t->arch.hidden, DT_F32), y = p_forward(p, &b, NONE, x);
	size_t bytes = (size_t)(2 * (a->t->arch.hidden + 31) * es);    /* its vectors, each from a multiple of 32 on */
	char *w = a->g->k->mem_alloc(a->g->d, bytes);
	int rc = w ? 0 : err_set(e, EXIT_RESOURCE, "no memory for the final norm");

	for (const struct param *q = first; !rc && q < a->t->p + a->t->n && !strncmp(q->name, "final.norm.", 11); q++)
		rc = engine_read(a->g, a->t, q, j->w.m, w + (q->off - first->off) * es, a->dtype, e);
	p_keep(p, y);
	if (rc || prog_plan(p, e) || frame_new(&f, a->g, p, e)) {
		if (w)
			a->g->k->mem_free(a->g->d, w, bytes);
		prog_free(p);
		return -1;
	}
	a->g->k->weights_changed(a->g->d);
	f.base[SP_PARAM] = w - first->off * es;
	frame_set(&f, x, j->x);
	prog_run(&f);
	int wide = p->v[y.id].dtype == DT_F32;
	uint16_t *half = xcalloc((size_t)n, sizeof *half);
	frame_get(&f, y, wide ? (void *)j->x : half);
	for (int64_t i = 0; i < n && !wide; i++)
		j->x[i] = bf16_to_f32(half[i]);
	free(half);
	frame_free(&f);
	prog_free(p);
	a->g->k->mem_free(a->g->d, w, bytes);
	return 0;
}

/* Logits of the input tokens themselves: rows of the output matrix straight from the file. */
static int logits_finite(struct job *j, struct err *e)
{
	const struct ptable *t = j->a->t;
	char name[160];
	int64_t C = t->arch.hidden;
	const struct st_tensor *W = st_find(j->w.m, param_hf_name(t, ptable_find(t, "head"), 0, name));
	float *row = xcalloc((size_t)C, sizeof *row);
	double sum = 0;
	for (int64_t i = 0; i < j->rows; i++)
		for (int64_t k = 0; k < j->rows; k++) {
			st_to_f32(row, (const char *)W->data + (size_t)(j->ids[k] * C) * st_dtype_size(W->dtype), W->dtype, C);
			for (int64_t c = 0; c < C; c++)
				sum += (double)j->x[i * C + c] * (double)row[c];
		}
	free(row);
	return sum - sum == 0 ? 0 : err_set(e, EXIT_DATA, "%s: its logits are not finite", j->a->dir);
}

int stream_sound(const struct stream_args *a, struct err *e)
{
	enum { TOKENS = 4 };
	struct stats none = { 0 };
	struct job j = { .a = a, .h.fd = -1, .rows = TOKENS, .samples = 1, .n_batch = 1 };
	j.b = xcalloc(1, sizeof *j.b);
	*j.b = (struct batch){ 1, TOKENS, 0 };
	j.ids = xcalloc(TOKENS, sizeof *j.ids);
	for (int i = 0; i < TOKENS; i++)
		j.ids[i] = (int32_t)(a->t->arch.vocab * i / TOKENS);
	int rc = blocks_open(&j.w, a->g, a->dir, a->t, a->dtype, e) || start(&j, e) || run(&j, &none, block_finite, e) ||
		 final_norm(&j, e) || logits_finite(&j, e) ? -1 : 0;
	end(&j);
	return rc;
}
