/*
 * pyliteral.h - a Python literal as JSON: lists, dicts with string keys, strings, whole numbers, True, False, None
 *
 * RACE keeps its questions as the repr() of a list.  Depth is limited; anything else is refused with its place.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_PYLITERAL_H
#define ADZE_PYLITERAL_H
#include "../base/base.h"
#include <jansson.h>

json_t *pyliteral_read(const char *s, size_t n, struct err *e); /* a new reference, NULL on error */
#endif
