/*
 * suite.c - from what the user names to tasks: named tasks, template files, data directories, parts, examples
 *
 * An item's prompt is   description + examples + text   ; the description and the text are filled from the item, the
 * examples come from the pool: --fewshot NAME=FILE, else the data directory's file of the task's few-shot split, else
 * (tasks without such a split) the task's own file.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../io/text.h"
#include "task.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What one --task says, before it becomes one task or several. */
struct source {
	const struct suite_opts *o;
	const char *name, *path, *pool_path;
	const struct task_kind *kind;
	const struct rules *rules;
	struct arena names;
	struct rules own;      /* of a template file */
	struct items items, pool;
	int64_t shots;
};

static const char *value_of(const char *const *list, int n, const char *name)
{
	const size_t len = strlen(name);
	for (int i = 0; i < n; i++)
		if (!strncmp(list[i], name, len) && list[i][len] == '=')
			return list[i] + len + 1;
	return NULL;
}

static const struct rules *rules_of_name(const char *name)
{
	return !strncmp(name, "mmlu_", 5) && mmlu_group(name + 5) ? rules_named("mmlu") : rules_named(name);
}

static int set_kind(struct source *q, const char *spec, const char *word, struct err *e)
{
	const char *template = value_of(q->o->template, q->o->n_template, q->name);
	if (template) {
		if (rules_read(&q->own, template, &q->names, e))
			return -1;
		q->rules = &q->own;
	} else if (!word || !(q->kind = kind_named(word))) {
		q->rules = rules_of_name(word ? word : q->name);
	}
	if (word && !q->kind && !q->rules)
		return err_set(e, EXIT_USAGE, "--task %s: no kind '%s' (there are%s, and the named tasks)", spec, word, kind_words);
	if (!q->rules)
		return 0;
	q->kind = kind_named(q->rules->kind);
	return q->kind && q->kind->mark[0] ? 0 : err_set(e, EXIT_DATA, "%s: no kind '%s' with items", template, q->rules->kind);
}

static const char *in_directory(struct source *q, const char *dir, const char *split)
{
	return arena_printf(&q->names, "%s/%s.jsonl", dir, split);
}

