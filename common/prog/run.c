/*
 * run.c - walking a program: handles become pointers, each op calls its kernel
 *
 * No allocation, no shape arithmetic, no decision in the loop.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "internal.h"
#include <stdlib.h>
#include <string.h>

int frame_new(struct frame *f, const struct engine *g, const struct prog *p, struct err *e)
{
	return frame_new_in(f, g, p, NULL, e);
}

int frame_new_in(struct frame *f, const struct engine *g, const struct prog *p, void *act, struct err *e)
{
	static const int owned[] = { SP_ACT, SP_INPUT, SP_CONST, SP_STAT };
	static const char *const word[] = { "activations", "inputs", "constants", "statistics" };
	*f = (struct frame){ .g = g, .p = p, .lent = act != NULL };
	f->base[SP_ACT] = act;
	for (int i = f->lent; i < 4; i++) {
		size_t n = (size_t)p->bytes[owned[i]];
		if (!n)
			continue;
		f->base[owned[i]] = g->k->mem_alloc(g->d, n);
		if (!f->base[owned[i]]) {
			char buf[32];
			frame_free(f);
			return err_set(e, EXIT_RESOURCE, "no memory for %s of %s", fmt_bytes(buf, (double)n), word[i]);
		}
	}
	for (int i = 1; i < p->nv; i++)
		if (p->v[i].space == SP_CONST)
			frame_set(f, (val){ i }, p->konst[i]);
	return 0;
}

void frame_free(struct frame *f)
{
	static const int owned[] = { SP_ACT, SP_INPUT, SP_CONST, SP_STAT };
	for (int i = f->lent; i < 4 && f->p; i++)
		if (f->base[owned[i]])
			f->g->k->mem_free(f->g->d, f->base[owned[i]], (size_t)f->p->bytes[owned[i]]);
	memset(f, 0, sizeof *f);
}

static void *addr(const struct frame *f, val x)
{
	const struct value *v = &f->p->v[x.id];
	if (!f->base[v->space])
		BUG("%s: its space is not bound", v->name);
	return f->base[v->space] + v->off;
}

mat frame_mat(const struct frame *f, val x)
{
	if (!x.id)
		return (mat){ 0 };
	const struct value *v = &f->p->v[x.id];
	return (mat){ addr(f, x), v->rows, v->cols, v->dtype, (v->space == SP_PARAM || v->space == SP_PARAM_T) && !v->within };
}

#define M frame_mat

void frame_set(struct frame *f, val x, const void *host)
{
	f->g->k->upload(f->g->d, addr(f, x), host, value_bytes(&f->p->v[x.id]));
}

void frame_get(const struct frame *f, val x, void *host)
{
	f->g->k->download(f->g->d, host, addr(f, x), value_bytes(&f->p->v[x.id]));
}

void frame_zero_stats(struct frame *f)
{
	for (int i = 1; i < f->p->nv; i++)
		if (f->p->v[i].space == SP_STAT)
			f->g->k->zero(f->g->d, M(f, (val){ i }));
}

/* An output matrix, or our part of it, without its padding */
static mat tokens_of(const struct frame *f, val W)
{
	mat m = M(f, W);
	int64_t before = f->p->v[W.id].split ? f->p->tp->rank * m.rows : 0, tokens = f->p->vocab - before;
	m.rows = m.p && f->p->vocab && m.rows > tokens ? tokens : m.rows;
	return m;
}

static void gather(void *arg, void *x, int64_t bytes)
{
	comm_wait(arg, comm_gather_begin(arg, x, bytes));
}

/* Of a head whose vocabulary is spread over processes */
static struct kd_parts parts_of(const struct frame *f, val W)
{
	struct comm *c = f->p->tp;
	int64_t rows = f->p->v[W.id].rows;
	return (struct kd_parts){ c->rank, c->size, rows, f->p->vocab ? f->p->vocab : rows * c->size, gather, c };
}

