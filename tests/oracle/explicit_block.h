/*
 * explicit_block.h - a decoder written out by hand, forward and backward, as the judge of common/prog
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_EXPLICIT_BLOCK_H
#define ADZE_EXPLICIT_BLOCK_H
#include "../../common/model/params.h"

/* w and dw have the layout of t (dw is zeroed here).  tok, label [B*T]; label < 0 counts for nothing.  hidden (may be
 * NULL) gets the final norm's output [B*T, hidden].  Returns the mean cross-entropy over counted rows. */
double explicit_model(const struct ptable *t, const float *w, const int32_t *tok, const int32_t *label, int64_t B,
		      int64_t T, float *dw, double *hidden);
#endif
