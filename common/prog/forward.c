/*
 * forward.c - the decoder block, recorded once for every family
 *
 *	h = norm(x);  x += o(attn(qkv(h)));  h = norm(x);  x += down(act(up(h)))
 *
 * Families differ in the kinds of norm and activation, in which blocks slide over a window, and in which parameters their
 * table lists (rows.h: biases, norms of query and key heads, norms after a part: x += post(part)); the table decides,
 * there is no family conditional.  Sites are the only hooks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct ctx {
	struct prog *p;
	const struct build *b;
	const struct arch *a;
	val rope, local, z;    /* rotary tables of all blocks, and of sliding blocks */
};

static char *full_name(char buf[64], int64_t layer, const char *name)
{
	if (layer >= 0)
		snprintf(buf, 64, "blk.%lld.%s", (long long)layer, name);
	else
		snprintf(buf, 64, "%s", name);
	return buf;
}

static int has(const struct ctx *c, int64_t layer, const char *name)
{
	char full[64];
	return ptable_find(c->b->t, full_name(full, layer, name)) != NULL;
}

static val weight(const struct ctx *c, int64_t layer, const char *name, int optional)
{
	char full[64];
	if (optional && !has(c, layer, name))
		return NONE;
	return p_param(c->p, c->b, full_name(full, layer, name));
}

static val norm_as(const struct ctx *c, val x, int64_t layer, const char *name, int dtype)
{
	char w[32], bias[32];
	snprintf(w, sizeof w, "%s.w", name);
	snprintf(bias, sizeof bias, "%s.b", name);
	return p_norm(c->p, x, weight(c, layer, w, 0), weight(c, layer, bias, 1), c->z, c->a->norm,
		      (float)c->a->norm_eps, dtype);
}

static val norm(const struct ctx *c, val x, int64_t layer, const char *name)
{
	return norm_as(c, x, layer, name, c->b->dtype);
}

/* With the adapters of its weight, if any */
static val linear_as(const struct ctx *c, val x, int64_t layer, const char *name, val res, int dtype)
{
	const struct build *b = c->b;
	char bias[40], full[64];
	snprintf(bias, sizeof bias, "%s.bias", name);
	val y = p_linear(c->p, x, weight(c, layer, name, 0), weight(c, layer, bias, 1), res, dtype);
	const struct param *base = b->n_adapter ? ptable_find(b->t, full_name(full, layer, name)) : NULL;
	for (int i = 0; i < b->n_adapter; i++) {
		const struct adapter *q = &b->adapter[i];
		if (q->base == base)
			y = p_lora(c->p, y, x, p_param_beside(c->p, b, q->a.name, q->a.rows, q->a.cols, q->a.off),
				   p_param_beside(c->p, b, q->b.name, q->b.rows, q->b.cols, q->b.off), q->at, b->adapter_scale);
	}
	return y;
}

static val linear(const struct ctx *c, val x, int64_t layer, const char *name, val res)
{
	return linear_as(c, x, layer, name, res, res.id || c->b->wide ? DT_F32 : c->b->dtype);
}

/* What a part adds to the residual stream: W x, or post(W x) where the family has a norm POST there */
static val summand(const struct ctx *c, val x, int64_t l, const char *name, const char *post)
{
	char w[32];
	snprintf(w, sizeof w, "%s.w", post);
	if (!has(c, l, w))
		return linear(c, x, l, name, NONE);
	return norm_as(c, linear_as(c, x, l, name, NONE, DT_F32), l, post, DT_F32);
}

/* res + summand; without a norm the sum is part of the product */
static val linear_sum(const struct ctx *c, val x, int64_t l, const char *name, const char *post, val res)
{
	char w[32];
	snprintf(w, sizeof w, "%s.w", post);
	return has(c, l, w) ? p_add(c->p, res, summand(c, x, l, name, post)) : linear(c, x, l, name, res);
}

/* Positions that a sequence of this program may have */
static int64_t positions(const struct prog *p, const struct build *b)
{
	return b->at.id ? b->kv_len : p->T + b->past;
}

