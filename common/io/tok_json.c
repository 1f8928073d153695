/*
 * tok_json.c - finds "vocab" and "merges" in the text of tokenizer.json
 *
 * These two hold nearly all of the file, and building a DOM of them costs more than everything else together.  So
 * they are cut out here and read as flat lists (tok_load_vocab), and the DOM is made of the rest.  The scanner knows
 * just enough JSON to step over values; what it cuts is checked when it is read.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <stdlib.h>
#include <string.h>

void json_space(const char **p, const char *end)
{
	while (*p < end && (**p == ' ' || **p == '\n' || **p == '\t' || **p == '\r'))
		++*p;
}

static int hex4(const char *p, const char *end, uint32_t *v)
{
	*v = 0;
	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = p[i];
		int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
		if (d < 0)
			return -1;
		*v = *v << 4 | (uint32_t)d;
	}
	return 0;
}

/* After "\u": the code point, a surrogate pair joined. */
static int escape_u(const char **p, const char *end, uint32_t *cp)
{
	uint32_t lo;
	if (hex4(*p, end, cp))
		return -1;
	*p += 4;
	if (*cp >= 0xD800 && *cp < 0xDC00) {
		if (end - *p < 6 || (*p)[0] != '\\' || (*p)[1] != 'u' || hex4(*p + 2, end, &lo) || lo < 0xDC00 || lo > 0xDFFF)
			return -1;
		*cp = 0x10000 + ((*cp - 0xD800) << 10) + (lo - 0xDC00);
		*p += 6;
	}
	return *cp >= 0xDC00 && *cp < 0xE000 ? -1 : 0;
}

int js_string(struct jbuf *b, const char **p, const char *end)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *q = *p;
	json_space(&q, end);
	if (q >= end || *q++ != '"')
		return -1;
	b->n = 0;
	while (q < end && *q != '"') {
		const char *run = q;
		while (q < end && *q != '"' && *q != '\\')
			q++;
		size_t n = (size_t)(q - run);
		if (b->cap < b->n + n + 8)
			b->s = tok_grow(b->s, &b->cap, b->n + n + 8, 1);
		memcpy(b->s + b->n, run, n);
		b->n += n;
		if (q >= end || *q == '"')
			break;
		if (++q >= end)
			return -1;
		const char *f;
		uint32_t cp;
		if (*q == 'u') {
			q++;
			if (escape_u(&q, end, &cp))
				return -1;
			b->n += (size_t)utf8_put(b->s + b->n, cp);
		} else if (*q && (f = strchr(from, *q++))) {
			b->s[b->n++] = to[f - from];
		} else {
			return -1;
		}
	}
	if (q >= end)
		return -1;
	b->s = tok_grow(b->s, &b->cap, b->n + 1, 1);
	b->s[b->n] = 0;
	*p = q + 1;
	return 0;
}

/* Past the string at *p, without reading it. */
static int skip_string(const char **p, const char *end)
{
	for (const char *q = *p + 1; q < end; q++) {
		if (*q == '\\')
			q++;
		else if (*q == '"') {
			*p = q + 1;
			return 0;
		}
	}
	return -1;
}

/* Past the value at *p: brackets are counted, not matched by kind. */
static int skip_value(const char **p, const char *end)
{
	static const bool marks[256] = { ['"'] = true, ['{'] = true, ['['] = true, ['}'] = true, [']'] = true };
	int64_t depth = 0;
	json_space(p, end);
	while (*p < end) {
		char c = **p;
		if (c == '"') {
			if (skip_string(p, end))
				return -1;
		} else if (c == '{' || c == '[') {
			depth++;
			++*p;
		} else if (c == '}' || c == ']') {
			if (depth == 0)
				return 0;
			depth--;
			++*p;
		} else if (depth == 0) {
			if (c == ',')
				return 0;
			++*p;
			continue;
		} else {               /* blanks, numbers and commas of what is inside */
			const char *q = *p;
			while (q < end && !marks[(uint8_t)*q])
				q++;
			*p = q;
			continue;
		}
		if (depth == 0)
			return 0;
	}
	return -1;
}

/* Calls for each member of the object at *p; the callback goes past the value. */
static int members(const char **p, const char *end, int (*member)(void *, const char *, const char **, const char *), void *arg)
{
	struct jbuf key = { 0 };
	int rc = -1;
	json_space(p, end);
	if (*p >= end || *(*p)++ != '{')
		return -1;
	for (json_space(p, end); *p < end && **p != '}';) {
		if (js_string(&key, p, end))
			goto out;
		json_space(p, end);
		if (*p >= end || *(*p)++ != ':')
			goto out;
		json_space(p, end);
		if (member(arg, key.s, p, end))
			goto out;
		json_space(p, end);
		if (*p < end && **p == ',')
			++*p;
		json_space(p, end);
	}
	if (*p < end) {
		++*p;
		rc = 0;
	}
out:
	free(key.s);
	return rc;
}

static int model_member(void *arg, const char *key, const char **p, const char *end)
{
	struct json_cut *c = arg;
	const char *v = *p;
	if (skip_value(p, end))
		return -1;
	if (!strcmp(key, "vocab")) {
		c->vocab = v;
		c->vocab_end = *p;
	} else if (!strcmp(key, "merges")) {
		c->merges = v;
		c->merges_end = *p;
	}
	return 0;
}

static int top_member(void *arg, const char *key, const char **p, const char *end)
{
	return strcmp(key, "model") ? skip_value(p, end) : members(p, end, model_member, arg);
}

int json_cut_model(const char *s, size_t n, struct json_cut *c)
{
	*c = (struct json_cut){ 0 };
	return members(&s, s + n, top_member, c);
}
