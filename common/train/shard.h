/*
 * shard.h - which part of what is trained is whose (ZeRO, arXiv 1910.02054)
 *
 * With several processes the arena of the trained is cut into buckets: the embedding, each block, what follows, adapters
 * block by block.  A bucket is padded so that every process has a slice of as many elements, a multiple of 32; slices take
 * no notice of where a tensor begins.
 *
 *	arena   | slice 0 | slice 1 | ... of the first bucket | slice 0 | slice 1 | ... of the second | ...
 *	kept    | slice r of the first bucket | slice r of the second | ...              (whole: the arena itself)
 *
 * A process alone has one bucket and one slice: everything, nothing is padded.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SHARD_H
#define ADZE_SHARD_H
#include "../base/base.h"

/* Which weights are meant: the student as it is, or its moving average */
enum weights_of { OF_STUDENT, OF_AVERAGE };

struct bucket {
	int64_t off, each;     /* [off, off + size * each) of the arena */
	int64_t kept;          /* where this process's part of it begins among what it keeps */
	int64_t index;         /* of its first element, were nothing padded: the same with any number of processes */
};
struct shard {
	int rank, size;
	bool whole;            /* every process keeps all */
	int n, key;            /* buckets; key of the last */
	struct bucket *b;      /* owned */
	int64_t end, index, kept; /* of the arena; without padding; of what this process keeps */
};
struct piece {                 /* n elements from `off` of the arena, `at` of what is kept, `index` without padding on */
	int64_t off, n, at, index;
};

void shard_init(struct shard *s, int rank, int size, bool whole);
/* The place of the next `elems` elements; those with the same key as the ones before share their bucket. */
int64_t shard_place(struct shard *s, int key, int64_t elems);
/* After the last: closes, returns the arena's end. */
int64_t shard_end(struct shard *s);
void shard_free(struct shard *s);
/* Bucket of element off */
int shard_bucket(const struct shard *s, int64_t off);
/* This process's slice of bucket i, and what it keeps of it */
struct piece shard_slice(const struct shard *s, int i);
struct piece shard_kept(const struct shard *s, int i);
/* What q has of elements [off, off + n); n is 0 when nothing */
struct piece piece_cut(struct piece q, int64_t off, int64_t n);
/* What this process keeps of elements [off, off + n), which lie in one bucket */
struct piece shard_part(const struct shard *s, int64_t off, int64_t n);
#endif
