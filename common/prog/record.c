/*
 * record.c - appending values and fused ops to a program (losses: record_head.c)
 *
 * Recorders compute shapes once, here; nothing later does shape arithmetic.  A wrong shape is our mistake, so it is a
 * BUG, not an error.  `train` flows from parameters to everything computed from them: prog_grad emits nothing for values
 * that it does not reach.
 *
 * Tensor parallel: a product over columns that are spread over processes is a summand of its result in each of them.  It is
 * summed where it arises, as is (grad.c) the gradient of what a product with spread rows reads, so that every value is
 * either whole, and the same everywhere, or spread by columns.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "prog.h"
#include "internal.h"
#include <stdlib.h>
#include <string.h>

struct prog *prog_new(int64_t B, int64_t T)
{
	struct prog *p = xcalloc(1, sizeof *p);
	p->B = B;
	p->T = T;
	p->head.tau = 1;
	p->cur_block = -1;
	p->nv = 1;
	return p;
}

void prog_free(struct prog *p)
{
	if (!p)
		return;
	for (int i = 1; i < p->nv; i++)
		free((void *)p->konst[i]);
	free(p->konst);
	free(p->v);
	free(p->op);
	free(p->geom);
	free(p->rel);
	arena_free(&p->names);
	free(p);
}

val prog_value(struct prog *p, const char *name, int64_t rows, int64_t cols, int space, int dtype)
{
	if (rows <= 0 || cols <= 0)
		BUG("value %s is %lld x %lld", name, (long long)rows, (long long)cols);
	if (p->nv >= p->cap_v) {
		p->cap_v = p->cap_v ? 2 * p->cap_v : 256;
		p->v = xrealloc(p->v, (size_t)p->cap_v, sizeof *p->v);
		p->konst = xrealloc(p->konst, (size_t)p->cap_v, sizeof *p->konst);
		p->v[0] = (struct value){ .space = SP_ACT }; /* of NONE */
	}
	struct value *v = &p->v[p->nv];
	*v = (struct value){ .rows = rows, .cols = cols, .space = space, .dtype = dtype, .off = -1, .def = -1, .last = -1 };
	v->name = arena_printf(&p->names, "%s", name);
	p->konst[p->nv] = NULL;
	return (val){ p->nv++ };
}

void prog_shape(const struct prog *p, val x, int64_t rows, int64_t cols)
{
	const struct value *v = &p->v[x.id];
	if (v->rows != rows || v->cols != cols)
		BUG("%s is %lld x %lld, expected %lld x %lld", v->name, (long long)v->rows, (long long)v->cols, (long long)rows, (long long)cols);
}

struct op *prog_op(struct prog *p, int code)
{
	if (p->n >= p->cap_op) {
		p->cap_op = p->cap_op ? 2 * p->cap_op : 256;
		p->op = xrealloc(p->op, (size_t)p->cap_op, sizeof *p->op);
	}
	struct op *o = &p->op[p->n++];
	*o = (struct op){ .code = (int16_t)code, .block = p->cur_block, .geom = -1 };
	return o;
}

/* Result of an op: trained when any operand is. */
static val result(struct prog *p, const char *name, int64_t rows, int64_t cols, int dtype, const val *in, int n)
{
	val y = prog_value(p, name, rows, cols, SP_ACT, dtype);
	for (int i = 0; i < n; i++)
		p->v[y.id].train |= in[i].id && p->v[in[i].id].train;
	p->v[y.id].split = p->v[in[0].id].split & SPLIT_COLS;
	return y;
}

#define V(x) (p->v[(x).id])
#define SHAPE(x, r, c) prog_shape(p, x, r, c)

val p_input(struct prog *p, const char *name, int64_t rows, int64_t cols, int dtype)
{
	return prog_value(p, name, rows, cols, SP_INPUT, dtype);
}

val p_const(struct prog *p, const char *name, int64_t rows, int64_t cols, const float *host_new)
{
	val v = prog_value(p, name, rows, cols, SP_CONST, DT_F32);
	p->konst[v.id] = host_new;
	return v;
}

val p_stat(struct prog *p, const char *name, int64_t rows, int64_t cols)
{
	return prog_value(p, name, rows, cols, SP_STAT, DT_F64);
}

static void grow(int64_t *bytes, int64_t need)
{
	*bytes = *bytes > need ? *bytes : need;
}

