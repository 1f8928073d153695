/*
 * sandbox.h - generated programs run where they can do no harm, and whether they ran to their end
 *
 * Each Python program runs alone in a sandbox of bubblewrap (bwrap): its own user, process, network and mount namespaces, of the
 * host's files only /usr, read-only, a small /tmp of its own, nothing else to write to, no network, limits of time, memory, processes
 * and file size.  Where that cannot be had, sandbox_open says why and nothing is run: there is no way to run one in the
 * open.
 *
 * A program has passed when it ran to its last line: a secret that is read before it starts is written after it, so that
 * neither exit(0) nor printing can stand for it.  It runs as exec(text, {}), in which __name__ is "builtins".
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SANDBOX_H
#define ADZE_SANDBOX_H
#include "../base/base.h"

struct sandbox {
	double seconds;                /* of one program, wall clock; the processor time is limited too */
	int64_t memory, file, tmp;     /* bytes: address space of a process, a file, /tmp */
	int processes;                 /* in one sandbox, threads included */
	int jobs;                      /* programs at a time */
	const char *python;
};
enum sandbox_end { SANDBOX_FAILED, SANDBOX_PASSED, SANDBOX_TIMEOUT };
struct sandbox_prog {
	const char *text;              /* UTF-8 */
	size_t n;
	enum sandbox_end end;          /* result */
	int done;                      /* the result is there: set by sandbox_run, or before it by who has it already */
};
/* Fills s with the usual limits (3 s, 1 GiB, 16 MiB, 32 MiB, 8, one job a processor; 0: these) and tries it.
 * EXIT_RESOURCE with the reason when there can be no sandbox. */
int sandbox_open(struct sandbox *s, double seconds, int jobs, struct err *e);
/* Runs all that are not done; step (may be NULL) after program i, the done-th: -1 ends the run.  EXIT_RESOURCE when a sandbox does
 * not start, 128 + N when a signal asked to stop. */
int sandbox_run(const struct sandbox *s, struct sandbox_prog *p, int64_t n,
		int (*step)(void *arg, int64_t i, int64_t done, struct err *e), void *arg, struct err *e);
#endif
