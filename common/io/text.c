/*
 * text.c - measures of UTF-8 text
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "text.h"
#include <utf8proc.h>

/* str.isspace() of Python, which is also \s of its regular expressions. */
static int is_space(int32_t c)
{
	return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
	       (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Code point at s[i] and the bytes it takes. */
static int32_t next(const char *s, size_t n, size_t i, size_t *len)
{
	utf8proc_int32_t c;
	utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &c);
	*len = k > 0 ? (size_t)k : 1;
	return k > 0 ? c : -1;
}

int64_t utf8_check(const char *s, size_t n)
{
	for (size_t i = 0, k; i < n; i += k)
		if (next(s, n, i, &k) < 0)
			return (int64_t)i;
	return -1;
}

int64_t text_codepoints(const char *s, size_t n)
{
	int64_t c = 0;
	for (size_t i = 0; i < n; i++)
		c += ((unsigned char)s[i] & 0xc0) != 0x80;
	return c;
}

int64_t text_words(const char *s, size_t n)
{
	int64_t words = 1;
	int in_space = 0;
	for (size_t i = 0, k; i < n; i += k) {
		int space = is_space(next(s, n, i, &k));
		words += space && !in_space;
		in_space = space;
	}
	return words;
}

size_t text_rstrip(const char *s, size_t n)
{
	while (n > 0) {
		size_t i = n - 1, k;
		while (i > 0 && ((unsigned char)s[i] & 0xc0) == 0x80)
			i--;
		if (!is_space(next(s, n, i, &k)) || i + k != n)
			break;
		n = i;
	}
	return n;
}
