/*
 * grad.c - the backward pass: one rule per op, appended to the same list
 *
 * Walks the forward ops backwards.  A value's first gradient contribution overwrites, later ones add.  A residual sum
 * needs no copy: the gradient of `res` is the gradient of `y` itself, under another name, because every reader of
 * grad(y) has been emitted by then.  Values that no trainable parameter reaches get nothing.
 *
 * Recomputation (of everything, or of all but the products and attention): before the first rule of a block, the ops of that block whose results its rules read are emitted again
 * (map[] sends old values to the new ones), so that the originals die in the forward pass.  Bit for bit the same values,
 * because kernels are deterministic.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "internal.h"
#include <stdlib.h>
#include <string.h>

struct grad {
	struct prog *p;
	int32_t *map;          /* value -> recomputed value */
	int n_map;
};
#define V(x) (g->p->v[(x).id])

static val rd(const struct grad *g, val x)     /* what the backward pass reads for x */
{
	return x.id && x.id < g->n_map ? (val){ g->map[x.id] } : x;
}

static int wants(const struct grad *g, val x)
{
	return x.id && V(x).train;
}

static val fresh_like(struct grad *g, val x, int dtype)
{
	char name[96];
	snprintf(name, sizeof name, "d.%s", V(x).name);
	return prog_value(g->p, name, V(x).rows, V(x).cols, SP_ACT, dtype);
}

/* Where the gradient of x goes; *acc tells whether something is there already. */
static val into(struct grad *g, val x, int *acc)
{
	*acc = V(x).grad != 0;
	if (!*acc) {
		val d = fresh_like(g, x, V(x).dtype);
		V(x).grad = d.id;
	}
	return (val){ V(x).grad };
}

static struct op *emit(struct grad *g, int code, int n, const val *in, val out)
{
	struct op *o = prog_op(g->p, code);
	memcpy(o->in, in, (size_t)n * sizeof *in);
	o->out[0] = out;
	return o;
}

/* For ops that cannot add: compute into a temporary and add it when x has a gradient already. */
static struct op *emit_into(struct grad *g, int code, int n, const val *in, val x)
{
	if (!V(x).grad) {
		int acc;
		val d = into(g, x, &acc);
		return emit(g, code, n, in, d);
	}
	val t = fresh_like(g, x, V(x).dtype), d = { V(x).grad };
	emit(g, code, n, in, t);
	int at = g->p->n - 1;
	val sum[] = { d, t };
	emit(g, OP_ADD, 2, sum, d);
	return &g->p->op[at];
}

/* Gradient of x is that of y: alias when x has none, add otherwise. */
static void pass_on(struct grad *g, val x, val dy)
{
	if (!V(x).grad && V(x).dtype == V(dy).dtype) {
		V(x).grad = dy.id;
		return;
	}
	val d = { V(x).grad };
	if (!d.id) {
		int acc;
		emit(g, OP_COPY, 1, &dy, into(g, x, &acc));
		return;
	}
	val sum[] = { d, dy };
	emit(g, OP_ADD, 2, sum, d);
}

static void rule_linear(struct grad *g, const struct op *o, val dy)
{
	val x = o->in[0], W = o->in[1], bias = o->in[2], res = o->in[3], low = dy;
	if ((wants(g, x) || wants(g, W)) && V(dy).dtype != V(W).dtype) {
		low = fresh_like(g, o->out[0], V(W).dtype); /* one conversion serves both products */
		emit(g, OP_COPY, 1, &dy, low);
	}
	if (wants(g, W) || wants(g, bias)) {
		val in[] = { low, wants(g, W) ? rd(g, x) : NONE }; /* a bias alone needs no x */
		struct op *q = emit(g, OP_LINEAR_DW, 2, in, (val){ V(W).grad });
		q->out[1] = (val){ bias.id ? V(bias).grad : 0 };
	}
	if (wants(g, x) && V(W).split & SPLIT_ROWS) { /* each process has a summand, of its rows */
		val in[] = { low, W }, dx = fresh_like(g, x, DT_F32);
		emit(g, OP_LINEAR_DX, 2, in, dx);
		prog_total(g->p, dx);
		pass_on(g, x, dx);
	} else if (wants(g, x)) {
		int acc;
		val in[] = { low, W }, dx = into(g, x, &acc);
		emit(g, OP_LINEAR_DX, 2, in, dx)->acc = (int16_t)acc;
	}
	if (wants(g, res))
		pass_on(g, res, dy);
}

