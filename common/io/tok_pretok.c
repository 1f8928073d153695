/*
 * tok_pretok.c - cuts text into the words that BPE sees
 *
 * A pipeline of steps; each cuts its piece and hands the parts on, so no list of words is ever built.  The patterns
 * that nearly every model uses (GPT-2, Llama-3, Qwen2, and single digits) are scanned by hand over our own class
 * tables; any other regex goes through PCRE2.  A step sees only its own piece: white space before a digit that an
 * earlier step cut off is at the end of its piece, hence stays whole (\s+(?!\S) succeeds there).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <string.h>

int pretok_next(struct tok_scratch *s, int next, size_t lo, size_t hi)
{
	if (lo == hi)
		return 0;
	if (next < s->t->n_steps && s->t->step[next].kind != STEP_BYTES)
		return pretok_run(s, next, lo, hi);
	bpe_text(s, lo, hi);
	return 0;
}

/* End of the run of class c that starts at p. */
static inline const uint8_t *run(const uint8_t *p, const uint8_t *end, enum tok_class c)
{
	unsigned k;
	while (p < end && utf8_class(p, &k) == c)
		p += k;
	return p;
}

/* White space from p up to q (the end of the run): what \s+(?!\S)|\s+ takes of it. */
static inline const uint8_t *space_word(const uint8_t *p, const uint8_t *q, const uint8_t *end)
{
	if (q == end)
		return q;
	const uint8_t *last = p + utf8_prev(p, (size_t)(q - p));
	return last > p ? last : q;
}

