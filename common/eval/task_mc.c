/*
 * task_mc.c - multiple choice: which continuation of a context is the likeliest
 *
 *	{"ctx": "The sky is", "choices": ["blue", "made of tin"], "gold": 0}
 *
 * `ctx` (or `query`) is the context or a list with one per choice, a continuation is delimiter + choice, `delimiter` is
 * one blank unless the item says otherwise, `id` is carried along.  acc compares sums of log-probabilities, acc_norm
 * those divided by the length of the choice in code points (without the delimiter).
 *
 * Kind `mass` has `labels` (1: true) in place of gold: acc = sum over true choices of exp(ll) / sum over all.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../io/text.h"
#include "metrics.h"
#include "task.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const json_t *context(const json_t *item)
{
	const json_t *c = json_object_get(item, "ctx");
	return c ? c : json_object_get(item, "query");
}

static int check_fields(json_t *item, const char *answer, struct err *e)
{
	const char *const known[] = { "ctx", "query", "choices", answer, "delimiter", "id" };
	const char *key;
	json_t *v;
	json_object_foreach(item, key, v) {
		size_t i = 0;
		while (i < sizeof known / sizeof *known && strcmp(key, known[i]))
			i++;
		if (i == sizeof known / sizeof *known)
			return err_set(e, EXIT_DATA, "unknown field '%.60s' (an item has ctx or query, choices, %s, "
				       "delimiter, id)", key, answer);
	}
	return 0;
}

static int check_context(const json_t *item, size_t choices, struct err *e)
{
	if (json_object_get(item, "ctx") && json_object_get(item, "query"))
		return err_set(e, EXIT_DATA, "both 'ctx' and 'query'");
	const json_t *c = context(item);
	size_t n = json_array_size(c);
	for (size_t i = 0; i < n; i++)
		if (!json_is_string(json_array_get(c, i)))
			return err_set(e, EXIT_DATA, "context %zu is not a string", i);
	if (json_is_array(c) ? n != choices : !json_is_string(c))
		return err_set(e, EXIT_DATA, "'ctx' (or 'query') must be a string, or a list of one per choice");
	return 0;
}

static int check(json_t *item, const char *answer, struct err *e)
{
	const json_t *choices = json_object_get(item, "choices");
	if (check_fields(item, answer, e))
		return -1;
	if (!json_is_array(choices) || json_array_size(choices) < 1)
		return err_set(e, EXIT_DATA, "'choices' must be a list of strings");
	for (size_t i = 0; i < json_array_size(choices); i++)
		if (!json_is_string(json_array_get(choices, i)))
			return err_set(e, EXIT_DATA, "choice %zu is not a string", i);
	if (check_context(item, json_array_size(choices), e))
		return -1;
	if (json_object_get(item, "delimiter") && !json_is_string(json_object_get(item, "delimiter")))
		return err_set(e, EXIT_DATA, "'delimiter' must be a string");
	return 0;
}

static int check_gold(const json_t *item, struct err *e)
{
	const json_t *gold = json_object_get(item, "gold");
	size_t n = json_array_size(json_object_get(item, "choices"));
	if (!json_is_integer(gold) || json_integer_value(gold) < 0 || (size_t)json_integer_value(gold) >= n)
		return err_set(e, EXIT_DATA, "'gold' must be a number from 0 to %zu", n - 1);
	return 0;
}

static int check_labels(const json_t *item, struct err *e)
{
	const json_t *labels = json_object_get(item, "labels");
	size_t n = json_array_size(json_object_get(item, "choices")), ok = json_array_size(labels) == n;
	for (size_t i = 0; i < n && ok; i++)
		ok = json_is_integer(json_array_get(labels, i));
	return ok ? 0 : err_set(e, EXIT_DATA, "'labels' must be %zu numbers, 1 for a true choice", n);
}

static const json_t *context_of(const json_t *item, size_t choice)
{
	const json_t *c = context(item);
	return json_is_array(c) ? json_array_get(c, choice) : c;
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

static int add_choices(struct doc *d, struct encoder *c, struct ll_set *s, struct err *e)
{
	size_t n = json_array_size(json_object_get(d->item, "choices"));
	for (size_t i = 0; i < n; i++) {
		size_t len;
		const json_t *ctx = context_of(d->item, i);
		char *cont = continuation_new(d->item, i, &len);
		int rc = encode_pair(c, s, json_string_value(ctx), json_string_length(ctx), cont, len, e);
		free(cont);
		if (rc)
			return err_wrap(e, "choice %zu", i);
	}
	return 0;
}

static int add(struct doc *d, struct encoder *c, struct ll_set *s, struct err *e)
{
	return check(d->item, "gold", e) || check_gold(d->item, e) ? -1 : add_choices(d, c, s, e);
}

static int add_mass(struct doc *d, struct encoder *c, struct ll_set *s, struct err *e)
{
	return check(d->item, "labels", e) || check_labels(d->item, e) ? -1 : add_choices(d, c, s, e);
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

/* Share of the probability of all choices that the true ones have */
static double mass(const struct doc *d, const struct ll_set *s)
{
	const json_t *labels = json_object_get(d->item, "labels");
	double yes = 0, all = 0;
	for (int64_t i = 0; i < d->n_req; i++) {
		double p = exp(s->r[d->req0 + i].sum);
		all += p;
		yes += json_integer_value(json_array_get(labels, (size_t)i)) == 1 ? p : 0;
	}
	return yes / all;
}

