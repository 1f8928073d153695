/*
 * meet.h - processes that a launcher in torchrun's manner started: who they are, and a few bytes of process 0 for all
 *
 * Their environment: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.  Process 0 listens there, the others come, each says
 * which it is, and when all have come each is given the bytes.  Nothing else ever goes this way.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_MEET_H
#define ADZE_MEET_H
#include "../base/base.h"

struct meet {
	int rank, size, port;
	const char *host;
	double timeout;        /* seconds until who is missing is named */
	uint64_t token;        /* of the job: the others are turned away */
};

/* WORLD_SIZE > 1 is given; EXIT_USAGE names a variable that is missing or is no such number */
int meet_env(struct meet *m, double timeout, struct err *e);
/* arg: a struct meet.  p[0..bytes) of process 0 to all; 0, or -1 with why[] */
int meet_share(void *arg, void *p, int64_t bytes, char why[256]);
#endif
