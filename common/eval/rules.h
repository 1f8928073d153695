/*
 * rules.h - what a task does with an item of its data set: prompt, choices, right answer, few-shot rule, metrics
 *
 * A row of tasks.def, or a template file whose lines are `key = value` with these names as keys.  Templates are text in which
 * {field}, {field.subfield} and {field.0} are replaced by values of the item, nothing else ({{ and }} are braces);
 * |strip removes white space at both ends, |words makes blanks of underscores.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_RULES_H
#define ADZE_RULES_H
#include "../base/base.h"
#include <jansson.h>

enum { MAX_CHOICES = 8, MAX_FILTERS = 4 };
struct rules {
	const char *name;
	double version;
	const char *kind;          /* kinds.def */
	const char *split, *pool;  /* files of a data directory: what is scored, where few-shot examples come from */
	const char *prep;          /* adds fields to an item first: prep.c */
	const char *description;   /* template in front of everything */
	const char *text;          /* template: the context (for ppl the document) */
	const char *contexts;      /* field instead of text: a list, one context per choice */
	const char *choice[MAX_CHOICES]; /* templates */
	const char *list;          /* field instead of them: a list of strings */
	const char *gold;          /* template: number of the right choice, or the choice itself */
	const char *gold_of;       /* field: list in which gold is looked up */
	const char *labels;        /* kind mass; field: list of 0 and 1 */
	const char *target;        /* kind target; template */
	const char *until[MAX_CHOICES];    /* kinds match, code: stop strings */
	int64_t max_new;           /* kinds match, code: tokens to write at most; 0: 256 */
	const char *extract[MAX_FILTERS];  /* kind match: "NAME first|last REGEX": what of the text is the answer */
	const char *ignore[MAX_CHOICES];   /* kind match; regexes: taken out of answer and target before they are compared */
	const char *prefix, *test; /* kind code; templates: program = prefix + text + "\n" + test */
	const char *passes;        /* kind code: "pass@", the name of the metric without k */
	const char *filter;        /* kind code: of its metric; NULL: none */
	const char *examples;      /* JSON lines that are the pool, instead of a file */
	const char *delimiter;     /* between context and choice; NULL: one blank */
	const char *between;       /* between examples; NULL: a blank line */
	const char *counted;       /* kind ppl; field: the text whose words and bytes count */
	const char *split_by;      /* field: every value of it is a task of its own */
	const char *metrics;       /* those that are reported; NULL: all of the kind */
	int64_t shots;             /* when not said otherwise */
	int no_shots;              /* ever */
	int first_n;               /* examples are the first of the pool, else drawn for every item */
	int not_self;              /* one more is drawn, and an example equal to the item itself is left out */
};

/* NULL when there is no task of that name. */
const struct rules *rules_named(const char *name);
/* Group of a subject of MMLU ("stem"), NULL: no such subject. */
const char *mmlu_group(const char *subject);
/* A template file; names are owned by a. */
int rules_read(struct rules *r, const char *path, struct arena *a, struct err *e);

/* The item with the fields that prep adds; a new reference. */
json_t *rules_prepare(const struct rules *r, json_t *raw, struct err *e);
/* A prepared item as an item of the kind (formats/items.md), without description and examples; a new reference. */
json_t *rules_render(const struct rules *r, const json_t *prepared, struct err *e);
/* Template with values of the item; the caller frees. */
char *rules_fill_new(const char *template, const json_t *item, size_t *n, struct err *e);
const json_t *rules_field(const json_t *item, const char *path);   /* a.b.0; NULL: absent */

/* prep.c; NULL: no such function */
typedef int prep_fn(json_t *item, struct err *e);
prep_fn *prep_named(const char *name);
#endif
