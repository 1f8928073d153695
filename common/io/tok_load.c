/*
 * tok_load.c - reads the two large parts of tokenizer.json: the vocabulary and the merges
 *
 * vocab is {"token": id, ...}, of Unigram [["token", score], ...]; merges is ["a b", ...] or, since tokenizers 0.20, [["a", "b"], ...]; both may occur.
 * A merge's rank is its place in the list; its result is the token spelled left+right, which must exist.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ID = 1 << 24 };     /* far above any vocabulary; keeps a hostile id from asking for memory */

static int broken(const struct tokenizer *t, const char *what, struct err *e)
{
	return err_set(e, EXIT_DATA, "%s: model.%s is not readable", t->path, what);
}

/* Raw bytes behind a spelling: its characters mapped back, or the text itself when one is no byte's character. */
static uint32_t to_bytes(const char *spell, size_t n, char *dst)
{
	size_t k = 0;
	unsigned len;
	for (size_t i = 0; i < n; i += len) {
		int b = char_byte(utf8_cp((const uint8_t *)spell + i, &len));
		if (b < 0) {
			memcpy(dst, spell, n);
			return (uint32_t)n;
		}
		dst[k++] = (char)b;
	}
	return (uint32_t)k;
}

void tok_set_entry(struct tokenizer *t, uint32_t id, const char *spell, size_t n)
{
	struct bpe *b = &t->bpe;
	if (id >= b->n_ids) {
		b->tok = xrealloc(b->tok, (size_t)id + 1, sizeof *b->tok);
		memset(b->tok + b->n_ids, 0, (id + 1 - b->n_ids) * sizeof *b->tok);
		b->n_ids = id + 1;
	}
	char *s = arena_alloc(&t->text, n + 1);
	memcpy(s, spell, n);
	b->tok[id] = (struct tok_entry){ .spell = s, .spell_len = (uint32_t)n };
}

/* What a token of characters stands for: U+2581 is a space, <0xXX> a byte. */
static uint32_t chars_to_bytes(const struct tok_entry *x, char *dst)
{
	uint32_t k = 0;
	unsigned byte;
	char end;
	if (x->spell_len == 6 && sscanf(x->spell, "<0x%02X%c", &byte, &end) == 2 && end == '>') {
		dst[0] = (char)byte;
		return 1;
	}
	for (uint32_t i = 0; i < x->spell_len; i++) {
		bool mark = x->spell_len - i >= 3 && !memcmp(x->spell + i, "\xe2\x96\x81", 3);
		dst[k++] = mark ? ' ' : x->spell[i];
		i += mark ? 2 : 0;
	}
	return k;
}

void tok_fill_bytes(struct tokenizer *t)
{
	for (uint32_t id = 0; id < t->bpe.n_ids; id++) {
		struct tok_entry *x = &t->bpe.tok[id];
		if (!x->spell)
			continue;
		char *raw = arena_alloc(&t->text, x->spell_len + 1);
		x->bytes_len = t->bpe.kind == MODEL_BYTES ? to_bytes(x->spell, x->spell_len, raw) : chars_to_bytes(x, raw);
		x->bytes = raw;
	}
}

/* Room for the ids ahead, so that tok_set_entry does not grow the table one by one. */
static void reserve_ids(struct bpe *b, const char *p, const char *end, char each)
{
	uint32_t n = 0;
	for (const char *q = p; q < end; q++)
		n += *q == each;       /* at least one a token */
	n = n > MAX_ID ? MAX_ID : n;
	b->tok = xcalloc((size_t)n + 1, sizeof *b->tok);
	b->n_ids = n;
}

static int load_vocab(struct tokenizer *t, const char *p, const char *end, struct err *e)
{
	struct jbuf k = { 0 };
	uint32_t top = 0, n = 0;
	int rc = -1;
	if (p == end || *p++ != '{')
		return broken(t, "vocab", e);
	reserve_ids(&t->bpe, p, end, ':');
	for (json_space(&p, end); p < end && *p != '}';) {
		char *stop;
		size_t bad;
		if (js_string(&k, &p, end) || (utf8_valid((uint8_t *)k.s, k.n, &bad), bad))
			goto out;
		json_space(&p, end);
		if (p >= end || *p++ != ':')
			goto out;
		long long id = strtoll(p, &stop, 10);
		if (stop == p || stop > end || id < 0 || id >= MAX_ID)
			goto out;
		p = stop;
		tok_set_entry(t, (uint32_t)id, k.s, k.n);
		top = (uint32_t)id + 1 > top ? (uint32_t)id + 1 : top;
		n++;
		json_space(&p, end);
		if (p < end && *p == ',')
			p++;
		json_space(&p, end);
	}
	t->bpe.n_ids = top;
	rc = p < end && n ? 0 : -1;
out:
	free(k.s);
	return rc ? broken(t, "vocab", e) : 0;
}