static void rule_norm(struct grad *g, const struct op *o, val dy)
{
	val x = o->in[0], w = o->in[1], b = o->in[2];
	val in[] = { dy, rd(g, x), w, rd(g, o->out[1]), o->in[3] };
	int acc = 0;
	val dx = wants(g, x) ? into(g, x, &acc) : NONE;
	struct op *q = emit(g, OP_NORM_BWD, 5, in, dx);
	q->out[1] = (val){ V(w).grad };
	q->out[2] = (val){ b.id ? V(b).grad : 0 };
	q->arg = o->arg;
	q->f = o->f;
	q->acc = (int16_t)acc;
}

static void rule_qknorm(struct grad *g, const struct op *o, val dy)
{
	val x = o->in[0], wq = o->in[1], wk = o->in[2];
	val in[] = { dy, rd(g, x), wq, wk, rd(g, o->out[1]) };
	struct op *q = emit_into(g, OP_QKNORM_BWD, 5, in, x);
	q->out[1] = (val){ V(wq).grad };
	q->out[2] = (val){ V(wk).grad };
	q->arg = o->arg;
	q->geom = o->geom;
}

static void rule(struct grad *g, const struct op *o)
{
	val y = o->out[0];
	if (o->code == OP_KD_HEAD || o->code == OP_MSE || o->code == OP_COSINE || o->code == OP_RELATION || o->code == OP_LOGPROB ||
	    o->code == OP_TOPK)
		return;        /* losses produced their gradients in the forward pass */
	if (!y.id || !V(y).train || !V(y).grad)
		return;
	val dy = { V(y).grad };
	switch (o->code) {
	case OP_EMBED: {
		val in[] = { o->in[0], dy };
		emit(g, OP_EMBED_DW, 2, in, (val){ V(o->in[1]).grad })->f = o->f;
		break;
	}
	case OP_NORM:
		rule_norm(g, o, dy);
		break;
	case OP_QKNORM:
		rule_qknorm(g, o, dy);
		break;
	case OP_LINEAR:
		rule_linear(g, o, dy);
		break;
	case OP_ATTN: {
		val in[] = { dy, rd(g, y), rd(g, o->out[1]), rd(g, o->in[0]), o->in[1], o->in[2] };
		emit_into(g, OP_ATTN_BWD, 6, in, o->in[0])->geom = o->geom;
		break;
	}
	case OP_ACT: {
		val in[] = { dy, rd(g, o->in[0]) };
		emit_into(g, OP_ACT_DX, 2, in, o->in[0])->arg = o->arg;
		break;
	}
	case OP_ADD:
		if (wants(g, o->in[1])) { /* a may share dy, b must not share it too */
			int acc;
			if (V(o->in[1]).grad)
				pass_on(g, o->in[1], dy);
			else
				emit(g, OP_COPY, 1, &dy, into(g, o->in[1], &acc));
		}
		if (wants(g, o->in[0]))
			pass_on(g, o->in[0], dy);
		break;
	case OP_MASK:
		if (wants(g, o->in[1])) {
			val in[] = { dy, rd(g, o->in[0]) };
			emit(g, OP_MASK_DZ, 2, in, (val){ V(o->in[1]).grad });
		}
		if (wants(g, o->in[0])) {
			val in[] = { dy, o->in[1] };
			emit_into(g, OP_MASK, 2, in, o->in[0]);
		}
		break;
	case OP_ADD_COLS:
		if (wants(g, o->in[1])) {
			struct op *q = emit_into(g, OP_TAKE_COLS, 1, &dy, o->in[1]);
			q->arg = o->arg;
			q->f = o->f;
		}
		if (wants(g, o->in[0]))
			pass_on(g, o->in[0], dy);
		break;
	case OP_ALLREDUCE:     /* both may share dy: what made the summand reads it next */
		for (int k = 0; k < 2; k++)
			if (wants(g, o->in[k]))
				pass_on(g, o->in[k], dy);
		break;
	case OP_COPY:
		pass_on(g, o->in[0], dy);
		break;
	default:
		BUG("no gradient rule for %s", opinfo[o->code].name);
	}
}

