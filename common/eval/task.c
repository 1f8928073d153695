/*
 * task.c - kinds of task, and files whose items are of a kind already
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "task.h"
#include "../io/text.h"
#include <stdlib.h>
#include <string.h>

#define KIND(id, word, items, doc) &task_##id,
static const struct task_kind *const kinds[] = {
#include "kinds.def"
};
#undef KIND
#define KIND(id, word, items, doc) " " word
const char kind_words[] =
#include "kinds.def"
	;
#undef KIND
#define KIND(id, word, items, doc) "; " word ": " items
const char kind_fields[] =
#include "kinds.def"
	;
#undef KIND
enum { N_KINDS = sizeof kinds / sizeof *kinds };

const struct task_kind *kind_named(const char *word)
{
	for (int i = 0; i < N_KINDS; i++)
		if (!strcmp(kinds[i]->word, word))
			return kinds[i];
	return NULL;
}

const struct task_kind *kind_of(const json_t *item)
{
	for (int i = 0; i < N_KINDS; i++) {
		const char *const *m = kinds[i]->mark;
		if (m[0] && json_object_get(item, m[0]) && (!m[1] || json_object_get(item, m[1])))
			return kinds[i];
	}
	return NULL;
}

int task_add(struct task *t, json_t *item, int64_t words, int64_t bytes, struct encoder *c, struct ll_set *s,
	     struct err *e)
{
	if (t->n >= t->cap) {
		t->cap = t->cap ? 2 * t->cap : 64;
		t->doc = xrealloc(t->doc, (size_t)t->cap, sizeof *t->doc);
	}
	struct doc *d = &t->doc[t->n++];
	*d = (struct doc){ .item = item, .req0 = s->n, .words = words, .bytes = bytes };
	if (t->kind->add(d, c, s, e))
		return -1;
	d->n_req = s->n - d->req0;
	return 0;
}

static int open_items(struct task *t, int64_t limit, struct encoder *c, struct ll_set *s, struct err *e)
{
	struct items it;
	int rc = items_read(&it, t->path, limit, e);
	memcpy(t->digest, it.digest, sizeof t->digest);
	t->n_file = it.n_file;
	for (int64_t i = 0; i < it.n && !rc; i++) {
		if (!t->kind && !(t->kind = kind_of(it.v[i])))
			rc = err_set(e, EXIT_DATA, "the fields fit no kind of task%s", kind_fields);
		if (rc || task_add(t, json_incref(it.v[i]), 0, 0, c, s, e))
			rc = err_wrap(e, "%s:%lld", t->path, (long long)it.line[i]);
	}
	items_free(&it);
	return rc;
}

static int open_whole(struct task *t, struct encoder *c, struct ll_set *s, struct err *e)
{
	size_t n;
	char *text = items_file_new(t->path, &n, t->digest, e);
	if (!text)
		return -1;
	int64_t bad = utf8_check(text, n);
	int rc;
	if (bad >= 0)
		rc = err_set(e, EXIT_DATA, "%s: not UTF-8 at byte %lld", t->path, (long long)bad);
	else if (!n)
		rc = err_set(e, EXIT_DATA, "%s: no items", t->path);
	else if ((rc = task_add(t, json_pack("{s:o}", "text", json_stringn_nocheck(text, n)), 0, 0, c, s, e)))
		err_wrap(e, "%s", t->path);
	t->n_file = 1;
	free(text);
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
	t->path = arena_printf(&t->names, "%s", eq + 1);
	if (colon) {
		*colon = 0;
		t->kind = kind_named(colon + 1);
		if (!t->kind)
			return err_set(e, EXIT_USAGE, "--task %s: no kind '%s' (there are%s)", spec, colon + 1, kind_words);
		if (!*name)
			return err_set(e, EXIT_USAGE, "--task %s: the name is empty", spec);
	}
	return t->kind && t->kind->whole_file ? open_whole(t, c, s, e) : open_items(t, limit, c, s, e);
}

int task_open_text(struct task *t, const char *path, struct encoder *c, struct ll_set *s, struct err *e)
{
	*t = (struct task){ .path = path, .kind = &task_text };
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path, *dot = strrchr(base, '.');
	t->name = arena_printf(&t->names, "%.*s", (int)(dot && dot > base ? dot - base : (long)strlen(base)), base);
	return open_whole(t, c, s, e);
}

void task_free(struct task *t)
{
	for (int64_t i = 0; i < t->n; i++)
		json_decref(t->doc[i].item), json_decref(t->doc[i].texts), json_decref(t->doc[i].verdicts);
	free(t->doc);
	arena_free(&t->names);
	*t = (struct task){ 0 };
}

int task_reports(const struct task *t, const char *metric)
{
	const size_t n = strlen(metric);
	const char *const list = t->rules ? t->rules->metrics : NULL;
	for (const char *p = list; list && (p = strstr(p, metric)); p += n)
		if ((p == list || p[-1] == ' ') && (!p[n] || p[n] == ' '))
			return 1;
	return !list;
}

void task_score(struct task *t, const struct ll_set *s)
{
	struct score all[MAX_SCORES];
	int n = t->kind->score(t, s, all);
	t->n_score = 0;
	for (int i = 0; i < n; i++)
		if (task_reports(t, all[i].metric))
			t->score[t->n_score++] = all[i];
}
