/*
 * trainer_pairs.c - sums over the micro-batches of a step whose bits do not depend on the number of processes (spec.pairs)
 *
 * Floating-point addition depends on order, so the order is a tree over the micro-batches' numbers, whoever has them:
 *
 *	S(s, o) = sum over micro-batches i = o mod s = S(2s, o) + S(2s, o + s),   a gradient where there is but one
 *
 * Process r of n = 2^j has the micro-batches r mod n and adds up S(n, r), keeping a gradient for each level of the tree that
 * is half done; the n sums are then gathered a piece at a time and added by the rest of the tree, everywhere alike.  Losses are
 * few: those of each micro-batch are told to all, and added one after the other.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trainer_parts.h"
#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 18 };              /* elements of each process that are gathered at a time */

static int64_t micros(const struct trainer *t)
{
	return t->o.batch / t->o.micro;
}

static int64_t processes(const struct trainer *t)
{
	return t->dp ? t->dp->size : 1;
}

/* Levels of the tree at which this process may have to keep a sum */
static int64_t levels(const struct trainer *t)
{
	int64_t n = 0;
	for (int64_t s = processes(t); s < micros(t); s *= 2)
		n++;
	return n;
}

/* Losses, values of the hidden losses, and of `struct inner` what adds up */
static int64_t columns(const struct trainer *t)
{
	return LOSS_KINDS + t->o.hidden.n + 2;
}

static int64_t met(const struct trainer *t)
{
	return processes(t) > 1 ? processes(t) * PIECE : 0;
}

size_t trainer_pairs_bytes(const struct trainer *t)
{
	return t->o.pairs ? (size_t)(levels(t) * t->trained + met(t)) * sizeof(float) : 0;
}

static mat flat(float *p, int64_t n)
{
	return (mat){ p, 1, n, DT_F32, 0 };
}

void add_in_order(struct comm *c, double *x, int64_t rows, int64_t cols, double *sum)
{
	comm_sum_f64(c, x, rows * cols); /* of each, all but one are 0 */
	memset(sum, 0, (size_t)cols * sizeof *sum);
	for (int64_t i = 0; i < rows * cols; i++)
		sum[i % cols] += x[i];
}

struct walk {
	const int32_t *ids, *labels;
	int64_t counted;
	struct inner *q;
};

/* Gradient of micro-batch i into t->grad, its losses into row i */
static void leaf(struct trainer *t, const struct walk *w, int64_t i)
{
	struct pass *s = &t->train;
	double *row = t->pair_sums + i * columns(t);
	*w->q = (struct inner){ .sum = 0 };
	t->g->k->zero(t->g->d, flat(t->grad, t->trained));
	frame_zero_stats(&s->f);
	trainer_micro(t, w->ids, w->labels, i, w->counted, w->q);
	frame_get(&s->f, s->sums, row);
	for (int k = 0; k < t->o.hidden.n; k++)
		frame_get(&s->f, s->inner[k], row + LOSS_KINDS + k);
	if (!t->o.hidden.dynamic)
		w->q->sum = w->q->scaled = take_inner(t, s, w->q);
	row[columns(t) - 2] = w->q->sum;
	row[columns(t) - 1] = w->q->scaled;
}

/* S(stride, at) into t->grad; 1 when told to stop */
static int subtree(struct trainer *t, const struct walk *w, int64_t stride, int64_t at, int level)
{
	mat grad = flat(t->grad, t->trained), half = flat(t->pair_saved + level * t->trained, t->trained);
	if (at + stride >= micros(t)) {
		if (trainer_told_to_stop(t))
			return 1;
		leaf(t, w, at);
		return 0;
	}
	if (subtree(t, w, 2 * stride, at, level))
		return 1;
	t->g->k->copy(t->g->d, half, grad);
	if (subtree(t, w, 2 * stride, at + stride, level + 1))
		return 1;
	t->g->k->add(t->g->d, grad, grad, half);
	return 0;
}

void pairs_run(struct trainer *t, const int32_t *ids, const int32_t *labels, int64_t counted, struct inner *q)
{
	struct walk w = { ids, labels, counted, q };
	memset(t->pair_sums, 0, (size_t)(micros(t) * columns(t)) * sizeof *t->pair_sums);
	subtree(t, &w, processes(t), t->dp ? t->dp->rank : 0, 0);
}

void pairs_sum_gradients(struct trainer *t)
{
	int64_t n = processes(t);
	float *all = t->pair_saved + levels(t) * t->trained;
	for (int64_t off = 0; n > 1 && off < t->trained; off += PIECE) {
		int64_t here = t->trained - off < PIECE ? t->trained - off : PIECE;
		t->g->k->copy(t->g->d, flat(all + t->dp->rank * here, here), flat(t->grad + off, here));
		comm_wait(t->dp, comm_gather_begin(t->dp, all, here * (int64_t)sizeof *all));
		for (int64_t s = n / 2; s > 1; s /= 2)
			t->g->k->add(t->g->d, flat(all, s * here), flat(all, s * here), flat(all + s * here, s * here));
		t->g->k->add(t->g->d, flat(t->grad + off, here), flat(all, here), flat(all + here, here));
	}
}

void pairs_squares(const struct trainer *t)
{
	mat out = { &t->now->sumsq, 1, 1, DT_F64, 0 };
	for (int i = 0; i < t->n_param; i++)
		t->g->k->sumsq(t->g->d, out, flat(t->grad + t->param[i]->off, t->param[i]->rows * t->param[i]->cols));
}

void pairs_results(struct trainer *t, struct inner *q)
{
	struct pass *s = &t->train;
	double sum[LOSS_KINDS + MAX_PAIRS + 2];
	add_in_order(t->dp, t->pair_sums, micros(t), columns(t), sum);
	frame_set(&s->f, s->sums, sum);
	for (int k = 0; k < t->o.hidden.n; k++)
		frame_set(&s->f, s->inner[k], sum + LOSS_KINDS + k);
	q->sum = sum[columns(t) - 2];
	q->scaled = sum[columns(t) - 1];
}

int pairs_alloc(struct trainer *t, struct err *e)
{
	t->pair_sums = xcalloc((size_t)(micros(t) * columns(t)), sizeof *t->pair_sums);
	return trainer_pairs_bytes(t) ? trainer_memory(t, &t->pair_saved, trainer_pairs_bytes(t), "gradients half added", e) : 0;
}
