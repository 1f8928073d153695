/*
 * rules.c - the table of tasks, template files, and templates filled with an item's values
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rules.h"
#include "../base/outfile.h"
#include "../io/text.h"
#include <stdlib.h>
#include <string.h>

/* The three that are inside lm-evaluation-harness */
#define MBPP_EXAMPLES                                                                                                  \
	"{\"text\": \"Write a function to find the similar elements from the given two tuple lists.\", \"code\": "             \
	"\"def similar_elements(test_tup1, test_tup2):\\r\\n  res = tuple(set(test_tup1) & set(test_tup2))\\r\\n  return "  \
	"(res) \", \"test_list\": [\"assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)\", \"assert "             \
	"similar_elements((1, 2, 3, 4),(5, 4, 3, 7)) == (3, 4)\", \"assert similar_elements((11, 12, 14, 13),(17, 15, "    \
	"14, 13)) == (13, 14)\"]}\n"                                                                                       \
	"{\"text\": \"Write a python function to identify non-prime numbers.\", \"code\": \"import math\\r\\ndef "           \
	"is_not_prime(n):\\r\\n    result = False\\r\\n    for i in range(2,int(math.sqrt(n)) + 1):\\r\\n        if n % i "  \
	"== 0:\\r\\n            result = True\\r\\n    return result\", \"test_list\": [\"assert is_not_prime(2) == False\", " \
	"\"assert is_not_prime(10) == True\", \"assert is_not_prime(35) == True\"]}\n"                                      \
	"{\"text\": \"Write a function to find the largest integers from a given list of numbers using heap queue "        \
	"algorithm.\", \"code\": \"import heapq as hq\\r\\ndef heap_queue_largest(nums,n):\\r\\n  largest_nums = "          \
	"hq.nlargest(n, nums)\\r\\n  return largest_nums\", \"test_list\": [\"assert heap_queue_largest( [25, 35, 22, 85, "  \
	"14, 65, 75, 22, 58],3)==[85, 75, 65] \", \"assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, "            \
	"58],2)==[85, 75] \", \"assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],5)==[85, 75, 65, 58, 35]\"]}\n"

#define TASK(...) { .name = __VA_ARGS__ },
static const struct rules tasks[] = {
#include "tasks.def"
};
#undef TASK
#define SUBJECT(name, group) { name, group },
static const struct {
	const char *name, *group;
} subjects[] = {
#include "mmlu.def"
};
#undef SUBJECT

const struct rules *rules_named(const char *name)
{
	for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++)
		if (!strcmp(tasks[i].name, name))
			return &tasks[i];
	return NULL;
}

const char *mmlu_group(const char *subject)
{
	for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++)
		if (!strcmp(subjects[i].name, subject))
			return subjects[i].group;
	return NULL;
}

const json_t *rules_field(const json_t *item, const char *path)
{
	const char *end;
	for (; item; path = end + 1) {
		char key[128];
		end = path + strcspn(path, ".");
		if ((size_t)(end - path) >= sizeof key)
			return NULL;
		memcpy(key, path, (size_t)(end - path));
		key[end - path] = 0;
		if (json_is_array(item)) {
			int64_t i;
			item = parse_i64(key, &i) || i < 0 ? NULL : json_array_get(item, (size_t)i);
		} else {
			item = json_object_get(item, key);
		}
		if (!*end)
			return item;
	}
	return NULL;
}

/* One {field|filter}, without the braces */
static int put_field(FILE *f, const char *spec, size_t n, const json_t *item, struct err *e)
{
	char path[256], *filter;
	if (n >= sizeof path)
		return err_set(e, EXIT_DATA, "a name of more than %zu bytes in a template", sizeof path - 1);
	memcpy(path, spec, n);
	path[n] = 0;
	if ((filter = strchr(path, '|')))
		*filter++ = 0;
	const json_t *v = rules_field(item, path);
	if (!v)
		return err_set(e, EXIT_DATA, "no field '%s'", path);
	if (json_is_boolean(v))
		return fputs(json_is_true(v) ? "True" : "False", f) < 0;
	if (json_is_integer(v))
		return fprintf(f, "%lld", (long long)json_integer_value(v)) < 0;
	if (!json_is_string(v))
		return err_set(e, EXIT_DATA, "'%s' is neither text nor a whole number", path);
	const char *s = json_string_value(v);
	size_t len = json_string_length(v), skip = 0;
	if (filter && !strcmp(filter, "strip")) {
		len = text_rstrip(s, len);
		skip = text_lstrip(s, len);
	} else if (filter && !strcmp(filter, "words")) {
		for (size_t i = 0; i < len; i++)
			fputc(s[i] == '_' ? ' ' : s[i], f);
		return 0;
	} else if (filter) {
		return err_set(e, EXIT_DATA, "no filter '%s' in {%s} (there are strip, words)", filter, path);
	}
	fwrite(s + skip, 1, len - skip, f);
	return 0;
}

static int fill(FILE *f, const char *t, const json_t *item, struct err *e)
{
	while (*t) {
		size_t n = strcspn(t, "{}");
		fwrite(t, 1, n, f);
		t += n;
		if (*t && t[1] == *t) {
			fputc(*t, f);
			t += 2;
		} else if (*t == '{') {
			n = strcspn(++t, "}");
			if (!t[n])
				return err_set(e, EXIT_DATA, "a template has { without }");
			if (put_field(f, t, n, item, e))
				return -1;
			t += n + 1;
		} else if (*t) {
			return err_set(e, EXIT_DATA, "a template has } without {");
		}
	}
	return 0;
}

