/*
 * schema.c - the checker generated from formats/NAME.def
 *
 * The tables are included twice, once per macro set: rows of fields and rows of kinds.  The limits column is a small
 * text language (see formats/kinds.def) interpreted here, so that the same text is what the pages show.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "schema.h"
#include "artifact.h"
#include <stdlib.h>
#include <string.h>

enum type { INT, F64, STR, BOOL, MAP, LIST, ARRAY };
static const char *const type_names[] = { "an integer", "a number", "a string", "a boolean", "a map", "a list", "an array" };

struct row {
	const char *kind, *name, *limits, *what, *need;
	enum type type;
	bool meta;
};
#define REQUIRED "!"
#define OPTIONAL ""
#define WITH(other) #other
#define KIND(k, v, what)
#define EITHER(k, names)
#define META(k, n, t, l, what, need) { #k, #n, l, what, need, t, true },
#define FIELD(k, n, t, l, what, need) { #k, #n, l, what, need, t, false },
static const struct row rows[] = {
#include "../../formats/kinds.def"
	{ NULL, NULL, NULL, NULL, NULL, INT, false }
};
#undef KIND
#undef EITHER
#undef META
#undef FIELD

struct kind {
	const char *name, *what, *either;
	int version;
};
#define KIND(k, v, what) { #k, what, NULL, v },
#define EITHER(k, names) { #k, NULL, names, 0 },
#define META(k, n, t, l, what, need)
#define FIELD(k, n, t, l, what, need)
static const struct kind kinds[] = {
#include "../../formats/kinds.def"
	{ NULL, NULL, NULL, 0 }
};

int schema_version(const char *kind)
{
	for (const struct kind *k = kinds; k->name; k++)
		if (k->version && !strcmp(k->name, kind))
			return k->version;
	return 0;
}

/* "a|b" as a table cell: the bar would end it */
static void print_cell(FILE *f, const char *s)
{
	for (; *s; s++)
		if (*s == '|')
			fputs(" or ", f);
		else
			fputc(*s, f);
}

static void print_rows(FILE *f, const char *kind, bool meta)
{
	static const char *const types[] = { "integer", "number", "string", "boolean", "map", "list", "array" };
	fprintf(f, "| %s field | type | limits | needed | meaning |\n|---|---|---|---|---|\n", meta ? "meta" : "record");
	for (const struct row *w = rows; w->kind; w++) {
		if (w->meta != meta || strcmp(w->kind, kind))
			continue;
		const char *at_least = w->type == INT && *w->limits ? ">= " : "";
		fprintf(f, "| `%s` | %s | %s", w->name, types[w->type], at_least);
		if (*at_least)
			fprintf(f, "%.*s", (int)strcspn(w->limits, ":"), w->limits);
		else
			print_cell(f, w->limits);
		fprintf(f, " | %s%s | %s |\n", !strcmp(w->need, REQUIRED) ? "yes" : *w->need ? "with " : "", w->need[0] == '!' ? "" : w->need,
			w->what);
	}
}

int schema_print(const char *kind, FILE *f)
{
	const struct kind *k = kinds;
	while (k->name && !(k->version && !strcmp(k->name, kind)))
		k++;
	if (!k->name)
		return -1;
	fprintf(f, "Kind `%s`, version %d: %s.\n\n", k->name, k->version, k->what);
	print_rows(f, kind, true);
	fputc('\n', f);
	print_rows(f, kind, false);
	for (k = kinds; k->name; k++) {
		if (!k->either || strcmp(k->name, kind))
			continue;
		fputs("\nEvery record has at least one of: ", f);
		print_cell(f, k->either);
		fputs(".\n", f);
	}
	return 0;
}

static bool in_choices(const char *choices, const char *p, size_t n)
{
	for (const char *c = choices; *c; c += strcspn(c, "| ") + (c[strcspn(c, "| ")] == '|')) {
		size_t len = strcspn(c, "| ");
		if (len == n && !memcmp(c, p, n))
			return true;
		if (c[len] != '|')
			return false;
	}
	return false;
}

static bool is_number(const msgpack_object *o)
{
	return o->type == MSGPACK_OBJECT_POSITIVE_INTEGER || o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER ||
	       o->type == MSGPACK_OBJECT_FLOAT32 || o->type == MSGPACK_OBJECT_FLOAT64;
}

