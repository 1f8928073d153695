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
/* Gradients of all processes into t->grad where this one needs them (zero 2: they are there); |g| of all of it; AdamW */
void trainer_sum_gradients(struct trainer *t);
double trainer_norm(const struct trainer *t);
void trainer_update(struct trainer *t, double lr, double norm);
#endif
