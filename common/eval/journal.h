/*
 * journal.h - finished requests beside the output, so that a killed run goes on where it was
 *
 * Text, a line per request, sums as hexadecimal floating point: nothing is rounded.
 *
 *	adze-eval 1 KEY
 *	REQUEST SUM GREEDY .
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_JOURNAL_H
#define ADZE_JOURNAL_H
#include "loglik.h"

struct journal;
/* key: 32 hex digits of everything that shapes the results.  Requests that are on file become done (*found of them).  A
 * file of another key is started over (*other is set); a torn last line is cut off. */
struct journal *journal_open(const char *path, const char *key, struct ll_set *s, int64_t *found, int *other, struct err *e);
/* Appends n finished requests; they are on file when it returns. */
int journal_add(struct journal *j, const struct ll_set *s, const int64_t *req, int64_t n, struct err *e);
/* remove: the output is complete, the file goes.  j may be NULL. */
void journal_close(struct journal *j, bool remove);
#endif
