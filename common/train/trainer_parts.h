/*
 * trainer_parts.h - between the files of the trainer only
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TRAINER_PARTS_H
#define ADZE_TRAINER_PARTS_H
#include "trainer.h"

/* Decides what is trained and where everything lies: frozen, projections, adapters, param, span, trained, elems. */
int trainer_layout(struct trainer *t, struct err *e);
/* Gradients of all processes into t->grad where this one needs them (zero 2: they are there); |g| of all of it */
void trainer_sum_gradients(struct trainer *t);
double trainer_norm(struct trainer *t);

/* The update (trainer_shard.c).  t->now is told what the host knows, with a sum of squares or 0 for what trainer_squares will
 * add to it; guard() settles norm, clipping and whether there is an update; AdamW does what t->now then says. */
void trainer_tell(struct trainer *t, double lr, double sumsq);
void trainer_squares(const struct trainer *t);
void trainer_update(struct trainer *t);

/* Device memory into a pointer */
int trainer_memory(struct trainer *t, void *slot, size_t bytes, const char *what, struct err *e);
/* States of the optimizer: memory for them; is it the host's with that engine? */
int states_alloc(struct trainer *t, struct err *e);
void states_free(struct trainer *t);
bool states_streamed(const struct trainer *t, const struct engine *g);
/* In turns for k = 0, 1, ... t->off.pieces - 1: kernels called from here on find piece k, up to states_go; what of q is in it;
 * the place of that (absent: no such state) */
void states_come(struct trainer *t, int64_t k);
void states_go(struct trainer *t);
struct piece states_part(const struct trainer *t, const struct piece *q);
mat state_mat(const struct trainer *t, enum state a, const struct piece *q);

/* Hidden losses of one step, as sums over rows */
struct inner {
	double seen[MAX_PAIRS];        /* what the programs' sums were before this micro-batch */
	double logits;                 /* likewise, of the terms with the teacher */
	double sum, scaled;            /* L_is, and alpha L_is */
};
/* The halves of a step (trainer.c): all micro-batches, 1 when stopped; what came of them, as they add up here and there */
int trainer_enqueue(struct trainer *t, const int32_t *ids, const int32_t *labels, struct step_result *r, struct inner *q);
void trainer_results(struct trainer *t, struct step_result *r, struct inner *q);

/* Micro-batch i of a step with so many labels; its hidden losses go to q */
void trainer_micro(struct trainer *t, const int32_t *ids, const int32_t *labels, int64_t i, int64_t counted, struct inner *q);
/* L_is of the micro-batch that has just run */
double take_inner(const struct trainer *t, const struct pass *s, struct inner *q);
bool trainer_told_to_stop(const struct trainer *t);

/* Sums in an order that the number of processes does not change (trainer_pairs.c): all micro-batches of this process, gradients
 * of all processes, their squares, losses of all */
int pairs_alloc(struct trainer *t, struct err *e);
void pairs_run(struct trainer *t, const int32_t *ids, const int32_t *labels, int64_t counted, struct inner *q);
void pairs_sum_gradients(struct trainer *t);
void pairs_squares(const struct trainer *t);
void pairs_results(struct trainer *t, struct inner *q);

/* trainer_once.c: a step of one process, read back once */
int trainer_step_once(struct trainer *t, const int32_t *ids, const int32_t *labels, double lr, struct step_result *r);
/* Walks, or replays what walking it did */
void trainer_play(struct trainer *t, struct recorded *r, void (*walk)(struct trainer *));

/* Our part of the gradient of a piece that is kept here */
float *trainer_gradient(const struct trainer *t, const struct piece *q);

/* Tensor parallel (trainer_tp.c).  Both tables become what this process has of them; refused (EXIT_USAGE): what cannot be spread. */
int tp_begin(struct trainer *t, struct ptable *student, struct ptable *teacher, struct err *e);
/* Ids as the embedding here counts them */
const int32_t *tp_ids(const struct trainer *t, const int32_t *ids);
/* Gradients that have a summand in each process; the sums of squares of what counts here into t->now: what all have counts once */
void tp_sum_gradients(struct trainer *t);
void tp_squares(const struct trainer *t);
int tp_load(struct trainer *t, const char *student, const char *teacher, struct err *e);
/* Elements [at, at + n) of whole parameter i, on process 0 while those of tp are in tp_serve */
void tp_get(const struct trainer *t, enum weights_of of, int i, int64_t at, int64_t n, float *out);
void tp_serve(const struct trainer *t);
void tp_served(const struct trainer *t);
#endif