/* Output of every head, from the normed residual stream */
static val heads(const struct ctx *c, val h, int64_t l)
{
	const struct arch *a = c->a;
	struct arch at = arch_at(a, l);
	int64_t window = arch_window(a, l);
	float scale = a->attn_scale > 0 ? (float)a->attn_scale : 1 / sqrtf((float)a->head_dim);
	int64_t T = positions(c->p, c->b);
	struct attn_geom g = { c->b->at.id ? c->b->slots : c->p->B, T, (int32_t)at.heads, (int32_t)at.kv_heads,
			       (int32_t)a->head_dim, (int32_t)arch_rope_dims(a), scale, window < T ? (int32_t)window : 0 };
	val qkv = linear(c, h, l, "attn.qkv", NONE);
	if (has(c, l, "attn.qnorm.w"))
		qkv = p_qknorm(c->p, qkv, weight(c, l, "attn.qnorm.w", 0), weight(c, l, "attn.knorm.w", 0), &g, a->norm,
			       (float)a->norm_eps, c->p->v[qkv.id].dtype);
	qkv = p_site(c->p, c->b, qkv, SITE_QKV, l);
	const struct value q = c->p->v[qkv.id];
	val past = c->b->past || c->b->keep_past ? p_state(c->p, "past", c->b->past ? c->b->past : q.rows, q.cols, q.dtype) : NONE;
	if (c->b->keep_past)
		p_copy(c->p, past, qkv);
	val rope = window ? c->local : c->rope;
	if (c->b->at.id)
		return p_attn_kv(c->p, qkv, rope, c->b->at, &g, c->b->dtype, c->b->dtype);
	if (c->b->node.id)
		return p_attn_tree(c->p, qkv, past, rope, c->b->node, &g, c->b->dtype);
	return p_attn(c->p, qkv, rope, c->b->start, &g, c->b->dtype);
}

static void cosine_stat(const struct ctx *c, val a, val b, const char *part, int64_t layer)
{
	char name[48];
	snprintf(name, sizeof name, "stat.%s.%lld", part, (long long)layer);
	val acc = p_stat(c->p, name, 1, 2);
	struct op *o = prog_op(c->p, OP_STAT_COS);
	o->in[0] = a;
	o->in[1] = b;
	o->out[0] = acc;
}

/* What each query group's heads add to the residual stream */
static void group_stat(const struct ctx *c, val o, int64_t l)
{
	struct arch at = arch_at(c->a, l);
	char name[48];
	snprintf(name, sizeof name, "stat.attn_kv.%lld", (long long)l);
	val acc = p_stat(c->p, name, STAT_ROWS, at.kv_heads), W = weight(c, l, "attn.o", 0);
	struct op *p = prog_op(c->p, OP_STAT_CONTRIB);
	p->in[0] = o;
	p->in[1] = W;
	p->in[2] = c->z;
	p->out[0] = acc;
	p->arg = (int32_t)(at.heads / at.kv_heads * at.head_dim);
}

static val attention(const struct ctx *c, val x, int64_t l)
{
	struct prog *p = c->p;
	const struct build *b = c->b;

	val h = p_site(p, b, norm(c, x, l, "attn.norm"), SITE_ATTN_IN, l);
	val o = p_site(p, b, heads(c, h, l), SITE_ATTN_OUT, l);
	if (b->group_stats)
		group_stat(c, o, l);
	if (b->pick.id && l == b->blk1 - 1) {
		o = p_rows(p, b->pick, o);
		x = p_rows(p, b->pick, x);
	}
	return p_site(p, b, linear_sum(c, o, l, "attn.o", "attn.post", x), SITE_MID, l);
}

static int probed(const struct build *b, int site, int64_t layer)
{
	for (int i = 0; i < b->n_probe; i++)
		if (b->probe[i].site == site && (b->probe[i].layer < 0 || b->probe[i].layer == layer))
			return 1;
	return 0;
}

static val ffn(const struct ctx *c, val mid, int64_t l)
{
	struct prog *p = c->p;
	const struct build *b = c->b;
	val h = p_site(p, b, norm(c, mid, l, "mlp.norm"), SITE_FFN_IN, l);
	val u = p_site(p, b, linear(c, h, l, "mlp.up", NONE), SITE_FFN_PRE, l);
	u = p_site(p, b, p_act(p, u, c->a->act, b->dtype), SITE_FFN_ACT, l);
	if (!probed(b, SITE_FFN_OUT, l))
		return p_site(p, b, linear_sum(c, u, l, "mlp.down", "mlp.post", mid), SITE_BLOCK_OUT, l);
	val f = p_site(p, b, summand(c, u, l, "mlp.down", "mlp.post"), SITE_FFN_OUT, l);
	return p_site(p, b, p_add(p, mid, f), SITE_BLOCK_OUT, l);
}