/* Whether a parameter is the matrix of a block's linear */
static bool in_block(const struct param *q)
{
	return q->layer >= 0 && q->row->cols != AX_NONE && q->rows > 1;
}

void build_quantise(const struct engine *g, const struct ptable *t, void *w, int dtype)
{
	for (int i = 0; i < t->n; i++) {
		const struct param *q = &t->p[i];
		mat W = { (char *)w + (size_t)q->off * dtype_size(dtype), q->rows, q->cols, dtype, 0 }, Q = W;
		Q.dtype = DT_E4M3;
		if (in_block(q))
			g->k->quantise(g->d, Q, W);
	}
}

val p_param(struct prog *p, const struct build *b, const char *name)
{
	const struct param *q = ptable_find(b->t, name);
	if (!q)
		BUG("no parameter %s", name);
	char full[64];
	snprintf(full, sizeof full, "%s%s", b->prefix, q->name);
	for (int i = 1; i < p->nv; i++)
		if (p->v[i].space == b->space && !strcmp(p->v[i].name, full))
			return (val){ i };
	int64_t rows = q->row->cols == AX_NONE ? 1 : q->rows, cols = q->row->cols == AX_NONE ? q->rows : q->cols; /* a bias is a row */
	val v = prog_value(p, full, rows, cols, b->space, b->e4m3 && in_block(q) ? DT_E4M3 : b->dtype);
	V(v).off = q->off * (int64_t)dtype_size(b->dtype);
	V(v).train = b->train && !(b->frozen && b->frozen[q - b->t->p]);
	int split = !p->tp ? 0 : axis_split(q->row->cols) * SPLIT_COLS | axis_split(q->row->seg[0].axis) * (rows == 1 ? SPLIT_COLS : SPLIT_ROWS);
	V(v).split = split;
	int64_t end = q->off + rows * cols, all = b->t->elems > end ? b->t->elems : end;
	if (p->table[b->space] && p->table[b->space] != b->t)
		BUG("two models in one parameter space");
	p->table[b->space] = b->t;
	grow(&p->bytes[b->space], all * (int64_t)dtype_size(b->dtype));
	if (V(v).train) {
		char g[80];
		snprintf(g, sizeof g, "grad.%s", full);
		val d = prog_value(p, g, rows, cols, SP_GRAD, DT_F32);
		V(d).off = q->off * 4;
		V(d).split = split;
		V(v).grad = d.id;
		grow(&p->bytes[SP_GRAD], end * 4);
	}
	return v;
}

val p_param_beside(struct prog *p, const struct build *b, const char *name, int64_t rows, int64_t cols, int64_t off)
{
	char g[80];
	int64_t end = off + rows * cols, size = (int64_t)dtype_size(b->dtype);
	val v = prog_value(p, name, rows, cols, b->space, b->dtype);
	V(v).off = off * size;
	grow(&p->bytes[b->space], end * size);
	V(v).train = b->train;
	if (!b->train)
		return v;
	snprintf(g, sizeof g, "grad.%s", name);
	val d = prog_value(p, g, rows, cols, SP_GRAD, DT_F32);
	V(d).off = off * 4;
	V(v).grad = d.id;
	grow(&p->bytes[SP_GRAD], end * 4);
	return v;
}

void prog_total(struct prog *p, val x)
{
	struct op *o = prog_op(p, OP_ALLREDUCE);
	o->in[0] = o->out[0] = x;
}

/* Sum over processes of their summands x, and res */
static val total(struct prog *p, val x, val res)
{
	val in[] = { x, res };
	val y = result(p, V(x).name, V(x).rows, V(x).cols, DT_F32, in, 2);
	if (V(x).dtype != DT_F32)
		BUG("summands %s are not f32", V(x).name);
	struct op *o = prog_op(p, OP_ALLREDUCE);
	memcpy(o->in, in, sizeof in);
	o->out[0] = y;
	return y;
}

static val embed_as(struct prog *p, val tok, val W, float scale, int dtype)
{
	val in[] = { tok, W };
	val y = result(p, "x", V(tok).rows, V(W).cols, dtype, in, 2);
	struct op *o = prog_op(p, OP_EMBED);
	memcpy(o->in, in, sizeof in);
	o->out[0] = y;
	o->f = scale;
	return V(W).split ? total(p, y, NONE) : y;
}

