/*
 * rundir.h - the directory of a training run
 *
 *	RUNDIR/run.json        the settings that shape the result, and whether the run is finished
 *	RUNDIR/metrics.jsonl   one object per logged step; each line is one write
 *	RUNDIR/ckpt/step-N/    checkpoints (checkpoint.h)
 *	RUNDIR/student/        the result, a Hugging Face directory, there only when finished
 *	RUNDIR/adapter/        its low-rank part alone, if asked for
 *	RUNDIR/teacher/        the corrected teacher, likewise
 *	RUNDIR/student-ema/    likewise the averaged weights; RUNDIR/best/ the model of the best validation so far
 *	RUNDIR/.lock           held while a program works here
 *
 * A run may only be continued with the settings that it was started with; the first difference is named.  What a killed
 * program left under temporary names is removed on opening.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_RUNDIR_H
#define ADZE_RUNDIR_H
#include "../base/base.h"

struct rundir {
	char *path;            /* owned */
	int lock, metrics;     /* file descriptors, -1: none */
	bool follows;          /* another process writes here: checkpoints are read, nothing is written */
};
enum run_state { RUN_FRESH, RUN_STARTED, RUN_DONE };

/* Creates the directory if need be and locks it.  Refuses a directory that holds something else (EXIT_USAGE). */
int rundir_open(struct rundir *d, const char *path, struct err *e);
/* The same directory for the other processes of a job, once the first has opened it. */
void rundir_follow(struct rundir *d, const char *path);
void rundir_close(struct rundir *d);
/* settings: a flat JSON object.  -1: the run here has other settings (EXIT_DATA). */
int rundir_state(const struct rundir *d, const char *settings, enum run_state *state, struct err *e);
/* Forgets everything that a run left here. */
int rundir_clear(const struct rundir *d, struct err *e);
int rundir_mark(const struct rundir *d, const char *settings, bool done, struct err *e);
/* Opens metrics.jsonl for appending, keeping only the lines of steps up to `step` (0: none).  *seconds: what the last line
 * kept says. */
int rundir_metrics(struct rundir *d, int64_t step, double *seconds, struct err *e);
int rundir_line(struct rundir *d, const char *line, size_t n, struct err *e); /* line ends with a newline */
int rundir_sync(struct rundir *d, struct err *e);
/* The settings that shape a result, as one flat JSON object in the order given: text where given, else the number. */
struct setting {
	const char *key, *text;
	double number;
};
char *settings_new(const struct setting *v, size_t n);
/* Name and both values of the first setting that differs; false when none does or one text is not an object. */
bool settings_differ(const char *a, const char *b, char why[256]);
#endif
