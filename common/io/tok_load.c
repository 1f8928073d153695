/*
 * tok_load.c - reads the vocabulary of tokenizer.json: {"token": id, ...}, of Unigram [["token", score], ...]; merges: tok_merges.c
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

/* Printable ASCII: every byte is its own character */
static bool own_bytes(const struct tok_entry *x)
{
	uint32_t i = 0;
	while (i < x->spell_len && x->spell[i] > ' ' && x->spell[i] < 0x7F)
		i++;
	return i == x->spell_len;
}

void tok_fill_bytes(struct tokenizer *t)
{
	for (uint32_t id = 0; id < t->bpe.n_ids; id++) {
		struct tok_entry *x = &t->bpe.tok[id];
		if (!x->spell)
			continue;
		if (t->bpe.kind == MODEL_BYTES && own_bytes(x)) {
			x->bytes = x->spell;
			x->bytes_len = x->spell_len;
			continue;
		}
		char *raw = arena_alloc(&t->text, x->spell_len + 1);
		x->bytes_len = t->bpe.kind == MODEL_BYTES ? to_bytes(x->spell, x->spell_len, raw) : chars_to_bytes(x, raw);
		x->bytes = raw;
	}
}

/* Room for the ids ahead, so that tok_set_entry does not grow the table one by one: "a":1 is the shortest, room that is not used
 * costs nothing. */
static void reserve_ids(struct bpe *b, const char *p, const char *end)
{
	size_t n = (size_t)(end - p) / 5 + 1;
	b->n_ids = n > MAX_ID ? MAX_ID : (uint32_t)n;
	b->tok = xcalloc((size_t)b->n_ids + 1, sizeof *b->tok);
}

static int load_vocab(struct tokenizer *t, const char *p, const char *end, struct err *e)
{
	struct jbuf k = { 0 };
	uint32_t top = 0, n = 0;
	int rc = -1;
	if (p == end || *p++ != '{')
		return broken(t, "vocab", e);
	reserve_ids(&t->bpe, p, end);
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

int tok_load_vocab(struct tokenizer *t, const struct json_cut *c, struct err *e)
{
	if (!c->vocab || !c->merges)
		return err_set(e, EXIT_DATA, "%s: model has no %s", t->path, c->vocab ? "merges" : "vocab");
	struct merges m;
	merges_read(&m, c->merges, c->merges_end);
	int rc = load_vocab(t, c->vocab, c->vocab_end, e);
	if (!rc) {
		bpe_index_vocab(&t->bpe);
		rc = merges_add(&m, &t->bpe, t->path, e);
	}
	if (!rc)
		bpe_finish(&t->bpe);
	merges_free(&m);
	return rc;
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
	reserve_ids(b, p, end);
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
