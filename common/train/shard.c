/*
 * shard.c - buckets and slices
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "shard.h"
#include <stdlib.h>

enum { UNIT = 32 }; /* elements: 64 bytes of bf16 */

static int64_t round_up(int64_t n, int64_t unit)
{
	return (n + unit - 1) / unit * unit;
}

void shard_init(struct shard *s, int rank, int size, bool whole)
{
	*s = (struct shard){ .rank = rank, .size = size, .whole = whole || size == 1 };
}

static void close_bucket(struct shard *s)
{
	if (!s->n)
		return;
	struct bucket *b = &s->b[s->n - 1];
	int64_t n = s->end - b->off;
	b->each = round_up(n, (s->size > 1 ? s->size : 1) * UNIT) / s->size;
	s->index = b->index + n;
	s->end = b->off + b->each * s->size;
	s->kept = s->whole ? s->end : b->kept + b->each;
}

int64_t shard_place(struct shard *s, int key, int64_t elems)
{
	if (!s->n || (s->size > 1 && key != s->key)) {
		close_bucket(s);
		s->b = xrealloc(s->b, (size_t)s->n + 1, sizeof *s->b);
		s->b[s->n++] = (struct bucket){ .off = s->end, .kept = s->kept, .index = s->index };
		s->key = key;
	}
	int64_t at = s->end;
	s->end += round_up(elems, UNIT);
	return at;
}

int64_t shard_end(struct shard *s)
{
	close_bucket(s);
	return s->end;
}

void shard_free(struct shard *s)
{
	free(s->b);
	*s = (struct shard){ 0 };
}

int shard_bucket(const struct shard *s, int64_t off)
{
	int lo = 0, hi = s->n;
	while (hi - lo > 1) {
		int mid = (lo + hi) / 2;
		if (s->b[mid].off <= off)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

struct piece shard_slice(const struct shard *s, int i)
{
	const struct bucket *b = &s->b[i];
	int64_t before = s->rank * b->each;
	return (struct piece){ b->off + before, b->each, s->whole ? b->kept + before : b->kept, b->index + before };
}

struct piece shard_kept(const struct shard *s, int i)
{
	const struct bucket *b = &s->b[i];
	return s->whole ? (struct piece){ b->off, b->each * s->size, b->kept, b->index } : shard_slice(s, i);
}

struct piece piece_cut(struct piece q, int64_t off, int64_t n)
{
	int64_t from = off > q.off ? off : q.off, to = off + n < q.off + q.n ? off + n : q.off + q.n;
	if (from >= to)
		return (struct piece){ .n = 0 };
	return (struct piece){ from, to - from, q.at + from - q.off, q.index + from - q.off };
}

struct piece shard_part(const struct shard *s, int64_t off, int64_t n)
{
	return piece_cut(shard_kept(s, shard_bucket(s, off)), off, n);
}
