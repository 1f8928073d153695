/*
 * scan.h - where does a msgpack object end?  (private to common/io)
 *
 * Hostile input is measured before it is unpacked: the scanner walks type bytes only, resumes when more bytes arrive,
 * and enforces the container's limits on size, depth and item count.  What it accepts, msgpack-c can unpack with
 * memory in proportion to the bytes really present.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SCAN_H
#define ADZE_SCAN_H
#include <stddef.h>
#include <stdint.h>

#define SCAN_MAX_BYTES ((uint64_t)1 << 30)
#define SCAN_MAX_DEPTH 16
#define SCAN_MAX_ITEMS ((uint64_t)1 << 22)

struct scan {
	uint64_t pos;                    /* bytes walked; the object's length once done */
	uint64_t items;
	int depth;
	uint64_t left[SCAN_MAX_DEPTH];   /* items still to come per open list or map */
	const char *why;                 /* what is wrong after -1 */
};

/* p: the object's first byte, n: bytes there so far.  1: whole, s->pos is its length; 0: more needed; -1: refused */
int scan_object(struct scan *s, const uint8_t *p, uint64_t n);
#endif
