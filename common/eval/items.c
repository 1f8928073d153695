/*
 * items.c - reading items: JSON lines, errors with their line
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "items.h"
#include "../base/outfile.h"
#include "../io/artifact.h"
#include "../io/text.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_FILE = INT32_MAX };

char *items_file_new(const char *path, size_t *n, char digest[33], struct err *e)
{
	struct stat st;
	if (!stat(path, &st) && S_ISDIR(st.st_mode)) {
		err_set(e, EXIT_DATA, "%s: is a directory, expected a file of items", path);
		return NULL;
	}
	char *text = file_read_new(path, MAX_FILE, n, e);
	if (text)
		digest_hex(text, *n, digest);
	return text;
}

static int add_line(struct items *it, const char *line, size_t n, int64_t number, struct err *e)
{
	json_error_t je;
	json_t *item = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
	if (!item)
		return err_set(e, EXIT_DATA, "not JSON: %s (column %d)", je.text, je.column);
	if (!json_is_object(item)) {
		json_decref(item);
		return err_set(e, EXIT_DATA, "expected an object with the fields of an item");
	}
	if (it->n >= it->cap) {
		it->cap = it->cap ? 2 * it->cap : 64;
		it->v = xrealloc(it->v, (size_t)it->cap, sizeof *it->v);
		it->line = xrealloc(it->line, (size_t)it->cap, sizeof *it->line);
	}
	it->line[it->n] = number;
	it->v[it->n++] = item;
	return 0;
}

int items_parse(struct items *it, const char *text, size_t n, const char *path, int64_t limit, struct err *e)
{
	const char *end = text + n, *eol;
	int64_t number = 1;
	int rc = 0;
	for (const char *line = text; line < end && !rc; line = eol + 1, number++) {
		eol = memchr(line, '\n', (size_t)(end - line));
		if (!eol)
			eol = end;
		if (!text_rstrip(line, (size_t)(eol - line)))
			continue;
		it->n_file++;
		if ((!limit || it->n < limit) && add_line(it, line, (size_t)(eol - line), number, e))
			rc = err_wrap(e, "%s:%lld", path, (long long)number);
	}
	if (!rc && !it->n)
		rc = err_set(e, EXIT_DATA, "%s: no items", path);
	return rc;
}

int items_read(struct items *it, const char *path, int64_t limit, struct err *e)
{
	size_t n;
	*it = (struct items){ 0 };
	char *text = items_file_new(path, &n, it->digest, e);
	int rc = text ? items_parse(it, text, n, path, limit, e) : -1;
	free(text);
	return rc;
}

void items_free(struct items *it)
{
	for (int64_t i = 0; i < it->n; i++)
		json_decref(it->v[i]);
	free(it->v);
	free(it->line);
	*it = (struct items){ 0 };
}