static void run_loss(struct frame *f, const struct op *o)
{
	const struct kernels *k = f->g->k;
	struct dev *d = f->g->d;
	const struct prog *p = f->p;
	const float *live = f->live ? f->live + o->arg : NULL;
	if (o->code == OP_KD_HEAD) {
		struct kd_head_args a = p->head;
		struct kd_parts parts;
		memcpy(a.coef, p->coef, sizeof a.coef);
		a.live = f->live;
		if (p->v[o->in[1].id].split) {
			parts = parts_of(f, o->in[1]);
			a.parts = &parts;
		}
		mat ht = M(f, o->in[2]), Wt = ht.dtype == DT_I32 ? M(f, o->in[3]) : tokens_of(f, o->in[3]);
		k->kd_head(d, M(f, o->out[0]), M(f, o->out[1]), tokens_of(f, o->out[2]), M(f, o->in[0]), tokens_of(f, o->in[1]), ht, Wt,
			   M(f, o->in[4]), &a);
	} else if (o->code == OP_RELATION) {
		k->relation(d, M(f, o->out[0]), M(f, o->out[1]), M(f, o->in[0]), M(f, o->in[1]), M(f, o->in[2]), M(f, o->in[3]),
			    &p->rel[o->geom], p->coef[o->arg], live, o->acc);
	} else {
		(o->code == OP_MSE ? k->mse : k->cosine)(d, M(f, o->out[0]), M(f, o->out[1]), M(f, o->in[0]),
							 M(f, o->in[1]), M(f, o->in[2]), p->coef[o->arg], live, o->acc);
	}
}

static void run_sum(struct frame *f, const struct op *o)
{
	mat x = M(f, o->in[0]);
	if (o->code == OP_REDUCE_SCATTER) {
		f->ticket = comm_scatter_begin(f->comm, x.p, x.cols / f->comm->size);
		return;
	}
	comm_wait(f->comm, f->ticket);
	f->ticket = 0;
	mat part = M(f, o->out[0]), own = { (float *)x.p + f->comm->rank * part.cols, 1, part.cols, DT_F32, 0 };
	f->g->k->add(f->g->d, part, part, own);
}

/* What begins to come now, and what must be here */
static void run_exchange(struct frame *f, const struct op *o)
{
	if (o->code == OP_FETCH)
		f->source->begin(f->source, o->arg, addr(f, o->out[0]));
	else if (o->code == OP_WAIT && f->p->v[o->in[0].id].space != SP_GRAD)
		f->source->end(f->source);
	else
		run_sum(f, o);
}

/* In place: nobody else reads the summand */
static void run_total(struct frame *f, const struct op *o)
{
	mat x = M(f, o->in[0]), y = M(f, o->out[0]), res = M(f, o->in[1]);
	comm_sum_f32(f->p->tp, x.p, x.rows * x.cols);
	if (res.p)
		f->g->k->add(f->g->d, y, x, res);
	else if (y.p != x.p)
		f->g->k->copy(f->g->d, y, x);
}

