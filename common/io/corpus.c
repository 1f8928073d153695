/*
 * corpus.c - documents out of text and JSONL
 *
 * Own buffered reader: it hashes what it reads (provenance) and hands out lines of any length without copying
 * more than once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "corpus.h"
#include "../base/outfile.h"
#include "filter.h"
#include "jsonline.h"
#include "tok_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct corpus {
	char *name;
	struct corpus_how how;
	int fd;
	char *buf;                 /* unread bytes are buf[lo, hi) */
	size_t lo, hi, cap;
	bool eof;
	int64_t bytes, line;
	XXH3_state_t *hash;
	json_t *doc;               /* owner of the JSONL text handed out last */
	struct filter *filter;     /* NULL: read as it is */
	struct chat_text chat;
	struct jbuf text;          /* of a plain line of JSON */
};

/* Reads more behind buf[lo, hi); 1 got some, 0 end of input. */
static int fill(struct corpus *c, struct err *e)
{
	if (c->eof)
		return 0;
	if (c->lo && (c->hi - c->lo < c->cap / 4 || c->hi == c->cap)) {
		memmove(c->buf, c->buf + c->lo, c->hi - c->lo);
		c->hi -= c->lo;
		c->lo = 0;
	}
	if (c->hi == c->cap) {
		c->cap = c->cap ? c->cap * 2 : 1 << 18;
		c->buf = xrealloc(c->buf, c->cap + 1, 1);
	}
	ssize_t n;
	do
		n = read(c->filter ? filter_fd(c->filter) : c->fd, c->buf + c->hi, c->cap - c->hi);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_sys(e, "%s: read", c->name);
	if (!n) {
		c->eof = true;
		return c->filter ? filter_end(c->filter, e) : 0;
	}
	XXH3_128bits_update(c->hash, c->buf + c->hi, (size_t)n);
	c->hi += (size_t)n;
	c->bytes += n;
	return 1;
}

/* Next line without its newline, at *p for *n bytes inside the buffer. */
static int next_line(struct corpus *c, char **p, size_t *n, struct err *e)
{
	size_t seen = 0;
	int rc;
	for (;;) {
		char *nl = memchr(c->buf + c->lo + seen, '\n', c->hi - c->lo - seen);
		if (nl) {
			*p = c->buf + c->lo;
			*n = (size_t)(nl - *p);
			c->lo += *n + 1;
			c->line++;
			return 1;
		}
		seen = c->hi - c->lo;
		if ((rc = fill(c, e)) < 0)
			return -1;
		if (!rc) {
			*p = c->buf + c->lo;
			*n = seen;
			c->lo = c->hi;
			c->line += seen > 0;
			return seen > 0;
		}
	}
}

static bool blank(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != ' ' && p[i] != '\t' && p[i] != '\r')
			return false;
	return true;
}

static int next_json(struct corpus *c, const char **text, size_t *n, struct err *e)
{
	char *p;
	size_t len;
	json_error_t je;
	int rc;
	while ((rc = next_line(c, &p, &len, e)) == 1) {
		if (blank(p, len))
			continue;
		if (!c->how.chat && json_line_field(p, len, c->how.field, &c->text)) {
			*text = c->text.s;
			*n = c->text.n;
			if (*n)
				return 1;
			continue;
		}
		json_decref(c->doc);
		c->doc = json_loadb(p, len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &je);
		if (!c->doc)
			return err_set(e, EXIT_DATA, "%s:%lld: not JSON: %s", c->name, (long long)c->line, je.text);
		if (!json_is_object(c->doc))
			return err_set(e, EXIT_DATA, "%s:%lld: not a JSON object", c->name, (long long)c->line);
		const json_t *v = json_object_get(c->doc, c->how.field);
		if (!v) {
			void *it = json_object_iter(c->doc);
			return err_set(e, EXIT_DATA, "%s:%lld: no field '%s' (the first there is '%s'; choose with --field)",
				       c->name, (long long)c->line, c->how.field, it ? json_object_iter_key(it) : "");
		}
		if (c->how.chat && chat_render(c->how.chat, v, &c->chat, e))
			return err_wrap(e, "%s:%lld: field '%s'", c->name, (long long)c->line, c->how.field);
		if (c->how.chat) {
			*text = c->chat.s;
			*n = c->chat.n;
			return 1;
		}
		if (!json_is_string(v))
			return err_set(e, EXIT_DATA, "%s:%lld: field '%s' is not a string", c->name, (long long)c->line,
				       c->how.field);
		*text = json_string_value(v);
		*n = json_string_length(v);
		if (*n)
			return 1;
	}
	return rc;
}

