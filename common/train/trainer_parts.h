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
#endif
