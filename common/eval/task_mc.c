/*
 * task_mc.c - multiple choice: which continuation of a context is the likeliest
 *
 *	{"ctx": "The sky is", "choices": ["blue", "made of tin"], "gold": 0}
 *
 * `ctx` (or `query`) is the context, a continuation is delimiter + choice, `delimiter` is one blank unless the item says
 * otherwise, `id` is carried along.  acc compares sums of log-probabilities, acc_norm those divided by the length of
 * the choice in code points (without the delimiter).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../io/text.h"
#include "metrics.h"
#include "task.h"
#include <stdlib.h>
#include <string.h>

static const json_t *context(const json_t *item)
{
	const json_t *c = json_object_get(item, "ctx");
	return c ? c : json_object_get(item, "query");
}

static int check(json_t *item, struct err *e)
{
	static const char *const known[] = { "ctx", "query", "choices", "gold", "delimiter", "id" };
	const char *key;
	json_t *v;
	json_object_foreach(item, key, v) {
		size_t i = 0;
		while (i < sizeof known / sizeof *known && strcmp(key, known[i]))
			i++;
		if (i == sizeof known / sizeof *known)
			return err_set(e, EXIT_DATA, "unknown field '%.60s' (an item has ctx or query, choices, gold, "
				       "delimiter, id)", key);
	}
	if (json_object_get(item, "ctx") && json_object_get(item, "query"))
		return err_set(e, EXIT_DATA, "both 'ctx' and 'query'");
	if (!json_is_string(context(item)))
		return err_set(e, EXIT_DATA, "'ctx' (or 'query') must be a string");
	const json_t *choices = json_object_get(item, "choices"), *gold = json_object_get(item, "gold");
	if (!json_is_array(choices) || json_array_size(choices) < 1)
		return err_set(e, EXIT_DATA, "'choices' must be a list of strings");
	for (size_t i = 0; i < json_array_size(choices); i++)
		if (!json_is_string(json_array_get(choices, i)))
			return err_set(e, EXIT_DATA, "choice %zu is not a string", i);
	if (!json_is_integer(gold) || json_integer_value(gold) < 0 ||
	    (size_t)json_integer_value(gold) >= json_array_size(choices))
		return err_set(e, EXIT_DATA, "'gold' must be a number from 0 to %zu", json_array_size(choices) - 1);
	if (json_object_get(item, "delimiter") && !json_is_string(json_object_get(item, "delimiter")))
		return err_set(e, EXIT_DATA, "'delimiter' must be a string");
	return 0;
}

/* delimiter + choice i; the caller frees */
static char *continuation_new(const json_t *item, size_t i, size_t *n)
{
	const json_t *d = json_object_get(item, "delimiter");
	const json_t *c = json_array_get(json_object_get(item, "choices"), i);
	const char *delim = d ? json_string_value(d) : " ";
	size_t nd = d ? json_string_length(d) : 1, nc = json_string_length(c);
	char *s = xmalloc(nd + nc + 1);
	memcpy(s, delim, nd);
	memcpy(s + nd, json_string_value(c), nc);
	*n = nd + nc;
	return s;
}

static int add(struct doc *d, struct encoder *c, struct ll_set *s, struct err *e)
{
	if (check(d->item, e))
		return -1;
	const json_t *ctx = context(d->item);
	size_t n = json_array_size(json_object_get(d->item, "choices"));
	for (size_t i = 0; i < n; i++) {
		size_t len;
		char *cont = continuation_new(d->item, i, &len);
		int rc = encode_pair(c, s, json_string_value(ctx), json_string_length(ctx), cont, len, e);
		free(cont);
		if (rc)
			return err_wrap(e, "choice %zu", i);
	}
	return 0;
}

/* 1 where the likeliest choice is the right one */
static void judge(const struct doc *d, const struct ll_set *s, double *acc, double *acc_norm)
{
	const json_t *choices = json_object_get(d->item, "choices");
	const json_int_t gold = json_integer_value(json_object_get(d->item, "gold"));
	double *ll = xcalloc((size_t)d->n_req, sizeof *ll);
	int64_t *len = xcalloc((size_t)d->n_req, sizeof *len);
	for (int64_t i = 0; i < d->n_req; i++) {
		const json_t *c = json_array_get(choices, (size_t)i);
		ll[i] = s->r[d->req0 + i].sum;
		len[i] = text_codepoints(json_string_value(c), json_string_length(c));
	}
	*acc = metric_best(ll, NULL, d->n_req) == gold;
	*acc_norm = metric_best(ll, len, d->n_req) == gold;
	free(ll);
	free(len);
}

static void sample(const struct doc *d, const struct ll_set *s, json_t *o)
{
	double acc, acc_norm;
	json_t *list = json_array();
	for (int64_t i = 0; i < d->n_req; i++) {
		const struct ll_req *r = &s->r[d->req0 + i];
		size_t n;
		char *cont = continuation_new(d->item, (size_t)i, &n);
		json_array_append_new(list, json_pack("{s:O,s:o,s:f,s:b}", "context", context(d->item), "continuation",
						      json_stringn_nocheck(cont, n), "loglikelihood", r->sum, "greedy",
						      r->greedy));
		free(cont);
	}
	judge(d, s, &acc, &acc_norm);
	json_object_set(o, "target", json_object_get(d->item, "gold"));
	json_object_set_new(o, "requests", list);
	json_object_set_new(o, "acc", json_real(acc));
	json_object_set_new(o, "acc_norm", json_real(acc_norm));
}

static int score(const struct task *t, const struct ll_set *s, struct score out[MAX_SCORES])
{
	double *acc = xcalloc((size_t)t->n, sizeof *acc), *norm = xcalloc((size_t)t->n, sizeof *norm);
	for (int64_t i = 0; i < t->n; i++)
		judge(&t->doc[i], s, &acc[i], &norm[i]);
	out[0] = (struct score){ "acc", metric_mean(acc, t->n), metric_stderr(acc, t->n), 1 };
	out[1] = (struct score){ "acc_norm", metric_mean(norm, t->n), metric_stderr(norm, t->n), 1 };
	free(acc);
	free(norm);
	return 2;
}

const struct task_kind task_mc = { "mc", "choices", 0, add, sample, score };
