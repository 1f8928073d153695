/*
 * prep.c - what some data sets need before a template can use their items: cleaned text, cut sentences, parsed lists
 *
 * Each function adds fields to its item, which is a copy.
 *
 *   hellaswag    query, choices, gold: title and WikiHow's brackets out of context and endings
 *   winogrande   contexts (sentence up to _, each option), rests (after _), gold
 *   race         text (article, answered questions, the last question), choices, gold
 *   last_word    head, last: text cut at its last blank
 *   wikitext     text: page with WikiText's spacing undone
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../io/text.h"
#include "../io/pyliteral.h"
#include "rules.h"
#include <stdlib.h>
#include <string.h>

struct str {
	char *s;
	size_t n;
};

static struct str str_new(const char *s, size_t n)
{
	struct str r = { xmalloc(n + 1), n };
	memcpy(r.s, s, n);
	r.s[n] = 0;
	return r;
}

static int field(const json_t *item, const char *name, const json_t **v, struct err *e)
{
	*v = json_object_get(item, name);
	return json_is_string(*v) ? 0 : err_set(e, EXIT_DATA, "'%s' must be a string", name);
}

/* Takes ownership of what it is given. */
static void set(json_t *item, const char *name, struct str s)
{
	json_object_set_new(item, name, json_stringn_nocheck(s.s, s.n));
	free(s.s);
}

/* s with every from (left to right, not overlapping) as to */
static void replace(struct str *s, const char *from, const char *to)
{
	const size_t nf = strlen(from), nt = strlen(to);
	const char *p = s->s, *end = s->s + s->n, *hit;
	if (!memmem(p, s->n, from, nf))
		return;
	struct str r = { xmalloc(s->n / nf * nt + s->n + 1), 0 };
	while ((hit = memmem(p, (size_t)(end - p), from, nf))) {
		memcpy(r.s + r.n, p, (size_t)(hit - p));
		r.n += (size_t)(hit - p);
		memcpy(r.s + r.n, to, nt);
		r.n += nt;
		p = hit + nf;
	}
	memcpy(r.s + r.n, p, (size_t)(end - p));
	r.n += (size_t)(end - p);
	r.s[r.n] = 0;
	free(s->s);
	*s = r;
}

static void strip(struct str *s)
{
	s->n = text_rstrip(s->s, s->n);
	size_t k = text_lstrip(s->s, s->n);
	s->n -= k;
	memmove(s->s, s->s + k, s->n);
	s->s[s->n] = 0;
}

/* Brackets and what is in them, within a line */
static void drop_brackets(struct str *s)
{
	size_t to = 0;
	for (size_t i = 0; i < s->n;) {
		size_t k = i + 1;
		if (s->s[i] == '[') {
			while (k < s->n && s->s[k] != ']' && s->s[k] != '\n')
				k++;
			if (k < s->n && s->s[k] == ']') {
				i = k + 1;
				continue;
			}
		}
		s->s[to++] = s->s[i++];
	}
	s->n = to;
	s->s[to] = 0;
}

static struct str wikihow(struct str s)
{
	strip(&s);
	replace(&s, " [title]", ". ");
	drop_brackets(&s);
	replace(&s, "  ", " ");
	return s;
}

