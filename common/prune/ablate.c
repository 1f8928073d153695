/*
 * ablate.c - rounds of ablations: which parts, in what order, what was lost
 *
 * An ablation leaves out `count` neighbouring parts from layer l on, besides those that a greedy run has removed.  In a
 * round all ablations share one prefix per batch: the stream before every block is computed once, and an ablation pays only
 * for the blocks from its first missing part to the end.  Leaving out each of L layers costs
 *
 *	L + sum_l (L-1-l) = L (L+1) / 2  block executions, (L+1) / 2L of L whole passes.
 *
 * Several processes share the groups of batches; after each round all have all values, each computed by one of them, so the
 * result has the bytes of one process's.
 *
 * Greedy: after each round the ablation that lost least is made permanent.  Results are kept per (round, ablation, batch)
 * and summed in that order, so a resumed run gives the same bytes.  A batch (where weights are read as they are needed:
 * a group of batches) is measured as a whole, so a kill costs at most that.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ablate.h"
#include "ablate_pass.h"
#include "ablate_state.h"
#include <stdlib.h>
#include <string.h>

struct job {
	const struct ablate_args *a;
	struct stats *s;
	struct pass q;
	uint8_t *mask, *out;           /* [L]: parts removed so far; those and an ablation's own */
	uint32_t *removed;             /* in order */
	int64_t round;
	int64_t *cand, n_cand;         /* first layers of this round's ablations */
	double *v;                     /* [n_cand][n_out]: values of this round */
	double *v0;                    /* [n_out] of the full model */
	int64_t n_out;                 /* of all batches */
	int64_t tokens;
	double base;
	int64_t runs;
};

/* First layers of the ablations of a model of L layers where `mask` is gone already. */
static int64_t candidates(const struct ablate_args *a, int64_t L, const uint8_t *mask, int64_t *cand)
{
	int64_t n = 0;
	for (int64_t l = 0; l + a->count <= L; l++) {
		int ok = 1;
		for (int64_t i = l; i < l + a->count; i++)
			ok &= !(a->protect && a->protect[i]) && !mask[i];
		if (ok)
			cand[n++] = l;
	}
	return n;
}

static int64_t round_limit(const struct ablate_args *a, int64_t n_cand)
{
	int64_t all = n_cand > 1 ? n_cand - 1 : 1;
	return !a->greedy ? 1 : a->rounds && a->rounds < all ? a->rounds : all;
}

/* The last block that the prefix of a round must reach. */
static int64_t reach(const struct ablate_args *a, int64_t L, int64_t round, int64_t last)
{
	return round == 0 || a->metric == ABLATE_ANGULAR ? L : last;
}

/* Blocks in [from, to) that still run. */
static int64_t live(const uint8_t *mask, int64_t from, int64_t to)
{
	int64_t n = 0;
	for (; from < to; from++)
		n += !(mask[from] & DROP_LAYER);
	return n;
}

int ablate_plan(const struct ablate_args *a, const struct arch *arch, struct ablate_plan *p, struct err *e)
{
	int64_t L = arch->layers, *cand = xcalloc((size_t)L, sizeof *cand), n;
	uint8_t *mask = xcalloc((size_t)L, 1);
	*p = (struct ablate_plan){ 0 };
	n = candidates(a, L, mask, cand);
	int rc = n ? 0 : err_set(e, EXIT_USAGE, "nothing to leave out: all of %lld layers are protected, or a block of %lld does not fit",
				 (long long)L, (long long)a->count);
	for (int64_t r = 0, rounds = round_limit(a, n); n && r < rounds; r++) {
		n = candidates(a, L, mask, cand);
		for (int64_t i = 0; i < n && a->metric != ABLATE_ANGULAR; i++)
			p->runs += live(mask, cand[i] + (a->part == DROP_LAYER ? a->count : 0), L);
		p->runs += live(mask, 0, reach(a, L, r, cand[n - 1]));
		p->ablations += n;
		mask[cand[n - 1]] = (uint8_t)a->part;
	}
	p->runs *= a->n_batch;
	p->plain = p->ablations * L * a->n_batch;
	free(mask);
	free(cand);
	return rc;
}

/* A unit's values from the file, or else from the pass over its group [k0, k1), which is made when the first asks for it. */
static int unit(struct job *j, int64_t ablation, int64_t batch, double *v, int64_t k0, int64_t k1, int *done, struct err *e)
{
	const struct ablate_args *a = j->a;
	struct ablate_unit u = { j->round, ablation, batch, 0, v ? pass_n_out(a, batch) : 0, v };
	int rc = ablate_state_next(a->state, &u, e);
	if (rc < 0)
		return -1;
	if (!rc) {
		struct pass_round r = { j->mask, reach(a, j->q.L, j->round, j->cand[j->n_cand - 1]), j->cand, j->n_cand,
					j->round ? NULL : j->v0, j->v, j->n_out };
		if (!*done && pass_group(&j->q, &r, k0, k1, e))
			return -1;
		*done = 1;
		u.blocks = j->q.runs[(ablation + 1) * a->n_batch + batch];
		if (ablate_state_add(a->state, &u, e))
			return -1;
	} else {
		j->q.executed += u.blocks;     /* as far as the progress goes */
	}
	j->runs += u.blocks;
	return 0;
}

