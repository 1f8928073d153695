/*
 * check.c - an independent proof that a planned program is sound
 *
 * Shares nothing with plan.c but the value table: every read follows a write, outputs do not alias live values (except
 * the in-place forms that the kernels allow), offsets lie inside their space, operand kinds fit.  Cheap enough to run
 * every time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "internal.h"
#include <stdlib.h>
#include <string.h>

static int bad(struct err *e, const struct prog *p, int i, const struct value *v, const char *what)
{
	return err_set(e, EXIT_FAIL, "program op %d (%s): %s: %s", i, opinfo[p->op[i].code].name, v->name, what);
}

static int check_order(const struct prog *p, struct err *e)
{
	uint8_t *written = xcalloc((size_t)p->nv, 1);
	int rc = 0;
	for (int i = 1; i < p->nv; i++)
		written[i] = p->v[i].space != SP_ACT;
	for (int i = 0; i < p->n && !rc; i++) {
		const struct op *o = &p->op[i];
		for (int k = 0; k < MAX_IN && !rc; k++)
			if (o->in[k].id && !written[o->in[k].id])
				rc = bad(e, p, i, &p->v[o->in[k].id], "read before it is written");
		for (int k = 0; k < MAX_OUT && !rc; k++) {
			if (!o->out[k].id)
				continue;
			if (op_adds(o, k) && !written[o->out[k].id])
				rc = bad(e, p, i, &p->v[o->out[k].id], "added to before it is written");
			written[o->out[k].id] = 1;
		}
	}
	free(written);
	return rc;
}

static int overlap(const struct value *a, const struct value *b)
{
	return a->off < b->off + (int64_t)value_bytes(b) && b->off < a->off + (int64_t)value_bytes(a);
}

static int by_def(const void *x, const void *y)
{
	const struct value *a = *(const struct value *const *)x, *b = *(const struct value *const *)y;
	return a->def != b->def ? (a->def < b->def ? -1 : 1) : 0;
}

/* Two planned values of a space may share bytes only when one is dead before the other is born, or the later is born in place. */
static int check_places(const struct prog *p, int space, struct err *e)
{
	const struct value **live = xcalloc((size_t)p->nv, sizeof *live), **all = xcalloc((size_t)p->nv, sizeof *all);
	int n = 0, m = 0, rc = 0;
	for (int i = 1; i < p->nv; i++)
		if (is_planned(p, i, space) && p->v[i].def >= 0)
			all[m++] = &p->v[i];
	qsort(all, (size_t)m, sizeof *all, by_def);
	for (int i = 0; i < m && !rc; i++) {
		const struct value *v = all[i];
		if (v->off < 0 || v->off + (int64_t)value_bytes(v) > p->bytes[space])
			rc = bad(e, p, v->def, v, "outside the arena");
		int k = 0;
		for (int j = 0; j < n; j++)    /* forget the dead */
			if (live[j]->last >= v->def)
				live[k++] = live[j];
		n = k;
		for (int j = 0; j < n && !rc; j++) {
			const struct op *o = &p->op[v->def];
			int code = o->code;
			const struct value *w = code == OP_LINEAR ? &p->v[o->in[3].id] :
						code == OP_ADD || code == OP_ADD_COLS || code == OP_MASK || code == OP_ALLREDUCE ? &p->v[o->in[0].id] : NULL;
			if (overlap(v, live[j]) && !(live[j] == w && w->last == v->def && w->off == v->off))
				rc = bad(e, p, v->def, v, "overlaps a live value");
		}
		live[n++] = v;
	}
	free(live);
	free(all);
	return rc;
}

