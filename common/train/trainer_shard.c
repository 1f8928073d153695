/*
 * trainer_shard.c - what a trainer keeps of itself when processes share it out (shard.h), and how the parts come together
 *
 *	ZeRO 1   gradients summed where their slice is, update of the slice, weights gathered bucket by bucket
 *	ZeRO 2   likewise, but the program itself sums them, bucket by bucket (prog_overlap): only slices are kept
 *
 * With f32 arithmetic the weights are their own master copy and whole everywhere; with bf16 the master copy is shared out.
 * What process 0 writes of it comes a bucket at a time, on its request: the others answer in trainer_serve.  Where models
 * are spread as well (trainer_tp.c), this is between processes with the same part of them, and their first stands for 0.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trainer_parts.h"
#include "../base/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static mat flat(float *p, int64_t n)
{
	return (mat){ p, 1, n, DT_F32, 0 };
}

float *trainer_gradient(const struct trainer *t, const struct piece *q)
{
	return t->grad + (t->o.zero == 2 ? q->at : q->off);
}

static mat low(const struct trainer *t, const struct piece *q)
{
	return t->wb ? (mat){ t->wb + q->off, 1, q->n, DT_BF16, 0 } : (mat){ 0 };
}

/* ---- weights ---- */

static void gather_begin(struct trainer *t, int i)
{
	const struct bucket *b = &t->shard.b[i];
	void *x = t->wb ? (void *)(t->wb + b->off) : t->w + b->off;
	t->ticket[i] = t->shard.whole ? 0 : comm_gather_begin(t->dp, x, b->each * (t->wb ? 2 : 4));
}

static void gather_end(struct trainer *t)
{
	for (int i = 0; i < t->shard.n; i++)
		comm_wait(t->dp, t->ticket[i]);
	t->g->k->weights_changed(t->g->d);
}

/* Once over all that is kept, each part lying in one bucket; a bucket is gathered while the next is worked on */
static void each_part(struct trainer *t, void (*work)(struct trainer *, const struct piece *))
{
	for (int64_t k = 0; k < t->off.pieces; k++) {
		states_come(t, k);
		for (int i = 0; i < t->shard.n; i++) {
			struct piece all = shard_kept(&t->shard, i), q = states_part(t, &all);
			if (!q.n)
				continue;
			work(t, &q);
			if (q.off + q.n == all.off + all.n)
				gather_begin(t, i);
		}
		states_go(t);
	}
	gather_end(t);
}

static void derive(struct trainer *t, const struct piece *q)
{
	mat w = state_mat(t, STATE_W, q);
	if (t->o.ema > 0 && !t->updates) /* the average starts where the weights do */
		t->g->k->copy(t->g->d, state_mat(t, STATE_E, q), w);
	if (t->wb)
		t->g->k->copy(t->g->d, low(t, q), w);
}

void trainer_sync(struct trainer *t)
{
	each_part(t, derive);
}

void trainer_put(struct trainer *t, int64_t off, int64_t n, const float *host)
{
	struct piece q = t->wb ? shard_part(&t->shard, off, n) : (struct piece){ .off = off, .n = n };
	if (q.n)
		state_put(t, STATE_W, &q, host + (q.off - off));
}

/* ---- the step ---- */

void trainer_sum_gradients(struct trainer *t)
{
	if (t->o.pairs) {
		pairs_sum_gradients(t);
		return;
	}
	if (t->shard.whole)
		comm_sum_f32(t->dp, t->grad, t->trained);
	for (int i = 0; i < t->shard.n && t->o.zero == 1; i++)
		comm_wait(t->dp, comm_scatter_begin(t->dp, t->grad + t->shard.b[i].off, t->shard.b[i].each));
	if (t->tp)
		tp_sum_gradients(t);
}

void trainer_squares(const struct trainer *t)
{
	mat out = { &t->now->sumsq, 1, 1, DT_F64, 0 };
	if (t->tp || t->o.pairs) {
		t->tp ? tp_squares(t) : pairs_squares(t);
		return;
	}
	for (int i = 0; i < t->shard.n; i++) { /* slice by slice whoever keeps them: the same bits */
		struct piece q = shard_slice(&t->shard, i);
		t->g->k->sumsq(t->g->d, out, flat(trainer_gradient(t, &q), q.n));
	}
}

double trainer_norm(struct trainer *t)
{
	struct step_now now = { .sumsq = 0 };
	t->g->k->upload(t->g->d, t->now, &now, sizeof now);
	trainer_squares(t);
	t->g->k->download(t->g->d, &now, t->now, sizeof now);
	if (!t->o.pairs) /* else all of it is everywhere */
		comm_sum_f64(t->dp, &now.sumsq, 1);
	comm_sum_f64(t->tp, &now.sumsq, 1);
	t->sumsq = now.sumsq;
	return sqrt(now.sumsq);
}