static json_t *requests(const struct doc *d, const struct ll_set *s)
{
	json_t *list = json_array();
	for (int64_t i = 0; i < d->n_req; i++) {
		const struct ll_req *r = &s->r[d->req0 + i];
		size_t n;
		char *cont = continuation_new(d->item, (size_t)i, &n);
		json_array_append_new(list, json_pack("{s:O,s:o,s:f,s:b}", "context", context_of(d->item, (size_t)i),
						      "continuation", json_stringn_nocheck(cont, n), "loglikelihood", r->sum,
						      "greedy", r->greedy));
		free(cont);
	}
	return list;
}

static void sample(const struct doc *d, const struct ll_set *s, json_t *o)
{
	double acc, acc_norm;
	judge(d, s, &acc, &acc_norm);
	json_object_set(o, "target", json_object_get(d->item, "gold"));
	json_object_set_new(o, "requests", requests(d, s));
	json_object_set_new(o, "acc", json_real(acc));
	json_object_set_new(o, "acc_norm", json_real(acc_norm));
}

static void sample_mass(const struct doc *d, const struct ll_set *s, json_t *o)
{
	double acc = mass(d, s);
	json_object_set(o, "target", json_object_get(d->item, "labels"));
	json_object_set_new(o, "requests", requests(d, s));
	json_object_set_new(o, "acc", isfinite(acc) ? json_real(acc) : json_null());
}

static int score(const struct task *t, const struct ll_set *s, struct score out[MAX_SCORES])
{
	double *acc = xcalloc((size_t)t->n, sizeof *acc), *norm = xcalloc((size_t)t->n, sizeof *norm);
	for (int64_t i = 0; i < t->n; i++)
		judge(&t->doc[i], s, &acc[i], &norm[i]);
	out[0] = (struct score){ "acc", metric_mean(acc, t->n), metric_stderr(acc, t->n), 1, NULL };
	out[1] = (struct score){ "acc_norm", metric_mean(norm, t->n), metric_stderr(norm, t->n), 1, NULL };
	free(acc);
	free(norm);
	return 2;
}

static int score_mass(const struct task *t, const struct ll_set *s, struct score out[MAX_SCORES])
{
	double *acc = xcalloc((size_t)t->n, sizeof *acc);
	for (int64_t i = 0; i < t->n; i++)
		acc[i] = mass(&t->doc[i], s);
	out[0] = (struct score){ "acc", metric_mean(acc, t->n), metric_stderr(acc, t->n), 1, NULL };
	free(acc);
	return 1;
}

const struct task_kind task_mc = { "mc", { "choices" }, 0, add, sample, score, 0 };
const struct task_kind task_mass = { "mass", { "choices", "labels" }, 0, add_mass, sample_mass, score_mass, 0 };
