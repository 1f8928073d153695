/*
 * pyliteral.c - recursive descent over a Python literal
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "pyliteral.h"
#include "../io/text.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 16 };
struct in {
	const char *s;
	size_t n, i;
	struct err *e;
};

static json_t *value(struct in *p, int depth);

static json_t *fail(struct in *p, const char *what)
{
	err_set(p->e, EXIT_DATA, "not a Python literal: %s at byte %zu", what, p->i);
	return NULL;
}

static int peek(struct in *p)
{
	while (p->i < p->n && (p->s[p->i] == ' ' || (p->s[p->i] >= '\t' && p->s[p->i] <= '\r')))
		p->i++;
	return p->i < p->n ? (unsigned char)p->s[p->i] : -1;
}

/* Hex digits of \x, \u, \U as a code point, -1 */
static int32_t hex(struct in *p, int digits)
{
	int64_t c = 0;
	for (int k = 0; k < digits; k++, p->i++) {
		int ch = p->i < p->n ? p->s[p->i] : 0, low = ch | 0x20;
		int digit = ch >= '0' && ch <= '9' ? ch - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
		if (digit < 0)
			return -1;
		c = c * 16 + digit;
	}
	return c <= 0x10ffff && (c < 0xd800 || c > 0xdfff) ? (int32_t)c : -1;
}

/* After a backslash; appends what it stands for, -1: nothing that we know */
static int escape(struct in *p, char **to)
{
	static const char from[] = "\\'\"abfnrtv", is[] = "\\'\"\a\b\f\n\r\t\v";
	char c = p->i < p->n ? p->s[p->i++] : 0;
	const char *at = c ? strchr(from, c) : NULL;
	if (at) {
		*(*to)++ = is[at - from];
		return 0;
	}
	int32_t cp = c == 'x' ? hex(p, 2) : c == 'u' ? hex(p, 4) : c == 'U' ? hex(p, 8) : -1;
	if (cp < 0)
		return -1;
	*to += utf8_put(*to, (uint32_t)cp);
	return 0;
}

static json_t *string(struct in *p)
{
	const char quote = p->s[p->i++];
	char *buf = xmalloc(p->n - p->i + 1), *to = buf;
	json_t *j = NULL;
	int ok = 1;
	while (ok && p->i < p->n && p->s[p->i] != quote)
		if (p->s[p->i] == '\\') {
			p->i++;
			ok = !escape(p, &to);
		} else {
			*to++ = p->s[p->i++];
		}
	if (!ok)
		fail(p, "unknown escape");
	else if (p->i >= p->n)
		fail(p, "string without end");
	else {
		p->i++;
		j = json_stringn_nocheck(buf, (size_t)(to - buf));
	}
	free(buf);
	return j;
}

/* Items between brackets; for a dict `key: value` pairs */
static json_t *group(struct in *p, int close, int depth)
{
	json_t *j = close == '}' ? json_object() : json_array();
	p->i++;
	while (peek(p) != close) {
		json_t *key = NULL, *v;
		if (close == '}') {
			int c = peek(p);
			key = c == '\'' || c == '"' ? string(p) : fail(p, "expected a string as key");
			if (key && peek(p) != ':') {
				fail(p, "expected ':'");
				json_decref(key);
				key = NULL;
			}
			if (!key)
				goto bad;
			p->i++;
		}
		v = value(p, depth + 1);
		if (v && close == '}')
			json_object_set_new_nocheck(j, json_string_value(key), v);
		else if (v)
			json_array_append_new(j, v);
		json_decref(key);
		if (!v)
			goto bad;
		if (peek(p) == ',') {
			p->i++;
		} else if (peek(p) != close) {
			fail(p, "expected ',' or the end of the list");
			goto bad;
		}
	}
	p->i++;
	return j;
bad:
	json_decref(j);
	return NULL;
}

static json_t *word(struct in *p)
{
	size_t i = p->i;
	if (p->s[i] == '-')
		i++;
	while (i < p->n && ((p->s[i] >= '0' && p->s[i] <= '9') || ((p->s[i] | 0x20) >= 'a' && (p->s[i] | 0x20) <= 'z')))
		i++;
	size_t n = i - p->i;
	char buf[24];
	int64_t v;
	if (!n || n >= sizeof buf)
		return fail(p, "unexpected character");
	memcpy(buf, p->s + p->i, n);
	buf[n] = 0;
	json_t *j = !strcmp(buf, "True") ? json_true() : !strcmp(buf, "False") ? json_false() :
		    !strcmp(buf, "None") ? json_null() : !parse_i64(buf, &v) ? json_integer(v) : fail(p, "unknown word");
	p->i = i;
	return j;
}

static json_t *value(struct in *p, int depth)
{
	int c = peek(p);
	if (depth > MAX_DEPTH)
		return fail(p, "too deep");
	if (c < 0)
		return fail(p, "no value");
	if (c == '[' || c == '{')
		return group(p, c == '[' ? ']' : '}', depth);
	return c == '\'' || c == '"' ? string(p) : word(p);
}

json_t *pyliteral_read(const char *s, size_t n, struct err *e)
{
	struct in p = { s, n, 0, e };
	json_t *j = value(&p, 0);
	if (j && peek(&p) >= 0) {
		fail(&p, "something after its end");
		json_decref(j);
		return NULL;
	}
	return j;
}
