/*
 * checkpoint_parts.h - between the files that write and read checkpoints only
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_CHECKPOINT_PARTS_H
#define ADZE_CHECKPOINT_PARTS_H
#include "checkpoint.h"

enum { CKPT_COUNTERS = 5, CKPT_FILES_MAX = 1 << 16 };
/* Arrays of a trainer, first letters of their names in a checkpoint: w, m, v, and with a moving average e */
static const char ckpt_letter[STATES] = { 'w', 'm', 'v', 'e' };
int ckpt_arrays(const struct trainer *t);
/* Kept in bf16? */
bool ckpt_low(const struct trainer *t, int a);
/* Of n elements */
size_t ckpt_bytes(const struct trainer *t, int a, int64_t n);
/* Steps with a checkpoint, newest first; its directory; file of part k of state or teacher in a directory */
int64_t *ckpt_list_new(const struct rundir *d, int *n);
char *ckpt_path_new(const struct rundir *d, int64_t step);
char *ckpt_file_new(const char *dir, const char *name, int part);
#endif
