/*
 * extract.h - answers found in what a model wrote, and compared, as lm-evaluation-harness's regex filter and exact_match do
 *
 *	extract   "NAME first|last REGEX": of all matches the first or the last; where the regex has several groups, the first
 *	          that is not empty; white space off both ends; "[invalid]" when there is no match
 *	exact     all matches of each `ignore` regex are taken out of both texts, in turn; equal up to ASCII case
 *
 * Regexes are Python's as far as PCRE2 has them: . matches all but \n, $ also before a last \n.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_EXTRACT_H
#define ADZE_EXTRACT_H
#include "../base/base.h"

struct extractor;
/* spec as above; NULL with the reason in e. */
struct extractor *extractor_new(const char *spec, struct err *e);
void extractor_free(struct extractor *f);
const char *extractor_name(const struct extractor *f);
/* NUL-terminated; the caller frees.  Only a regex of the user can fail, by its match limit. */
char *extract_new(const struct extractor *f, const char *text, size_t n, struct err *e);

/* 1 equal, 0 not, -1 error.  ignore: up to max regexes, the list ends at NULL. */
int exact_match(const char *a, const char *b, const char *const *ignore, int max, struct err *e);
#endif
