/*
 * correct.h - teacher correction beside the student's training (arXiv 2408.11796, the parallel variant)
 *
 *	step k:   the student learns from teacher k-1;   teacher k = AdamW(teacher k-1, gradient of its cross-entropy on the same batch)
 *
 * The teacher's trainer owns the weights, the student's programs read them.  Both checkpoint together.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_CORRECT_H
#define ADZE_CORRECT_H
#include "schedule.h"
#include "trainer.h"

struct correction {
	struct trainer t;              /* the teacher as a student of the data */
	struct schedule rate;
	struct step_result last;
};
/* After trainer_plan of the student and before its trainer_alloc: plans the teacher's training and ties them together. */
int correct_plan(struct correction *c, struct trainer *student, const struct ptable *teacher, struct err *e);
/* Before the student's trainer_alloc: memory and weights */
int correct_load(struct correction *c, const struct engine *g, const char *dir, struct err *e);
#endif
