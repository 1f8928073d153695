/*
 * session.h - a run from its first (or next) step to its last: data, rate, metrics, validation, checkpoints, stopping
 *
 * Everything that a step writes is a function of (settings, step) except the fields tok_per_s,
 * flop_per_s, peak_share and seconds.  A request to
 * stop is honoured between micro-batches: the unfinished step is given up and the last whole one is checkpointed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SESSION_H
#define ADZE_SESSION_H
#include "account.h"
#include "checkpoint.h"
#include "correct.h"
#include "schedule.h"

struct session {
	struct trainer *t;
	struct mix *mix;               /* data, what a cached teacher said about it, held-out sets */
	struct correction *teacher;    /* trained beside the student, or NULL */
	struct rundir *dir;
	struct schedule rate;
	const char *settings;
	int64_t seed;
	int64_t log_every, save_every, keep; /* save_every 0: only when stopping or asked to */
	int64_t valid_every;           /* 0: only before the first and after the last step; else new weights of a dynamic mix too */
	int64_t stop_after;            /* leave after so many steps of this session; 0: never */
	int64_t stop_at;               /* leave after this step, having validated there; 0: never */
	int64_t max_skips;             /* an error after so many steps in a row that were not finite */
	int (*best)(void *arg, struct err *e); /* called in all processes after a validation that is the best so far; or NULL */
	void *best_arg;
	double peak;                   /* FLOP/s of the machine; 0: unknown */
	double max_seconds;            /* leave when the next step would end later; 0: never */
	struct progress_state at;      /* out: where it is */
	struct step_result last;
};
/* Continues from the newest checkpoint.  0: all steps are done; EXIT_AGAIN: stopped, checkpointed (for stop_at: s->at.step
 * tells); -1: error. */
int session_run(struct session *s, struct err *e);
/* "90", "90s", "15m", "3h", "1h30m", "2d" -> seconds */
int parse_duration(const char *s, double *seconds);
#endif
