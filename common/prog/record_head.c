/*
 * record_head.c - appending the output head and the losses to a program
 *
 * A loss makes the gradient of what it compares in the forward pass; prog_grad goes on from there.  Where the vocabulary is
 * spread over processes, each has a summand of the head's gradient.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "internal.h"
#include <stdlib.h>
#include <string.h>

#define V(x) (p->v[(x).id])
#define SHAPE(x, r, c) prog_shape(p, x, r, c)

val p_kd_head(struct prog *p, val hs, val Ws, val ht, val Wt, val label)
{
	SHAPE(label, V(hs).rows, 1);
	val sums = p_stat(p, "loss.sums", 1, LOSS_KINDS);
	bool spread = V(Ws).split, best = ht.id && V(ht).dtype == DT_I32;
	if (spread && (best || (Wt.id && V(Wt).split != V(Ws).split)))
		BUG("the head's vocabulary is spread over processes, the teacher's is not");
	val dhs = NONE;
	if (V(hs).train) {
		if (V(hs).grad)
			BUG("%s has a gradient before its head", V(hs).name);
		dhs = prog_value(p, "d.head", V(hs).rows, V(hs).cols, SP_ACT, spread ? DT_F32 : V(hs).dtype);
		V(hs).grad = dhs.id;
	}
	struct op *o = prog_op(p, OP_KD_HEAD);
	val in[] = { hs, Ws, ht, Wt, label };
	memcpy(o->in, in, sizeof in);
	o->out[0] = sums;
	o->out[1] = dhs;
	o->out[2] = (val){ V(Ws).grad };
	if (!spread || !dhs.id)
		return sums;
	prog_total(p, dhs);
	if (V(hs).dtype != DT_F32) {
		val d = prog_value(p, "d.head", V(hs).rows, V(hs).cols, SP_ACT, V(hs).dtype);
		p_copy(p, d, dhs);
		V(hs).grad = d.id;
	}
	return sums;
}

val p_topk(struct prog *p, val h, val W, val label, int64_t K, val *logp)
{
	if (K < 1 || K > V(W).rows)
		BUG("best %lld of %lld", (long long)K, (long long)V(W).rows);
	SHAPE(label, V(h).rows, 1);
	val ids = prog_value(p, "best.ids", V(h).rows, K, SP_ACT, DT_I32);
	*logp = prog_value(p, "best.logp", V(h).rows, K + 1, SP_ACT, DT_F32);
	struct op *o = prog_op(p, OP_TOPK);
	val in[] = { h, W, label };
	memcpy(o->in, in, sizeof in);
	o->out[0] = ids;
	o->out[1] = *logp;
	return ids;
}

static val inner_loss(struct prog *p, int opcode, val a, val b, val label, int slot)
{
	SHAPE(label, V(a).rows, 1);
	if (slot >= N_COEF)
		BUG("coefficient %d of %d", slot, N_COEF);
	val sums = p_stat(p, opcode == OP_MSE ? "loss.mse" : opcode == OP_COSINE ? "loss.cosine" : "loss.relation", 1, 1);
	val da = NONE;
	int acc = 0;
	if (V(a).train && slot >= 0) {
		acc = V(a).grad != 0;
		da = acc ? (val){ V(a).grad } : prog_value(p, "d.inner", V(a).rows, V(a).cols, SP_ACT, V(a).dtype);
		V(a).grad = da.id;
	}
	struct op *o = prog_op(p, opcode);
	o->in[0] = a;
	o->in[1] = b;
	o->in[2] = label;
	o->out[0] = sums;
	o->out[1] = da;
	o->acc = (int16_t)acc;
	o->arg = slot < 0 ? 0 : slot;
	return sums;
}

val p_inner_loss(struct prog *p, int opcode, val a, val b, val label, int slot)
{
	SHAPE(b, V(a).rows, V(a).cols);
	return inner_loss(p, opcode, a, b, label, slot);
}

val p_relation(struct prog *p, val a, val b, val label, val start, int slot, const struct relation *r)
{
	if (r->heads < 1 || r->a0 + r->heads * r->da > V(a).cols || r->b0 + r->heads * r->db > V(b).cols || V(a).rows != V(b).rows ||
	    V(a).rows % r->T)
		BUG("relation of %s and %s", V(a).name, V(b).name);
	val sums = inner_loss(p, OP_RELATION, a, b, label, slot);
	p->rel = xrealloc(p->rel, (size_t)p->n_rel + 1, sizeof *p->rel);
	p->rel[p->n_rel] = *r;
	if (start.id)
		SHAPE(start, V(a).rows, 1);
	p->op[p->n - 1].in[3] = start;
	p->op[p->n - 1].geom = p->n_rel++;
	return sums;
}

val p_logprob(struct prog *p, val h, val W, val label)
{
	val y = prog_value(p, "logprob", V(h).rows, 2, SP_ACT, DT_F32);
	struct op *o = prog_op(p, OP_LOGPROB);
	o->in[0] = h;
	o->in[1] = W;
	o->in[2] = label;
	o->out[0] = y;
	return y;
}
