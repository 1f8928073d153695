/*
 * generate.h - continuing prompts token by token, with keys and values kept
 *
 * A set of requests is filled, then run in one call; results lie in the requests.  Several sequences are decoded at a
 * time, each in a slot of the cache; when one ends, the next prompt takes its slot.  What a sequence becomes depends on
 * its prompt, its seed and its stream alone: not on the number of slots, nor on its neighbours.
 *
 *	gen_add(&set, ids, n, max_new, max_length, e);  ...  gen_run(&set, &weights, &opts, e);  set.r[i].out
 *
 * Texts and tokenizers are not known here; opts.stop may decode what there is and end a sequence.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_GENERATE_H
#define ADZE_GENERATE_H
#include "../comm/comm.h"
#include "../prog/prog.h"

enum gen_end { GEN_LIMIT, GEN_EOS, GEN_STOP };
struct gen_req {
	int64_t off, n;        /* prompt: ids[off, off + n) of the set */
	int64_t max_new;
	double temperature;    /* 0: the likeliest token (lowest id on ties), else sampled from softmax(logits / temperature) */
	double top_p;          /* sampling: from the likeliest tokens that make up this mass, 1: from all */
	uint64_t stream;       /* of random numbers, under the seed of the options */
	int32_t *out;          /* result: [max_new] ids, without an EOS at the end; owned by the set */
	int64_t n_out;
	double logprob;        /* result: sum of log softmax(logits) over out, at temperature 1 */
	enum gen_end end;
	int done;              /* the result is there: set by gen_run, or before it by who has it already */
};
struct gen_set {               /* zero-initialised, freed by gen_set_free */
	int32_t *ids;
	int64_t n_ids, cap_ids;
	struct gen_req *r;
	int64_t n, cap;
};
void gen_set_free(struct gen_set *s);

/* Adds a greedy request whose stream is its place; the caller may change its sampling.  Keeps the last max_length - max_new ids of
 * the prompt.  Refuses (EXIT_DATA) an empty prompt and max_new that leaves no place for one. */
int gen_add(struct gen_set *s, const uint32_t *ids, int64_t n, int64_t max_new, int64_t max_length, struct err *e);

enum { GEN_SLOTS = FEW_ROWS };
struct gen_opts {
	int64_t slots;         /* sequences at a time, 1 to GEN_SLOTS */
	uint64_t seed;
	const uint32_t *eos;   /* ids that end a sequence */
	int64_t n_eos;
	int (*stop)(void *stop_arg, const struct gen_req *r); /* after each token of r; nonzero ends it.  May be NULL */
	void *stop_arg;
	struct comm *world;    /* processes that share the requests; NULL: alone.  All have all results in the end */
	void (*step)(void *step_arg, int64_t tokens);         /* after each pass: tokens read so far.  May be NULL */
	void *step_arg;
	int (*ended)(void *ended_arg, int64_t req, struct err *e); /* after each request that is done.  May be NULL; -1 ends the run */
	void *ended_arg;
};
/* What it will cost at most: tokens read, bytes of the cache, FLOPs. */
struct gen_cost {
	int64_t tokens, kv_bytes;
	double flops;
};
void gen_cost(const struct gen_set *s, const struct arch *a, int dtype, int64_t slots, struct gen_cost *c);
/* Runs all requests that are not done.  Returns -1 with e->code 128 + N when a signal asked to stop. */
int gen_run(struct gen_set *s, const struct weights *m, const struct gen_opts *o, struct err *e);

/* One token from logits [V]; u in [0, 1) decides (sample.c). */
int32_t gen_pick(const float *logits, int64_t V, double temperature, double top_p, double u);
#endif
