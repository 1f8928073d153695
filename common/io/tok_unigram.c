/*
 * tok_unigram.c - the Unigram model: the segmentation of a word with the highest sum of scores
 *
 * Viterbi over the bytes of the word: best[i] is the best way to byte i, and from each start of a character a trie gives
 * every token that fits:   best[j] = max over tokens i..j of best[i] + score(token).   A character that is no token by
 * itself is unknown, at 10 below the lowest score; unknown neighbours are one token, or bytes.  The first of equal ways
 * stays, in the order of start positions, as in the reference.  The trie's edges are in the model's pair table:
 * (node, byte) -> node.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <string.h>

void unigram_start(struct bpe *b, size_t bytes)
{
	bpe_merges_init(b, bytes);
	b->leaf = xmalloc((bytes + 1) * sizeof *b->leaf);
	b->leaf[0] = NO_ID;
	b->nodes = 1;
}

void unigram_add(struct bpe *b, const char *spell, size_t n, uint32_t id)
{
	uint32_t node = 0;
	for (size_t i = 0; i < n; i++) {
		const struct merge_slot *m = bpe_merge_find(b, node, (uint8_t)spell[i]);
		if (!m) {
			b->leaf[b->nodes] = NO_ID;
			bpe_merge_add(b, node, (uint8_t)spell[i], 0, b->nodes);
			node = b->nodes++;
		} else {
			node = m->id;
		}
	}
	if (n)
		b->leaf[node] = id;
}

/* Takes the way to `to` over the token if it is the first or a better one. */
static inline void offer(const struct bpe *b, struct best *to, double from, double score, size_t len, uint32_t id)
{
	double sum = b->single ? (double)(float)(from + score) : from + score;
	if (to->len && !(sum > to->score))
		return;
	to->score = sum;
	to->len = (uint32_t)len;
	to->id = id;
}

/* SentencePiece's floats lose their last bits in a long text, so where a sum leaves +-100000 all open ones go on from it as 0. */
static double start_over(struct best *best, size_t i, size_t reached)
{
	enum { FAR = 100000 };
	double from = best[i].score;
	if (from >= -FAR && from <= FAR)
		return from;
	for (size_t k = i; k <= reached; k++)
		if (k == i || best[k].len)
			best[k].score = (double)(float)(best[k].score - from);
	return 0;
}

static void forward(const struct bpe *b, struct best *best, const uint8_t *w, size_t n)
{
	size_t reached = 0;
	unsigned k;
	for (size_t i = 0; i < n; i += k) {
		double from = b->single ? start_over(best, i, reached) : best[i].score;
		bool alone = false;
		uint32_t node = 0;
		utf8_cp(w + i, &k);
		for (size_t j = i; j < n; j++) {
			const struct merge_slot *m = bpe_merge_find(b, node, w[j]);
			if (!m)
				break;
			node = m->id;
			uint32_t id = b->leaf[node];
			if (id == NO_ID)
				continue;
			offer(b, &best[j + 1], from, b->score[id], j + 1 - i, id);
			reached = j + 1 > reached ? j + 1 : reached;
			alone |= j + 1 - i == k;
		}
		if (alone)
			continue;
		offer(b, &best[i + k], from, b->unk_score, k, b->unk);
		reached = i + k > reached ? i + k : reached;
	}
}

/* A run of unknown characters: bytes, or the unknown token; a text that happens to be a token is that. */
static void unknown(struct tok_scratch *s, size_t lo, size_t hi)
{
	const struct bpe *b = &s->t->bpe;
	const uint8_t *w = (const uint8_t *)s->v.buf;
	uint32_t id = bpe_find(b, s->v.buf + lo, hi - lo);
	if (id != NO_ID && !b->single) {
		model_emit(s, id, lo, hi);
		return;
	}
	bool bytes = true;
	for (size_t i = lo; i < hi && bytes; i++)
		bytes = b->fallback[w[i]] != NO_ID;
	if (!bytes) {
		if (b->unk != NO_ID)
			model_emit(s, b->unk, lo, hi);
		return;
	}
	for (size_t i = lo; i < hi; i++)
		model_emit(s, b->fallback[w[i]], lo, hi);
}

void unigram_word(struct tok_scratch *s, size_t lo, size_t n)
{
	const struct bpe *b = &s->t->bpe;
	s->best = tok_grow(s->best, &s->best_cap, n + 1, sizeof *s->best);
	struct best *best = s->best;
	memset(best, 0, (n + 1) * sizeof *best);
	forward(b, best, (const uint8_t *)s->v.buf + lo, n);
	/* turn the way around: best[i].len becomes the length of the token that starts at i */
	uint32_t len = 0, id = 0;
	for (size_t i = n;;) {
		struct best at = best[i];
		best[i].len = len;
		best[i].id = id;
		if (!i)
			break;
		len = at.len;
		id = at.id;
		i -= len;
	}
	for (size_t i = 0; i < n;) {
		size_t from = i;
		id = best[i].id;
		i += best[i].len;
		if (id != b->unk) {
			model_emit(s, id, lo + from, lo + i);
			continue;
		}
		while (i < n && best[i].id == b->unk)
			i += best[i].len;
		unknown(s, lo + from, lo + i);
	}
}
