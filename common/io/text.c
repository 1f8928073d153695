/*
 * text.c - measures of UTF-8 text
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "text.h"
#include "../base/base.h"
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

size_t text_lstrip(const char *s, size_t n)
{
	size_t i = 0;
	for (size_t k; i < n && is_space(next(s, n, i, &k)); i += k)
		;
	return i;
}

/* Characters whose title case is more than one character (SpecialCasing.txt) */
static const struct {
	int32_t c, to[3];
} titles[] = {
	{ 0xdf, { 0x53, 0x73 } }, { 0x149, { 0x2bc, 0x4e } }, { 0x1f0, { 0x4a, 0x30c } },
	{ 0x390, { 0x399, 0x308, 0x301 } }, { 0x3b0, { 0x3a5, 0x308, 0x301 } }, { 0x587, { 0x535, 0x582 } },
	{ 0x1e96, { 0x48, 0x331 } }, { 0x1e97, { 0x54, 0x308 } }, { 0x1e98, { 0x57, 0x30a } },
	{ 0x1e99, { 0x59, 0x30a } }, { 0x1e9a, { 0x41, 0x2be } }, { 0x1f50, { 0x3a5, 0x313 } },
	{ 0x1f52, { 0x3a5, 0x313, 0x300 } }, { 0x1f54, { 0x3a5, 0x313, 0x301 } }, { 0x1f56, { 0x3a5, 0x313, 0x342 } },
	{ 0x1fb2, { 0x1fba, 0x345 } }, { 0x1fb4, { 0x386, 0x345 } }, { 0x1fb6, { 0x391, 0x342 } },
	{ 0x1fb7, { 0x391, 0x342, 0x345 } }, { 0x1fc2, { 0x1fca, 0x345 } }, { 0x1fc4, { 0x389, 0x345 } },
	{ 0x1fc6, { 0x397, 0x342 } }, { 0x1fc7, { 0x397, 0x342, 0x345 } }, { 0x1fd2, { 0x399, 0x308, 0x300 } },
	{ 0x1fd3, { 0x399, 0x308, 0x301 } }, { 0x1fd6, { 0x399, 0x342 } }, { 0x1fd7, { 0x399, 0x308, 0x342 } },
	{ 0x1fe2, { 0x3a5, 0x308, 0x300 } }, { 0x1fe3, { 0x3a5, 0x308, 0x301 } }, { 0x1fe4, { 0x3a1, 0x313 } },
	{ 0x1fe6, { 0x3a5, 0x342 } }, { 0x1fe7, { 0x3a5, 0x308, 0x342 } }, { 0x1ff2, { 0x1ffa, 0x345 } },
	{ 0x1ff4, { 0x38f, 0x345 } }, { 0x1ff6, { 0x3a9, 0x342 } }, { 0x1ff7, { 0x3a9, 0x342, 0x345 } },
	{ 0xfb00, { 0x46, 0x66 } }, { 0xfb01, { 0x46, 0x69 } }, { 0xfb02, { 0x46, 0x6c } },
	{ 0xfb03, { 0x46, 0x66, 0x69 } }, { 0xfb04, { 0x46, 0x66, 0x6c } }, { 0xfb05, { 0x53, 0x74 } },
	{ 0xfb06, { 0x53, 0x74 } }, { 0xfb13, { 0x544, 0x576 } }, { 0xfb14, { 0x544, 0x565 } },
	{ 0xfb15, { 0x544, 0x56b } }, { 0xfb16, { 0x54e, 0x576 } }, { 0xfb17, { 0x544, 0x56d } }
};

static char *put(char *p, int32_t c)
{
	return p + utf8proc_encode_char(c, (utf8proc_uint8_t *)p);
}

static char *put_title(char *p, int32_t c)
{
	for (size_t i = 0; i < sizeof titles / sizeof *titles; i++)
		if (titles[i].c == c) {
			for (int k = 0; k < 3 && titles[i].to[k]; k++)
				p = put(p, titles[i].to[k]);
			return p;
		}
	return put(p, utf8proc_totitle(c));
}

/* Letters with case, and characters between letters that do not end a word (Unicode 3.13, D135 and D136) */
static int cased(int32_t c)
{
	return utf8proc_tolower(c) != c || utf8proc_toupper(c) != c || utf8proc_totitle(c) != c;
}

static int case_ignorable(int32_t c)
{
	const utf8proc_property_t *p = utf8proc_get_property(c);
	return p->category == UTF8PROC_CATEGORY_MN || p->category == UTF8PROC_CATEGORY_ME ||
	       p->category == UTF8PROC_CATEGORY_CF || p->category == UTF8PROC_CATEGORY_LM ||
	       p->category == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' || c == 0xb7 || c == 0x2018 ||
	       c == 0x2019 || c == 0x2024 || c == 0x2027;
}

/* Sigma at s[i] ends a word: a letter before it, none after it. */
static int final_sigma(const char *s, size_t n, size_t i)
{
	size_t at = 0, k;
	int before = 0;
	for (; at < i; at += k) {
		int32_t c = next(s, n, at, &k);
		before = case_ignorable(c) ? before : cased(c);
	}
	for (at = i + 2; at < n; at += k) {
		int32_t c = next(s, n, at, &k);
		if (!case_ignorable(c))
			return before && !cased(c);
	}
	return before;
}

char *text_capitalize_new(const char *s, size_t n, size_t *len)
{
	char *out = xmalloc(3 * n + 8), *p = out;
	for (size_t i = 0, k; i < n; i += k) {
		int32_t c = next(s, n, i, &k);
		if (c < 0)
			*p++ = s[i];
		else if (!i)
			p = put_title(p, c);
		else if (c == 0x130)
			p = put(put(p, 'i'), 0x307);
		else if (c == 0x3a3)
			p = put(p, final_sigma(s, n, i) ? 0x3c2 : 0x3c3);
		else
			p = put(p, utf8proc_tolower(c));
	}
	*p = 0;
	*len = (size_t)(p - out);
	return out;
}
