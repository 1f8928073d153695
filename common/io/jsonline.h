/*
 * jsonline.h - one string field out of a line of JSON, for lines that are flat objects
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_JSONLINE_H
#define ADZE_JSONLINE_H
#include <stdbool.h>
#include <stddef.h>

struct jbuf;
/* True: the line is an object of strings, numbers and words, each key once, all of it well-formed, and *out is the string called
 * `field`.  False: anything else, right or wrong; the caller's parser decides. */
bool json_line_field(const char *line, size_t n, const char *field, struct jbuf *out);
#endif
