/*
 * tok_bpe.c - BPE: vocabulary index, merge table, and the ids of one word
 *
 * A word is a run of bytes.  Each byte (byte-level) or each character (SentencePiece's way) is a symbol; then the pair of
 * neighbours with the lowest merge rank is joined, the leftmost first, until no pair has a rank.  Short words scan for the minimum, long
 * ones keep a heap, so a megabyte of one letter is no trap.  Almost all words of a text have been seen before: a
 * direct-mapped cache with one line per word answers those.
 *
 * Where a whole text is one word (no pre-tokenizer), it is cut before each U+2581 and each ASCII character that no merge can
 * join to what comes before it: merges on both sides then do not see each other, and the cache works.
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

enum { HEAP_FROM = 40 };       /* symbols; below, a linear scan is faster */

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
	enum { AHEAD = 16 };           /* slots that are being fetched */
	uint64_t n = table_size(b->n_ids), hash[AHEAD] = { 0 };
	b->vslot = xcalloc(n, sizeof *b->vslot);
	b->vmask = n - 1;
	for (uint64_t k = 0; k < (uint64_t)b->n_ids + AHEAD; k++) {
		uint64_t h = hash[k % AHEAD], i = h & b->vmask;
		if (k >= AHEAD && b->tok[k - AHEAD].spell) {
			while (b->vslot[i].used)
				i = (i + 1) & b->vmask;
			b->vslot[i] = (struct vocab_slot){ .hash = h, .id = (uint32_t)(k - AHEAD), .used = 1 };
		}
		if (k < b->n_ids && b->tok[k].spell) {
			hash[k % AHEAD] = XXH3_64bits(b->tok[k].spell, b->tok[k].spell_len);
			__builtin_prefetch(&b->vslot[hash[k % AHEAD] & b->vmask], 1);
		}
	}
}

static uint32_t find_hashed(const struct bpe *b, const char *spell, size_t n, uint64_t h)
{
	for (uint64_t i = h & b->vmask; b->vslot[i].used; i = (i + 1) & b->vmask) {
		const struct tok_entry *t = &b->tok[b->vslot[i].id];
		if (b->vslot[i].hash == h && t->spell_len == n && !memcmp(t->spell, spell, n))
			return b->vslot[i].id;
	}
	return NO_ID;
}

uint32_t bpe_find(const struct bpe *b, const char *spell, size_t n)
{
	return find_hashed(b, spell, n, XXH3_64bits(spell, n));
}

