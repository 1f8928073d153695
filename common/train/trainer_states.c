/*
 * trainer_states.c - reaching what the optimizer keeps, wherever it lies (states.h)
 *
 * Kernels reach it in turns: for each k in order states_come(k), work on what states_part says, states_go.  Behind states_go
 * piece k goes back, behind states_come the piece after it comes, to where the piece before was:
 *
 *	come 0 · work 0 · go 0
 *	         come 1 · work 1 · go 1
 *	                  come 2 · ...         come k+1 waits for work k-1 and go k-1 (bring_order), work k for come k
 *
 * What lies on the device is one piece, which neither comes nor goes.  The host reaches elements by state_get and state_put
 * between steps, when all that went back has arrived.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trainer_parts.h"
#include <string.h>

bool states_streamed(const struct trainer *t, const struct engine *g)
{
	return t->o.offload && g->k->take;
}

/* Is it a state apart from the weights that are computed with? */
static bool apart(const struct trainer *t, int a)
{
	return a == STATE_W ? t->o.dtype == DT_BF16 : a != STATE_E || t->o.ema > 0;
}

int state_type(const struct trainer *t, enum state a)
{
	return t->o.low_moments && (a == STATE_M || a == STATE_V) ? DT_BF16 : DT_F32;
}

size_t state_bytes(const struct trainer *t, enum state a)
{
	int64_t n = apart(t, a) ? t->shard.kept : a == STATE_W ? t->elems : 0;
	return (size_t)n * dtype_size(state_type(t, a));
}

struct offload states_cut(const struct trainer *t, const struct engine *g)
{
	struct offload q = { .pieces = 1 };
	int64_t kept = t->shard.kept, unit = 32 * STATE_PIECES;
	if (!states_streamed(t, g))
		return q;
	q.each = (kept + unit - 1) / unit * 32;
	q.each = q.each < STATE_PIECE ? q.each : STATE_PIECE;
	q.pieces = (kept + q.each - 1) / q.each;
	for (int a = 0; a < STATES; a++) {
		q.at[a] = q.bytes;
		q.bytes += apart(t, a) ? (size_t)q.each * dtype_size(state_type(t, (enum state)a)) : 0;
	}
	return q;
}

int states_alloc(struct trainer *t, struct err *e)
{
	static const char *const word[STATES] = { "master weights", "first moments", "second moments", "averaged weights" };
	void *to[STATES] = { &t->w, &t->m, &t->v, &t->ema };
	char buf[32];
	t->off = states_cut(t, t->g);
	size_t held = (size_t)t->off.pieces * t->off.bytes;
	for (int a = 0; a < STATES; a++)
		if (state_bytes(t, (enum state)a) && !(held && apart(t, a)) && trainer_memory(t, to[a], state_bytes(t, (enum state)a), word[a], e))
			return -1;
	if (!held)
		return 0;
	t->off.held = t->g->k->pinned(t->g->d, NULL, held);
	if (!t->off.held)
		return err_set(e, EXIT_RESOURCE, "--optimizer-place host: no pinned memory for %s of optimizer states", fmt_bytes(buf, (double)held));
	memset(t->off.held, 0, held);
	return trainer_memory(t, &t->off.room, 2 * t->off.bytes, "pieces of optimizer states", e);
}

void states_free(struct trainer *t)
{
	const struct kernels *k = t->g ? t->g->k : NULL;
	void *own[STATES] = { t->w, t->m, t->v, t->ema };
	if (t->off.held)
		k->taken(t->g->d);
	for (int a = 0; a < STATES; a++)
		if (own[a])
			k->mem_free(t->g->d, own[a], state_bytes(t, (enum state)a));
	if (t->off.room)
		k->mem_free(t->g->d, t->off.room, 2 * t->off.bytes);
	if (t->off.held)
		k->pinned(t->g->d, t->off.held, 0);
	t->off = (struct offload){ 0 };
}

/* ---- for kernels ---- */

static char *on_device(const struct offload *f, int64_t k)
{
	return f->room + (k % 2 ? f->bytes : 0);
}

static void come(struct trainer *t, int64_t k)
{
	const struct offload *f = &t->off;
	t->g->k->bring_order(t->g->d, 0);
	t->g->k->bring(t->g->d, on_device(f, k), f->held + (size_t)k * f->bytes, f->bytes);
}

void states_come(struct trainer *t, int64_t k)
{
	struct offload *f = &t->off;
	if (!f->held)
		return;
	if (!k)
		come(t, 0);
	t->g->k->bring_order(t->g->d, 1);
	if (k + 1 < f->pieces)
		come(t, k + 1);
	f->here = k;
}

void states_go(struct trainer *t)
{
	const struct offload *f = &t->off;
	if (f->held)
		t->g->k->take(t->g->d, f->held + (size_t)f->here * f->bytes, on_device(f, f->here), f->bytes);
}

struct piece states_part(const struct trainer *t, const struct piece *q)
{
	const struct offload *f = &t->off;
	return f->held ? piece_cut(*q, q->off - q->at + f->here * f->each, f->each) : *q;
}

mat state_mat(const struct trainer *t, enum state a, const struct piece *q)
{
	const struct offload *f = &t->off;
	int type = state_type(t, a);
	if (a == STATE_W && !apart(t, a))
		return (mat){ t->w + q->off, 1, q->n, type, 0 };
	if (!apart(t, a))
		return (mat){ 0 };
	char *x = a == STATE_W ? (char *)t->w : a == STATE_M ? t->m : a == STATE_V ? t->v : (char *)t->ema;
	x = f->held ? on_device(f, f->here) + f->at[a] : x;
	return (mat){ x + (size_t)(q->at - f->here * f->each) * dtype_size(type), 1, q->n, type, 0 };
}

/* ---- for the host ---- */

/* Elements of q to `out`, or from `in`, piece by piece */
static void reach(const struct trainer *t, enum state a, const struct piece *q, char *out, const char *in)
{
	const struct offload *f = &t->off;
	size_t one = dtype_size(state_type(t, a));
	t->g->k->taken(t->g->d);
	for (int64_t i = 0, n; i < q->n; i += n) {
		int64_t k = (q->at + i) / f->each, from = q->at + i - k * f->each;
		n = f->each - from < q->n - i ? f->each - from : q->n - i;
		char *x = f->held + (size_t)k * f->bytes + f->at[a] + (size_t)from * one;
		if (in)
			memcpy(x, in + (size_t)i * one, (size_t)n * one);
		else
			memcpy(out + (size_t)i * one, x, (size_t)n * one);
	}
}

void state_get(const struct trainer *t, enum state a, const struct piece *q, void *out)
{
	if (t->off.held && apart(t, a))
		reach(t, a, q, out, NULL);
	else
		t->g->k->download(t->g->d, out, state_mat(t, a, q).p, (size_t)q->n * dtype_size(state_type(t, a)));
}

void state_put(struct trainer *t, enum state a, const struct piece *q, const void *in)
{
	if (t->off.held && apart(t, a))
		reach(t, a, q, NULL, in);
	else
		t->g->k->upload(t->g->d, state_mat(t, a, q).p, in, (size_t)q->n * dtype_size(state_type(t, a)));
}
