/*
 * jsontext.h - JSON as text for people: two-space indent, key order kept, shortest numbers that read back exactly
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_JSONTEXT_H
#define ADZE_JSONTEXT_H
#include <jansson.h>
#include <stdio.h>

/* Newly allocated, ends with a newline.  indent 0: one line (still with the newline).  Free with free(). */
char *json_text_new(const json_t *j, int indent);
/* s as a JSON string, quotes included; bytes that are not UTF-8 become U+FFFD */
void json_put_string(FILE *f, const char *s, size_t n);
#endif
