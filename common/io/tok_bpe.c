/*
 * tok_bpe.c - byte-level BPE: vocabulary index, merge table, and the ids of one word
 *
 * A word is a run of bytes.  Each byte is one character of the vocabulary's alphabet; then the pair of neighbours with the
 * lowest merge rank is joined, the leftmost first, until no pair has a rank.  Short words scan for the minimum, long
 * ones keep a heap, so a megabyte of one letter is no trap.  Almost all words of a text have been seen before: a
 * direct-mapped cache with one line per word answers those.
 *
 * Pitfall: bytes whose character is missing from the vocabulary vanish before merging (SmolLM2 lacks 21), so that
 * their neighbours may join.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { HEAP_FROM = 96 };       /* symbols; below, a linear scan is faster */

/* Printable Latin-1 bytes are their own character; the other 68 (00-20, 7F-A0, AD) follow from U+0100 on. */
int byte_char(char *dst, uint8_t b)
{
	uint32_t cp = b <= 0x20 ? 0x100u + b : b >= 0x7F && b <= 0xA0 ? 0x121u + b - 0x7F : b == 0xAD ? 0x143 : b;
	return utf8_put(dst, cp);
}

int char_byte(uint32_t cp)
{
	if (cp < 0x100)
		return cp <= 0x20 || (cp >= 0x7F && cp <= 0xA0) || cp == 0xAD ? -1 : (int)cp;
	if (cp > 0x143)
		return -1;
	return cp < 0x121 ? (int)cp - 0x100 : cp < 0x143 ? (int)cp - 0x121 + 0x7F : 0xAD;
}

static uint64_t table_size(uint64_t items)
{
	uint64_t n = 64;
	while (n < items * 2)
		n *= 2;
	return n;
}

void bpe_index_vocab(struct bpe *b)
{
	uint64_t n = table_size(b->n_ids);
	b->vslot = xcalloc(n, sizeof *b->vslot);
	b->vmask = n - 1;
	for (uint32_t id = 0; id < b->n_ids; id++) {
		const struct tok_entry *t = &b->tok[id];
		if (!t->spell)
			continue;
		uint64_t h = XXH3_64bits(t->spell, t->spell_len), i = h & b->vmask;
		while (b->vslot[i].used)
			i = (i + 1) & b->vmask;
		b->vslot[i] = (struct vocab_slot){ .hash = h, .id = id, .used = 1 };
	}
}

uint32_t bpe_find(const struct bpe *b, const char *spell, size_t n)
{
	uint64_t h = XXH3_64bits(spell, n);
	for (uint64_t i = h & b->vmask; b->vslot[i].used; i = (i + 1) & b->vmask) {
		const struct tok_entry *t = &b->tok[b->vslot[i].id];
		if (b->vslot[i].hash == h && t->spell_len == n && !memcmp(t->spell, spell, n))
			return b->vslot[i].id;
	}
	return NO_ID;
}

void bpe_merges_init(struct bpe *b, size_t n)
{
	uint64_t size = table_size(n);
	b->mslot = xmalloc(size * sizeof *b->mslot);
	b->mmask = size - 1;
	for (uint64_t i = 0; i < size; i++)
		b->mslot[i].pair = NO_PAIR;
}

static inline uint64_t pair_slot(const struct bpe *b, uint64_t pair)
{
	return (pair * 0x9E3779B97F4A7C15u >> 32) & b->mmask;
}

/* A pair that is listed twice counts with its last rank, as in the reference. */
void bpe_merge_add(struct bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
	uint64_t pair = (uint64_t)left << 32 | right, i = pair_slot(b, pair);
	while (b->mslot[i].pair != NO_PAIR && b->mslot[i].pair != pair)
		i = (i + 1) & b->mmask;
	b->mslot[i] = (struct merge_slot){ .pair = pair, .rank = rank, .id = id };
}

void bpe_finish(struct bpe *b)
{
	for (unsigned c = 0; c < 256; c++) {
		char u[4];
		b->byte_id[c] = bpe_find(b, u, (size_t)byte_char(u, (uint8_t)c));
	}
}

static inline void pair_look(const struct bpe *b, struct sym *v, int32_t i)
{
	v[i].rank = NO_ID;
	if (v[i].next < 0)
		return;
	uint64_t pair = (uint64_t)v[i].id << 32 | v[v[i].next].id;
	for (uint64_t k = pair_slot(b, pair); b->mslot[k].pair != NO_PAIR; k = (k + 1) & b->mmask)
		if (b->mslot[k].pair == pair) {
			v[i].rank = b->mslot[k].rank;
			v[i].new_id = b->mslot[k].id;
			return;
		}
}

/* Joins symbol i with its next and looks both new pairs up. */
static void join(const struct bpe *b, struct sym *v, int32_t i)
{
	int32_t j = v[i].next;
	v[i].id = v[i].new_id;
	v[i].hi = v[j].hi;
	v[i].next = v[j].next;
	v[j].id = NO_ID;               /* dead: heap items that point here are stale */
	v[j].rank = NO_ID;
	if (v[i].next >= 0)
		v[v[i].next].prev = i;
	pair_look(b, v, i);
	if (v[i].prev >= 0)
		pair_look(b, v, v[i].prev);
}

static void merge_short(const struct bpe *b, struct sym *v)
{
	for (;;) {
		uint32_t best = NO_ID;
		int32_t at = -1;
		for (int32_t i = 0; i >= 0; i = v[i].next)
			if (v[i].rank < best) {
				best = v[i].rank;
				at = i;
			}
		if (at < 0)
			return;
		join(b, v, at);
	}
}

static inline bool item_less(const struct heap_item *a, const struct heap_item *b)
{
	return a->rank != b->rank ? a->rank < b->rank : a->pos < b->pos;
}