char *rules_fill_new(const char *template, const json_t *item, size_t *n, struct err *e)
{
	char *s = NULL;
	size_t len;
	FILE *f = open_memstream(&s, n ? n : &len);
	if (!f) {
		err_sys(e, "memory stream");
		return NULL;
	}
	int rc = fill(f, template, item, e);
	fclose(f);
	if (!rc)
		return s;
	free(s);
	return NULL;
}

/* ---- template files ---- */

static const struct key {
	const char *name;
	size_t at;
	char type;             /* s text, i whole number, f number */
} keys[] = {
#define S(k) { #k, offsetof(struct rules, k), 's' }
#define I(k) { #k, offsetof(struct rules, k), 'i' }
	S(kind), S(split), S(pool), S(prep), S(description), S(text), S(contexts), S(list), S(gold), S(gold_of), S(labels),
	S(target), S(prefix), S(test), S(passes), S(filter), S(delimiter), S(between), S(counted), S(split_by), S(metrics), I(no_shots), I(first_n), I(not_self),
#undef S
#undef I
	{ "shots", offsetof(struct rules, shots), 'l' }, { "max_new", offsetof(struct rules, max_new), 'l' }, { "version", offsetof(struct rules, version), 'f' },
};

/* \n, \t, \\ and \" in [s, s + n), quotes around it taken off */
static char *unescape(const char *s, size_t n, struct arena *a, struct err *e)
{
	if (n >= 2 && s[0] == '"' && s[n - 1] == '"') {
		s++;
		n -= 2;
	}
	char *out = arena_alloc(a, n + 1), *p = out;
	for (size_t i = 0; i < n; i++) {
		if (s[i] != '\\') {
			*p++ = s[i];
			continue;
		}
		char c = ++i < n ? s[i] : 0;
		if (c != 'n' && c != 't' && c != '\\' && c != '"') {
			err_set(e, EXIT_DATA, "unknown escape \\%c (there are \\n \\t \\\\ \\\")", c ? c : ' ');
			return NULL;
		}
		*p++ = c == 'n' ? '\n' : c == 't' ? '\t' : c;
	}
	return out;
}

static int set_key(struct rules *r, const char *name, const char *value, struct err *e)
{
	int64_t i;
	const struct {
		const char *name, **list;
		int max;
	} lists[] = { { "choice", r->choice, MAX_CHOICES }, { "until", r->until, MAX_CHOICES },
		      { "extract", r->extract, MAX_FILTERS }, { "ignore", r->ignore, MAX_CHOICES } };
	for (size_t l = 0; l < sizeof lists / sizeof *lists; l++) {
		int k = 0;
		if (strcmp(lists[l].name, name))
			continue;
		while (k < lists[l].max && lists[l].list[k])
			k++;
		if (k == lists[l].max)
			return err_set(e, EXIT_DATA, "more than %d lines of %s", k, name);
		lists[l].list[k] = value;
		return 0;
	}
	for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
		char *at = (char *)r + keys[k].at;
		if (strcmp(keys[k].name, name))
			continue;
		if (keys[k].type == 's')
			*(const char **)(void *)at = value;
		else if (keys[k].type == 'f' ? parse_f64(value, (double *)(void *)at) : parse_i64(value, &i) || i < 0 || i > 100000)
			return err_set(e, EXIT_DATA, "%s: '%s' is not a number that it takes", name, value);
		else if (keys[k].type == 'i')
			*(int *)(void *)at = (int)i;
		else if (keys[k].type == 'l')
			*(int64_t *)(void *)at = i;
		return 0;
	}
	return err_set(e, EXIT_DATA, "unknown key '%.40s'", name);
}

static int read_line(struct rules *r, const char *line, size_t n, struct arena *a, struct err *e)
{
	n = text_rstrip(line, n);
	size_t skip = text_lstrip(line, n);
	line += skip;
	n -= skip;
	if (!n || *line == '#')
		return 0;
	const char *eq = memchr(line, '=', n);
	if (!eq)
		return err_set(e, EXIT_DATA, "expected key = value");
	char *name = arena_printf(a, "%.*s", (int)text_rstrip(line, (size_t)(eq - line)), line);
	size_t left = n - (size_t)(eq + 1 - line);
	skip = text_lstrip(eq + 1, left);
	const char *value = unescape(eq + 1 + skip, left - skip, a, e);
	return value ? set_key(r, name, value, e) : -1;
}

int rules_read(struct rules *r, const char *path, struct arena *a, struct err *e)
{
	size_t n;
	char *text = file_read_new(path, 1 << 20, &n, e);
	if (!text)
		return -1;
	*r = (struct rules){ .name = path };
	int rc = utf8_check(text, n) >= 0 ? err_set(e, EXIT_DATA, "%s: not UTF-8", path) : 0, number = 1;
	for (const char *p = text, *eol; !rc && p < text + n; p = eol + 1, number++) {
		eol = memchr(p, '\n', (size_t)(text + n - p));
		eol = eol ? eol : text + n;
		if (read_line(r, p, (size_t)(eol - p), a, e))
			rc = err_wrap(e, "%s:%d", path, number);
	}
	free(text);
	if (!rc && r->prep && !prep_named(r->prep))
		rc = err_set(e, EXIT_DATA, "%s: no prep '%s'", path, r->prep);
	if (!rc && (!r->kind || (!r->text && !r->contexts)))
		rc = err_set(e, EXIT_DATA, "%s: kind and text are needed", path);
	return rc;
}