/* 's|'t|'re|'ve|'m|'ll|'d after an apostrophe at p; fold: any case, with U+017F for s.  0: none. */
static inline size_t contraction(const uint8_t *p, const uint8_t *end, bool fold)
{
	if (end - p < 2)
		return 0;
	unsigned a = p[1], b = end - p > 2 ? p[2] : 0;
	if (fold && a == 0xC5 && b == 0xBF)
		return 3;
	if (fold) {
		a |= a < 0x80 ? 0x20 : 0;
		b |= b < 0x80 ? 0x20 : 0;
	}
	if (a == 's' || a == 't' || a == 'm' || a == 'd')
		return 2;
	return (b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l') ? 3 : 0;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static const uint8_t *next_gpt2(const uint8_t *p, const uint8_t *end)
{
	unsigned k;
	enum tok_class c = utf8_class(p, &k);
	if (*p == '\'') {
		size_t n = contraction(p, end, false);
		if (n)
			return p + n;
	}
	if (c != TC_SPACE)
		return run(p + k, end, c);
	if (*p == ' ' && end - p > 1) {
		unsigned k2;
		enum tok_class c2 = utf8_class(p + 1, &k2);
		if (c2 != TC_SPACE)
			return run(p + 1 + k2, end, c2);
	}
	return space_word(p, run(p + k, end, TC_SPACE), end);
}

/* The same without the mark that numbers keep apart in Llama-3 and Qwen2:
 * (?i:'s|..)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static const uint8_t *next_llama3(const uint8_t *p, const uint8_t *end, int digits)
{
	unsigned k, k2 = 0;
	enum tok_class c = utf8_class(p, &k), c2 = TC_SPACE;
	if (*p == '\'') {
		size_t n = contraction(p, end, true);
		if (n)
			return p + n;
	}
	if (c == TC_LETTER)
		return run(p + k, end, TC_LETTER);
	if (c == TC_NUMBER) {
		for (p += k; --digits && p < end && utf8_class(p, &k) == TC_NUMBER; p += k)
			;
		return p;
	}
	if (p + k < end)
		c2 = utf8_class(p + k, &k2);
	if (c2 == TC_LETTER && k2 && *p != '\r' && *p != '\n')
		return run(p + k + k2, end, TC_LETTER);
	if (c == TC_OTHER || (*p == ' ' && k2 && c2 == TC_OTHER)) {
		const uint8_t *q = run(p + k, end, TC_OTHER);
		while (q < end && (*q == '\r' || *q == '\n'))
			q++;
		return q;
	}
	const uint8_t *q = run(p + k, end, TC_SPACE);
	for (const uint8_t *r = q; r > p; r--)
		if (r[-1] == '\r' || r[-1] == '\n')
			return r;
	return space_word(p, q, end);
}

static int by_scanner(struct tok_scratch *s, int i, size_t lo, size_t hi)
{
	const uint8_t *base = (const uint8_t *)s->v.buf, *p = base + lo, *end = base + hi;
	enum step_kind kind = s->t->step[i].kind;
	if (kind == STEP_GPT2) {
		for (const uint8_t *q; p < end; p = q) {
			q = next_gpt2(p, end);
			bpe_word(s, (size_t)(p - base), (size_t)(q - base));
		}
		return 0;
	}
	int digits = kind == STEP_LLAMA3 ? 3 : 1;
	for (const uint8_t *q; p < end; p = q) {
		q = next_llama3(p, end, digits);
		if (pretok_next(s, i + 1, (size_t)(p - base), (size_t)(q - base)))
			return -1;
	}
	return 0;
}

static inline bool numeric(const uint8_t *p, unsigned *k)
{
	enum tok_class c = utf8_class(p, k);
	if (*k == 4 && c == TC_OTHER)
		c = tok_class_high(utf8_cp(p, k) | 1u << 31);
	return c == TC_NUMBER || c == TC_NUMERIC_MORE;
}

/* Digits: each one alone, or in runs. */
static int by_digits(struct tok_scratch *s, int i, size_t lo, size_t hi)
{
	bool alone = s->t->step[i].how == SPLIT_ISOLATED;
	const uint8_t *b = (const uint8_t *)s->v.buf;
	size_t at = lo;
	unsigned k;
	while (at < hi) {
		size_t q = at;
		while (q < hi && !numeric(b + q, &k))
			q += k;
		if (pretok_next(s, i + 1, at, q))
			return -1;
		for (at = q; at < hi && numeric(b + at, &k);) {
			at += k;
			if (alone) {
				if (pretok_next(s, i + 1, q, at))
					return -1;
				q = at;
			}
		}
		if (pretok_next(s, i + 1, q, at))
			return -1;
	}
	return 0;
}

/* Next match of the step at or after `at`: 1, 0 none, -1 error. */
static int find_match(struct tok_scratch *s, int i, size_t lo, size_t hi, size_t at, size_t *mlo, size_t *mhi)
{
	const struct step *st = &s->t->step[i];
	const uint8_t *p = (const uint8_t *)s->v.buf;
	unsigned k;
	if (st->kind == STEP_SPLIT)
		return pattern_find(&st->find, &s->md, s->v.buf, lo, hi, at, mlo, mhi, s->e);
	while (at < hi && !tok_is_punct(utf8_cp(p + at, &k)))
		at += k;
	*mlo = at;
	*mhi = at + (at < hi ? k : 0);
	return at < hi;
}

/* Joins pieces as the behaviour says; they lie in order and cover [lo, hi).  Returns how many remain. */
static size_t behave(const struct step *st, struct piece *v, size_t n)
{
	size_t k = 0;
	if (st->how == SPLIT_NEXT) {     /* from the right: a match joins what follows, unless that is a match */
		size_t w = n;
		bool was = false;
		for (size_t i = n; i-- > 0;) {
			if (v[i].match && !was && w < n)
				v[w].lo = v[i].lo;
			else
				v[--w] = v[i];
			was = v[i].match;
		}
		memmove(v, v + w, (n - w) * sizeof *v);
		return n - w;
	}
	bool was = false;
	for (size_t i = 0; i < n; i++) {
		bool m = v[i].match, join = false;
		if (st->how == SPLIT_REMOVED && m)
			continue;
		if (st->how == SPLIT_PREVIOUS)
			join = m && !was && k;
		if (st->how == SPLIT_CONTIGUOUS)
			join = k && m == was;
		if (join)
			v[k - 1].hi = v[i].hi;
		else
			v[k++] = v[i];
		was = m;
	}
	return k;
}

static void piece_add(struct tok_scratch *s, int i, size_t *n, size_t lo, size_t hi, bool match)
{
	if (lo == hi)
		return;
	s->piece[i] = tok_grow(s->piece[i], &s->piece_cap[i], *n + 1, sizeof **s->piece);
	s->piece[i][(*n)++] = (struct piece){ .lo = lo, .hi = hi, .match = match != s->t->step[i].invert };
}

static int by_split(struct tok_scratch *s, int i, size_t lo, size_t hi)
{
	size_t n = 0, at = lo, mlo = hi, mhi = hi;
	int rc;
	while ((rc = find_match(s, i, lo, hi, at, &mlo, &mhi)) == 1) {
		piece_add(s, i, &n, at, mlo, false);
		piece_add(s, i, &n, mlo, mhi, true);
		at = mhi;
	}
	if (rc < 0)
		return -1;
	piece_add(s, i, &n, at, hi, false);
	n = behave(&s->t->step[i], s->piece[i], n);
	for (size_t k = 0; k < n; k++)
		if (pretok_next(s, i + 1, s->piece[i][k].lo, s->piece[i][k].hi))
			return -1;
	return 0;
}

int pretok_run(struct tok_scratch *s, int i, size_t lo, size_t hi)
{
	switch (s->t->step[i].kind) {
	case STEP_DIGITS:
		return by_digits(s, i, lo, hi);
	case STEP_SPLIT:
	case STEP_PUNCT:
		return by_split(s, i, lo, hi);
	case STEP_PREFIX:
	case STEP_METASPACE:
		return step_rewrite(s, i, lo, hi);
	case STEP_WORDS:
		return step_words(s, i, lo, hi);
	case STEP_NOSPACE:
		return step_nospace(s, i, lo, hi);
	case STEP_GPT2:
	case STEP_LLAMA3:
	case STEP_QWEN2:
		return by_scanner(s, i, lo, hi);
	case STEP_BYTES:
		bpe_text(s, lo, hi);
		return 0;
	}
	BUG("pre-tokenizer step %d", (int)s->t->step[i].kind);
}
