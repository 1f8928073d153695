/*
 * trainer_tp.c - a trainer whose models are spread over processes (split.h)
 *
 * Every process trains what it has of the student, with moments and, by --zero, slices of it, as if that were a model; the
 * programs exchange what is spread (record.c).  What all have, norms say, is the same everywhere before and after a step,
 * because its gradient is.  Here is the rest: which tokens are whose, gradients that have a summand in each process, the norm
 * of all gradients, and how files are read by those who have a part of them and written by process 0, which asks.
 *
 *	processes   0 1 2 3 | 4 5 6 7      --tp 4: two copies of the model; dp is 0 4, 1 5, 2 6, 3 7
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trainer_parts.h"
#include "../io/safetensors.h"
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 18 };

static bool spread(const struct trainer *t, int i)
{
	return row_split(t->split.whole->p[i].row);
}

int tp_begin(struct trainer *t, struct ptable *student, struct ptable *teacher, struct err *e)
{
	int rank = t->tp ? t->tp->rank : 0, size = t->tp ? t->tp->size : 1;
	int64_t s = student->arch.vocab, last = s - s / size;
	int rc = split_init(&t->split, student, rank, size, e);
	if (teacher)
		rc = split_init(&t->taught, teacher, rank, size, e) || rc ? -1 : 0;
	t->student = t->split.own;
	t->teacher = t->taught.own;
	if (rc || !t->tp)
		return rc;
	if (teacher && teacher->arch.vocab != s)
		return err_set(e, EXIT_USAGE, "--tp: the teacher's vocabulary has %lld rows, the student's %lld: they are spread alike or not at all",
			       (long long)teacher->arch.vocab, (long long)s);
	if (t->o.vocab && t->o.vocab <= last)
		return err_set(e, EXIT_USAGE, "--tp %d: rows from %lld on of the vocabulary are nothing but padding", size, (long long)t->o.vocab);
	t->own_ids = xcalloc((size_t)(t->o.micro * t->o.seq), sizeof *t->own_ids);
	return 0;
}

const int32_t *tp_ids(const struct trainer *t, const int32_t *ids)
{
	int32_t rows = (int32_t)t->student->arch.vocab, first = rows * t->tp->rank;
	for (int64_t i = 0; i < t->o.micro * t->o.seq; i++)
		t->own_ids[i] = ids[i] >= first && ids[i] - first < rows ? ids[i] - first : -1;
	return t->own_ids;
}

/* ---- gradients ---- */

void tp_sum_gradients(struct trainer *t)
{
	const struct prog *p = t->train.p;
	for (int i = 0; i < t->n_param; i++) {
		const struct param *q = t->param[i];
		struct piece mine = shard_part(&t->shard, q->off, q->rows * q->cols);
		if (p->v[prog_find(p, q->name).id].partial && mine.n)
			comm_sum_f32(t->tp, trainer_gradient(t, &mine), mine.n);
	}
}

void tp_squares(const struct trainer *t)
{
	mat sum = { &t->now->sumsq, 1, 1, DT_F64, 0 };
	for (int i = 0; i < t->n_param; i++) {
		const struct param *q = t->param[i];
		struct piece mine = piece_cut(shard_slice(&t->shard, shard_bucket(&t->shard, q->off)), q->off, q->rows * q->cols);
		if (mine.n && (!t->tp->rank || row_split(q->row)))
			t->g->k->sumsq(t->g->d, sum, (mat){ trainer_gradient(t, &mine), 1, mine.n, DT_F32, 0 });
	}
}

/* ---- files ---- */

struct load {
	struct trainer *t;
	const struct split *split;
	float *host;                   /* [CHUNK] */
};

/* Into an arena of dtype; host is spoilt */
static void put(const struct trainer *t, void *base, int dtype, int64_t off, int64_t n, float *host)
{
	for (int64_t i = 0; dtype == DT_BF16 && i < n; i++) {
		uint16_t low = f32_to_bf16(host[i]);
		memcpy((char *)host + 2 * i, &low, sizeof low);
	}
	t->g->k->upload(t->g->d, (char *)base + (size_t)off * dtype_size(dtype), host, (size_t)n * dtype_size(dtype));
}

/* What we have of one parameter, piece by piece */
static int load_own(void *arg, const struct param *p, const struct st_model *m, struct err *e)
{
	const struct load *l = arg;
	struct trainer *t = l->t;
	int i = (int)(p - l->split->whole->p);
	const struct param *own = &l->split->own->p[i];
	(void)e;
	for (int64_t at = 0, n; at < own->rows * own->cols; at += n) {
		int64_t left = own->rows * own->cols - at, there;
		n = left < CHUNK ? left : CHUNK;
		for (int64_t k = 0, run; k < n; k += run) {
			run = split_out(l->split, i, at + k, n - k, &there);
			param_read_at(l->split->whole, p, m, there, run, l->host + k);
		}
		if (l->split == &t->taught)
			put(t, t->tw, t->o.dtype, own->off + at, n, l->host);
		else if (t->wb && !trainer_trains(t, own))
			put(t, t->wb, DT_BF16, own->off + at, n, l->host);
		else
			trainer_put(t, own->off + at, n, l->host);
	}
	return 0;
}

int tp_load(struct trainer *t, const char *student, const char *teacher, struct err *e)
{
	struct load l = { t, &t->split, xmalloc(CHUNK * sizeof *l.host) };
	int rc = params_each(t->split.whole, student, 1, load_own, &l, e);
	l.split = &t->taught;
	if (!rc && teacher)
		rc = params_each(t->taught.whole, teacher, 1, load_own, &l, e);
	free(l.host);
	return rc;
}

/* ---- what process 0 writes ---- */

struct asked {
	int64_t param, at, n, of;      /* param < 0: there is no more */
};

/* Everybody's own elements, and zeros for those of others, added up */
static void answer(const struct trainer *t, const struct asked *a, float *out)
{
	int i = (int)a->param;
	const struct param *own = &t->student->p[i];
	memset(out, 0, (size_t)a->n * sizeof *out);
	int64_t there = a->at, end = a->at + a->n, at, n;
	while ((spread(t, i) || !t->tp->rank) && there < end && (n = split_in(&t->split, i, &there, end - there, &at)) > 0) {
		float *to = out + (there - a->at);
		if (trainer_trains(t, own))
			trainer_get(t, (enum weights_of)a->of, own->off + at, n, to);
		else
			t->g->k->download(t->g->d, to, t->w + own->off + at, (size_t)n * sizeof *to);
		there += n;
	}
	comm_sum_f32(t->tp, out, a->n);
}

void tp_get(const struct trainer *t, enum weights_of of, int i, int64_t at, int64_t n, float *out)
{
	struct asked a = { i, at, n, of };
	comm_bcast(t->tp, &a, sizeof a, 0);
	answer(t, &a, out);
}

void tp_serve(const struct trainer *t)
{
	struct asked a;
	float *x = NULL;
	while (comm_bcast(t->tp, &a, sizeof a, 0), a.param >= 0) {
		x = xrealloc(x, (size_t)a.n, sizeof *x);
		answer(t, &a, x);
	}
	free(x);
	trainer_served(t);             /* those who have slices of what we have */
}

void tp_served(const struct trainer *t)
{
	comm_bcast(t->tp, &(struct asked){ .param = -1 }, sizeof(struct asked), 0);
}
