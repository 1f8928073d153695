/*
 * filter.h - compressed input through the system's own programs
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_FILTER_H
#define ADZE_FILTER_H
#include "../base/base.h"

/* The program that unpacks data that starts like this (gzip, zstd, xz, bzip2), NULL: not compressed. */
const char *filter_for(const char *head, size_t n);

struct filter;
/* Starts `program -dcq` on fd, whose first n bytes were read already (head); name is for messages.  NULL: e says why, with
 * EXIT_RESOURCE when there is no such program.  fd stays the caller's. */
struct filter *filter_start(const char *program, int fd, const char *head, size_t n, const char *name, struct err *e);
int filter_fd(const struct filter *f);                 /* what it unpacked */
/* After the last byte: 0 when the program was content; -1 for damaged or truncated data. */
int filter_end(struct filter *f, struct err *e);
void filter_free(struct filter *f);                    /* also in the middle */
#endif
