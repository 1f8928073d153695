/*
 * task_write.c - what the model writes: compared with a text (match), or run as a program (code)
 *
 *	{"ctx": "Question: ...\nAnswer:", "until": ["Question:"], "target": "... #### 18", "max_new": 256}
 *	{"ctx": "def f(x):\n", "until": ["\ndef"], "prefix": "def f(x):\n", "test": "assert f(1) == 2"}
 *
 * match   exact_match of each filter's answer with the target (common/io/extract.h); without filters of the text as it stands
 * code    program = prefix + text + "\n" + test, in the sandbox; pass@k over the samples of an item (metrics.h)
 *
 * The writing itself is in written.c, which leaves texts and verdicts in the items.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "metrics.h"
#include "task.h"
#include <stdlib.h>

static int need_string(const json_t *item, const char *name, int optional, struct err *e)
{
	const json_t *v = json_object_get(item, name);
	if (json_is_string(v) || (optional && !v))
		return 0;
	return err_set(e, EXIT_DATA, "'%s' must be a string", name);
}

static int check(const json_t *item, struct err *e)
{
	const json_t *until = json_object_get(item, "until"), *max = json_object_get(item, "max_new");
	if (!json_is_array(until))
		return err_set(e, EXIT_DATA, "'until' must be a list of strings");
	for (size_t i = 0; i < json_array_size(until); i++)
		if (!json_string_length(json_array_get(until, i)))
			return err_set(e, EXIT_DATA, "'until' must hold strings that are not empty");
	if (max && (!json_is_integer(max) || json_integer_value(max) < 1 || json_integer_value(max) > 1 << 20))
		return err_set(e, EXIT_DATA, "'max_new' must be a number of tokens");
	return need_string(item, "ctx", 0, e);
}

static int add_match(struct doc *d, struct encoder *c, struct ll_set *s, struct err *e)
{
	(void)c;
	(void)s;
	return check(d->item, e) || need_string(d->item, "target", 0, e) ? -1 : 0;
}

static int add_code(struct doc *d, struct encoder *c, struct ll_set *s, struct err *e)
{
	(void)c;
	(void)s;
	return check(d->item, e) || need_string(d->item, "test", 0, e) || need_string(d->item, "prefix", 1, e) ? -1 : 0;
}

static void sample_texts(const struct doc *d, json_t *o)
{
	json_object_set(o, "context", json_object_get(d->item, "ctx"));
	json_object_set(o, "texts", d->texts);
}

static void sample_match(const struct doc *d, const struct ll_set *s, json_t *o)
{
	(void)s;
	sample_texts(d, o);
	json_object_set(o, "target", json_object_get(d->item, "target"));
	json_object_set(o, "answers", d->verdicts);
}

static void sample_code(const struct doc *d, const struct ll_set *s, json_t *o)
{
	(void)s;
	sample_texts(d, o);
	json_object_set(o, "passed", d->verdicts);
}

static int score_match(const struct task *t, const struct ll_set *s, struct score out[MAX_SCORES])
{
	(void)s;
	double *x = xcalloc((size_t)t->n, sizeof *x);
	size_t n = t->n ? json_array_size(t->doc[0].verdicts) : 0;
	for (size_t k = 0; k < n; k++) {
		const json_t *filter = json_object_get(json_array_get(t->doc[0].verdicts, k), "filter");
		for (int64_t i = 0; i < t->n; i++)
			x[i] = json_is_true(json_object_get(json_array_get(t->doc[i].verdicts, k), "exact_match"));
		out[k] = (struct score){ "exact_match", metric_mean(x, t->n), metric_stderr(x, t->n), 1, json_string_value(filter) };
	}
	free(x);
	return (int)n;
}

static int score_code(const struct task *t, const struct ll_set *s, struct score out[MAX_SCORES])
{
	(void)s;
	double *x = xcalloc((size_t)t->n, sizeof *x);
	for (int k = 0; k < t->n_at; k++) {
		for (int64_t i = 0; i < t->n; i++) {
			int64_t n = (int64_t)json_array_size(t->doc[i].verdicts), c = 0;
			for (int64_t j = 0; j < n; j++)
				c += json_is_true(json_array_get(t->doc[i].verdicts, (size_t)j));
			x[i] = metric_pass_at_k(n, c, t->at[k]);
		}
		out[k] = (struct score){ t->at_name[k], metric_mean(x, t->n), metric_stderr(x, t->n), 1,
					 t->rules ? t->rules->filter : NULL };
	}
	free(x);
	return t->n_at;
}

const struct task_kind task_match = { "match", { "until", "target" }, 0, add_match, sample_match, score_match, 1 };
const struct task_kind task_code = { "code", { "until", "test" }, 0, add_code, sample_code, score_code, 2 };
