/*
 * kd_export.h - the model directories that a run of kd-train writes, with their cards
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_KD_EXPORT_H
#define ADZE_KD_EXPORT_H
#include "session.h"

/* The student as it is */
int kd_export_model(const struct session *s, const char *out, struct err *e);
/* RUNDIR/best; arg: the session */
int kd_export_best(void *arg, struct err *e);
/* At the end: RUNDIR/student, and what was asked for of adapter, student-ema and teacher */
int kd_export_results(const struct session *s, struct err *e);
#endif