static int prep_hellaswag(json_t *item, struct err *e)
{
	const json_t *act, *a, *b, *label, *endings = json_object_get(item, "endings");
	if (field(item, "activity_label", &act, e) || field(item, "ctx_a", &a, e) || field(item, "ctx_b", &b, e) ||
	    field(item, "label", &label, e))
		return -1;
	size_t n;
	char *cap = text_capitalize_new(json_string_value(b), json_string_length(b), &n);
	struct str q = { NULL, json_string_length(act) + 2 + json_string_length(a) + 1 + n };
	q.s = xmalloc(q.n + 1);
	char *p = mempcpy(q.s, json_string_value(act), json_string_length(act));
	p = mempcpy(p, ": ", 2);
	p = mempcpy(p, json_string_value(a), json_string_length(a));
	*p++ = ' ';
	memcpy(p, cap, n + 1);
	free(cap);
	set(item, "query", wikihow(q));
	json_t *choices = json_array();
	json_object_set_new(item, "choices", choices);
	for (size_t i = 0; i < json_array_size(endings); i++) {
		const json_t *x = json_array_get(endings, i);
		if (!json_is_string(x))
			return err_set(e, EXIT_DATA, "ending %zu is not a string", i);
		struct str c = wikihow(str_new(json_string_value(x), json_string_length(x)));
		json_array_append_new(choices, json_stringn_nocheck(c.s, c.n));
		free(c.s);
	}
	if (strlen(json_string_value(label)) != 1 || *json_string_value(label) < '0' || *json_string_value(label) > '9')
		return err_set(e, EXIT_DATA, "'label' is \"%.20s\", expected the number of an ending (the public test split has none)",
			       json_string_value(label));
	json_object_set(item, "gold", json_object_get(item, "label"));
	return 0;
}

static int prep_winogrande(json_t *item, struct err *e)
{
	const json_t *sent, *opt[2], *answer;
	if (field(item, "sentence", &sent, e) || field(item, "option1", &opt[0], e) || field(item, "option2", &opt[1], e) ||
	    field(item, "answer", &answer, e))
		return -1;
	const char *s = json_string_value(sent), *cut = strchr(s, '_'), *ans = json_string_value(answer);
	if (!cut)
		return err_set(e, EXIT_DATA, "'sentence' has no _");
	if (strcmp(ans, "1") && strcmp(ans, "2"))
		return err_set(e, EXIT_DATA, "'answer' is \"%.20s\", expected \"1\" or \"2\"", ans);
	json_t *contexts = json_array(), *rests = json_array();
	struct str rest = str_new(cut + 1, json_string_length(sent) - (size_t)(cut + 1 - s));
	strip(&rest);
	for (int i = 0; i < 2; i++) {
		json_array_append_new(contexts, json_sprintf("%.*s%s", (int)(cut - s), s, json_string_value(opt[i])));
		json_array_append_new(rests, json_stringn_nocheck(rest.s, rest.n));
	}
	free(rest.s);
	json_object_set_new(item, "contexts", contexts);
	json_object_set_new(item, "rests", rests);
	json_object_set_new(item, "gold", json_integer(*ans - '1'));
	return 0;
}

/* One question of an article: its four options and the right one */
struct problem {
	const json_t *question, *options;
	int answer;
};

static int problem_of(const json_t *j, struct problem *p, struct err *e)
{
	const char *a = json_string_value(json_object_get(j, "answer"));
	p->question = json_object_get(j, "question");
	p->options = json_object_get(j, "options");
	if (!json_is_string(p->question) || !a || strlen(a) != 1 || *a < 'A' || *a > 'D' || json_array_size(p->options) != 4)
		return err_set(e, EXIT_DATA, "a problem has a question, four options and an answer A to D");
	for (size_t i = 0; i < 4; i++)
		if (!json_is_string(json_array_get(p->options, i)))
			return err_set(e, EXIT_DATA, "option %zu is not a string", i);
	p->answer = *a - 'A';
	return 0;
}

static int race_text(FILE *f, const json_t *problems, struct problem *last, struct err *e)
{
	for (size_t i = 0; i < json_array_size(problems); i++) {
		if (problem_of(json_array_get(problems, i), last, e))
			return err_wrap(e, "problem %zu", i);
		const char *q = json_string_value(last->question);
		const char *right = json_string_value(json_array_get(last->options, (size_t)last->answer));
		size_t n = strlen(q);
		if (i + 1 == json_array_size(problems))
			fputs(q, f);
		else if (n >= 6 && !strcmp(q + n - 6, "  _  ."))
			fprintf(f, "%.*s%s\n", (int)(n - 5), q, right);
		else
			fprintf(f, "Question: %s\nAnswer: %s\n", q, right);
	}
	return 0;
}

