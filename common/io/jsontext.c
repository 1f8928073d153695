/*
 * jsontext.c - JSON writer whose numbers look like the ones that were read: 1e-05, not 1.0000000000000001e-05
 *
 * Recursion is as deep as the value, which the parser bounds (2048).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "jsontext.h"
#include "../base/base.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static void put_real(FILE *f, double v)
{
	char s[40];

	if (v == floor(v) && fabs(v) < 1e15) {
		fprintf(f, "%.1f", v);
		return;
	}
	for (int digits = 1; digits <= 17; digits++) {
		snprintf(s, sizeof s, "%.*g", digits, v);
		if (strtod(s, NULL) == v)
			break;
	}
	/* "1e+20" has no point, yet stays a real when it is read again */
	fprintf(f, "%s", s);
}

static void put_string(FILE *f, const char *s, size_t n)
{
	json_t *j = json_stringn(s, n);
	char *t = j ? json_dumps(j, JSON_ENCODE_ANY) : NULL;

	fputs(t ? t : "\"\"", f);
	free(t);
	json_decref(j);
}

static void newline(FILE *f, int indent, int depth)
{
	if (indent)
		fprintf(f, "\n%*s", indent * depth, "");
}

static void put(FILE *f, const json_t *j, int indent, int depth)
{
	const char *key;
	json_t *v;
	size_t i, n = 0;

	switch (json_typeof(j)) {
	case JSON_OBJECT:
		fputc('{', f);
		json_object_foreach((json_t *)j, key, v) {
			if (n++)
				fputs(indent ? "," : ", ", f);
			newline(f, indent, depth + 1);
			put_string(f, key, strlen(key));
			fputs(": ", f);
			put(f, v, indent, depth + 1);
		}
		if (n)
			newline(f, indent, depth);
		fputc('}', f);
		return;
	case JSON_ARRAY:
		fputc('[', f);
		json_array_foreach(j, i, v) {
			if (i)
				fputs(indent ? "," : ", ", f);
			newline(f, indent, depth + 1);
			put(f, v, indent, depth + 1);
		}
		if (json_array_size(j))
			newline(f, indent, depth);
		fputc(']', f);
		return;
	case JSON_STRING:
		put_string(f, json_string_value(j), json_string_length(j));
		return;
	case JSON_INTEGER:
		fprintf(f, "%lld", (long long)json_integer_value(j));
		return;
	case JSON_REAL:
		put_real(f, json_real_value(j));
		return;
	case JSON_TRUE:
		fputs("true", f);
		return;
	case JSON_FALSE:
		fputs("false", f);
		return;
	case JSON_NULL:
		fputs("null", f);
		return;
	}
}

char *json_text_new(const json_t *j, int indent)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	if (!f)
		die(EXIT_RESOURCE, "out of memory");
	put(f, j, indent, 0);
	fputc('\n', f);
	if (fclose(f))
		die(EXIT_RESOURCE, "out of memory");
	return text;
}

void json_put_string(FILE *f, const char *s, size_t n)
{
	fputc('"', f);
	for (size_t i = 0; i < n;) {
		utf8proc_int32_t c;
		utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &c);
		if (k < 1) {
			fputs("\\ufffd", f);
			i++;
		} else if (c == '"' || c == '\\') {
			fprintf(f, "\\%c", (char)c);
			i++;
		} else if (c < 32 || c == 127) {
			fprintf(f, "\\u%04x", (unsigned)c);
			i++;
		} else {
			fwrite(s + i, 1, (size_t)k, f);
			i += (size_t)k;
		}
	}
	fputc('"', f);
}
