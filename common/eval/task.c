/*
 * task.c - reading items: JSON lines or whole files, errors with their line
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "task.h"
#include "../io/artifact.h"
#include "../io/text.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TASK(id, word, items, doc) &task_##id,
static const struct task_kind *const kinds[] = {
#include "tasks.def"
};
#undef TASK
#define TASK(id, word, items, doc) " " word
static const char kind_words[] =
#include "tasks.def"
	;
#undef TASK
#define TASK(id, word, items, doc) "; " word ": " items
static const char kind_fields[] =
#include "tasks.def"
	;
#undef TASK
enum { N_KINDS = sizeof kinds / sizeof *kinds };
enum { MAX_FILE = 1 << 30 };

static const struct task_kind *kind_named(const char *word)
{
	for (int i = 0; i < N_KINDS; i++)
		if (!strcmp(kinds[i]->word, word))
			return kinds[i];
	return NULL;
}

static const struct task_kind *kind_of(const json_t *item)
{
	for (int i = 0; i < N_KINDS; i++)
		if (kinds[i]->mark && json_object_get(item, kinds[i]->mark))
			return kinds[i];
	return NULL;
}

static struct doc *doc_add(struct task *t, json_t *item)
{
	if (t->n >= t->cap) {
		t->cap = t->cap ? 2 * t->cap : 64;
		t->doc = xrealloc(t->doc, (size_t)t->cap, sizeof *t->doc);
	}
	t->doc[t->n] = (struct doc){ .item = item };
	return &t->doc[t->n++];
}

static int add_requests(struct task *t, struct doc *d, struct encoder *c, struct ll_set *s, struct err *e)
{
	d->req0 = s->n;
	if (t->kind->add(d, c, s, e))
		return -1;
	d->n_req = s->n - d->req0;
	return 0;
}

static int add_line(struct task *t, const char *line, size_t n, struct encoder *c, struct ll_set *s, struct err *e)
{
	json_error_t je;
	json_t *item = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
	if (!item)
		return err_set(e, EXIT_DATA, "not JSON: %s (column %d)", je.text, je.column);
	struct doc *d = doc_add(t, item);
	if (!json_is_object(item))
		return err_set(e, EXIT_DATA, "expected an object with the fields of an item%s", kind_fields);
	if (!t->kind && !(t->kind = kind_of(item)))
		return err_set(e, EXIT_DATA, "the fields fit no kind of task%s", kind_fields);
	return add_requests(t, d, c, s, e);
}

/* Blank lines are skipped; lines beyond the limit are counted, not read. */
static int read_lines(struct task *t, const char *text, size_t n, int64_t limit, struct encoder *c, struct ll_set *s,
		      struct err *e)
{
	const char *end = text + n, *eol;
	int64_t number = 1;
	for (const char *line = text; line < end; line = eol + 1, number++) {
		eol = memchr(line, '\n', (size_t)(end - line));
		if (!eol)
			eol = end;
		if (!text_rstrip(line, (size_t)(eol - line)))
			continue;
		t->n_file++;
		if ((!limit || t->n < limit) && add_line(t, line, (size_t)(eol - line), c, s, e))
			return err_wrap(e, "%s:%lld", t->path, (long long)number);
	}
	return 0;
}

static int read_whole(struct task *t, const char *text, size_t n, struct encoder *c, struct ll_set *s, struct err *e)
{
	int64_t bad = utf8_check(text, n);
	if (bad >= 0)
		return err_set(e, EXIT_DATA, "%s: not UTF-8 at byte %lld", t->path, (long long)bad);
	if (!n)
		return 0;
	t->n_file = 1;
	struct doc *d = doc_add(t, json_pack("{s:o}", "text", json_stringn_nocheck(text, n)));
	return add_requests(t, d, c, s, e) ? err_wrap(e, "%s", t->path) : 0;
}

static int load(struct task *t, int64_t limit, struct encoder *c, struct ll_set *s, struct err *e)
{
	struct stat st;
	if (!stat(t->path, &st) && S_ISDIR(st.st_mode))
		return err_set(e, EXIT_DATA, "%s: is a directory, expected a file of items", t->path);
	size_t n;
	char *text = file_read_new(t->path, MAX_FILE, &n, e);
	if (!text)
		return -1;
	digest_hex(text, n, t->digest);
	int rc = t->kind && t->kind->whole_file ? read_whole(t, text, n, c, s, e)
						: read_lines(t, text, n, limit, c, s, e);
	free(text);
	if (!rc && !t->n)
		rc = err_set(e, EXIT_DATA, "%s: no items", t->path);
	return rc;
}

int task_open(struct task *t, const char *spec, int64_t limit, struct encoder *c, struct ll_set *s, struct err *e)
{
	*t = (struct task){ 0 };
	const char *eq = strchr(spec, '=');
	if (!eq || eq == spec || !eq[1])
		return err_set(e, EXIT_USAGE, "--task %s: expected NAME=FILE or NAME:KIND=FILE", spec);
	char *name = arena_printf(&t->names, "%.*s", (int)(eq - spec), spec), *colon = strrchr(name, ':');
	t->name = name;
	t->path = eq + 1;
	if (colon) {
		*colon = 0;
		t->kind = kind_named(colon + 1);
		if (!t->kind)
			return err_set(e, EXIT_USAGE, "--task %s: no kind '%s' (there are%s)", spec, colon + 1, kind_words);
		if (!*name)
			return err_set(e, EXIT_USAGE, "--task %s: the name is empty", spec);
	}
	return load(t, limit, c, s, e);
}

int task_open_text(struct task *t, const char *path, struct encoder *c, struct ll_set *s, struct err *e)
{
	*t = (struct task){ .path = path, .kind = &task_text };
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path, *dot = strrchr(base, '.');
	t->name = arena_printf(&t->names, "%.*s", (int)(dot && dot > base ? dot - base : (long)strlen(base)), base);
	return load(t, 0, c, s, e);
}

void task_free(struct task *t)
{
	for (int64_t i = 0; i < t->n; i++)
		json_decref(t->doc[i].item);
	free(t->doc);
	arena_free(&t->names);
	*t = (struct task){ 0 };
}