val p_embed(struct prog *p, val tok, val W, float scale)
{
	return embed_as(p, tok, W, scale, DT_F32);
}

val p_rows(struct prog *p, val pick, val x)
{
	return embed_as(p, pick, x, 1, V(x).dtype);
}

val p_norm(struct prog *p, val x, val w, val bias, val z, int kind, float eps, int dtype)
{
	SHAPE(w, 1, V(x).cols);
	if (V(x).split)
		BUG("norm of %s, which is spread over processes", V(x).name);
	val in[] = { x, w, bias, z };
	val y = result(p, "norm", V(x).rows, V(x).cols, dtype, in, 3);
	val st = prog_value(p, "norm.stat", V(x).rows, 2, SP_ACT, DT_F32);
	struct op *o = prog_op(p, OP_NORM);
	memcpy(o->in, in, sizeof in);
	o->out[0] = y;
	o->out[1] = st;
	o->arg = kind;
	o->f = eps;
	return y;
}

val p_linear(struct prog *p, val x, val W, val bias, val res, int dtype)
{
	if (V(x).cols != V(W).cols)
		BUG("%s has %lld columns, %s takes %lld", V(x).name, (long long)V(x).cols, V(W).name, (long long)V(W).cols);
	bool spread = V(W).split & SPLIT_COLS, first = !spread || !p->tp->rank; /* the bias is in one summand */
	if (spread != (V(x).split != 0))
		BUG("%s and the columns of %s are not spread alike", V(x).name, V(W).name);
	val in[] = { x, W, bias, spread ? NONE : res };
	val y = result(p, strchr(V(W).name, '.') ? V(W).name : "logits", V(x).rows, V(W).rows, dtype, in, 4);
	V(y).split = V(W).split & SPLIT_ROWS ? SPLIT_COLS : 0;
	if (res.id)
		SHAPE(res, V(y).rows, V(y).cols);
	struct op *o = prog_op(p, OP_LINEAR);
	memcpy(o->in, in, sizeof in);
	o->in[2] = first ? bias : NONE;
	o->out[0] = y;
	if (spread && bias.id)
		V(bias).partial = 1;
	return spread ? total(p, y, res) : y;
}

val p_lora(struct prog *p, val y, val x, val A, val B, int64_t at, float scale)
{
	val u = p_linear(p, x, A, NONE, NONE, V(A).dtype);
	val z = p_linear(p, u, B, NONE, NONE, V(B).dtype);
	if (at < 0 || at + V(z).cols > V(y).cols)
		BUG("%s is added to columns that %s does not have", V(z).name, V(y).name);
	val in[] = { y, z }, sum = result(p, "lora", V(y).rows, V(y).cols, V(y).dtype, in, 2);
	struct op *o = prog_op(p, OP_ADD_COLS);
	memcpy(o->in, in, sizeof in);
	o->out[0] = sum;
	o->arg = (int32_t)at;
	o->f = scale;
	return sum;
}

static int32_t geometry(struct prog *p, const struct attn_geom *g)
{
	p->geom = xrealloc(p->geom, (size_t)p->n_geom + 1, sizeof *p->geom);
	p->geom[p->n_geom] = *g;
	return p->n_geom++;
}

val p_qknorm(struct prog *p, val qkv, val wq, val wk, const struct attn_geom *g, int kind, float eps, int dtype)
{
	SHAPE(qkv, V(qkv).rows, (int64_t)(g->H + 2 * g->G) * g->D);
	SHAPE(wq, 1, g->D);
	SHAPE(wk, 1, g->D);
	val in[] = { qkv, wq, wk };
	V(wq).partial = V(wk).partial = V(qkv).split != 0; /* of our heads */
	val y = result(p, "qknorm", V(qkv).rows, V(qkv).cols, dtype, in, 3);
	val st = prog_value(p, "qknorm.stat", V(qkv).rows, 2 * (int64_t)(g->H + g->G), SP_ACT, DT_F32);
	struct op *o = prog_op(p, OP_QKNORM);
	memcpy(o->in, in, sizeof in);
	o->out[0] = y;
	o->out[1] = st;
	o->arg = kind;
	o->f = eps;
	o->geom = geometry(p, g);
	return y;
}

