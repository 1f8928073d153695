/*
 * jsonline.c - the fast way through JSON lines of text
 *
 * Building a DOM of each line takes as long as tokenizing it.  Most lines are flat objects with one long string, which is
 * copied out here in one pass; whatever this file does not know for sure to be right is left to the full parser.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "jsonline.h"
#include "tok_impl.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { KEYS = 16, KEY = 64 };

/* A string that the full parser takes as well: no bare control characters, valid UTF-8 once unescaped */
static bool string(struct jbuf *b, const char **p, const char *end)
{
	const char *from = *p;
	size_t bad;
	if (js_string(b, p, end))
		return false;
	for (const char *q = from; q < *p; q++)
		if ((uint8_t)*q < ' ')
			return false;
	utf8_valid((uint8_t *)b->s, b->n, &bad);
	return !bad;
}

/* -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?, of few digits */
static bool number(const char **p, const char *end)
{
	const char *q = *p, *from;
	q += q < end && *q == '-';
	for (from = q; q < end && isdigit((uint8_t)*q); q++)
		;
	if (q == from || q - from > 15 || (*from == '0' && q - from > 1))
		return false;
	if (q < end && *q == '.') {
		for (from = ++q; q < end && isdigit((uint8_t)*q); q++)
			;
		if (q == from)
			return false;
	}
	if (q < end && (*q == 'e' || *q == 'E'))
		return false;          /* may overflow */
	*p = q;
	return true;
}

static bool word(const char **p, const char *end)
{
	static const char *const words[] = { "true", "false", "null" };
	for (int i = 0; i < 3; i++) {
		size_t n = strlen(words[i]);
		if ((size_t)(end - *p) >= n && !memcmp(*p, words[i], n)) {
			*p += n;
			return true;
		}
	}
	return false;
}

static bool blank_to(const char **p, const char *end, char c)
{
	json_space(p, end);
	return *p < end && *(*p)++ == c;
}

/* Members up to the closing brace; *found says whether the field was one. */
static bool members(const char **p, const char *end, const char *field, struct jbuf *out, struct jbuf *tmp, bool *found)
{
	char key[KEYS][KEY];
	for (int n = 0; n < KEYS; n++) {
		json_space(p, end);
		if (!string(tmp, p, end) || tmp->n >= KEY || memchr(tmp->s, 0, tmp->n))
			return false;
		memcpy(key[n], tmp->s, tmp->n);
		key[n][tmp->n] = 0;
		for (int i = 0; i < n; i++)
			if (!strcmp(key[i], key[n]))
				return false;
		if (!blank_to(p, end, ':'))
			return false;
		json_space(p, end);
		bool wanted = !strcmp(key[n], field);
		bool ok = *p < end && (**p == '"' ? string(wanted ? out : tmp, p, end) : !wanted && (number(p, end) || word(p, end)));
		*found |= ok && wanted;
		json_space(p, end);
		if (!ok || *p >= end)
			return false;
		if (*(*p)++ != ',')
			return (*p)[-1] == '}';
	}
	return false;
}

bool json_line_field(const char *line, size_t n, const char *field, struct jbuf *out)
{
	const char *p = line, *end = line + n;
	struct jbuf tmp = { 0 };
	bool found = false, ok = blank_to(&p, end, '{') && members(&p, end, field, out, &tmp, &found);
	free(tmp.s);
	json_space(&p, end);
	return ok && found && p == end;
}
