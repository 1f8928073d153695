/*
 * account.h - what a training run will take: memory by kind, FLOPs, and what the machine could do
 *
 * Memory is known before anything large exists: arenas have planned sizes, the backend notes its scratch without
 * computing (kernels.h plan()), and what the program, its libraries and the data hold is measured, because they are
 * there already.
 *
 *	peak = max(peak so far, resident now + weights + moments + gradients + activations + scratch + a checkpoint's buffers)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ACCOUNT_H
#define ADZE_ACCOUNT_H
#include "trainer.h"

struct mem_row {
	const char *word;
	double bytes;
};
enum { MEM_ROWS = 16 };
struct memory {
	struct mem_row row[MEM_ROWS];
	int n;
	double sum;                    /* of the rows */
	double moved;                  /* bytes of the optimizer that a step brings to the device, and takes from it */
	double peak;                   /* predicted, of the resident memory */
	double room;                   /* what the process has now and may still take */
};
/* Between trainer_plan and trainer_alloc, on the engine that will be used; everything else is open already. */
void account_memory(const struct trainer *t, const struct engine *g, struct memory *m);

/* FLOPs of a token: the teacher's forward pass, and its training where it is corrected, and three times the student's, less what frozen parameters save
 * (recomputation is not counted). */
struct token_flops {
	double teacher, student;
};
struct token_flops account_flops(const struct trainer *t);
static inline double account_flops_sum(const struct trainer *t)
{
	struct token_flops f = account_flops(t);
	return f.teacher + f.student;
}
/* What --dry-run says: `steps` steps at the given peak FLOP/s (0: unknown) */
void account_print(FILE *f, const struct trainer *t, const struct memory *m, int64_t steps, double peak, bool json);

/* FLOP/s of the best of some products of square matrices in that arithmetic; 0 when there is no telling */
double account_peak(const struct engine *g, int dtype);
#endif