static bool has_type(const msgpack_object *o, enum type t)
{
	switch (t) {
	case INT:
		return o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER ||
		       (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER && o->via.u64 <= INT64_MAX);
	case F64:
		return is_number(o);
	case STR:
		return o->type == MSGPACK_OBJECT_STR;
	case BOOL:
		return o->type == MSGPACK_OBJECT_BOOLEAN;
	case LIST:
		return o->type == MSGPACK_OBJECT_ARRAY;
	case MAP: case ARRAY:
		return o->type == MSGPACK_OBJECT_MAP;
	}
	return false;
}

/* Shape text "[7,unit]" against the array's dimensions; names are integer fields of the same record. */
static int check_shape(const struct row *w, const msgpack_object *rec, const struct art_view *v, struct err *e)
{
	const char *s = strchr(w->limits, '[');
	int d = 0;
	if (!s)
		return 0;
	for (s++; *s && *s != ']'; d++) {
		char item[32];
		size_t n = strcspn(s, ",]");
		snprintf(item, sizeof item, "%.*s", (int)n, s);
		s += n + (s[n] == ',');
		int64_t want = -1;
		const msgpack_object *other = obj_get(rec, item);
		if (*item >= '0' && *item <= '9')
			want = atoll(item);
		else if (*item != '*' && other && other->type == MSGPACK_OBJECT_POSITIVE_INTEGER && other->via.u64 <= INT64_MAX)
			want = other->via.i64;
		if (d < v->nd && want >= 0 && v->dims[d] != want)
			return err_set(e, EXIT_DATA, "field '%s': dimension %d is %lld, expected %lld", w->name, d, (long long)v->dims[d],
				       (long long)want);
	}
	if (d != v->nd)
		return err_set(e, EXIT_DATA, "field '%s': has %d dimensions, expected %d", w->name, v->nd, d);
	return 0;
}

static int check_field(const struct row *w, const msgpack_object *rec, const msgpack_object *o, struct err *e)
{
	struct art_view v;
	const char *dt;
	if (!has_type(o, w->type))
		return err_set(e, EXIT_DATA, "field '%s': is %s, expected %s", w->name, obj_type_name(o), type_names[w->type]);
	switch (w->type) {
	case INT:
		if (*w->limits && (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER ? o->via.i64 : (int64_t)o->via.u64) < atoll(w->limits))
			return err_set(e, EXIT_DATA, "field '%s': is %lld, expected at least %s", w->name, (long long)o->via.i64,
				       w->limits);
		return 0;
	case STR:
		if (*w->limits && !in_choices(w->limits, o->via.str.ptr, o->via.str.size))
			return err_set(e, EXIT_DATA, "field '%s': is '%.*s', expected %s", w->name,
				       (int)(o->via.str.size < 40 ? o->via.str.size : 40), o->via.str.ptr, w->limits);
		return 0;
	case ARRAY:
		if (obj_view(o, &v, e))
			return err_wrap(e, "field '%s'", w->name);
		dt = art_dtype_name(v.dtype);
		if (!in_choices(w->limits, dt, strlen(dt)))
			return err_set(e, EXIT_DATA, "field '%s': dtype is %s, expected %s", w->name, dt, w->limits);
		return check_shape(w, rec, &v, e);
	default:
		return 0;
	}
}

static int check_map(const char *kind, bool meta, const msgpack_object *m, struct err *e)
{
	if (m->type != MSGPACK_OBJECT_MAP)
		return err_set(e, EXIT_DATA, "is %s, expected a map", obj_type_name(m));
	for (const struct row *w = rows; w->kind; w++) {
		if (w->meta != meta || strcmp(w->kind, kind))
			continue;
		const msgpack_object *o = obj_get(m, w->name);
		if (o && check_field(w, m, o, e))
			return -1;
		if (!o && (!strcmp(w->need, REQUIRED) || (*w->need && obj_get(m, w->need))))
			return err_set(e, EXIT_DATA, "field '%s' is missing", w->name);
	}
	return 0;
}

int schema_check_meta(const char *kind, const msgpack_object *meta, struct err *e)
{
	return check_map(kind, true, meta, e) ? err_wrap(e, "header meta") : 0;
}

int schema_check(const char *kind, const msgpack_object *record, struct err *e)
{
	if (check_map(kind, false, record, e))
		return -1;
	for (const struct kind *k = kinds; k->name; k++) {
		if (!k->either || strcmp(k->name, kind))
			continue;
		bool any = false;
		for (const char *c = k->either; *c; c += strcspn(c, "|") + (c[strcspn(c, "|")] == '|')) {
			char name[32];
			snprintf(name, sizeof name, "%.*s", (int)strcspn(c, "|"), c);
			any |= obj_get(record, name) != NULL;
		}
		if (!any)
			return err_set(e, EXIT_DATA, "has none of the fields %s", k->either);
	}
	return 0;
}
