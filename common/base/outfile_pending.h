/*
 * outfile_pending.h - the table of uncommitted outputs and what removes it (private to common/base)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_OUTFILE_PENDING_H
#define ADZE_OUTFILE_PENDING_H
#include "base.h"

/* Lists a temporary for removal at exit and on fatal signals; returns its slot. */
int pending_add(const char *path, bool is_dir);
void pending_remove(int slot);
/* Removes everything listed; async-signal-safe. */
void pending_remove_all(void);
/* fsync of every file below path, and of the directories */
int sync_tree(const char *path, struct err *e);
#endif