static int next_file(struct corpus *c, const char **text, size_t *n, struct err *e)
{
	int rc;
	while ((rc = fill(c, e)) == 1)
		;
	if (rc < 0)
		return -1;
	*text = c->buf + c->lo;
	*n = c->hi - c->lo;
	c->lo = c->hi;
	return *n > 0;
}

/* Offset of the end of the paragraph that starts at lo, or -1: not in the buffer yet.  *next = where to go on. */
static int64_t paragraph_end(const struct corpus *c, size_t *scan, size_t *next)
{
	size_t at = c->lo + *scan;      /* start of a line */
	for (;;) {
		char *nl = memchr(c->buf + at, '\n', c->hi - at);
		if (!nl && !c->eof)
			break;
		size_t end = nl ? (size_t)(nl - c->buf) : c->hi;
		if (blank(c->buf + at, end - at) && (nl || at == c->hi)) {
			*next = nl ? end + 1 : end;
			return (int64_t)at;
		}
		if (!nl) {
			*next = c->hi;
			return (int64_t)c->hi;
		}
		at = end + 1;
	}
	*scan = at - c->lo;
	return -1;
}

static int next_paragraph(struct corpus *c, const char **text, size_t *n, struct err *e)
{
	for (;;) {
		size_t scan = 0, next = 0;
		int64_t end;
		while ((end = paragraph_end(c, &scan, &next)) < 0)
			if (fill(c, e) < 0)
				return -1;
		*text = c->buf + c->lo;
		*n = (size_t)end - c->lo;
		while (*n && ((*text)[*n - 1] == '\n' || (*text)[*n - 1] == '\r'))
			--*n;
		bool last = c->eof && next >= c->hi;
		c->lo = next;
		if (*n && !blank(*text, *n))
			return 1;
		if (last)
			return 0;
	}
}

static int next_text_line(struct corpus *c, const char **text, size_t *n, struct err *e)
{
	char *p;
	int rc;
	while ((rc = next_line(c, &p, n, e)) == 1)
		if (!blank(p, *n)) {
			*text = p;
			return 1;
		}
	return rc;
}

int corpus_next(struct corpus *c, const char **text, size_t *n, struct err *e)
{
	if (c->how.format == CORPUS_JSONL)
		return next_json(c, text, n, e);
	switch (c->how.doc) {
	case CORPUS_FILE:
		return next_file(c, text, n, e);
	case CORPUS_PARAGRAPH:
		return next_paragraph(c, text, n, e);
	case CORPUS_LINE:
		return next_text_line(c, text, n, e);
	}
	BUG("corpus document kind %d", (int)c->how.doc);
}

static bool ends(const char *s, const char *tail)
{
	size_t n = strlen(s), k = strlen(tail);
	return n >= k && !strcmp(s + n - k, tail);
}

/* Packed input is read through its program from here on; what counts for provenance is the text. */
static int unpack(struct corpus *c, struct err *e)
{
	const char *program = filter_for(c->buf, c->hi);
	if (!program)
		return 0;
	c->filter = filter_start(program, c->fd, c->buf, c->hi, c->name, e);
	if (!c->filter)
		return -1;
	c->lo = c->hi = 0;
	c->bytes = 0;
	c->eof = false;
	XXH3_128bits_reset(c->hash);
	return fill(c, e) < 0 ? -1 : 0;
}

static bool named(const char *name, const char *ext)
{
	static const char *const packed[] = { "", ".gz", ".zst", ".xz", ".bz2" };
	for (size_t i = 0; i < sizeof packed / sizeof *packed; i++) {
		char tail[24];
		snprintf(tail, sizeof tail, "%s%s", ext, packed[i]);
		if (ends(name, tail))
			return true;
	}
	return false;
}