static void run_op(struct frame *f, const struct op *o)
{
	const struct kernels *k = f->g->k;
	struct dev *d = f->g->d;
#define I(n) M(f, o->in[n])
#define O(n) M(f, o->out[n])
	switch ((enum opcode)o->code) {
	case OP_EMBED: k->embed(d, O(0), I(0), I(1), o->f); break;
	case OP_NORM: k->norm(d, O(0), O(1), I(0), I(1), I(2), I(3), o->arg, o->f); break;
	case OP_QKNORM: k->qknorm(d, O(0), O(1), I(0), I(1), I(2), &f->p->geom[o->geom], o->arg, o->f); break;
	case OP_LINEAR: k->linear(d, O(0), I(0), I(1), I(2), I(3)); break;
	case OP_ATTN: k->attn(d, O(0), O(1), I(0), I(1), I(2), &f->p->geom[o->geom]); break;
	case OP_ATTN_TREE: k->attn_tree(d, O(0), I(0), I(3), I(1), I(2), &f->p->geom[o->geom]); break;
	case OP_ATTN_KV: k->attn_kv(d, O(0), O(1), I(0), I(1), I(2), &f->p->geom[o->geom]); break;
	case OP_ACT: k->act(d, O(0), I(0), o->arg); break;
	case OP_ADD: k->add(d, O(0), I(0), I(1)); break;
	case OP_MASK: k->mask(d, O(0), I(0), I(1)); break;
	case OP_STAT_WIDTH: k->stat_width(d, O(0), I(0), f->p->T, o->arg); break;
	case OP_STAT_CONTRIB: k->stat_contrib(d, O(0), I(0), I(1), I(2), f->p->T); break;
	case OP_STAT_COS: k->stat_cos(d, O(0), I(0), I(1)); break;
	case OP_KD_HEAD:
	case OP_MSE:
	case OP_COSINE:
	case OP_RELATION: run_loss(f, o); break;
	case OP_TOPK: k->topk(d, O(0), O(1), I(0), tokens_of(f, o->in[1]), I(2), f->p->head.tau); break;
	case OP_LOGPROB: k->logprob(d, O(0), I(0), I(1), I(2)); break;
	case OP_EMBED_DW: k->embed_dw(d, O(0), I(0), I(1), o->f); break;
	case OP_NORM_BWD: k->norm_bwd(d, O(0), O(1), O(2), I(0), I(1), I(2), I(3), I(4), o->arg, o->acc); break;
	case OP_QKNORM_BWD:
		k->qknorm_bwd(d, O(0), O(1), O(2), I(0), I(1), I(2), I(3), I(4), &f->p->geom[o->geom], o->arg);
		break;
	case OP_LINEAR_DX: k->linear_dx(d, O(0), I(0), I(1), o->acc); break;
	case OP_LINEAR_DW: k->linear_dw(d, O(0), O(1), I(0), I(1)); break;
	case OP_ATTN_BWD: k->attn_bwd(d, O(0), I(0), I(1), I(2), I(3), I(4), I(5), &f->p->geom[o->geom]); break;
	case OP_ACT_DX: k->act_dx(d, O(0), I(0), I(1), o->arg); break;
	case OP_MASK_DZ: k->mask_dz(d, O(0), I(0), I(1)); break;
	case OP_ADD_COLS: k->add_cols(d, O(0), I(0), I(1), o->arg, o->f); break;
	case OP_TAKE_COLS: k->take_cols(d, O(0), I(0), o->arg, o->f); break;
	case OP_COPY: k->copy(d, O(0), I(0)); break;
	case OP_ALLREDUCE: run_total(f, o); break;
	case OP_SCALE: k->scale(d, O(0), I(0), o->f); break;
	case OP_ZERO: k->zero(d, O(0)); break;
	case OP_REDUCE_SCATTER:
	case OP_FETCH:
	case OP_WAIT: run_exchange(f, o); break;
	case OP_COUNT: BUG("opcode %d", o->code);
	}
#undef I
#undef O
}

void prog_note(const struct prog *p, const struct engine *g)
{
	static char nowhere[64];
	struct frame f = { .g = g, .p = p };
	for (int s = 0; s < SP_COUNT; s++)
		f.base[s] = nowhere;
	for (int i = 0; i < p->n; i++)
		switch (p->op[i].code) {
		case OP_LINEAR: case OP_LINEAR_DX: case OP_LINEAR_DW: case OP_ATTN: case OP_ATTN_BWD:
		case OP_KD_HEAD: case OP_RELATION: case OP_LOGPROB: case OP_TOPK:
			run_op(&f, &p->op[i]);
		}
}

void prog_run_part(struct frame *f, int from, int to)
{
	for (int i = from; i < to; i++) {
		run_op(f, &f->p->op[i]);
		if (f->ticket)
			comm_progress(f->comm);
		if (f->source && f->source->busy)
			f->source->poll(f->source);
	}
}

void prog_run(struct frame *f)
{
	prog_run_part(f, 0, f->p->n);
}