static int prep_race(json_t *item, struct err *e)
{
	const json_t *article, *list;
	if (field(item, "article", &article, e) || field(item, "problems", &list, e))
		return -1;
	json_t *problems = pyliteral_read(json_string_value(list), json_string_length(list), e);
	if (!problems)
		return err_wrap(e, "'problems'");
	struct str text = { 0 };
	struct problem last = { 0 };
	FILE *f = open_memstream(&text.s, &text.n);
	if (!f)
		return err_sys(e, "memory stream");
	fprintf(f, "Article: %s\n\n", json_string_value(article));
	int rc = json_array_size(problems) ? race_text(f, problems, &last, e)
					   : err_set(e, EXIT_DATA, "'problems' is not a list of questions");
	fclose(f);
	set(item, "text", text);
	if (!rc) {
		json_object_set(item, "choices", (json_t *)last.options);
		json_object_set_new(item, "gold", json_integer(last.answer));
	}
	json_decref(problems);
	return rc;
}

static int prep_last_word(json_t *item, struct err *e)
{
	const json_t *text;
	if (field(item, "text", &text, e))
		return -1;
	const char *s = json_string_value(text);
	size_t n = json_string_length(text), cut = n;
	while (cut > 0 && s[cut - 1] != ' ')
		cut--;
	set(item, "head", str_new(s, cut ? cut - 1 : 0));
	set(item, "last", str_new(s + cut, n - cut));
	return 0;
}

/* open, inner text, close: white space at both ends of the inner text goes */
static void trim_inside(struct str *s, char open, char close)
{
	size_t to = 0;
	int left = 1;
	for (size_t i = 0; i < s->n;) {
		const char *end = left && s->s[i] == open ? memchr(s->s + i + 1, close, s->n - i - 1) : NULL;
		if (!end) {
			left &= s->s[i] != open;
			s->s[to++] = s->s[i++];
			continue;
		}
		const char *p = s->s + i + 1;
		size_t n = text_rstrip(p, (size_t)(end - p)), k = text_lstrip(p, n);
		s->s[to++] = open;
		memmove(s->s + to, p + k, n - k);
		to += n - k;
		s->s[to++] = close;
		i = (size_t)(end + 1 - s->s);
	}
	s->n = to;
	s->s[to] = 0;
}

static int prep_wikitext(json_t *item, struct err *e)
{
	static const char *const first[][2] = {
		{ " @-@ ", "-" }, { " @,@ ", "," }, { " @.@ ", "." }, { " : ", ": " }, { " ; ", "; " }, { " . ", ". " },
		{ " ! ", "! " }, { " ? ", "? " }, { " , ", ", " },
	};
	static const char *const last[][2] = {
		{ "= = = =", "====" }, { "= = =", "===" }, { "= =", "==" }, { " \xc2\xb0 ", "\xc2\xb0" }, { " \n", "\n" },
		{ "\n ", "\n" }, { " N ", " 1 " }, { " 's", "'s" },
	};
	const json_t *page;
	if (field(item, "page", &page, e))
		return -1;
	struct str s = str_new(json_string_value(page), json_string_length(page));
	replace(&s, "s '", "s'");
	for (char d = '0'; d <= '9'; d++)
		replace(&s, (char[]){ '/', '\'', ' ', d, '/', 0 }, "/'[0-9]/");
	for (size_t i = 0; i < sizeof first / sizeof *first; i++)
		replace(&s, first[i][0], first[i][1]);
	trim_inside(&s, '(', ')');
	trim_inside(&s, '[', ']');
	trim_inside(&s, '{', '}');
	trim_inside(&s, '"', '"');
	trim_inside(&s, '\'', '\'');
	for (size_t i = 0; i < sizeof last / sizeof *last; i++)
		replace(&s, last[i][0], last[i][1]);
	set(item, "text", s);
	return 0;
}

prep_fn *prep_named(const char *name)
{
	static const struct {
		const char *name;
		prep_fn *fn;
	} all[] = {
		{ "hellaswag", prep_hellaswag }, { "winogrande", prep_winogrande }, { "race", prep_race },
		{ "last_word", prep_last_word }, { "wikitext", prep_wikitext },
	};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (!strcmp(all[i].name, name))
			return all[i].fn;
	return NULL;
}
