/*
 * stream.c - block by block: weights of one block, hidden states of all samples
 *
 * Blocks of a dense model have one shape, so one program per batch shape, recorded for block 0, serves all of them: its
 * parameter space is rebased onto a buffer that holds the weights of block l.  The next block's pages are asked for
 * while this one computes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stream.h"
#include "../io/safetensors.h"
#include "../model/hfdir.h"
#include "hidden.h"
#include "observe.h"
#include <stdlib.h>
#include <string.h>

struct batch {
	int64_t B, T, at;      /* rows before it */
};
struct job {
	const struct stream_args *a;
	struct st_model *m;
	struct hidden h;
	struct batch *b;
	int n_batch;
	int64_t rows, samples;
	int32_t *ids;
	int64_t first, last, elems; /* parameters of block 0: index range, elements of a block */
	void *w;               /* one block's weights */
	float *x;              /* one batch's hidden states */
};

static int read_samples(struct job *j, struct tokenset *ts, struct err *e)
{
	int64_t cap = 0, rc;
	while ((!j->a->limit || j->samples < j->a->limit) && (rc = tokenset_next(ts, e)) != 0) {
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

/* Rows of the embedding straight from the mapped file, rounded as the weights would be. */
static int embed(struct job *j, struct err *e)
{
	const struct ptable *t = j->a->t;
	char name[160];
	int64_t C = t->arch.hidden;
	const float *z = j->a->m ? j->a->m->hidden : NULL;
	const struct st_tensor *E = st_find(j->m, param_hf_name(t, ptable_find(t, "embed"), 0, name));
	size_t row = (size_t)C * st_dtype_size(E->dtype);
	for (int k = 0; k < j->n_batch; k++) {
		const struct batch *b = &j->b[k];
		for (int64_t i = 0; i < b->B * b->T; i++) {
			float *y = j->x + i * C;
			st_to_f32(y, (const char *)E->data + (size_t)j->ids[b->at + i] * row, E->dtype, C);
			for (int64_t c = 0; c < C; c++)
				y[c] = (j->a->dtype == DT_BF16 ? bf16_to_f32(f32_to_bf16(y[c])) : y[c]) * (float)t->arch.embed_scale;
			for (int64_t c = 0; z && c < C; c++)
				y[c] *= z[c];
		}
		if (hidden_put(&j->h, b->at * C * 4, j->x, b->B * b->T * C * 4, e))
			return -1;
	}
	st_release(j->m, E);
	return 0;
}

static int load_block(struct job *j, int64_t l, struct err *e)
{
	const struct ptable *t = j->a->t;
	int64_t n = j->last - j->first, es = (int64_t)dtype_size(j->a->dtype);
	for (int64_t i = 0; i < n; i++) {
		const struct param *p0 = &t->p[j->first + i], *p = &t->p[j->first + i + l * n];
		if (p->layer != l || p->row != p0->row)
			BUG("%s is not the twin of %s", p->name, p0->name);
		if (param_read(t, p, j->m, (char *)j->w + (p0->off - t->p[j->first].off) * es, j->a->dtype, e))
			return -1;
	}
	j->a->g->k->weights_changed(j->a->g->d);
	for (int64_t i = 0; i < n && l + 1 < t->arch.layers; i++) {   /* ask for the next block's pages */
		const struct param *p = &t->p[j->first + i + (l + 1) * n];
		for (int s = 0; s < p->row->nseg; s++) {
			char name[160];
			const struct st_tensor *x = st_find(j->m, param_hf_name(t, p, s, name));
			st_prefetch_bytes(x->data, x->bytes);
		}
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

static void block_range(struct job *j)
{
	const struct ptable *t = j->a->t;
	while (t->p[j->first].layer != 0)
		j->first++;
	j->last = j->first;
	while (j->last < t->n && t->p[j->last].layer == 0)
		j->last++;
	int64_t end = j->last < t->n ? t->p[j->last].off : t->elems;
	j->elems = end - t->p[j->first].off;
}

static int run(struct job *j, struct stats *s, struct err *e)
{
	const struct stream_args *a = j->a;
	int64_t C = a->t->arch.hidden, most = 0, es = (int64_t)dtype_size(a->dtype);
	char buf[32];
	for (int k = 0; k < j->n_batch; k++)
		most = j->b[k].B * j->b[k].T > most ? j->b[k].B * j->b[k].T : most;
	block_range(j);
	j->w = a->g->k->mem_alloc(a->g->d, (size_t)(j->elems * es));
	j->x = big_alloc((size_t)(most * C) * 4);
	if (!j->w)
		return err_set(e, EXIT_RESOURCE, "no memory for %s of weights", fmt_bytes(buf, (double)(j->elems * es)));
	if (hidden_open(&j->h, j->rows * C * 4, a->hidden_budget, e) || embed(j, e))
		return -1;
	struct weights w = { (struct ptable *)a->t, (char *)j->w - a->t->p[j->first].off * es, a->dtype, a->g };
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
		rc = load_block(j, l, e) || run_block(j, &o, l, e) ? -1 : 0;
		if (!rc)
			observe_flush(&o);
		progress_step(&pr, (double)l + 1);
	}
	progress_end(&pr);
	observe_free(&o);
	big_free(j->x, (size_t)(most * C) * 4);
	a->g->k->mem_free(a->g->d, j->w, (size_t)(j->elems * es));
	s->samples = j->samples;
	s->tokens = j->rows;
	return rc;
}

int64_t stream_stats(const struct stream_args *a, struct tokenset *ts, struct stats *s, struct err *e)
{
	struct job j = { .a = a, .h.fd = -1 };
	int rc = -1;
	j.m = st_open(a->dir, e);
	if (j.m && !params_check(a->t, j.m, e) && !read_samples(&j, ts, e))
		rc = j.samples ? run(&j, s, e) : 0;
	hidden_close(&j.h);
	if (j.m)
		st_close(j.m);
	free(j.ids);
	free(j.b);
	return rc ? -1 : j.samples;
}
