/*
 * scan.c - the resumable walk over msgpack type bytes
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scan.h"

static uint64_t big_endian(const uint8_t *p, int n)
{
	uint64_t v = 0;
	for (int i = 0; i < n; i++)
		v = v << 8 | p[i];
	return v;
}

/* One type byte: header length, payload length that follows it, and items that follow (lists, maps). */
struct shape {
	int head;         /* type byte and length field */
	int length;       /* bytes of the length field at the end of head */
	uint64_t fixed;   /* payload when there is no length field */
	uint64_t items;
	int per;          /* items per count: 0 payload, 1 list, 2 map */
};

static int shape_of(uint8_t t, struct shape *s)
{
	*s = (struct shape){ .head = 1 };
	if (t <= 0x7f || t >= 0xe0 || t == 0xc0 || t == 0xc2 || t == 0xc3)
		return 0;
	if (t <= 0x8f)
		s->items = 2 * (uint64_t)(t & 15);
	else if (t <= 0x9f)
		s->items = t & 15;
	else if (t <= 0xbf)
		s->fixed = t & 31;
	else if (t == 0xc1)
		return -1;
	else if (t <= 0xc6)                         /* bin 8 16 32 */
		s->length = 1 << (t - 0xc4);
	else if (t <= 0xc9)                         /* ext 8 16 32: one more byte for its type */
		s->length = 1 << (t - 0xc7), s->fixed = 1;
	else if (t <= 0xcb)                         /* float 32 64 */
		s->fixed = t == 0xca ? 4 : 8;
	else if (t <= 0xd3)                         /* uint, int 8..64 */
		s->fixed = (uint64_t)1 << ((t - 0xcc) & 3);
	else if (t <= 0xd8)                         /* fixext 1..16 */
		s->fixed = ((uint64_t)1 << (t - 0xd4)) + 1;
	else if (t <= 0xdb)                         /* str 8 16 32 */
		s->length = 1 << (t - 0xd9);
	else                                        /* array 16 32, map 16 32 */
		s->length = t & 1 ? 4 : 2, s->per = t >= 0xde ? 2 : 1;
	s->head += s->length;
	return 0;
}

static int refuse(struct scan *s, const char *why)
{
	s->why = why;
	return -1;
}

/* Closes every list whose last item has been walked; 1 when the whole object is. */
static int close_items(struct scan *s)
{
	while (s->depth && s->left[s->depth - 1] == 0)
		s->depth--;
	return s->depth == 0;
}

int scan_object(struct scan *s, const uint8_t *p, uint64_t n)
{
	if (s->pos && !s->depth) /* walked before, its payload was not all there */
		return s->pos <= n;
	while (s->pos < n) {
		struct shape h;
		if (shape_of(p[s->pos], &h))
			return refuse(s, "an invalid msgpack type byte");
		if (n - s->pos < (uint64_t)h.head)
			return 0;
		uint64_t count = big_endian(p + s->pos + 1, h.length);
		uint64_t items = h.per ? count * (uint64_t)h.per : h.items;
		uint64_t payload = h.fixed + (h.per ? 0 : count);
		s->items += items;
		if (s->items > SCAN_MAX_ITEMS)
			return refuse(s, "an object of more than 4 Mi items");
		if (s->pos + (uint64_t)h.head + payload > SCAN_MAX_BYTES)
			return refuse(s, "an object larger than 1 GiB");
		s->pos += (uint64_t)h.head + payload;
		if (s->depth)
			s->left[s->depth - 1]--;
		if (items) {
			if (s->depth == SCAN_MAX_DEPTH)
				return refuse(s, "an object nested deeper than 16");
			s->left[s->depth++] = items;
		} else if (close_items(s)) {
			return s->pos <= n;
		}
	}
	return 0;
}
