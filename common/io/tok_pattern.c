/*
 * tok_pattern.c - the patterns of Split and Replace: a string, or a regex by PCRE2
 *
 * Pitfalls: PCRE2's \s has U+180E, which the reference lacks; patterns get an explicit class instead.  And its Unicode may be
 * older than the reference's (14 in Debian 12), so that categories lack what later versions added: that is added to them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Members of category `kind` (one or two letters) that PCRE2's Unicode may not know */
static void put_since(FILE *out, const char *kind, int n)
{
	for (size_t i = 0; i < tok_uni_since_n; i++)
		if (!strncmp(tok_uni_since[i].kind, kind, (size_t)n))
			fprintf(out, "\\x{%x}-\\x{%x}", tok_uni_since[i].lo, tok_uni_since[i].hi);
}

/* The pattern with \s and \S spelled out and categories \p{..} made complete; -1 when a class holds \S, which has no such spelling. */
static int spell(const char *re, FILE *out)
{
	static const char set[] = "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"
				  "\\x{202f}\\x{205f}\\x{3000}";
	bool in = false;
	for (const char *p = re; *p; p++) {
		int n = 0; /* of \p{..} */
		char kind[3];
		if (*p == '\\' && (p[1] == 's' || p[1] == 'S')) {
			if (in && p[1] == 'S')
				return -1;
			fprintf(out, in ? "%s" : p[1] == 's' ? "[%s]" : "[^%s]", set);
			p++;
		} else if (sscanf(p, "\\p{%2[A-Za-z]}%n", kind, &n) == 1 && n) {
			fprintf(out, in ? "\\p{%s}" : "[\\p{%s}", kind);
			put_since(out, kind, n - 4);
			fputs(in ? "" : "]", out);
			p += n - 1;
		} else {
			if (*p == '[' && !in)
				in = true;
			else if (*p == ']' && in)
				in = false;
			fputc(*p, out);
			if (*p == '\\' && p[1])
				fputc(*++p, out);
		}
	}
	return 0;
}

/* The reference's engine lets ^ and $ match at lines, hence MULTILINE. */
int pattern_compile(struct pattern *p, const char *pattern, const char *path, const char *part, struct err *e)
{
	char *re = NULL;
	size_t len;
	FILE *out = open_memstream(&re, &len);
	int rc = 0, code;
	PCRE2_SIZE at;
	if (!out)
		return err_set(e, EXIT_FAIL, "%s: %s: no memory", path, part);
	bool spelled = !spell(pattern, out);
	if (fclose(out) || !re)
		rc = err_set(e, EXIT_FAIL, "%s: %s: no memory", path, part);
	else if (!spelled)
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
