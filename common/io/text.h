/*
 * text.h - measures of UTF-8 text as Python takes them: code points, white space, words
 *
 * White space is str.isspace(), which is also \s of Python's regular expressions; re.split(r"\s+") gives one piece more
 * than there are runs of it.  Except for utf8_check the text must be valid.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TEXT_H
#define ADZE_TEXT_H
#include <stddef.h>
#include <stdint.h>

int utf8_put(char *dst, uint32_t cp);            /* a valid code point; bytes written, at most 4 */
int64_t utf8_check(const char *s, size_t n);      /* -1: valid; else the offset of the first bad byte */
int64_t text_codepoints(const char *s, size_t n);
int64_t text_words(const char *s, size_t n);      /* runs of white space + 1 */
size_t text_rstrip(const char *s, size_t n);      /* length without white space at the end */
size_t text_lstrip(const char *s, size_t n);      /* length of white space at the start */
/* str.capitalize(): the first character in title case, all others in lower case.  The caller frees. */
char *text_capitalize_new(const char *s, size_t n, size_t *len);
#endif