/* A half that is left out has no sites either: the residual stream passes it by. */
static val block(const struct ctx *c, val x, int64_t l)
{
	int drop = c->b->drop ? c->b->drop[l] : 0;
	val mid = drop & DROP_ATTN ? x : attention(c, x, l);
	val y = drop & DROP_FFN ? mid : ffn(c, mid, l);
	if (c->b->layer_stats) {
		cosine_stat(c, x, y, "block", l);
		cosine_stat(c, x, mid, "attn", l);
		cosine_stat(c, mid, y, "ffn", l);
	}
	return y;
}

static val rope_const(struct prog *p, const struct build *b, int local)
{
	int64_t rot = arch_rope_dims(&b->t->arch);
	char name[32];
	snprintf(name, sizeof name, "%srope%s", b->prefix, local ? ".local" : "");
	val old = prog_find(p, name);
	if (old.id || !rot)
		return old;
	int64_t T = positions(p, b);
	float *host = xcalloc((size_t)(T * rot), sizeof *host);
	(local ? arch_rope_local_table : arch_rope_table)(&b->t->arch, host, 0, T);
	return p_const(p, name, T, rot, host);
}

val p_forward(struct prog *p, const struct build *b, val tok, val x)
{
	struct ctx c = { p, b, &b->t->arch, rope_const(p, b, 0), NONE, NONE };
	c.local = c.a->window && c.a->rope_local > 0 ? rope_const(p, b, 1) : c.rope;
	if (b->hidden_mask) {
		float *z = xcalloc((size_t)c.a->hidden, sizeof *z);
		memcpy(z, b->hidden_mask, (size_t)c.a->hidden * sizeof *z);
		c.z = p_const(p, "mask.hidden", 1, c.a->hidden, z);
	}
	if (b->blk0 == 0 && tok.id && !b->slice)
		x = p_site(p, b, p_embed(p, tok, weight(&c, -1, "embed", 0), (float)c.a->embed_scale), SITE_EMBED, -1);
	for (int64_t l = b->blk0; l < b->blk1; l++) {
		if (b->drop && (b->drop[l] & DROP_LAYER))
			continue;
		p->cur_block = b->space == SP_PARAM ? (int)l : -1;
		x = block(&c, x, l);
		p->cur_block = -1;
	}
	if (b->slice || b->blk1 < c.a->layers)
		return x;
	return p_site(p, b, norm(&c, x, -1, "final.norm"), SITE_FINAL, -1);
}

val p_head_weight(struct prog *p, const struct build *b)
{
	return p_param(p, b, "head");
}

/* A site is nothing, observed, masked or kept: the builder's probes decide. */
val p_site(struct prog *p, const struct build *b, val x, int site, int64_t layer)
{
	char name[64];
	int hidden_stream = site == SITE_EMBED || site == SITE_MID || site == SITE_BLOCK_OUT;
	if (b->hidden_mask && hidden_stream)
		x = p_mask(p, x, prog_find(p, "mask.hidden"));
	for (int i = 0; i < b->n_probe; i++) {
		const struct probe *q = &b->probe[i];
		if (q->site != site || (q->layer >= 0 && q->layer != layer))
			continue;
		if (q->what == PROBE_MASK) {
			struct arch at = arch_at(&b->t->arch, layer);
			int64_t n = axis_units(&at, site_axis(site));
			float *z = xcalloc((size_t)n, sizeof *z);
			memcpy(z, q->z, (size_t)n * sizeof *z);
			snprintf(name, sizeof name, "mask.%s.%lld", site_word(site), (long long)layer);
			x = p_mask(p, x, p_const(p, name, 1, n, z));
		} else if (q->what == PROBE_STAT) {
			snprintf(name, sizeof name, "stat.%s%s.%lld", site_word(site), q->unit > 1 ? "_norm" : "",
				 (long long)layer);
			val acc = p_stat(p, name, STAT_ROWS, p->v[x.id].cols / q->unit);
			struct op *o = prog_op(p, OP_STAT_WIDTH);
			o->in[0] = x;
			o->out[0] = acc;
			o->arg = q->unit;
		} else {
			snprintf(name, sizeof name, "%skeep.%s.%lld", b->prefix, site_word(site), (long long)layer);
			p->v[x.id].name = arena_printf(&p->names, "%s", name);
		}
	}
	return x;
}
