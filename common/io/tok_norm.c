/*
 * tok_norm.c - UTF-8 checks, code point classes, NFC
 *
 * NFC is run only on the stretches that can change: every code point below U+0300 is stable and joins nothing before
 * it, so a stretch starts at the last such code point before one from U+0300 on, and ends before the next.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

uint8_t tok_class_bmp[0x10000];

static bool in_ranges(const struct tok_range *r, size_t n, uint32_t cp)
{
	size_t lo = 0, hi = n;
	while (lo < hi) {
		size_t m = (lo + hi) / 2;
		if (cp > r[m].hi)
			lo = m + 1;
		else
			hi = m;
	}
	return lo < n && cp >= r[lo].lo;
}

/* Bit 31 asks for numbers beyond \p{N} too. */
enum tok_class tok_class_high(uint32_t cp)
{
	uint32_t c = cp & 0x7FFFFFFF;
	if (cp >> 31 && in_ranges(tok_uni_numeric_more, tok_uni_numeric_more_n, c))
		return TC_NUMERIC_MORE;
	if (in_ranges(tok_uni_letter, tok_uni_letter_n, c))
		return TC_LETTER;
	return in_ranges(tok_uni_number, tok_uni_number_n, c) ? TC_NUMBER : TC_OTHER;
}

static void fill(const struct tok_range *r, size_t n, enum tok_class c)
{
	for (size_t i = 0; i < n && r[i].lo < 0x10000; i++)
		memset(tok_class_bmp + r[i].lo, (int)c, (r[i].hi > 0xFFFF ? 0xFFFF : r[i].hi) - r[i].lo + 1);
}

static void init_once(void)
{
	fill(tok_uni_letter, tok_uni_letter_n, TC_LETTER);
	fill(tok_uni_number, tok_uni_number_n, TC_NUMBER);
	fill(tok_uni_space, tok_uni_space_n, TC_SPACE);
}

void tok_unicode_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, init_once);
}

bool tok_is_word(uint32_t cp)
{
	if (cp < 0x80)
		return (cp >= '0' && cp <= '9') || ((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z') || cp == '_';
	if (cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9))
		return true;
	switch (utf8proc_category((utf8proc_int32_t)cp)) {
	case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM:
	case UTF8PROC_CATEGORY_LO: case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME:
	case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_PC:
		return true;
	default:
		return false;
	}
}

size_t utf8_prev(const uint8_t *p, size_t i)
{
	do
		i--;
	while (i && (p[i] & 0xC0) == 0x80);
	return i;
}

int utf8_put(char *dst, uint32_t cp)
{
	if (cp < 0x80) {
		dst[0] = (char)cp;
		return 1;
	}
	int n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
	for (int i = n - 1; i > 0; i--, cp >>= 6)
		dst[i] = (char)(0x80 | (cp & 0x3F));
	dst[0] = (char)((0xF00 >> n & 0xFF) | cp);
	return n;
}

size_t utf8_valid(const uint8_t *p, size_t n, size_t *bad)
{
	size_t i = 0;
	*bad = 0;
	while (i < n) {
		uint64_t w;
		while (n - i >= 8 && (memcpy(&w, p + i, 8), !(w & 0x8080808080808080u)))
			i += 8;
		if (i == n)
			break;
		uint8_t c = p[i];
		if (c < 0x80) {
			i++;
			continue;
		}
		/* allowed range of the second byte keeps out overlong forms, surrogates and beyond U+10FFFF */
		int more = c >= 0xC2 && c <= 0xDF ? 1 : c >= 0xE0 && c <= 0xEF ? 2 : c >= 0xF0 && c <= 0xF4 ? 3 : 0;
		uint8_t lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
		size_t k = 1;
		for (; (int)k <= more && i + k < n && p[i + k] >= lo && p[i + k] <= hi; k++)
			lo = 0x80, hi = 0xBF;
		if (!more || (int)k <= more) {
			*bad = k;
			return i;
		}
		i += k;
	}
	return n;
}

/* Lead bytes from 0xCC on begin U+0300 and above. */
static bool may_change(uint8_t c)
{
	return c >= 0xCC;
}

static void put_place(struct tok_scratch *s, size_t from, size_t to, int64_t lo, int64_t hi, bool exact)
{
	for (size_t k = from; k < to; k++) {
		s->at_lo[k] = exact ? lo + (int64_t)(k - from) : lo;
		s->at_hi[k] = exact ? lo + (int64_t)(k - from) + 1 : hi;
	}
}

static void work_reserve(struct tok_scratch *s, size_t n, bool places)
{
	s->work = tok_grow(s->work, &s->work_cap, n + 1, 1);
	if (!places)
		return;
	size_t cap = s->at_cap;
	s->at_lo = tok_grow(s->at_lo, &cap, n, sizeof *s->at_lo);
	s->at_hi = tok_grow(s->at_hi, &s->at_cap, n, sizeof *s->at_hi);
}

size_t nfc_run(struct tok_scratch *s, const char *text, size_t n, int64_t base, bool places)
{
	const uint8_t *p = (const uint8_t *)text;
	size_t i = 0, o = 0;
	while (i < n) {
		size_t q = i;
		while (q < n && !may_change(p[q]))
			q++;
		size_t keep = q < n && q > i ? utf8_prev(p, q) : q;   /* the last stable one may compose with what follows */
		size_t stop = q;
		while (stop < n && (may_change(p[stop]) || (p[stop] & 0xC0) == 0x80))
			stop++;
		work_reserve(s, o + (keep - i), places);
		memcpy(s->work + o, p + i, keep - i);
		if (places)
			put_place(s, o, o + (keep - i), base + (int64_t)i, 0, true);
		o += keep - i;
		if (stop > keep) {
			utf8proc_uint8_t *r = NULL;
			utf8proc_ssize_t len = utf8proc_map(p + keep, (utf8proc_ssize_t)(stop - keep), &r,
							    UTF8PROC_STABLE | UTF8PROC_COMPOSE);
			const uint8_t *src = len < 0 ? p + keep : r;   /* it fails on no valid text; keep it then */
			size_t k = len < 0 ? stop - keep : (size_t)len;
			bool same = k == stop - keep && !memcmp(src, p + keep, k);
			work_reserve(s, o + k, places);
			memcpy(s->work + o, src, k);
			if (places)
				put_place(s, o, o + k, base + (int64_t)keep, base + (int64_t)stop, same);
			o += k;
			free(r);
		}
		i = stop;
	}
	work_reserve(s, o, places);
	s->work[o] = 0;
	return o;
}

char *nfc_new(const char *p, size_t n, size_t *len)
{
	struct tok_scratch s = { 0 };
	*len = nfc_run(&s, p, n, 0, false);
	return s.work;
}