/* A gradient within a bucket is touched only between the bucket's ZERO and its REDUCE_SCATTER, and that is waited for. */
static int check_buckets(const struct prog *p, struct err *e)
{
	enum { CLOSED, OPEN, UNDER_WAY };
	uint8_t *state = xcalloc((size_t)p->nv, 1);
	int rc = 0, waits = 0;
	for (int i = 0; i < p->n && !rc; i++) {
		const struct op *o = &p->op[i];
		int b = o->code == OP_ZERO ? o->out[0].id : o->in[0].id;
		int from = o->code == OP_ZERO ? CLOSED : o->code == OP_REDUCE_SCATTER ? OPEN : UNDER_WAY;
		if (o->code == OP_FETCH || (o->code == OP_WAIT && p->v[b].space != SP_GRAD))
			continue;
		if (o->code == OP_ZERO || o->code == OP_REDUCE_SCATTER || o->code == OP_WAIT) {
			waits += (from == OPEN) - (from == UNDER_WAY);
			rc = state[b] != from || waits > 1 ? bad(e, p, i, &p->v[b], "bucket out of turn") : 0;
			state[b] = (uint8_t)((from + 1) % 3);
			continue;
		}
		for (int k = 0; k < MAX_IN + MAX_OUT && !rc; k++) {
			int id = k < MAX_IN ? o->in[k].id : o->out[k - MAX_IN].id;
			if (id && p->v[id].space == SP_GRAD && p->v[id].within && state[p->v[id].within] != OPEN)
				rc = bad(e, p, i, &p->v[id], "its bucket is closed");
		}
	}
	for (int i = 1; i < p->nv && !rc; i++)
		if (state[i] != CLOSED)
			rc = err_set(e, EXIT_FAIL, "program value %s: nothing waits for its sum", p->v[i].name);
	free(state);
	return rc;
}

/* A weight within a piece is read only after the piece's FETCH and the WAIT for it, one of each; one is on its way at a time. */
static int check_fetches(const struct prog *p, struct err *e)
{
	enum { AWAY, COMING, HERE };
	uint8_t *state = xcalloc((size_t)p->nv, 1);
	int rc = 0, coming = 0;
	for (int i = 0; i < p->n && !rc; i++) {
		const struct op *o = &p->op[i];
		int b = o->code == OP_FETCH ? o->out[0].id : o->in[0].id;
		if (o->code == OP_FETCH || (o->code == OP_WAIT && p->v[b].space != SP_GRAD)) {
			int from = o->code == OP_FETCH ? AWAY : COMING;
			coming += from == AWAY ? 1 : -1;
			rc = state[b] != from || coming > 1 ? bad(e, p, i, &p->v[b], "weights out of turn") : 0;
			state[b]++;
			continue;
		}
		for (int k = 0; k < MAX_IN && !rc; k++) {
			const struct value *v = &p->v[o->in[k].id];
			if (o->in[k].id && v->space != SP_GRAD && v->within && state[v->within] != HERE)
				rc = bad(e, p, i, v, "is not here yet");
		}
	}
	free(state);
	return rc || !coming ? rc : err_set(e, EXIT_FAIL, "program: nothing waits for the last weights");
}

int prog_check(const struct prog *p, struct err *e)
{
	for (int i = 1; i < p->nv; i++) {
		const struct value *v = &p->v[i];
		int64_t n;
		if (mul_over(v->rows, v->cols, &n) || mul_over(n, 8, &n))
			return err_set(e, EXIT_RESOURCE, "program value %s: %lld x %lld is too large", v->name,
				       (long long)v->rows, (long long)v->cols);
		bool unused = v->def < 0 && (v->space == SP_GRAD || v->last < 0);
		if (v->space != SP_ACT && !unused && v->off + (int64_t)value_bytes(v) > p->bytes[v->space])
			return err_set(e, EXIT_FAIL, "program value %s lies outside its space", v->name);
	}
	if (check_order(p, e))
		return -1;
	if (check_places(p, SP_ACT, e) || check_places(p, SP_GRAD, e) || check_places(p, SP_PARAM, e) || check_places(p, SP_PARAM_T, e))
		return -1;
	return check_buckets(p, e) || check_fetches(p, e) ? -1 : 0;
}