/* Looks at the first bytes: is it packed, and what AUTO means. */
static int settle(struct corpus *c, struct err *e)
{
	if (fill(c, e) < 0 || unpack(c, e))
		return -1;
	if (c->how.format != CORPUS_AUTO)
		return 0;
	if (c->how.chat || named(c->name, ".jsonl") || named(c->name, ".ndjson") || named(c->name, ".json"))
		c->how.format = CORPUS_JSONL;
	else if (named(c->name, ".txt") || named(c->name, ".md"))
		c->how.format = CORPUS_TEXT;
	else {
		size_t i = 0;
		while (i < c->hi && strchr(" \t\r\n", c->buf[i]) && c->buf[i])
			i++;
		c->how.format = i < c->hi && c->buf[i] == '{' ? CORPUS_JSONL : CORPUS_TEXT;
	}
	return 0;
}

struct corpus *corpus_open(const char *path, const struct corpus_how *how, struct err *e)
{
	bool std = !path || !strcmp(path, "-");
	int fd = std ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		err_sys(e, "%s", path);
		return NULL;
	}
	struct corpus *c = xcalloc(1, sizeof *c);
	c->name = xstrdup(std ? "stdin" : path);
	c->how = *how;
	if (!c->how.field)
		c->how.field = c->how.chat ? "messages" : "text";
	c->fd = fd;
	c->hash = XXH3_createState();
	if (!c->hash)
		die(EXIT_RESOURCE, "out of memory");
	XXH3_128bits_reset(c->hash);
	if (settle(c, e)) {
		corpus_close(c);
		return NULL;
	}
	return c;
}

const char *corpus_name(const struct corpus *c)
{
	return c->name;
}

int64_t corpus_bytes(const struct corpus *c)
{
	return c->bytes;
}

void corpus_digest(const struct corpus *c, char out[33])
{
	XXH128_hash_t h = XXH3_128bits_digest(c->hash);
	snprintf(out, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}

void corpus_close(struct corpus *c)
{
	if (!c)
		return;
	filter_free(c->filter);
	free(c->chat.s);
	free(c->text.s);
	if (c->fd != STDIN_FILENO)
		close(c->fd);
	XXH3_freeState(c->hash);
	json_decref(c->doc);
	free(c->buf);
	free(c->name);
	free(c);
}

static char *beside(const char *file, const char *path)
{
	const char *slash = strrchr(file, '/');
	if (*path == '/' || !slash || !strcmp(path, "-"))
		return xstrdup(path);
	return xasprintf("%.*s/%s", (int)(slash - file), file, path);
}

int source_list_read(const char *file, struct source_list *l, struct err *e)
{
	size_t n;
	char *text = file_read_new(file, 1 << 20, &n, e), *save = NULL;
	int line = 0, rc = 0;
	*l = (struct source_list){ 0 };
	if (!text)
		return -1;
	for (char *p = text, *nl; !rc && *p; p = nl + 1) {
		nl = strchrnul(p, '\n');
		bool last = !*nl;
		*nl = 0;
		line++;
		char *weight = strtok_r(p, " \t\r", &save);
		if (weight && *weight != '#') {
			char *path = strtok_r(NULL, " \t\r", &save), *field = strtok_r(NULL, " \t\r", &save);
			double w;
			if (!path || parse_f64(weight, &w) || !(w > 0) || (field && strtok_r(NULL, " \t\r", &save))) {
				rc = err_set(e, EXIT_DATA, "%s:%d: expected 'weight path [field]', weight above 0", file, line);
			} else {
				l->v = xrealloc(l->v, (size_t)l->n + 1, sizeof *l->v);
				l->v[l->n++] = (struct source){ w, beside(file, path), field ? xstrdup(field) : NULL };
			}
		}
		if (last)
			break;
	}
	free(text);
	if (!rc && !l->n)
		rc = err_set(e, EXIT_DATA, "%s: no sources in it", file);
	if (rc)
		source_list_free(l);
	return rc;
}

void source_list_free(struct source_list *l)
{
	for (int i = 0; i < l->n; i++) {
		free(l->v[i].path);
		free(l->v[i].field);
	}
	free(l->v);
	*l = (struct source_list){ 0 };
}