static int is_directory(const char *path)
{
	struct stat st;
	return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static int parse(struct source *q, const char *spec, struct err *e)
{
	const char *eq = strchr(spec, '='), *path = eq ? eq + 1 : "";
	if (!eq || eq == spec || !*path)
		return err_set(e, EXIT_USAGE, "--task %s: expected NAME=FILE or NAME:KIND=FILE", spec);
	char *name = arena_printf(&q->names, "%.*s", (int)(eq - spec), spec), *colon = strrchr(name, ':');
	if (colon)
		*colon = 0;
	if (!*name)
		return err_set(e, EXIT_USAGE, "--task %s: the name is empty", spec);
	q->name = name;
	if (set_kind(q, spec, colon ? colon + 1 : NULL, e))
		return -1;
	const struct rules *r = q->rules;
	q->shots = r && r->no_shots ? 0 : q->o->shots >= 0 ? q->o->shots : r ? r->shots : 0;
	q->pool_path = value_of(q->o->fewshot, q->o->n_fewshot, name);
	q->path = arena_printf(&q->names, "%s", path);
	if (r && r->split && is_directory(path)) {
		q->path = in_directory(q, path, r->split);
		if (!q->pool_path && r->pool)
			q->pool_path = in_directory(q, path, r->pool);
	}
	return 0;
}

/* Items that are of the task's kind already are taken as they are. */
static int is_plain(const struct source *q, const json_t *item)
{
	const struct rules *r = q->rules;
	if (kind_of(item) != q->kind || (r->counted && rules_field(item, r->counted)))
		return 0;
	return strcmp(q->kind->word, "mc") || json_object_get(item, "gold");
}

static int read_sources(struct source *q, struct err *e)
{
	const struct rules *r = q->rules;
	const int own = !q->pool_path && !(r && r->examples) && (!r || (r->pool && !strcmp(r->pool, r->split ? r->split : "")));
	if (items_read(&q->items, q->path, r || (own && q->shots) || q->o->limit < 1 ? 0 : (int64_t)q->o->limit, e))
		return -1;
	if (r && r != &q->own && is_plain(q, q->items.v[0]))
		q->rules = r = NULL;
	if (!q->kind && !(q->kind = kind_of(q->items.v[0])))
		return err_set(e, EXIT_DATA, "%s:%lld: the fields fit no kind of task%s", q->path, (long long)q->items.line[0],
			       kind_fields);
	if (!q->shots)
		return 0;
	if (!strcmp(q->kind->word, "ppl"))
		q->shots = 0;
	else if (q->pool_path)
		return items_read(&q->pool, q->pool_path, 0, e);
	else if (r && r->examples)
		return items_parse(&q->pool, r->examples, strlen(r->examples), q->name, 0, e);
	else if (!own && r)
		return err_set(e, EXIT_USAGE, "%s: examples come from the %s split: --fewshot %s=FILE", q->name,
			       r->pool ? r->pool : "few-shot", q->name);
	else
		q->pool_path = q->path;
	return 0;
}

/* ctx of the item becomes prefix + ctx, in a copy. */
static json_t *with_prefix(json_t *item, const char *prefix, size_t n)
{
	json_t *copy = json_copy(item), *ctx = json_object_get(item, "ctx");
	const char *key = "ctx";
	if (!ctx && (ctx = json_object_get(item, "query")))
		key = "query";
	json_t *list = json_array(), *one = json_pack("[O]", ctx), *old = json_is_array(ctx) ? ctx : one;
	for (size_t i = 0; i < json_array_size(old); i++) {
		const json_t *c = json_array_get(old, i);
		size_t nc = json_string_length(c);
		char *s = xmalloc(n + nc + 1);
		memcpy(s, prefix, n);
		if (nc)
			memcpy(s + n, json_string_value(c), nc);
		json_array_append_new(list, json_is_string(c) ? json_stringn_nocheck(s, n + nc) : json_null());
		free(s);
	}
	json_object_set(copy, key, json_is_array(ctx) ? list : json_array_get(list, 0));
	json_decref(list);
	json_decref(one);
	json_decref(item);
	return copy;
}

/* Description and examples in front of an item */
static int write_prefix(const struct rules *r, const json_t *prepared, const json_t *raw, struct shots *sh, FILE *f,
			struct err *e)
{
	if (r && r->description) {
		size_t n;
		char *s = rules_fill_new(r->description, prepared, &n, e);
		if (!s)
			return -1;
		fwrite(s, 1, n, f);
		free(s);
	}
	return shots_write(sh, raw, f, e);
}

static json_t *prompt(const struct rules *r, json_t *raw, struct shots *sh, const json_t **prepared_new, struct err *e)
{
	json_t *prepared = r ? rules_prepare(r, raw, e) : json_incref(raw);
	json_t *item = !prepared ? NULL : r ? rules_render(r, prepared, e) : json_incref(prepared);
	*prepared_new = prepared;
	if (!item || (!sh->k && !(r && r->description)))
		return item;
	char *s = NULL;
	size_t n;
	FILE *f = open_memstream(&s, &n);
	int rc = f ? write_prefix(r, prepared, raw, sh, f, e) : err_sys(e, "memory stream");
	if (f)
		fclose(f);
	if (rc) {
		json_decref(item);
		item = NULL;
	} else {
		item = with_prefix(item, s, n);
	}
	free(s);
	return item;
}

static int add_doc(struct task *t, json_t *raw, struct shots *sh, struct encoder *c, struct ll_set *s, struct err *e)
{
	const struct rules *r = t->rules;
	const json_t *prepared, *counted = NULL;
	json_t *item = prompt(r, raw, sh, &prepared, e);
	int64_t words = 0, bytes = 0;
	int rc = -1;
	if (item && r && r->counted) {
		counted = rules_field(prepared, r->counted);
		words = json_is_string(counted) ? text_words(json_string_value(counted), json_string_length(counted)) : 0;
		bytes = (int64_t)json_string_length(counted);
	}
	if (item && r && r->counted && !json_is_string(counted)) {
		err_set(e, EXIT_DATA, "'%s' must be a string", r->counted);
		json_decref(item);
	} else if (item) {
		rc = task_add(t, item, words, bytes, c, s, e);
	}
	json_decref((json_t *)prepared);
	return rc;
}

static const char *kept(struct task *t, const char *s)
{
	return s ? arena_printf(&t->names, "%s", s) : NULL;
}

/* Is item i one of those whose field has this value?  NULL: all are. */
static int is_of(const struct source *q, int64_t i, const char *value)
{
	const char *v = value ? json_string_value(rules_field(q->items.v[i], q->rules->split_by)) : NULL;
	return !value || (v && !strcmp(v, value));
}

static int64_t items_wanted(double limit, int64_t n)
{
	return limit > 0 ? (int64_t)(limit < 1 ? ceil((double)n * limit) : limit) : n;
}

/* One task of the source: all of its items, or those whose field split_by has the value.  part: it is one of several. */
static int add_task(struct suite *u, struct source *q, const char *value, int part, struct encoder *c, struct ll_set *s,
		    struct err *e)
{
	if (u->n >= u->cap) {
		u->cap = u->cap ? 2 * u->cap : 8;
		u->t = xrealloc(u->t, (size_t)u->cap, sizeof *u->t);
	}
	struct task *t = &u->t[u->n++];
	const struct rules *r = q->rules;
	struct shots sh;
	*t = (struct task){ .kind = q->kind, .rules = r, .shots = q->shots };
	t->name = arena_printf(&t->names, part ? "%s_%s" : "%s", q->name, value);
	t->path = arena_printf(&t->names, "%s", q->path);
	memcpy(t->digest, q->items.digest, sizeof t->digest);
	if (part) {
		const char *group = r == rules_named("mmlu") ? mmlu_group(value) : NULL;
		t->top = arena_printf(&t->names, "%s", q->name);
		t->group = group ? arena_printf(&t->names, "%s_%s", q->name, group) : NULL;
	}
	int rc = shots_open(&sh, r, q->pool.n ? &q->pool : &q->items, q->pool_path, value, q->shots, q->o->seed, e);
	for (int64_t i = 0; i < q->items.n; i++)
		t->n_file += is_of(q, i, value);
	const int64_t limit = items_wanted(q->o->limit, t->n_file);
	for (int64_t i = 0; i < q->items.n && t->n < limit && !rc; i++) {
		if (!is_of(q, i, value))
			continue;
		if (add_doc(t, q->items.v[i], &sh, c, s, e))
			rc = err_wrap(e, "%s:%lld", q->path, (long long)q->items.line[i]);
	}
	if (!value)
		t->n_file = q->items.n_file;
	if (!rc && !t->n)
		rc = err_set(e, EXIT_DATA, "%s: no items of '%s'", q->path, value);
	if (t->rules && t->rules == &q->own) { /* the template ends with the source: keep what scores need */
		struct rules *keep = arena_alloc(&t->names, sizeof *keep);
		*keep = (struct rules){ .version = r->version, .kind = t->kind->word };
		keep->metrics = kept(t, r->metrics);
		keep->passes = kept(t, r->passes);
		keep->filter = kept(t, r->filter);
		for (int i = 0; i < MAX_FILTERS; i++)
			keep->extract[i] = kept(t, r->extract[i]);
		for (int i = 0; i < MAX_CHOICES; i++)
			keep->ignore[i] = kept(t, r->ignore[i]);
		t->rules = keep;
	}
	shots_close(&sh);
	return rc;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* One task per value of the field, in the order of the values */
static int add_parts(struct suite *u, struct source *q, struct encoder *c, struct ll_set *s, struct err *e)
{
	const char **v = xcalloc((size_t)q->items.n, sizeof *v);
	int rc = 0;
	for (int64_t i = 0; i < q->items.n && !rc; i++) {
		v[i] = json_string_value(rules_field(q->items.v[i], q->rules->split_by));
		if (!v[i])
			rc = err_set(e, EXIT_DATA, "%s:%lld: '%s' must be a string", q->path, (long long)q->items.line[i],
				     q->rules->split_by);
		else if (q->rules == rules_named("mmlu") && !mmlu_group(v[i]))
			rc = err_set(e, EXIT_DATA, "%s:%lld: no subject '%.60s' in MMLU", q->path, (long long)q->items.line[i], v[i]);
	}
	if (!rc)
		qsort(v, (size_t)q->items.n, sizeof *v, by_text);
	for (int64_t i = 0; i < q->items.n && !rc; i++)
		if (!i || strcmp(v[i], v[i - 1]))
			rc = add_task(u, q, v[i], 1, c, s, e);
	free(v);
	return rc;
}

int suite_add(struct suite *u, const char *spec, const struct suite_opts *o, struct encoder *c, struct ll_set *s,
	      struct err *e)
{
	struct source q = { .o = o };
	int rc = parse(&q, spec, e);
	if (!rc && q.kind && q.kind->whole_file) {
		rc = suite_add_text(u, q.path, c, s, e);
		if (!rc)
			u->t[u->n - 1].name = arena_printf(&u->t[u->n - 1].names, "%s", q.name);
	} else if (!rc && !(rc = read_sources(&q, e))) {
		const char *subject = !strncmp(q.name, "mmlu_", 5) && q.rules == rules_named("mmlu") ? q.name + 5 : NULL;
		const int parts = q.rules && q.rules->split_by && !(subject && mmlu_group(subject));
		rc = parts ? add_parts(u, &q, c, s, e) : add_task(u, &q, q.rules ? subject : NULL, 0, c, s, e);
	}
	items_free(&q.items);
	items_free(&q.pool);
	arena_free(&q.names);
	return rc;
}

int suite_add_text(struct suite *u, const char *path, struct encoder *c, struct ll_set *s, struct err *e)
{
	if (u->n >= u->cap) {
		u->cap = u->cap ? 2 * u->cap : 8;
		u->t = xrealloc(u->t, (size_t)u->cap, sizeof *u->t);
	}
	return task_open_text(&u->t[u->n++], path, c, s, e);
}

void suite_free(struct suite *u)
{
	for (int i = 0; i < u->n; i++)
		task_free(&u->t[i]);
	free(u->t);
	*u = (struct suite){ 0 };
}
