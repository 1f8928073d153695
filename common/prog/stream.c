/*
 * stream.c - the pass that has weights fetched in time (stream.h)
 *
 * A run is a stretch of ops whose weights are all of one piece.  A piece that is read in two runs, such as the embedding
 * that is the output matrix as well, is fetched twice: the second run has values of its own for its weights.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "internal.h"
#include <stdlib.h>

void pieces_new(struct pieces *q, const struct ptable *t, int parts)
{
	int64_t unit = 32 * (int64_t)parts;
	*q = (struct pieces){ .p = xcalloc((size_t)t->n, sizeof *q->p), .parts = parts };
	for (int i = 0; i < t->n; i++) {
		const struct param *w = &t->p[i];
		int64_t end = w->off + w->rows * w->cols;
		if (i == 0 || w->layer != t->p[i - 1].layer)
			q->p[q->n++].off = w->off;
		struct weight_piece *last = &q->p[q->n - 1];
		last->n = (end - last->off + unit - 1) / unit * unit;
	}
}

void pieces_free(struct pieces *q)
{
	free(q->p);
	*q = (struct pieces){ 0 };
}

struct run {
	int piece, first;      /* first op */
	val whole;
};

static int piece_of(const struct prog *p, const struct value *v, const struct pieces *q)
{
	int64_t at = v->off / (int64_t)dtype_size(v->dtype);
	for (int i = q->n - 1; i >= 0; i--)
		if (at >= q->p[i].off && at + v->rows * v->cols <= q->p[i].off + q->p[i].n)
			return i;
	BUG("%s of a program of %d ops lies in no piece", v->name, p->n);
}

/* The value of weight id in the run whose piece is `whole` */
static val within(struct prog *p, val id, val whole, const struct weight_piece *q, val *of)
{
	int64_t off = p->v[id.id].off - q->off * (int64_t)dtype_size(p->v[id.id].dtype);
	if (of[id.id].id && p->v[of[id.id].id].within == whole.id)
		return of[id.id];
	const struct value v = p->v[id.id];
	val w = prog_value(p, v.name, v.rows, v.cols, v.space, v.dtype);
	p->v[w.id].within = whole.id;
	p->v[w.id].off = off;
	return of[id.id] = w;
}

/* Cuts the program into runs; its ops read values of their own run.  Returns how many */
static int find_runs(struct prog *p, int space, const struct pieces *q, struct run *r)
{
	val *of = xcalloc((size_t)p->nv, sizeof *of);
	int n = 0, old = p->nv;
	char name[32];
	for (int i = 0; i < p->n; i++)
		for (int k = 0; k < MAX_IN; k++) {
			val id = p->op[i].in[k];
			if (!id.id || id.id >= old || p->v[id.id].space != space)
				continue;
			int piece = piece_of(p, &p->v[id.id], q);
			if (!n || r[n - 1].piece != piece) {
				snprintf(name, sizeof name, "%spiece.%d", space == SP_PARAM_T ? "t." : "", piece);
				r[n] = (struct run){ piece, i, prog_value(p, name, 1, q->p[piece].n, space, p->v[id.id].dtype) };
				p->v[r[n].whole.id].within = r[n].whole.id;
				n++;
			}
			p->op[i].in[k] = within(p, id, r[n - 1].whole, &q->p[piece], of);
		}
	free(of);
	return n;
}

/* Even runs at the beginning of the space, odd ones at its end; then what lies within them */
static void place_runs(struct prog *p, int space, const struct run *r, int n)
{
	int64_t most = n ? (int64_t)value_bytes(&p->v[r[0].whole.id]) : 0;
	for (int i = 1; i < n; i++) {
		int64_t two = (int64_t)(value_bytes(&p->v[r[i - 1].whole.id]) + value_bytes(&p->v[r[i].whole.id]));
		most = most > two ? most : two;
	}
	for (int i = 0; i < n; i++)
		p->v[r[i].whole.id].off = i % 2 ? most - (int64_t)value_bytes(&p->v[r[i].whole.id]) : 0;
	for (int i = 1; i < p->nv; i++)
		if (p->v[i].space == space && p->v[i].within && p->v[i].within != i)
			p->v[i].off += p->v[p->v[i].within].off;
	p->bytes[space] = most;
}

static void fetch(struct prog *p, const struct run *r)
{
	struct op *o = prog_op(p, OP_FETCH);
	o->out[0] = r->whole;
	o->arg = r->piece;
}

void prog_stream(struct prog *p, int space, const struct pieces *q)
{
	struct run *r = xcalloc((size_t)(p->n * MAX_IN + 1), sizeof *r);
	int n = find_runs(p, space, q, r), n_old = p->n, n_forward = p->n_forward, mark = p->mark;
	struct op *old = p->op;
	place_runs(p, space, r, n);
	p->op = NULL;
	p->n = p->cap_op = 0;
	p->cur_block = -1;
	for (int i = 0, k = 0; i < n_old; i++) {
		if (i == n_forward)
			p->n_forward = p->n;
		if (i == mark)
			p->mark = p->n;
		for (; k < n && r[k].first == i; k++) {
			if (k == 0)
				fetch(p, &r[0]);
			prog_op(p, OP_WAIT)->in[0] = r[k].whole;
			if (k + 1 < n)
				fetch(p, &r[k + 1]);
		}
		*prog_op(p, old[i].code) = old[i];
	}
	free(old);
	free(r);
}
