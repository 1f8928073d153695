/*
 * compare_read.c - values of two evaluations, item by item or (scores artifacts) task by task
 *
 * A sample line counts with its fields acc and acc_norm; `answers` with exact_match by filter; `passed` with its mean, pass@1;
 * lines with bytes (perplexities) with bits_per_byte = -sum ll / sum bytes / ln 2.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compare.h"
#include "../io/artifact.h"
#include "items.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const metrics[] = {
	"acc", "acc_norm", "strict-match", "flexible-extract", "pass@1", "bits_per_byte",
};
enum { N_METRICS = sizeof metrics / sizeof *metrics, BITS = N_METRICS - 1 };

static struct comparison *more(struct comparisons *c, const char *task, const char *metric)
{
	if (c->n >= c->cap) {
		c->cap = c->cap ? 2 * c->cap : 16;
		c->v = xrealloc(c->v, (size_t)c->cap, sizeof *c->v);
	}
	struct comparison *x = &c->v[c->n++];
	*x = (struct comparison){ .task = xstrdup(task), .metric = xstrdup(metric), .only_a = -1, .only_b = -1, .p = NAN };
	return x;
}

/* Value and weight of a line for a metric; -1: it has none */
static int value(const json_t *line, int metric, double *x, double *w)
{
	const json_t *v = json_object_get(line, metrics[metric]), *bytes = json_object_get(line, "bytes"), *answer;
	const json_t *ll = rules_field(line, "requests.0.loglikelihood"), *passed = json_object_get(line, "passed");
	size_t i;
	*w = 1;
	json_array_foreach(json_object_get(line, "answers"), i, answer) {
		const char *filter = json_string_value(json_object_get(answer, "filter"));
		if (filter && !strcmp(filter, metrics[metric]))
			v = json_object_get(answer, "exact_match");
	}
	if (!strcmp(metrics[metric], "pass@1") && json_array_size(passed)) {
		for (*x = 0, i = 0; i < json_array_size(passed); i++)
			*x += json_is_true(json_array_get(passed, i));
		*x /= (double)json_array_size(passed);
		return 0;
	}
	if (metric == BITS) {
		if (!json_is_integer(bytes) || !json_is_number(ll))
			return -1;
		*x = -json_number_value(ll) / log(2.0);
		*w = (double)json_integer_value(bytes);
		return 0;
	}
	*x = json_is_true(v) ? 1 : json_number_value(v);
	return json_is_number(v) || json_is_boolean(v) ? 0 : -1;
}

static int by_place(const void *x, const void *y)
{
	const json_t *a = *(json_t *const *)x, *b = *(json_t *const *)y;
	int t = strcmp(json_string_value(json_object_get(a, "task")), json_string_value(json_object_get(b, "task")));
	json_int_t i = json_integer_value(json_object_get(a, "doc_id")), j = json_integer_value(json_object_get(b, "doc_id"));
	return t ? t : (i > j) - (i < j);
}

static int read_log(struct items *it, const char *path, struct err *e)
{
	if (items_read(it, path, 0, e))
		return -1;
	for (int64_t i = 0; i < it->n; i++)
		if (!json_is_string(json_object_get(it->v[i], "task")) || !json_is_integer(json_object_get(it->v[i], "doc_id")))
			return err_set(e, EXIT_DATA, "%s:%lld: not a line of --log-samples: no task or doc_id", path,
				       (long long)it->line[i]);
	qsort(it->v, (size_t)it->n, sizeof *it->v, by_place);
	return 0;
}

static int same(const json_t *a, const json_t *b)
{
	return a == b || json_equal(a, b);
}

static int same_items(const struct items *x, const struct items *y, const char *a, const char *b, struct err *e)
{
	for (int64_t i = 0; i < x->n || i < y->n; i++) {
		const json_t *l = i < x->n ? x->v[i] : NULL, *r = i < y->n ? y->v[i] : NULL, *one = l ? l : r;
		if (!l || !r || by_place(&l, &r) || !same(json_object_get(l, "target"), json_object_get(r, "target")))
			return err_set(e, EXIT_DATA, "%s and %s are not about the same items: item %lld of %s differs", a, b,
				       (long long)json_integer_value(json_object_get(one, "doc_id")),
				       json_string_value(json_object_get(one, "task")));
	}
	return 0;
}

