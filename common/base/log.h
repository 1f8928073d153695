/*
 * log.h - what a run says while it works: messages, progress with ETA, JSONL events, the closing summary
 *
 * All of it goes to stderr (stdout carries only the artifact) and to --events.  On a terminal: one bar, redrawn
 * at most 10 times a second; otherwise a plain line every few seconds; `--progress none` or --quiet: nothing.
 * NO_COLOR is respected.  Events are appended, one JSON object a line: {"t":seconds,"event":"progress",...}.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_LOG_H
#define ADZE_LOG_H
#include "base.h"

/* Call once after opt_parse: starts the clock, opens --events, echoes the command line when --verbose,
 * installs SIGINT/SIGTERM/SIGUSR1/SIGUSR2 handlers (see stop_requested). */
void log_start(void);
void log_info(const char *fmt, ...) PRINTF_LIKE(1, 2);    /* unless --quiet */
void log_verbose(const char *fmt, ...) PRINTF_LIKE(1, 2); /* only --verbose */
void log_warn(const char *fmt, ...) PRINTF_LIKE(1, 2);    /* "prog: warning: ..." unless --quiet */
/* One event line; fields is JSON object text without the braces ("\"step\":3,\"loss\":2.5") or "" */
void log_event(const char *event, const char *fields_fmt, ...) PRINTF_LIKE(2, 3);

struct progress {
	const char *what, *unit;  /* "samples", "tok" */
	double total, done;       /* in items */
	double weight;            /* units per item for the rate (tokens per sample); 0: 1 */
	double t0, last;
	char extra[96];           /* appended to the line ("loss 2.31") */
};
void progress_start(struct progress *p, const char *what, double total, const char *unit, double weight);
void progress_step(struct progress *p, double done);      /* cheap: looks at the clock only */
void progress_end(struct progress *p);

/* The one closing line: "act-stats: 32 samples, 0 skipped, 14.2 s, peak 512 MiB"; also an event. */
void log_summary(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* Set by SIGINT, SIGTERM, SIGUSR1 (stop soon, leave a resumable state, exit 75 or 128+N);
 * a second SIGINT/SIGTERM exits at once with 128+N. SIGUSR2 asks for a checkpoint and goes on. */
int stop_requested(void);         /* 0 or the signal number */
int checkpoint_requested(void);   /* 1 once per SIGUSR2 */
#endif
