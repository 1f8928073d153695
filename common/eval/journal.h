/*
 * journal.h - finished work beside the output, so that a killed run goes on where it was
 *
 * Text, a line for each request, for each text that the model wrote and for each program that was judged; sums as
 * hexadecimal floating point: nothing is rounded.  TEXT and PROGRAM count over all tasks, END as enum gen_end and
 * enum sandbox_end.
 *
 *	adze-eval 2 KEY
 *	REQUEST SUM GREEDY .
 *	t TEXT END LOGPROB N ID... .
 *	p PROGRAM END .
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_JOURNAL_H
#define ADZE_JOURNAL_H
#include "generate.h"
#include "loglik.h"
#include "sandbox.h"

/* The work; what is on file becomes done in it. */
struct journal_of {
	struct ll_set *s;
	struct gen_set *g;
	struct sandbox_prog *p;
	int64_t n_p;
};
/* How much of it was on file */
struct journal_found {
	int64_t requests, texts, programs;
	int other;             /* the file was of another key: started over */
};
struct journal;
/* key: 32 hex digits of everything that shapes the results.  A torn last line is cut off. */
struct journal *journal_open(const char *path, const char *key, const struct journal_of *w, struct journal_found *found, struct err *e);
/* Each appends what is finished (n requests, text i, program i); it is on file when they return.  Nothing when j is NULL. */
int journal_add(struct journal *j, const struct ll_set *s, const int64_t *req, int64_t n, struct err *e);
int journal_text(struct journal *j, const struct gen_set *g, int64_t i, struct err *e);
int journal_verdict(struct journal *j, const struct sandbox_prog *p, int64_t i, struct err *e);
/* remove: the output is complete, the file goes.  j may be NULL. */
void journal_close(struct journal *j, bool remove);
#endif
