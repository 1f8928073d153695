/*
 * arena.c - bump allocation: a list of chunks, each freed whole
 *
 * A request larger than a chunk gets one of its own, put behind the current chunk so that its rest stays usable.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base.h"
#include <stdlib.h>
#include <string.h>

struct arena_chunk {
	struct arena_chunk *next;
	size_t used, size;
	_Alignas(16) unsigned char data[];
};
#define CHUNK ((size_t)64 << 10)

static struct arena_chunk *chunk_new(size_t size)
{
	if (size > SIZE_MAX / 2)
		die(EXIT_RESOURCE, "out of memory (a table of %zu bytes)", size);
	struct arena_chunk *c = xmalloc(sizeof *c + size);
	c->next = NULL;
	c->used = 0;
	c->size = size;
	return c;
}

void *arena_alloc(struct arena *a, size_t n)
{
	if (n > SIZE_MAX / 4)
		die(EXIT_RESOURCE, "out of memory (a table of %zu bytes)", n);
	n = (n + 15) / 16 * 16;
	struct arena_chunk *c = a->head;
	if (!c || c->size - c->used < n) {
		struct arena_chunk *fresh = chunk_new(n > CHUNK ? n : CHUNK);
		if (c && n > CHUNK) {
			fresh->next = c->next;
			c->next = fresh;
		} else {
			fresh->next = c;
			a->head = fresh;
		}
		c = fresh;
	}
	void *p = c->data + c->used;
	c->used += n;
	return memset(p, 0, n);
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		BUG("bad format %s", fmt);
	char *s = arena_alloc(a, (size_t)n + 1);
	va_start(ap, fmt);
	vsnprintf(s, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return s;
}

void arena_free(struct arena *a)
{
	for (struct arena_chunk *c = a->head, *next; c; c = next) {
		next = c->next;
		free(c);
	}
	a->head = NULL;
}
