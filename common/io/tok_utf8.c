/*
 * tok_utf8.c - UTF-8 checks and code point classes
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <pthread.h>
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
	return in_ranges(tok_uni_word, tok_uni_word_n, cp);
}

bool tok_is_punct(uint32_t cp)
{
	return in_ranges(tok_uni_punct, tok_uni_punct_n, cp);
}

uint32_t tok_lower(uint32_t cp)
{
	for (size_t i = 0; i < tok_uni_lower_n && cp >= tok_uni_lower[0].lo; i++)
		if (tok_uni_lower[i].lo == cp)
			return tok_uni_lower[i].hi;
	return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

bool tok_in_forms(uint32_t cp)
{
	return in_ranges(tok_uni_forms, tok_uni_forms_n, cp);
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
