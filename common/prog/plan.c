/*
 * plan.c - where every value lies: one arena, reused as values die
 *
 * A value lives from its first write to its last access.  Walking the ops, outputs take the best-fitting free range,
 * operands that die give theirs back; an op that may work in place (residual, sum, mask) takes its operand's range over.
 * Ranges are 64-byte aligned.  A value marked keep never dies.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "internal.h"
#include <stdlib.h>
#include <string.h>

struct range {
	int64_t off, len;
};
struct heap {                  /* free ranges by offset, coalesced */
	struct range *r;
	int n, cap;
	int64_t top;           /* end of the arena so far */
};

static int64_t round_up(int64_t n)
{
	return (n + 63) & ~(int64_t)63;
}

static int64_t take(struct heap *h, int64_t len)
{
	int best = -1;
	for (int i = 0; i < h->n; i++)
		if (h->r[i].len >= len && (best < 0 || h->r[i].len < h->r[best].len))
			best = i;
	if (best >= 0) {
		int64_t off = h->r[best].off;
		h->r[best].off += len;
		h->r[best].len -= len;
		if (!h->r[best].len)
			memmove(&h->r[best], &h->r[best + 1], (size_t)(--h->n - best) * sizeof *h->r);
		return off;
	}
	int64_t off = h->top;  /* grow; a free range at the very end is used first */
	if (h->n && h->r[h->n - 1].off + h->r[h->n - 1].len == h->top)
		off = h->r[--h->n].off;
	h->top = off + len;
	return off;
}

static void give(struct heap *h, int64_t off, int64_t len)
{
	int i = 0;
	while (i < h->n && h->r[i].off < off)
		i++;
	if (h->n >= h->cap) {
		h->cap = h->cap ? 2 * h->cap : 64;
		h->r = xrealloc(h->r, (size_t)h->cap, sizeof *h->r);
	}
	memmove(&h->r[i + 1], &h->r[i], (size_t)(h->n - i) * sizeof *h->r);
	h->r[i] = (struct range){ off, len };
	h->n++;
	if (i + 1 < h->n && off + len == h->r[i + 1].off) {
		h->r[i].len += h->r[i + 1].len;
		memmove(&h->r[i + 1], &h->r[i + 2], (size_t)(--h->n - i - 1) * sizeof *h->r);
	}
	if (i > 0 && h->r[i - 1].off + h->r[i - 1].len == h->r[i].off) {
		h->r[i - 1].len += h->r[i].len;
		memmove(&h->r[i], &h->r[i + 1], (size_t)(--h->n - i) * sizeof *h->r);
	}
}

static void lifetimes(struct prog *p)
{
	for (int i = 0; i < p->n; i++) {
		const struct op *o = &p->op[i];
		for (int k = 0; k < MAX_IN; k++)
			if (o->in[k].id)
				p->v[o->in[k].id].last = i;
		for (int k = 0; k < MAX_OUT; k++) {
			struct value *v = &p->v[o->out[k].id];
			if (!o->out[k].id)
				continue;
			if (v->def < 0)
				v->def = i;
			v->last = i;
		}
	}
	for (int i = 1; i < p->nv; i++) {
		struct value *whole = &p->v[p->v[i].within];
		if (p->v[i].keep)
			p->v[i].last = p->n;
		if (p->v[i].within && whole->last < p->v[i].last)
			whole->last = p->v[i].last;
	}
}

/* Operand whose storage output 0 may take over, -1: none. */
static int in_place(const struct op *o)
{
	return o->code == OP_LINEAR ? 3 : o->code == OP_ADD || o->code == OP_ADD_COLS || o->code == OP_MASK || o->code == OP_ALLREDUCE ? 0 : -1;
}

static void place_op(struct prog *p, struct heap *h, int space, int i)
{
	const struct op *o = &p->op[i];
	int k = in_place(o);
	int taken = 0;
	for (int j = 0; j < MAX_OUT; j++) {
		struct value *v = &p->v[o->out[j].id];
		if (!o->out[j].id || !is_planned(p, o->out[j].id, space) || v->def != i)
			continue;
		struct value *w = j == 0 && k >= 0 && o->in[k].id ? &p->v[o->in[k].id] : NULL;
		if (w && w->space == SP_ACT && space == SP_ACT && w->last == i && w->dtype == v->dtype && value_bytes(w) == value_bytes(v)) {
			v->off = w->off;
			taken = o->in[k].id;
		} else {
			v->off = take(h, round_up((int64_t)value_bytes(v)));
		}
	}
	for (int id = 0, j = 0; j < MAX_IN + MAX_OUT; j++) {
		id = j < MAX_IN ? o->in[j].id : o->out[j - MAX_IN].id;
		struct value *v = &p->v[id];
		if (!id || !is_planned(p, id, space) || v->last != i || id == taken)
			continue;
		for (int q = 0; q < j; q++)    /* the same operand twice */
			if ((q < MAX_IN ? o->in[q].id : o->out[q - MAX_IN].id) == id)
				id = 0;
		if (id)
			give(h, v->off, round_up((int64_t)value_bytes(v)));
	}
}

static int64_t place(struct prog *p, int space)
{
	struct heap h = { 0 };
	for (int i = 0; i < p->n; i++)
		place_op(p, &h, space, i);
	free(h.r);
	return h.top;
}

/* Buckets, and the gradients within them */
static void place_gradients(struct prog *p)
{
	int64_t top = place(p, SP_GRAD);
	for (int i = 1; i < p->nv; i++)
		if (p->v[i].space == SP_GRAD && p->v[i].within && p->v[i].within != i)
			p->v[i].off += p->v[p->v[i].within].off;
	p->bytes[SP_GRAD] = top ? top : p->bytes[SP_GRAD];
}

int prog_plan(struct prog *p, struct err *e)
{
	if (p->n_forward == 0)
		p->n_forward = p->n;
	lifetimes(p);
	p->bytes[SP_ACT] = place(p, SP_ACT);
	place_gradients(p);
	static const int plain[] = { SP_INPUT, SP_CONST, SP_STAT };
	for (int s = 0; s < 3; s++) {
		int64_t off = 0;
		for (int i = 1; i < p->nv; i++)
			if (p->v[i].space == plain[s]) {
				p->v[i].off = off;
				off += round_up((int64_t)value_bytes(&p->v[i]));
			}
		p->bytes[plain[s]] = off;
	}
	return prog_check(p, e);
}
