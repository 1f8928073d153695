/*
 * tok_pattern.c - the patterns of Split and Replace: a string, or a regex by PCRE2
 *
 * Pitfall: PCRE2's \s has U+180E, which the reference lacks; patterns get an explicit class instead.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <stdlib.h>
#include <string.h>

/* The pattern with \s and \S spelled out; -1 when a class holds \S, which has no such spelling. */
static int spell_space(const char *re, char *out)
{
	static const char set[] = "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"
				  "\\x{202f}\\x{205f}\\x{3000}";
	bool in = false;
	for (const char *p = re; *p; p++) {
		if (*p == '\\' && (p[1] == 's' || p[1] == 'S')) {
			if (in && p[1] == 'S')
				return -1;
			out += sprintf(out, in ? "%s" : p[1] == 's' ? "[%s]" : "[^%s]", set);
			p++;
			continue;
		}
		if (*p == '[' && !in)
			in = true;
		else if (*p == ']' && in)
			in = false;
		*out++ = *p;
		if (*p == '\\' && p[1])
			*out++ = *++p;
	}
	*out = 0;
	return 0;
}

/* The reference's engine lets ^ and $ match at lines, hence MULTILINE. */
int pattern_compile(struct pattern *p, const char *pattern, const char *path, const char *part, struct err *e)
{
	char *re = xmalloc(strlen(pattern) * 64 + 1);
	int rc = 0, code;
	PCRE2_SIZE at;
	if (spell_space(pattern, re))
		rc = err_set(e, EXIT_DATA, "%s: %s: \\S inside a class is not supported: %s", path, part, pattern);
	uint32_t flags = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE;
	if (!rc && !(p->re = pcre2_compile((PCRE2_SPTR)re, PCRE2_ZERO_TERMINATED, flags, &code, &at, NULL))) {
		PCRE2_UCHAR msg[128];
		pcre2_get_error_message(code, msg, sizeof msg);
		rc = err_set(e, EXIT_DATA, "%s: %s: %s in regex %s", path, part, (const char *)msg, pattern);
	}
	free(re);
	if (!rc)
		pcre2_jit_compile(p->re, PCRE2_JIT_COMPLETE);  /* without JIT the interpreter does it */
	return rc;
}

int pattern_find(const struct pattern *p, pcre2_match_data **md, const char *text, size_t lo, size_t hi, size_t at, size_t *mlo,
		 size_t *mhi, struct err *e)
{
	if (!p->re) {
		const char *f = at < hi ? memmem(text + at, hi - at, p->literal, p->literal_len) : NULL;
		if (!f)
			return 0;
		*mlo = (size_t)(f - text);
		*mhi = *mlo + p->literal_len;
		return 1;
	}
	if (!*md)
		*md = pcre2_match_data_create(1, NULL);
	int rc = pcre2_match(p->re, (PCRE2_SPTR)text + lo, hi - lo, at - lo, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, *md, NULL);
	if (rc == PCRE2_ERROR_NOMATCH)
		return 0;
	if (rc < 0) {
		PCRE2_UCHAR msg[128];
		pcre2_get_error_message(rc, msg, sizeof msg);
		return err_set(e, EXIT_FAIL, "the tokenizer's regex failed on this text: %s", (const char *)msg);
	}
	const PCRE2_SIZE *ov = pcre2_get_ovector_pointer(*md);
	*mlo = lo + ov[0];
	*mhi = lo + ov[1];
	return 1;
}

void pattern_free(struct pattern *p)
{
	pcre2_code_free(p->re);
	free(p->literal);
	*p = (struct pattern){ 0 };
}