static double total(const struct job *j, const double *v)
{
	double sum = 0;
	if (j->a->score)
		return j->a->score(j->a->arg, v);
	for (int64_t i = 0; i < j->n_out; i++)
		sum += v[i];
	return sum;
}

/* All ablations of the round over all batches. */
static int measure(struct job *j, struct err *e)
{
	int64_t at = 0;
	memset(j->v, 0, (size_t)(j->n_cand * j->n_out) * sizeof *j->v);
	for (int64_t k0 = 0, k1; k0 < j->a->n_batch; k0 = k1) {
		int done = 0, mine = comm_mine(j->a->world, k0 / j->q.group);
		k1 = k0 + j->q.group < j->a->n_batch ? k0 + j->q.group : j->a->n_batch;
		for (int64_t k = k0; k < k1; k++, at += pass_n_out(j->a, k - 1)) {
			if (!mine)
				continue;
			if (unit(j, -1, k, j->round ? NULL : j->v0 + at, k0, k1, &done, e))
				return -1;
			for (int64_t i = 0; i < j->n_cand; i++)
				if (unit(j, i, k, j->v + i * j->n_out + at, k0, k1, &done, e))
					return -1;
		}
	}
	comm_sum_f64(j->a->world, j->v, j->n_cand * j->n_out);
	if (!j->round)
		comm_sum_f64(j->a->world, j->v0, j->n_out);
	if (!j->round)
		j->base = total(j, j->v0);
	return 0;
}

static double delta(const struct job *j, int64_t i)
{
	double v = total(j, j->v + i * j->n_out);
	return j->a->metric == ABLATE_TASK ? j->base - v : v - j->base;
}

/* Records of the round; returns the ablation that lost least, the last one on ties. */
static int64_t record(struct job *j)
{
	const struct ablate_args *a = j->a;
	int64_t best = 0;
	double least = 0;
	for (int64_t i = 0; i < j->n_cand; i++) {
		struct stat_delta d = { .layer = j->cand[i], .count = a->count, .step = a->greedy ? j->round : -1,
					.tokens = j->tokens, .base = j->base, .delta = delta(j, i), .dropped = j->removed,
					.n_dropped = j->round };
		snprintf(d.site, sizeof d.site, "%s", a->part == DROP_LAYER ? "block" : a->part == DROP_ATTN ? "attn" : "ffn");
		snprintf(d.metric, sizeof d.metric, "%s", stat_delta_metrics[a->metric]);
		stats_delta_add(j->s, &d);
		if (!i || d.delta <= least)
			best = i, least = d.delta;
	}
	return best;
}

/* What the sums are over. */
static int64_t count_tokens(const struct ablate_args *a)
{
	int64_t n = 0;
	if (a->metric == ABLATE_TASK)
		return a->items;
	for (int64_t k = 0; k < a->n_batch; k++) {
		const struct ablate_batch *b = &a->batch[k];
		for (int64_t i = 0; i < b->B * b->T && a->metric != ABLATE_ANGULAR; i++)
			n += b->label[i] >= 0;
		if (a->metric == ABLATE_ANGULAR)
			n += a->last ? b->B : b->B * b->T;
	}
	return n;
}

static int rounds(struct job *j, struct err *e)
{
	const struct ablate_args *a = j->a;
	int64_t L = j->q.L, limit = 1;
	for (j->round = 0; j->round < limit; j->round++) {
		j->n_cand = candidates(a, L, j->mask, j->cand);
		if (!j->round) {
			limit = round_limit(a, j->n_cand);
			j->v = xcalloc((size_t)(j->n_cand * j->n_out), sizeof *j->v);
		}
		if (measure(j, e))
			return -1;
		int64_t best = j->cand[record(j)];
		j->s->block_runs_plain += j->n_cand * L * a->n_batch;
		j->mask[best] |= (uint8_t)a->part;
		j->removed[j->round] = (uint32_t)best;
	}
	return 0;
}

int ablate_run(const struct ablate_args *a, struct stats *s, struct err *e)
{
	struct job j = { .a = a, .s = s, .tokens = count_tokens(a) };
	struct ablate_plan plan;
	const struct arch *m = a->w ? &a->w->t->arch : &a->t->arch;
	size_t L = (size_t)m->layers;
	if (ablate_plan(a, m, &plan, e))
		return -1;
	if (!j.tokens)
		return err_set(e, EXIT_DATA, "the samples hold no token to predict");
	for (int64_t k = 0; k < a->n_batch; k++)
		j.n_out += pass_n_out(a, k);
	j.mask = xcalloc(L, 1);
	j.out = xcalloc(L, 1);
	j.removed = xcalloc(L, sizeof *j.removed);
	j.cand = xcalloc(L, sizeof *j.cand);
	j.v0 = xcalloc((size_t)j.n_out, sizeof *j.v0);
	int rc = pass_open(&j.q, a, e) || rounds(&j, e) ? -1 : 0;
	if (!rc)
		comm_sum_i64(a->world, &j.runs, 1);
	s->block_runs += j.runs;
	pass_close(&j.q);
	free(j.mask), free(j.out), free(j.removed), free(j.cand), free(j.v0), free(j.v);
	return rc;
}