/* Items [i0, i1) are one task's. */
static void compare_task(struct comparisons *c, const struct items *x, const struct items *y, int64_t i0, int64_t i1, int metric,
			 int64_t resamples, uint64_t seed)
{
	const int64_t n = i1 - i0;
	double *v = xcalloc(4 * (size_t)n, sizeof *v), *xa = v, *wa = v + n, *xb = v + 2 * n, *wb = v + 3 * n, s[4] = { 0 };
	int binary = metric != BITS;
	int64_t only[2] = { 0 };
	for (int64_t i = 0; i < n; i++) {
		if (value(x->v[i0 + i], metric, &xa[i], &wa[i]) || value(y->v[i0 + i], metric, &xb[i], &wb[i])) {
			free(v);
			return;
		}
		binary &= (xa[i] == 0 || xa[i] == 1) && (xb[i] == 0 || xb[i] == 1);
		only[0] += xa[i] > xb[i];
		only[1] += xb[i] > xa[i];
		for (int k = 0; k < 4; k++)
			s[k] += v[k * n + i];
	}
	struct comparison *q = more(c, json_string_value(json_object_get(x->v[i0], "task")), metrics[metric]);
	q->n = n;
	q->a = s[0] / s[1];
	q->b = s[2] / s[3];
	paired_bootstrap(xa, wa, xb, wb, n, resamples, seed, &q->low, &q->high);
	if (binary) {
		q->only_a = only[0];
		q->only_b = only[1];
		q->p = mcnemar_exact(only[0], only[1]);
	}
	free(v);
}

static int compare_logs(struct comparisons *c, const char *a, const char *b, int64_t resamples, uint64_t seed, struct err *e)
{
	struct items x = { 0 }, y = { 0 };
	int rc = read_log(&x, a, e) || read_log(&y, b, e) || same_items(&x, &y, a, b, e) ? -1 : 0;
	for (int64_t i = 0, end; i < x.n && !rc; i = end) {
		for (end = i + 1; end < x.n && json_equal(json_object_get(x.v[end], "task"), json_object_get(x.v[i], "task")); end++)
			;
		for (int m = 0; m < N_METRICS; m++)
			compare_task(c, &x, &y, i, end, m, resamples, seed);
	}
	items_free(&x);
	items_free(&y);
	return rc;
}

/* Scores of an artifact: B's are looked up by A's task and metric */
static int read_scores(struct comparisons *c, const char *path, int second, int64_t *matched, struct err *e)
{
	const msgpack_object *rec;
	struct art_r *r = art_open(path, "scores", 1, e);
	int rc = r ? 1 : -1;
	while (r && (rc = art_next(r, &rec, e)) > 0) {
		char task[256], metric[64];
		double v, err = NAN;
		int64_t n, i = 0;
		if (obj_str(r, rec, "task", task, sizeof task, e) || obj_str(r, rec, "metric", metric, sizeof metric, e) ||
		    obj_f64(r, rec, "value", &v, e) || obj_int(r, rec, "n", &n, e)) {
			rc = -1;
			break;
		}
		if (obj_f64(r, rec, "stderr", &err, NULL))
			continue; /* nothing to judge a difference by */
		for (; i < c->n && (strcmp(c->v[i].task, task) || strcmp(c->v[i].metric, metric)); i++)
			;
		if (!second) {
			struct comparison *q = more(c, task, metric);
			q->n = n;
			q->a = v;
			q->high = err;
		} else if (i < c->n && c->v[i].n == n) {
			struct comparison *q = &c->v[i];
			double half = 1.959963984540054 * sqrt(q->high * q->high + err * err);
			q->b = v;
			q->low = v - q->a - half;
			q->high = v - q->a + half;
			++*matched;
		}
	}
	art_close(r);
	return rc;
}

static int is_artifact(const char *path)
{
	unsigned char m[4] = { 0 };
	FILE *f = fopen(path, "rb");
	size_t n = f ? fread(m, 1, 4, f) : 0;
	if (f)
		fclose(f);
	return n == 4 && m[0] == 0x04 && m[1] == 0x22 && m[2] == 0x4d && m[3] == 0x18;
}

int compare_files(struct comparisons *c, const char *a, const char *b, int64_t resamples, uint64_t seed, struct err *e)
{
	int64_t matched = 0;
	*c = (struct comparisons){ 0 };
	if (is_artifact(a) != is_artifact(b))
		return err_set(e, EXIT_DATA, "%s and %s: one is a scores artifact, the other is not", a, b);
	if (!is_artifact(a))
		return compare_logs(c, a, b, resamples, seed, e);
	if (read_scores(c, a, 0, &matched, e) || read_scores(c, b, 1, &matched, e))
		return -1;
	return matched == c->n ? 0 : err_set(e, EXIT_DATA, "%s and %s are not about the same tasks and items", a, b);
}
