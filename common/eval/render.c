/*
 * render.c - items of a data set become items of a kind, by a task's rules
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rules.h"
#include <stdlib.h>
#include <string.h>

json_t *rules_prepare(const struct rules *r, json_t *raw, struct err *e)
{
	if (!r->prep)
		return json_incref(raw);
	json_t *item = json_copy(raw);
	if (!prep_named(r->prep)(item, e))
		return item;
	json_decref(item);
	return NULL;
}

static json_t *filled(const char *template, const json_t *item, struct err *e)
{
	size_t n;
	char *s = rules_fill_new(template, item, &n, e);
	json_t *j = s ? json_stringn_nocheck(s, n) : NULL;
	free(s);
	return j;
}

static json_t *list(const char *path, const json_t *item, struct err *e)
{
	const json_t *v = rules_field(item, path);
	size_t n = json_array_size(v);
	for (size_t i = 0; i < n; i++)
		if (!json_is_string(json_array_get(v, i)) && !json_is_integer(json_array_get(v, i)))
			n = 0;
	if (n)
		return json_incref((json_t *)v);
	err_set(e, EXIT_DATA, "'%s' must be a list", path);
	return NULL;
}

static json_t *choices(const struct rules *r, const json_t *item, struct err *e)
{
	if (r->list)
		return list(r->list, item, e);
	json_t *all = json_array();
	for (int i = 0; i < MAX_CHOICES && r->choice[i]; i++) {
		json_t *c = filled(r->choice[i], item, e);
		if (!c) {
			json_decref(all);
			return NULL;
		}
		json_array_append_new(all, c);
	}
	return all;
}

/* Place of s in a list of strings, -1 */
static int64_t place(const json_t *in, const char *s)
{
	for (size_t i = 0; i < json_array_size(in); i++) {
		const char *x = json_string_value(json_array_get(in, i));
		if (x && !strcmp(x, s))
			return (int64_t)i;
	}
	return -1;
}

static json_t *gold(const struct rules *r, const json_t *item, const json_t *among, struct err *e)
{
	size_t n;
	int64_t i;
	char *s = r->gold ? rules_fill_new(r->gold, item, &n, e) : NULL;
	if (!s)
		return NULL;
	if (r->gold_of)
		i = place(rules_field(item, r->gold_of), s);
	else if (n && strspn(s, "0123456789") == n)
		i = n < 10 ? atoi(s) : -1;
	else
		i = place(among, s);
	json_t *j = i >= 0 && i < (int64_t)json_array_size(among) ? json_integer(i) : NULL;
	if (!j)
		err_set(e, EXIT_DATA, "the right answer '%.40s' is none of the %zu choices", s, json_array_size(among));
	free(s);
	return j;
}

/* Adds a field, or remembers that it could not be made */
static int add(json_t *to, const char *name, json_t *v)
{
	return v ? json_object_set_new(to, name, v) : -1;
}

static json_t *strings(const char *const *s, int max)
{
	json_t *all = json_array();
	for (int i = 0; i < max && s[i]; i++)
		json_array_append_new(all, json_string_nocheck(s[i]));
	return all;
}

/* What the kinds in which the model writes have more */
static int add_writing(json_t *o, const struct rules *r, const json_t *item, struct err *e)
{
	if (strcmp(r->kind, "match") && strcmp(r->kind, "code"))
		return 0;
	int rc = add(o, "until", strings(r->until, MAX_CHOICES)) || add(o, "max_new", json_integer(r->max_new ? r->max_new : 256));
	if (!rc && r->prefix)
		rc = add(o, "prefix", filled(r->prefix, item, e));
	if (!rc && r->test)
		rc = add(o, "test", filled(r->test, item, e));
	return rc ? -1 : 0;
}

json_t *rules_render(const struct rules *r, const json_t *item, struct err *e)
{
	json_t *o = json_object();
	const char *const context = !strcmp(r->kind, "ppl") ? "text" : "ctx";
	int rc = add(o, context, r->contexts ? list(r->contexts, item, e) : filled(r->text, item, e));
	if (!rc && r->target)
		rc = add(o, "target", filled(r->target, item, e));
	if (!rc && (r->list || r->choice[0]))
		rc = add(o, "choices", choices(r, item, e));
	if (!rc && r->gold)
		rc = add(o, "gold", gold(r, item, json_object_get(o, "choices"), e));
	if (!rc && r->labels)
		rc = add(o, "labels", list(r->labels, item, e));
	if (!rc)
		rc = add_writing(o, r, item, e);
	if (!rc && r->delimiter)
		rc = add(o, "delimiter", json_string_nocheck(r->delimiter));
	if (!rc)
		return o;
	json_decref(o);
	return NULL;
}