#define ROUNDING UINT64_C(0x726f756e64) /* stream of random rounding */

/* Of the next update */
static struct adamw_args adamw_args(const struct trainer *t)
{
	struct adamw_args a = { .lr = (float)t->lr, .beta1 = (float)t->o.beta1, .beta2 = (float)t->o.beta2,
				.eps = (float)t->o.eps, .ema = (float)t->o.ema, .step = t->updates + 1, .live = t->now };
	if (t->o.low_moments && !t->o.nearest)
		a.key = rng_u64(t->o.seed, ROUNDING, (uint64_t)a.step) | 1;
	return a;
}

static float correction(float beta, int64_t step)
{
	return (float)(1.0 / (1.0 - pow((double)beta, (double)step)));
}

void trainer_tell(struct trainer *t, double lr, double sumsq)
{
	t->lr = lr;
	struct adamw_args a = adamw_args(t);
	struct step_now now = { .key = a.key, .clip = t->o.clip, .sumsq = sumsq, .lr = a.lr, .c1 = correction(a.beta1, a.step),
				.c2 = correction(a.beta2, a.step) };
	t->g->k->upload(t->g->d, t->now, &now, sizeof now);
}

static void update(struct trainer *t, const struct piece *part)
{
	struct adamw_args a = adamw_args(t);
	for (int k = 0; k < t->n_span; k++) {
		struct piece q = piece_cut(*part, t->span[k].off, t->span[k].n);
		if (!q.n)
			continue;
		a.weight_decay = t->span[k].decay ? (float)t->o.weight_decay : 0;
		a.first = q.index;
		t->g->k->adamw(t->g->d, state_mat(t, STATE_W, &q), state_mat(t, STATE_M, &q), state_mat(t, STATE_V, &q), flat(trainer_gradient(t, &q), q.n),
			       low(t, &q), state_mat(t, STATE_E, &q), &a);
	}
}

void trainer_update(struct trainer *t)
{
	each_part(t, update);
}

/* ---- what process 0 writes ---- */

static bool lends(const struct trainer *t, enum weights_of of)
{
	return !t->shard.whole && (t->wb || of == OF_AVERAGE);
}

/* Bucket and array of a request, together in one number; < 0: there are no more */
static int64_t request(int bucket, enum weights_of of)
{
	return 2 * (int64_t)bucket + (of == OF_AVERAGE);
}

/* All processes: the bucket that was asked for, whole in t->lent */
static void answer(const struct trainer *t, int64_t asked)
{
	struct piece q = shard_slice(&t->shard, (int)(asked / 2));
	const struct bucket *b = &t->shard.b[asked / 2];
	struct lent *l = t->lent;
	l->x = xrealloc(l->x, (size_t)(b->each * t->shard.size), sizeof *l->x);
	state_get(t, asked % 2 ? STATE_E : STATE_W, &q, l->x + t->shard.rank * b->each);
	comm_wait(t->dp, comm_gather_begin(t->dp, l->x, b->each * (int64_t)sizeof *l->x));
	l->request = asked;
}

void trainer_get(const struct trainer *t, enum weights_of of, int64_t off, int64_t n, float *out)
{
	size_t bytes = (size_t)n * sizeof *out;
	if (!lends(t, of)) {
		struct piece q = of == OF_AVERAGE || t->wb ? shard_part(&t->shard, off, n) : (struct piece){ .off = off, .n = n };
		state_get(t, of == OF_AVERAGE ? STATE_E : STATE_W, &q, out);
		return;
	}
	int64_t asked = request(shard_bucket(&t->shard, off), of);
	if (!t->lent->x || t->lent->request != asked) {
		comm_bcast(t->dp, &asked, sizeof asked, 0);
		answer(t, asked);
	}
	memcpy(out, t->lent->x + (off - t->shard.b[asked / 2].off), bytes);
}

static void forget(struct lent *l)
{
	free(l->x);
	*l = (struct lent){ 0 };
}

static void serve_slices(const struct trainer *t)
{
	int64_t asked;
	while (comm_bcast(t->dp, &asked, sizeof asked, 0), asked >= 0)
		answer(t, asked);
	forget(t->lent);
}

void trainer_serve(const struct trainer *t)
{
	if (t->tp && comm_first(t->dp))
		tp_serve(t);
	else if (!t->shard.whole)
		serve_slices(t);
}

void trainer_served(const struct trainer *t)
{
	int64_t none = -1;
	if (t->tp && !t->tp->rank)
		tp_served(t);
	if (t->shard.whole)
		return;
	comm_bcast(t->dp, &none, sizeof none, 0);
	forget(t->lent);
}