static void heap_push(struct tok_scratch *s, const struct sym *v, int32_t pos)
{
	if (v[pos].rank == NO_ID)
		return;
	struct heap_item it = { .rank = v[pos].rank, .pos = pos, .new_id = v[pos].new_id };
	s->heap = tok_grow(s->heap, &s->heap_cap, s->heap_n + 1, sizeof *s->heap);
	size_t i = s->heap_n++;
	for (; i && item_less(&it, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
		s->heap[i] = s->heap[(i - 1) / 2];
	s->heap[i] = it;
}

static struct heap_item heap_pop(struct tok_scratch *s)
{
	struct heap_item top = s->heap[0], last = s->heap[--s->heap_n];
	size_t i = 0;
	for (size_t c; (c = 2 * i + 1) < s->heap_n; i = c) {
		if (c + 1 < s->heap_n && item_less(&s->heap[c + 1], &s->heap[c]))
			c++;
		if (!item_less(&s->heap[c], &last))
			break;
		s->heap[i] = s->heap[c];
	}
	s->heap[i] = last;
	return top;
}

static void merge_long(struct tok_scratch *s, struct sym *v, int32_t n)
{
	s->heap_n = 0;
	for (int32_t i = 0; i < n; i++)
		heap_push(s, v, i);
	while (s->heap_n) {
		struct heap_item it = heap_pop(s);
		if (v[it.pos].rank != it.rank || v[it.pos].new_id != it.new_id)
			continue;
		join(&s->t->bpe, v, it.pos);
		heap_push(s, v, it.pos);
		if (v[it.pos].prev >= 0)
			heap_push(s, v, v[it.pos].prev);
	}
}

/* The word's first symbols; returns how many. */
static int32_t symbols(struct tok_scratch *s, const uint8_t *w, size_t n)
{
	const struct bpe *b = &s->t->bpe;
	s->sym = tok_grow(s->sym, &s->sym_cap, n, sizeof *s->sym);
	struct sym *v = s->sym;
	int32_t k = 0;
	for (size_t i = 0; i < n; i++) {
		uint32_t id = b->byte_id[w[i]];
		bool unknown = id == NO_ID;
		if (unknown && b->unk == NO_ID)
			continue;
		if (unknown && b->fuse_unk && i && k && b->byte_id[w[i - 1]] == NO_ID) {
			v[k - 1].hi = (uint32_t)i + 1;
			continue;
		}
		v[k] = (struct sym){ .id = unknown ? b->unk : id, .lo = (uint32_t)i, .hi = (uint32_t)i + 1,
				     .prev = k - 1, .next = k + 1 };
		k++;
	}
	if (k)
		v[k - 1].next = -1;
	return k;
}

static void emit(struct tok_scratch *s, uint32_t id, size_t lo, size_t hi)
{
	ids_push(s->ids, id);
	if (!s->spans)
		return;
	if (s->at_lo)
		spans_push(s->spans, s->at_lo[lo], s->at_hi[hi - 1]);
	else
		spans_push(s->spans, s->base + (int64_t)lo, s->base + (int64_t)hi);
}

/* ignore_merges: a word that is in the vocabulary as a whole is that token. */
static uint32_t whole_word(const struct bpe *b, const uint8_t *w, size_t n)
{
	char buf[512];
	size_t k = 0;
	if (n > sizeof buf / 2)
		return NO_ID;
	for (size_t i = 0; i < n; i++)
		k += (size_t)byte_char(buf + k, w[i]);
	return bpe_find(b, buf, k);
}

static void word_uncached(struct tok_scratch *s, size_t lo, size_t n)
{
	const struct bpe *b = &s->t->bpe;
	const uint8_t *w = (const uint8_t *)s->buf + lo;
	uint32_t id = b->ignore_merges ? whole_word(b, w, n) : NO_ID;
	if (id != NO_ID) {
		emit(s, id, lo, lo + n);
		return;
	}
	int32_t k = symbols(s, w, n);
	struct sym *v = s->sym;
	if (!k)
		return;
	for (int32_t i = 0; i < k; i++)
		pair_look(b, v, i);
	if (k < HEAP_FROM)
		merge_short(b, v);
	else
		merge_long(s, v, k);
	for (int32_t i = 0; i >= 0; i = v[i].next)
		emit(s, v[i].id, lo + v[i].lo, lo + v[i].hi);
}

void bpe_word(struct tok_scratch *s, size_t lo, size_t hi)
{
	size_t n = hi - lo;
	const char *w = s->buf + lo;
	if (n > CACHE_KEY || s->spans) {
		/* symbols count in 32 bits; a longer word than this does not fit the id list of one call anyway */
		for (; n > (1u << 30); lo += 1u << 30, n -= 1u << 30)
			word_uncached(s, lo, 1u << 30);
		word_uncached(s, lo, n);
		return;
	}
	struct cache_slot *c = &s->cache[XXH3_64bits(w, n) & ((1u << CACHE_BITS) - 1)];
	if (c->len != n || memcmp(c->key, w, n) != 0) {
		int64_t first = s->ids->n;
		word_uncached(s, lo, n);
		int64_t k = s->ids->n - first;
		if (k > CACHE_IDS)
			return;
		c->len = (uint8_t)n;
		c->n = (uint8_t)k;
		memcpy(c->key, w, n);
		if (k)
			memcpy(c->id, s->ids->v + first, (size_t)k * sizeof *c->id);
		return;
	}
	if (s->ids->cap - s->ids->n < CACHE_IDS) {
		for (int i = 0; i < c->n; i++)
			ids_push(s->ids, c->id[i]);
		return;
	}
	memcpy(s->ids->v + s->ids->n, c->id, sizeof c->id);
	s->ids->n += c->n;
}
