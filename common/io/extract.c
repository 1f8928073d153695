/*
 * extract.c - regexes over what a model wrote
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "extract.h"
#include "text.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct extractor {
	char name[64];
	int last;
	pcre2_code *re;
};

static pcre2_code *compile(const char *regex, struct err *e)
{
	int code;
	PCRE2_SIZE at;
	pcre2_compile_context *c = pcre2_compile_context_create(NULL);
	pcre2_set_newline(c, PCRE2_NEWLINE_LF);
	pcre2_code *re = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, c);
	pcre2_compile_context_free(c);
	if (!re) {
		PCRE2_UCHAR msg[128];
		pcre2_get_error_message(code, msg, sizeof msg);
		err_set(e, EXIT_DATA, "%s in regex %s", (const char *)msg, regex);
	}
	return re;
}

struct extractor *extractor_new(const char *spec, struct err *e)
{
	struct extractor f = { 0 };
	char which[8];
	int at = 0;
	if (sscanf(spec, "%63s %7s %n", f.name, which, &at) != 2 || !at || !spec[at] ||
	    (strcmp(which, "first") && strcmp(which, "last"))) {
		err_set(e, EXIT_DATA, "'%s': expected NAME first|last REGEX", spec);
		return NULL;
	}
	f.last = !strcmp(which, "last");
	f.re = compile(spec + at, e);
	if (!f.re)
		return NULL;
	struct extractor *p = xmalloc(sizeof *p);
	*p = f;
	return p;
}

void extractor_free(struct extractor *f)
{
	if (f)
		pcre2_code_free(f->re);
	free(f);
}

const char *extractor_name(const struct extractor *f)
{
	return f->name;
}

/* The next match at or after `at`: 1 found, 0 none, -1 error */
static int find(const pcre2_code *re, pcre2_match_data *md, const char *text, size_t n, size_t at, struct err *e)
{
	int rc = at > n ? PCRE2_ERROR_NOMATCH : pcre2_match(re, (PCRE2_SPTR)text, n, at, 0, md, NULL);
	if (rc == PCRE2_ERROR_NOMATCH)
		return 0;
	if (rc >= 0)
		return 1;
	PCRE2_UCHAR msg[128];
	pcre2_get_error_message(rc, msg, sizeof msg);
	return err_set(e, EXIT_DATA, "regex: %s", (const char *)msg);
}

/* Where to look after a match: behind it, at the next character when it is empty */
static size_t after(const pcre2_match_data *md, const char *text, size_t n)
{
	const PCRE2_SIZE *v = pcre2_get_ovector_pointer((pcre2_match_data *)(uintptr_t)md);
	size_t at = v[1];
	if (v[1] > v[0])
		return at;
	for (at++; at < n && ((unsigned char)text[at] & 0xc0) == 0x80;)
		at++;
	return at;
}

char *extract_new(const struct extractor *f, const char *text, size_t n, struct err *e)
{
	pcre2_match_data *md = pcre2_match_data_create_from_pattern(f->re, NULL);
	const PCRE2_SIZE *v = pcre2_get_ovector_pointer(md);
	const uint32_t groups = pcre2_get_ovector_count(md);
	size_t at = 0, lo = 0, hi = 0;
	int rc, found = 0;
	while ((rc = find(f->re, md, text, n, at, e)) > 0) {
		uint32_t g = groups > 1 ? 1 : 0;
		while (g + 1 < groups && (v[2 * g] == PCRE2_UNSET || v[2 * g] == v[2 * g + 1]))
			g++;
		/* one group: whatever it holds; several: one that holds something */
		found = v[2 * g] != PCRE2_UNSET && (groups <= 2 || v[2 * g] < v[2 * g + 1]);
		lo = found ? v[2 * g] : 0;
		hi = found ? v[2 * g + 1] : 0;
		if (!f->last)
			break;
		at = after(md, text, n);
	}
	pcre2_match_data_free(md);
	if (rc < 0)
		return NULL;
	if (!found)
		return xstrdup("[invalid]");
	size_t len = text_rstrip(text + lo, hi - lo), skip = text_lstrip(text + lo, len);
	char *out = xmalloc(len - skip + 1);
	memcpy(out, text + lo + skip, len - skip);
	out[len - skip] = 0;
	return out;
}

/* s without all matches; NULL on error.  Takes s. */
static char *without(char *s, const char *regex, struct err *e)
{
	pcre2_code *re = s ? compile(regex, e) : NULL;
	if (!re) {
		free(s);
		return NULL;
	}
	pcre2_match_data *md = pcre2_match_data_create_from_pattern(re, NULL);
	const PCRE2_SIZE *v = pcre2_get_ovector_pointer(md);
	size_t n = strlen(s), at = 0, done = 0, len = 0;
	char *out = xmalloc(n + 1);
	int rc;
	while ((rc = find(re, md, s, n, at, e)) > 0) {
		memcpy(out + len, s + done, v[0] - done);
		len += v[0] - done;
		done = v[1];
		at = after(md, s, n);
	}
	memcpy(out + len, s + done, n - done);
	out[len + n - done] = 0;
	pcre2_match_data_free(md);
	pcre2_code_free(re);
	free(s);
	if (rc < 0) {
		free(out);
		return NULL;
	}
	return out;
}

int exact_match(const char *a, const char *b, const char *const *ignore, int max, struct err *e)
{
	char *x = xstrdup(a), *y = xstrdup(b);
	for (int i = 0; i < max && ignore[i]; i++) {
		x = without(x, ignore[i], e);
		y = without(y, ignore[i], e);
	}
	int rc = !x || !y ? -1 : !strcasecmp(x, y);
	free(x);
	free(y);
	return rc;
}