/* Values of the forward pass that the rule of o reads. */
static int rule_reads(const struct grad *g, const struct op *o, val *r)
{
	if (!wants(g, o->out[0]))
		return 0;
	switch (o->code) {
	case OP_NORM:
	case OP_QKNORM:
		r[0] = o->in[0], r[1] = o->out[1];
		return 2;
	case OP_LINEAR:
	case OP_MASK:          /* x, for the gradient of the weight or the mask */
		r[0] = o->in[0];
		return wants(g, o->in[1]);
	case OP_ACT:
		r[0] = o->in[0];
		return 1;
	case OP_ATTN:
		r[0] = o->in[0], r[1] = o->out[0], r[2] = o->out[1];
		return 3;
	default:
		return 0;
	}
}

/* Dear to compute, in bytes kept for a FLOP saved: stays stored unless everything is computed again.  Adding an adapter's
 * product is not, but would keep both summands instead of the sum. */
static int dear(const struct op *o)
{
	return o->code == OP_LINEAR || o->code == OP_ATTN || o->code == OP_ADD_COLS || o->code == OP_ALLREDUCE;
}

/* Emits again what the rules of ops [from, to] of one block read and that block computed. */
static void reemit(struct grad *g, int from, int to, int recompute)
{
	struct prog *p = g->p;
	uint8_t *need = xcalloc((size_t)g->n_map, 1), *made = xcalloc((size_t)g->n_map, 1);
	for (int i = from; i <= to; i++) {
		val r[3];
		for (int k = rule_reads(g, &p->op[i], r) - 1; k >= 0; k--)
			need[r[k].id] = 1;
	}
	for (int i = to; i >= from; i--) {     /* backwards: an op is needed when one of its results is */
		const struct op *o = &p->op[i];
		int used = 0;
		for (int k = 0; k < MAX_OUT; k++)
			used |= o->out[k].id && p->v[o->out[k].id].space == SP_ACT && need[o->out[k].id];
		used &= recompute == RECOMPUTE_FULL || !dear(o);
		made[i - from] = (uint8_t)used;
		for (int k = 0; used && k < MAX_IN; k++)
			need[o->in[k].id] = 1;
	}
	for (int i = from; i <= to; i++) {
		if (!made[i - from])
			continue;
		struct op o = p->op[i];
		for (int k = 0; k < MAX_IN; k++)
			o.in[k] = rd(g, o.in[k]);
		for (int k = 0; k < MAX_OUT; k++) {
			if (!o.out[k].id)
				continue;
			struct value v = p->v[o.out[k].id];
			val n = prog_value(p, v.name, v.rows, v.cols, SP_ACT, v.dtype);
			g->map[o.out[k].id] = n.id;
			o.out[k] = n;
		}
		*prog_op(p, o.code) = o;
	}
	free(need);
	free(made);
}

void prog_grad(struct prog *p, int recompute)
{
	p->n_forward = p->n;
	struct grad g = { p, xcalloc((size_t)p->nv + (size_t)p->n, sizeof(int32_t)), p->nv };
	for (int i = 0; i < p->nv; i++)
		g.map[i] = i;
	for (int i = p->n_forward - 1; i >= 0; i--) {
		struct op o = p->op[i];
		p->cur_block = o.block;
		if (recompute && o.block >= 0 && (i == p->n_forward - 1 || p->op[i + 1].block != o.block)) {
			int from = i;
			while (from > 0 && p->op[from - 1].block == o.block)
				from--;
			reemit(&g, from, i, recompute);
		}
		rule(&g, &o);
	}
	p->cur_block = -1;
	free(g.map);
}
