/*
 * written.h - the tasks of a suite in which the model writes: prompts, texts, verdicts
 *
 *	written_open(&w, &suite, &encoder, DIR, &opts, e);      every prompt is checked, and the sandbox where programs will run
 *	w.journal = journal;                                    what was done before is there already
 *	written_run(&w, &weights, step, arg, e);                the model writes
 *	written_judge(&w, step, arg, e);                        answers are compared, programs run; then the tasks can be scored
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_WRITTEN_H
#define ADZE_WRITTEN_H
#include "complete.h"
#include "journal.h"
#include "task.h"

struct write_opts {
	int64_t max_new;               /* 0: as the task says */
	int64_t samples;               /* per item of kind code */
	double temperature, top_p;     /* of them; what is compared is always greedy */
	const int64_t *at;             /* pass@k; a k beyond the samples is left out; read by written_open only */
	int64_t n_at;
	int64_t slots;
	double seconds;                /* of one program */
	uint64_t seed;
	int plan;                      /* nothing is to be run: no sandbox is needed */
};
struct written {
	struct suite *u;
	struct complete_set c;
	struct sandbox box;
	struct write_opts o;
	struct arena lists;            /* of stop strings */
	struct sandbox_prog *prog;     /* [programs] of all code tasks, item by item, sample by sample */
	int64_t programs;
	struct comm *world;            /* processes that share the texts, see gen_opts; the caller's, may be NULL */
	struct journal *journal;       /* of finished texts and verdicts; the caller's, may be NULL */
};
/* EXIT_RESOURCE when there are programs to run and no sandbox. */
int written_open(struct written *w, struct suite *u, struct encoder *enc, const char *dir, const struct write_opts *o,
		 struct err *e);
/* Digest of everything that shapes texts and verdicts, the model apart */
void written_digest(const struct written *w, char hex[33]);
int written_run(struct written *w, const struct weights *m, void (*step)(void *arg, int64_t tokens), void *arg, struct err *e);
int written_judge(struct written *w, void (*step)(void *arg, int64_t programs), void *arg, struct err *e);
void written_close(struct written *w);
#endif
