/*
 * overlap.c - gradients of several processes summed while the backward pass goes on
 *
 * The arena of gradients is cut into buckets (a block's parameters, say).  Only what is being computed exists: a bucket's
 * memory is cleared before the first op that writes into it; after the last its sum over processes begins, and is waited
 * for when the next bucket is complete.  Then this process's slice of it is added to what is kept, and the memory serves
 * another bucket (prog_plan places buckets like activations).
 *
 *	zero G1 · ops of block l · reduce_scatter G1 · zero G2 · ops of block l-1 · wait G1: kept += slice · reduce_scatter G2 ...
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "internal.h"
#include <stdlib.h>

struct use {
	int first, last;       /* ops that touch the bucket; -1: none */
	val g, part;
};

static int bucket_of(const struct prog *p, const struct value *v, const struct grad_bucket *b, int n)
{
	int64_t at = v->off / 4;
	for (int i = 0; i < n; i++)
		if (at >= b[i].off && at + v->rows * v->cols <= b[i].off + b[i].n)
			return i;
	BUG("%s of a program of %d ops lies in no bucket", v->name, p->n);
}

/* Gradients become parts of their buckets. */
static void find_uses(struct prog *p, const struct grad_bucket *b, int n, struct use *u)
{
	int nv = p->nv;
	char name[32];
	for (int i = 0; i < n; i++) {
		u[i] = (struct use){ -1, -1, NONE, NONE };
		snprintf(name, sizeof name, "bucket.%d", i);
		u[i].g = prog_value(p, name, 1, b[i].n, SP_GRAD, DT_F32);
		p->v[u[i].g.id].within = u[i].g.id;
		snprintf(name, sizeof name, "part.%d", i);
		u[i].part = prog_value(p, name, 1, b[i].each, SP_SHARD, DT_F32);
		p->v[u[i].part.id].off = b[i].at * 4;
		int64_t end = (b[i].at + b[i].each) * 4;
		p->bytes[SP_SHARD] = p->bytes[SP_SHARD] > end ? p->bytes[SP_SHARD] : end;
	}
	for (int i = 0; i < p->n; i++)
		for (int k = 0; k < MAX_IN + MAX_OUT; k++) {
			int id = k < MAX_IN ? p->op[i].in[k].id : p->op[i].out[k - MAX_IN].id;
			if (!id || p->v[id].space != SP_GRAD)
				continue;
			struct use *q = &u[bucket_of(p, &p->v[id], b, n)];
			q->first = q->first < 0 ? i : q->first;
			q->last = i;
		}
	for (int id = 1; id < nv; id++)
		if (p->v[id].space == SP_GRAD) {
			int i = bucket_of(p, &p->v[id], b, n);
			p->v[id].within = u[i].g.id;
			p->v[id].off -= b[i].off * 4;
		}
}

static void emit(struct prog *p, int code, val in, val out)
{
	struct op *o = prog_op(p, code);
	o->in[0] = in;
	o->out[0] = out;
}

void prog_overlap(struct prog *p, const struct grad_bucket *b, int n)
{
	struct use *u = xcalloc((size_t)n, sizeof *u), *under_way = NULL;
	find_uses(p, b, n, u);
	struct op *old = p->op;
	int n_old = p->n, n_forward = p->n_forward, mark = p->mark;
	p->op = NULL;
	p->n = p->cap_op = 0;
	for (int i = 0; i < n_old; i++) {
		p->cur_block = old[i].block;
		if (i == n_forward)
			p->n_forward = p->n;
		if (i == mark)
			p->mark = p->n;
		for (int k = 0; k < n; k++)
			if (u[k].first == i)
				emit(p, OP_ZERO, NONE, u[k].g);
		*prog_op(p, old[i].code) = old[i];
		for (int k = 0; k < n; k++) {
			if (u[k].last != i)
				continue;
			if (under_way)
				emit(p, OP_WAIT, under_way->g, under_way->part);
			emit(p, OP_REDUCE_SCATTER, u[k].g, NONE);
			under_way = &u[k];
		}
	}
	if (under_way)
		emit(p, OP_WAIT, under_way->g, under_way->part);
	p->cur_block = -1;
	free(old);
	free(u);
}
