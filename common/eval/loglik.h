/*
 * loglik.h - log-likelihoods of continuations given contexts
 *
 * A set of requests is filled first (token ids, how many of the last ones are scored), then scored in one call, which is free
 * to choose the order: results lie in the requests themselves.  A window of a long text is a request like any other.
 *
 *	ll_add(&set, ids, n, n_cont, max_length, e);  ...  ll_score(&set, &weights, &opts, NULL, e);  set.r[i].sum
 *
 * Texts and tokenizers are not known here (encode.h).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_LOGLIK_H
#define ADZE_LOGLIK_H
#include "../comm/comm.h"
#include "../prog/prog.h"

struct ll_req {
	int64_t off, n;        /* ids[off, off + n) of the set: context, then continuation */
	int64_t n_cont;        /* the last n_cont ids are scored; 0 < n_cont < n */
	double sum;            /* result: sum over them of log softmax(logits)[id] */
	int greedy;            /* result: each of them is the arg max of its row (lowest id on ties) */
	int done;              /* the result is there: set by ll_score, or before it by who has it already */
};
struct ll_set {                /* zero-initialised, freed by ll_set_free */
	int32_t *ids;
	int64_t n_ids, cap_ids;
	struct ll_req *r;
	int64_t n, cap;
};
void ll_set_free(struct ll_set *s);

/* Adds context and continuation (any may lie in one array or two).  Keeps the last max_length + 1 ids: the model reads at
 * most max_length of them.  Refuses (EXIT_DATA) an empty continuation and one longer than max_length. */
int ll_add(struct ll_set *s, const uint32_t *ctx, int64_t n_ctx, const uint32_t *cont, int64_t n_cont,
	   int64_t max_length, struct err *e);
/* Windows over a whole text, each id scored once: the first window reads prefix and ids[0, L-1), every later one the L ids
 * before the end of what it scores, so that the last has full context.  Adds none when n is 0. */
void ll_add_rolling(struct ll_set *s, uint32_t prefix, const uint32_t *ids, int64_t n, int64_t max_length);

/* How a program of whole sequences runs a set: requests longest first, neighbours of one padded length together. */
struct ll_batch {
	int64_t first, n, T;   /* requests order[first, first + n), padded to T */
};
struct ll_batches {
	int64_t *order;        /* [requests] */
	struct ll_batch *b;
	int64_t n, cap;
};
/* Lengths that programs are made for: the next multiple of an eighth of the power of two below n, at least 16. */
int64_t ll_bucket(int64_t n);
void ll_batches_make(struct ll_batches *q, const struct ll_set *s, int64_t batch_tokens);
void ll_batches_free(struct ll_batches *q);
/* tok, label [n, T] of batch i: the ids that the model reads, the id scored at each place or -1. */
void ll_batch_fill(const struct ll_set *s, const struct ll_batches *q, int64_t i, int32_t *tok, int32_t *label);

struct ll_opts {
	int64_t batch_tokens;  /* tokens per forward pass; a longer request is a batch of its own */
	struct comm *world;    /* processes that share the batches; NULL: alone.  All have all results in the end */
	int alone;             /* every request reads its whole text itself, in a pass of its own */
	/* After each batch, unless NULL: the requests that it finished, and all tokens run so far.  -1 ends the scoring. */
	int (*step)(void *arg, const int64_t *req, int64_t n, int64_t tokens, struct err *e);
	void *arg;
};
/* What scoring will cost. */
struct ll_cost {
	int64_t tokens;        /* of all requests */
	int64_t padded, scored; /* read by the model: common starts once, ends of batches padded */
	double flops;
	int64_t act_bytes;     /* activations of the largest program */
};
int ll_cost(const struct ll_set *s, const struct ptable *t, int dtype, const struct ll_opts *o, struct ll_cost *c,
	    struct err *e);

/* Scores all requests that are not done.  The batches depend on the set alone, not on what is done, so that results are
 * the same bits however often the work was interrupted: a batch of which something is missing is run again as a whole.
 * Returns -1 with e->code 128 + N when a signal asked to stop. */
int ll_score(struct ll_set *s, const struct weights *m, const struct ll_opts *o, struct err *e);
#endif