val p_attn(struct prog *p, val qkv, val rope, val start, const struct attn_geom *g, int dtype)
{
	SHAPE(qkv, g->B * g->T, (int64_t)(g->H + 2 * g->G) * g->D);
	val in[] = { qkv };
	val y = result(p, "attn", V(qkv).rows, (int64_t)g->H * g->D, dtype, in, 1);
	val lse = prog_value(p, "attn.lse", V(qkv).rows, g->H, SP_ACT, DT_F32);
	struct op *o = prog_op(p, OP_ATTN);
	o->in[0] = qkv;
	o->in[1] = rope;
	o->in[2] = start;
	o->out[0] = y;
	o->out[1] = lse;
	o->geom = geometry(p, g);
	return y;
}

val p_state(struct prog *p, const char *name, int64_t rows, int64_t cols, int dtype)
{
	val v = prog_value(p, name, rows, cols, SP_STATE, dtype);
	V(v).off = p->bytes[SP_STATE];
	p->bytes[SP_STATE] += (int64_t)(value_bytes(&V(v)) + 63) / 64 * 64;
	return v;
}

void p_copy(struct prog *p, val to, val from)
{
	SHAPE(to, V(from).rows, V(from).cols);
	struct op *o = prog_op(p, OP_COPY);
	o->in[0] = from;
	o->out[0] = to;
}

val p_attn_tree(struct prog *p, val qkv, val past, val rope, val node, const struct attn_geom *g, int dtype)
{
	SHAPE(qkv, g->T - (past.id ? V(past).rows : 0), (int64_t)(g->H + 2 * g->G) * g->D);
	SHAPE(node, g->T, 2);
	val y = result(p, "attn", V(qkv).rows, (int64_t)g->H * g->D, dtype, &qkv, 1);
	struct op *o = prog_op(p, OP_ATTN_TREE);
	o->in[0] = qkv;
	o->in[1] = rope;
	o->in[2] = node;
	o->in[3] = past;
	o->out[0] = y;
	o->geom = geometry(p, g);
	return y;
}

val p_attn_kv(struct prog *p, val qkv, val rope, val at, const struct attn_geom *g, int kv_dtype, int dtype)
{
	if (g->T % KV_BLOCK)
		BUG("cache of %lld positions", (long long)g->T);
	SHAPE(qkv, V(qkv).rows, (int64_t)(g->H + 2 * g->G) * g->D);
	SHAPE(at, V(qkv).rows, 2);
	val kv = p_state(p, "kv", g->B, 2 * (int64_t)g->G * g->D * g->T, kv_dtype);
	val y = result(p, "attn", V(qkv).rows, (int64_t)g->H * g->D, dtype, &qkv, 1);
	struct op *o = prog_op(p, OP_ATTN_KV);
	o->in[0] = qkv;
	o->in[1] = rope;
	o->in[2] = at;
	o->out[0] = y;
	o->out[1] = kv;
	o->geom = geometry(p, g);
	return y;
}

val p_act(struct prog *p, val x, int kind, int dtype)
{
	val y = result(p, "act", V(x).rows, act_gated(kind) ? V(x).cols / 2 : V(x).cols, dtype, &x, 1);
	struct op *o = prog_op(p, OP_ACT);
	o->in[0] = x;
	o->out[0] = y;
	o->arg = kind;
	return y;
}

val p_add(struct prog *p, val a, val b)
{
	SHAPE(b, V(a).rows, V(a).cols);
	val in[] = { a, b };
	val y = result(p, "add", V(a).rows, V(a).cols, V(a).dtype, in, 2);
	struct op *o = prog_op(p, OP_ADD);
	memcpy(o->in, in, sizeof in);
	o->out[0] = y;
	return y;
}

val p_mask(struct prog *p, val x, val z)
{
	if (V(x).cols % V(z).cols)
		BUG("mask of %lld on %lld columns", (long long)V(z).cols, (long long)V(x).cols);
	val in[] = { x, z };
	val y = result(p, "mask", V(x).rows, V(x).cols, V(x).dtype, in, 2);
	struct op *o = prog_op(p, OP_MASK);
	memcpy(o->in, in, sizeof in);
	o->out[0] = y;
	return y;
}

val prog_find(const struct prog *p, const char *name)
{
	for (int i = p->nv - 1; i > 0; i--)
		if (!strcmp(p->v[i].name, name))
			return (val){ i };
	return NONE;
}

void p_keep(struct prog *p, val v)
{
	V(v).keep = 1;
}