void bpe_find_many(const struct bpe *b, struct bpe_key *key, int n)
{
	for (int i = 0; i < n; i++) {
		key[i].hash = XXH3_64bits(key[i].spell, key[i].n);
		__builtin_prefetch(&b->vslot[key[i].hash & b->vmask]);
	}
	for (int i = 0; i < n; i++)    /* the first slot is nearly always the one */
		__builtin_prefetch(&b->tok[b->vslot[key[i].hash & b->vmask].id]);
	for (int i = 0; i < n; i++)
		__builtin_prefetch(b->tok[b->vslot[key[i].hash & b->vmask].id].spell);
	for (int i = 0; i < n; i++)
		key[i].id = find_hashed(b, key[i].spell, key[i].n, key[i].hash);
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

void bpe_merge_soon(const struct bpe *b, uint32_t left, uint32_t right)
{
	__builtin_prefetch(&b->mslot[pair_slot(b, (uint64_t)left << 32 | right)], 1);
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

const struct merge_slot *bpe_merge_find(const struct bpe *b, uint32_t left, uint32_t right)
{
	uint64_t pair = (uint64_t)left << 32 | right;
	for (uint64_t k = pair_slot(b, pair); b->mslot[k].pair != NO_PAIR; k = (k + 1) & b->mmask)
		if (b->mslot[k].pair == pair)
			return &b->mslot[k];
	return NULL;
}

/* The symbols of MODEL_CHARS, and where texts may be cut. */
void bpe_finish_chars(struct bpe *b)
{
	unsigned k;
	b->char_id = xmalloc(0x10000 * sizeof *b->char_id);
	for (size_t i = 0; i < 0x10000; i++)
		b->char_id[i] = NO_ID;
	for (uint32_t id = 0; id < b->n_ids; id++) {
		const struct tok_entry *t = &b->tok[id];
		uint32_t cp = t->spell_len ? utf8_cp((const uint8_t *)t->spell, &k) : 0x10000;
		if (cp < 0x10000 && k == t->spell_len)
			b->char_id[cp] = id;
	}
	b->cut = !b->ignore_merges && b->char_id[0x2581] != NO_ID;
	b->joins = xcalloc(256 * 256, sizeof *b->joins);
	for (uint64_t i = 0; i <= b->mmask; i++) {
		const struct merge_slot *m = &b->mslot[i];
		if (m->pair == NO_PAIR)
			continue;
		const struct tok_entry *t = &b->tok[m->id];
		for (size_t j = 1; j < t->spell_len; j++)
			b->joins[(uint8_t)t->spell[j - 1] << 8 | (uint8_t)t->spell[j]] = true;
		uint32_t side[2] = { (uint32_t)(m->pair >> 32), (uint32_t)m->pair };
		for (int j = 0; j < 2; j++)    /* what stands for unknown characters must not merge */
			b->cut &= side[j] != b->unk && !(b->tok[side[j]].spell_len == 6 && !memcmp(b->tok[side[j]].spell, "<0x", 3));
	}
}

void bpe_fallback_init(struct bpe *b)
{
	char name[8];
	for (unsigned c = 0; c < 256; c++) {
		snprintf(name, sizeof name, "<0x%02X>", c);
		b->fallback[c] = bpe_find(b, name, 6);
	}
}

static inline void pair_look(const struct bpe *b, struct sym *v, int32_t i)
{
	const struct merge_slot *m = v[i].next < 0 ? NULL : bpe_merge_find(b, v[i].id, v[v[i].next].id);
	v[i].rank = m ? m->rank : NO_ID;
	if (m)
		v[i].new_id = m->id;
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

static inline void sym_add(struct sym *v, int32_t *k, uint32_t id, size_t lo, size_t hi)
{
	v[*k] = (struct sym){ .id = id, .lo = (uint32_t)lo, .hi = (uint32_t)hi, .prev = *k - 1, .next = *k + 1 };
	++*k;
}

/* Characters of the vocabulary, or their bytes, or the unknown token.  An unknown one waits for the next known character:
 * bytes overtake it, as in the reference. */
static int32_t symbols_chars(struct tok_scratch *s, const uint8_t *w, size_t n)
{
	const struct bpe *b = &s->t->bpe;
	s->sym = tok_grow(s->sym, &s->sym_cap, n, sizeof *s->sym);
	struct sym *v = s->sym;
	int32_t k = 0;
	size_t lo = 0, hi = 0;         /* of the unknown token that waits */
	unsigned len;
	for (size_t i = 0; i < n; i += len) {
		uint32_t cp = utf8_cp(w + i, &len), id = cp < 0x10000 ? b->char_id[cp] : bpe_find(b, (const char *)w + i, len);
		bool bytes = id == NO_ID;
		for (unsigned j = 0; j < len && bytes; j++)
			bytes = b->fallback[w[i + j]] != NO_ID;
		for (unsigned j = 0; j < len && bytes; j++)
			sym_add(v, &k, b->fallback[w[i + j]], i + j, i + j + 1);
		if (bytes || (id == NO_ID && b->unk == NO_ID))
			continue;
		if (id == NO_ID && b->fuse_unk && hi) {
			hi = i + len;
			continue;
		}
		if (hi)
			sym_add(v, &k, b->unk, lo, hi);
		hi = 0;
		if (id != NO_ID) {
			sym_add(v, &k, id, i, i + len);
		} else {
			lo = i;
			hi = i + len;
		}
	}
	if (hi)
		sym_add(v, &k, b->unk, lo, hi);
	if (k)
		v[k - 1].next = -1;
	return k;
}

/* The word's first symbols; returns how many. */
static int32_t symbols_bytes(struct tok_scratch *s, const uint8_t *w, size_t n)
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
		sym_add(v, &k, unknown ? b->unk : id, i, i + 1);
	}
	if (k)
		v[k - 1].next = -1;
	return k;
}

void model_emit(struct tok_scratch *s, uint32_t id, size_t lo, size_t hi)
{
	ids_push(s->ids, id);
	if (!s->spans)
		return;
	if (s->v.at_lo)
		spans_push(s->spans, s->v.at_lo[lo], s->v.at_hi[hi - 1]);
	else
		spans_push(s->spans, s->v.base + (int64_t)lo, s->v.base + (int64_t)hi);
}

/* ignore_merges: a word that is in the vocabulary as a whole is that token. */
static uint32_t whole_word(const struct bpe *b, const uint8_t *w, size_t n)
{
	char buf[512];
	size_t k = 0;
	if (b->kind == MODEL_CHARS)
		return bpe_find(b, (const char *)w, n);
	if (n > sizeof buf / 2)
		return NO_ID;
	for (size_t i = 0; i < n; i++)
		k += (size_t)byte_char(buf + k, w[i]);
	return bpe_find(b, buf, k);
}

static void word_uncached(struct tok_scratch *s, size_t lo, size_t n)
{
	const struct bpe *b = &s->t->bpe;
	const uint8_t *w = (const uint8_t *)s->v.buf + lo;
	if (b->kind == MODEL_UNIGRAM) {
		unigram_word(s, lo, n);
		return;
	}
	uint32_t id = b->ignore_merges ? whole_word(b, w, n) : NO_ID;
	if (id != NO_ID) {
		model_emit(s, id, lo, lo + n);
		return;
	}
	int32_t k = b->kind == MODEL_CHARS ? symbols_chars(s, w, n) : symbols_bytes(s, w, n);
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
		model_emit(s, v[i].id, lo + v[i].lo, lo + v[i].hi);
}

void bpe_word(struct tok_scratch *s, size_t lo, size_t hi)
{
	size_t n = hi - lo;
	const char *w = s->v.buf + lo;
	if (n > CACHE_KEY || s->spans) {
		/* symbols count in 32 bits; a longer word than this does not fit the id list of one call anyway */
		while (n > (1u << 30)) {
			size_t part = utf8_prev((const uint8_t *)w, (1u << 30) + 1);
			word_uncached(s, lo, part);
			lo += part;
			w += part;
			n -= part;
		}
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

/* The next place in (i, hi) where a word may start; hi: none.  What begins there is in the vocabulary, so that an unknown
 * token before it is complete. */
static size_t next_cut(const struct bpe *b, const uint8_t *p, size_t i, size_t hi)
{
	for (i++; i < hi; i++) {
		if (p[i] < 0x80 ? b->joins[p[i - 1] << 8 | p[i]] || b->char_id[p[i]] == NO_ID
				: p[i] != 0xE2 || hi - i < 3 || p[i + 1] != 0x96 || p[i + 2] != 0x81 || b->joins[p[i - 1] << 8 | 0xE2])
			continue;
		return i;
	}
	return hi;
}

void bpe_text(struct tok_scratch *s, size_t lo, size_t hi)
{
	const struct bpe *b = &s->t->bpe;
	while (b->cut && lo < hi) {
		size_t to = next_cut(b, (const uint8_t *)s->v.buf, lo, hi);
		bpe_word(s, lo, to);
		lo = to;
	}
	if (lo < hi)
		bpe_word(s, lo, hi);
}
