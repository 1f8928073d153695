/*
 * hidden.h - hidden states of all samples between two blocks: in memory, or in an unlinked file
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_HIDDEN_H
#define ADZE_HIDDEN_H
#include "../base/base.h"

struct hidden {
	char *mem;             /* or NULL: */
	int fd;
	int64_t bytes;
};
/* More than `budget` bytes go to a file in $TMPDIR (default /tmp), which vanishes with the process. */
int hidden_open(struct hidden *h, int64_t bytes, int64_t budget, struct err *e);
int hidden_get(const struct hidden *h, int64_t off, void *p, int64_t n, struct err *e);
int hidden_put(struct hidden *h, int64_t off, const void *p, int64_t n, struct err *e);
void hidden_close(struct hidden *h);
#endif