/* "a b" or ["a", "b"] into *l = "ab" with *cut = length of a. */
static int read_merge(struct jbuf *l, struct jbuf *r, size_t *cut, const char **p, const char *end)
{
	if (**p != '[') {
		if (js_string(l, p, end))
			return -1;
		char *space = memchr(l->s, ' ', l->n);
		if (!space || memchr(space + 1, ' ', l->n - (size_t)(space + 1 - l->s)))
			return -1;
		*cut = (size_t)(space - l->s);
		memmove(space, space + 1, --l->n - *cut);
		return 0;
	}
	++*p;
	if (js_string(l, p, end))
		return -1;
	json_space(p, end);
	if (*p >= end || *(*p)++ != ',' || js_string(r, p, end))
		return -1;
	json_space(p, end);
	if (*p >= end || *(*p)++ != ']')
		return -1;
	*cut = l->n;
	l->s = tok_grow(l->s, &l->cap, l->n + r->n + 1, 1);
	memcpy(l->s + l->n, r->s, r->n);
	l->n += r->n;
	return 0;
}

static int load_merges(struct tokenizer *t, const char *p, const char *end, struct err *e)
{
	struct bpe *b = &t->bpe;
	struct jbuf l = { 0 }, r = { 0 };
	size_t cut, n = 0;
	uint32_t rank = 0;
	int rc = -1;
	if (p == end || *p++ != '[')
		return broken(t, "merges", e);
	for (const char *q = p; q < end; q++)
		n += *q == '"';        /* two quotes a merge at least */
	bpe_merges_init(b, n / 2);
	for (json_space(&p, end); p < end && *p != ']'; rank++) {
		if (read_merge(&l, &r, &cut, &p, end)) {
			broken(t, "merges", e);
			goto out;
		}
		uint32_t left = bpe_find(b, l.s, cut), right = bpe_find(b, l.s + cut, l.n - cut);
		uint32_t id = bpe_find(b, l.s, l.n);
		if (left == NO_ID || right == NO_ID || id == NO_ID) {
			err_set(e, EXIT_DATA, "%s: merge %u (\"%.*s\" + \"%.*s\") names a token that is not in the vocabulary",
				t->path, rank, (int)cut, l.s, (int)(l.n - cut), l.s + cut);
			goto out;
		}
		bpe_merge_add(b, left, right, rank, id);
		json_space(&p, end);
		if (p < end && *p == ',')
			p++;
		json_space(&p, end);
	}
	rc = p < end ? 0 : broken(t, "merges", e);
out:
	free(l.s);
	free(r.s);
	return rc;
}

int tok_load_vocab(struct tokenizer *t, const struct json_cut *c, struct err *e)
{
	if (!c->vocab || !c->merges)
		return err_set(e, EXIT_DATA, "%s: model has no %s", t->path, c->vocab ? "merges" : "vocab");
	if (load_vocab(t, c->vocab, c->vocab_end, e))
		return -1;
	bpe_index_vocab(&t->bpe);
	if (load_merges(t, c->merges, c->merges_end, e))
		return -1;
	bpe_finish(&t->bpe);
	return 0;
}

/* One ["token", score] of Unigram. */
static int read_scored(struct jbuf *k, double *score, const char **p, const char *end)
{
	char *stop;
	if (*p >= end || *(*p)++ != '[' || js_string(k, p, end))
		return -1;
	json_space(p, end);
	if (*p >= end || *(*p)++ != ',')
		return -1;
	*score = strtod(*p, &stop);
	if (stop == *p || stop > end || !isfinite(*score))
		return -1;
	*p = stop;
	json_space(p, end);
	return *p < end && *(*p)++ == ']' ? 0 : -1;
}

int tok_load_unigram(struct tokenizer *t, const struct json_cut *c, struct err *e)
{
	struct bpe *b = &t->bpe;
	struct jbuf k = { 0 };
	const char *p = c->vocab, *end = c->vocab_end;
	uint32_t n = 0;
	size_t bytes = 0, bad;
	double low = INFINITY;
	if (!p || p == end || *p++ != '[')
		return broken(t, "vocab", e);
	reserve_ids(b, p, end, '[');
	b->score = xcalloc((size_t)b->n_ids + 1, sizeof *b->score);
	for (json_space(&p, end); p < end && *p == '['; n++) {
		double score;
		if (n >= b->n_ids || read_scored(&k, &score, &p, end) || (utf8_valid((uint8_t *)k.s, k.n, &bad), bad))
			break;
		tok_set_entry(t, n, k.s, k.n);
		b->score[n] = score;
		low = score < low ? score : low;
		bytes += k.n;
		json_space(&p, end);
		if (p < end && *p == ',')
			p++;
		json_space(&p, end);
	}
	free(k.s);
	if (p >= end || *p != ']' || !n)
		return broken(t, "vocab", e);
	b->n_ids = n;
	b->unk_score = low - 10;
	bpe_index_vocab(b);
	unigram_start(b, bytes);
	for (uint32_t id = 0; id < n; id++)
		unigram_add(b, b->tok[id].spell, b->tok[id].spell_len, id);
	return 0;
}
