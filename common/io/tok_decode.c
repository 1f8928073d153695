/*
 * tok_decode.c - ids to text: a list of token texts through the decoders, then joined
 *
 * ByteLevel alone, the common case, joins the bytes of all tokens.  Otherwise each decoder turns one list of texts into
 * the next, in one buffer of texts and a list of their ends.  Without a decoder the tokens are joined by spaces, as in the
 * reference.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <stdlib.h>
#include <string.h>

struct texts {                 /* text i is p[end[i-1], end[i]) */
	char *p;
	size_t n, cap;
	size_t *end;
	size_t count, end_cap;
};

static void put(struct texts *x, const char *s, size_t n)
{
	x->p = tok_grow(x->p, &x->cap, x->n + n + 1, 1);
	memcpy(x->p + x->n, s, n);
	x->n += n;
}

static void finish(struct texts *x)
{
	x->end = tok_grow(x->end, &x->end_cap, x->count + 1, sizeof *x->end);
	x->end[x->count++] = x->n;
}

static const char *text_at(const struct texts *x, size_t i, size_t *n)
{
	size_t lo = i ? x->end[i - 1] : 0;
	*n = x->end[i] - lo;
	return x->p + lo;
}

/* U+FFFD for each ill-formed part. */
static void put_lossy(struct texts *x, const char *s, size_t n)
{
	size_t bad = 0;
	for (size_t i = 0; i < n; i += bad) {
		size_t ok = utf8_valid((const uint8_t *)s + i, n - i, &bad);
		put(x, s + i, ok);
		i += ok;
		if (!bad)
			break;
		put(x, "\xef\xbf\xbd", 3);
	}
}

/* Bytes of a text of byte characters; the text itself when one of them is none. */
static void put_bytes(struct texts *x, const char *s, size_t n)
{
	size_t from = x->n;
	unsigned k;
	for (size_t i = 0; i < n; i += k) {
		int b = char_byte(utf8_cp((const uint8_t *)s + i, &k));
		char c = (char)b;
		if (b < 0) {
			x->n = from;
			put(x, s, n);
			return;
		}
		put(x, &c, 1);
	}
}

static int byte_of(const char *s, size_t n)
{
	unsigned v;
	char end;
	if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>' || !strchr("0123456789abcdefABCDEF", s[3]))
		return -1;
	return sscanf(s + 3, "%2x%c", &v, &end) == 2 && end == '>' ? (int)v : -1;
}

/* A run of bytes: text when it is valid, else U+FFFD for each byte. */
static void flush_bytes(struct texts *out, struct texts *run)
{
	size_t bad;
	if (!run->n)
		return;
	utf8_valid((const uint8_t *)run->p, run->n, &bad);
	if (!bad) {
		put(out, run->p, run->n);
		finish(out);
	}
	for (size_t i = 0; i < run->n && bad; i++) {
		put(out, "\xef\xbf\xbd", 3);
		finish(out);
	}
	run->n = 0;
}

static void fallback(const struct texts *in, struct texts *out)
{
	struct texts run = { 0 };
	for (size_t i = 0; i < in->count; i++) {
		size_t n;
		const char *s = text_at(in, i, &n);
		int b = byte_of(s, n);
		char c = (char)b;
		if (b >= 0) {
			put(&run, &c, 1);
			continue;
		}
		flush_bytes(out, &run);
		put(out, s, n);
		finish(out);
	}
	flush_bytes(out, &run);
	free(run.p);
}

static void replace(const struct deco *d, struct texts *out, const char *s, size_t n)
{
	pcre2_match_data *md = NULL;
	size_t at = 0, lo, hi;
	while (pattern_find(&d->find, &md, s, 0, n, at, &lo, &hi, NULL) == 1) {
		put(out, s + at, lo - at);
		put(out, d->text, d->text_n);
		at = hi;
	}
	put(out, s + at, n - at);
	pcre2_match_data_free(md);
}

static void strip(const struct deco *d, struct texts *out, const char *s, size_t n)
{
	for (int64_t i = 0; i < d->start && n >= d->text_n && !memcmp(s, d->text, d->text_n); i++) {
		s += d->text_n;
		n -= d->text_n;
	}
	for (int64_t i = 0; i < d->stop && n >= d->text_n && !memcmp(s + n - d->text_n, d->text, d->text_n); i++)
		n -= d->text_n;
	put(out, s, n);
}

static void metaspace(const struct deco *d, struct texts *out, const char *s, size_t n, bool first)
{
	for (size_t i = 0; i < n;) {
		bool mark = n - i >= d->text_n && !memcmp(s + i, d->text, d->text_n);
		if (!mark)
			put(out, s + i, 1);
		else if (!first || !d->start)
			put(out, " ", 1);
		i += mark ? d->text_n : 1;
	}
}

static void decode_step(const struct deco *d, const struct texts *in, struct texts *out)
{
	struct texts all = { 0 };
	if (d->kind == DECO_BYTE_FALLBACK) {
		fallback(in, out);
		return;
	}
	for (size_t i = 0; i < in->count; i++) {
		size_t n;
		const char *s = text_at(in, i, &n);
		if (d->kind == DECO_BYTE_LEVEL)
			put_bytes(&all, s, n);
		else if (d->kind == DECO_FUSE)
			put(out, s, n);
		else if (d->kind == DECO_REPLACE)
			replace(d, out, s, n);
		else if (d->kind == DECO_STRIP)
			strip(d, out, s, n);
		else
			metaspace(d, out, s, n, !i);
		if (d->kind != DECO_BYTE_LEVEL && d->kind != DECO_FUSE)
			finish(out);
	}
	if (d->kind == DECO_BYTE_LEVEL)
		put_lossy(out, all.p ? all.p : "", all.n);
	if (d->kind == DECO_BYTE_LEVEL || d->kind == DECO_FUSE)
		finish(out);
	free(all.p);
}

static void texts_free(struct texts *x)
{
	free(x->p);
	free(x->end);
}

char *tok_decode_new(const struct tokenizer *t, const uint32_t *ids, int64_t n, bool skip_special, size_t *len)
{
	struct texts a = { 0 }, b = { 0 };
	bool bytes = t->n_decos == 1 && t->deco[0].kind == DECO_BYTE_LEVEL;
	for (int64_t i = 0; i < n; i++) {
		const struct tok_entry *x = ids[i] < t->bpe.n_ids ? &t->bpe.tok[ids[i]] : NULL;
		if (!x || !x->spell || (skip_special && x->special))
			continue;
		if (bytes && t->bpe.kind == MODEL_BYTES) {
			put(&a, x->bytes, x->bytes_len);
			continue;
		}
		if (!t->n_decos && a.count)
			put(&a, " ", 1);
		put(&a, x->spell, x->spell_len);
		finish(&a);
	}
	if (bytes && t->bpe.kind == MODEL_BYTES) {
		put_lossy(&b, a.p ? a.p : "", a.n);
	} else {
		for (int i = 0; i < t->n_decos; i++) {
			b.n = b.count = 0;
			decode_step(&t->deco[i], &a, &b);
			struct texts swap = a;
			a = b;
			b = swap;
		}
		struct texts swap = a;
		a = b;
		b = swap;
	}
	put(&b, "", 0);
	b.p[b.n] = 0;
	*len = b.n;
	texts_free(&a);
	free(b.end);
	return b.p;
}
