/*
 * compare.c - statistics of paired differences
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compare.h"
#include "../io/jsontext.h"
#include "pyrand.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

double mcnemar_exact(int64_t only_a, int64_t only_b)
{
	int64_t n = only_a + only_b, k = only_a < only_b ? only_a : only_b;
	double tail = 0, log_n = lgamma((double)n + 1);
	for (int64_t i = 0; i <= k; i++)
		tail += exp(log_n - lgamma((double)i + 1) - lgamma((double)(n - i) + 1) - (double)n * log(2.0));
	return 2 * tail < 1 ? 2 * tail : 1;
}

static int ascending(const void *x, const void *y)
{
	double a = *(const double *)x, b = *(const double *)y;
	return (a > b) - (a < b);
}

/* Between the two neighbours of place q (n - 1) */
static double percentile(const double *sorted, int64_t n, double q)
{
	double at = q * (double)(n - 1), below = floor(at);
	int64_t i = (int64_t)below;
	return i + 1 < n ? sorted[i] + (at - below) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

void paired_bootstrap(const double *xa, const double *wa, const double *xb, const double *wb, int64_t n, int64_t resamples,
		      uint64_t seed, double *low, double *high)
{
	struct pyrand *r = xmalloc(sizeof *r);
	double *d = xcalloc((size_t)resamples, sizeof *d);
	pyrand_seed(r, seed);
	for (int64_t k = 0; k < resamples; k++) {
		double sa = 0, sb = 0, na = 0, nb = 0;
		for (int64_t i = 0; i < n; i++) {
			int64_t j = (int64_t)(pyrand_double(r) * (double)n);
			sa += xa[j];
			sb += xb[j];
			na += wa ? wa[j] : 1;
			nb += wb ? wb[j] : 1;
		}
		d[k] = sb / nb - sa / na;
	}
	qsort(d, (size_t)resamples, sizeof *d, ascending);
	*low = percentile(d, resamples, 0.025);
	*high = percentile(d, resamples, 0.975);
	free(d);
	free(r);
}

void comparisons_free(struct comparisons *c)
{
	for (int64_t i = 0; i < c->n; i++) {
		free(c->v[i].task);
		free(c->v[i].metric);
	}
	free(c->v);
	*c = (struct comparisons){ 0 };
}

void compare_table(const struct comparisons *c, FILE *f)
{
	size_t width = 4;
	for (int64_t i = 0; i < c->n; i++)
		width = strlen(c->v[i].task) > width ? strlen(c->v[i].task) : width;
	fprintf(f, "%-*s %-14s %7s %10s %10s %10s  %-22s %7s %7s %9s\n", (int)width, "task", "metric", "items", "A", "B", "B - A",
		"95 % interval", "A only", "B only", "p");
	for (int64_t i = 0; i < c->n; i++) {
		const struct comparison *x = &c->v[i];
		char interval[48], only[2][24] = { "-", "-" }, p[16] = "-";
		snprintf(interval, sizeof interval, "[%.4f, %.4f]", x->low, x->high);
		if (x->only_a >= 0) {
			snprintf(only[0], sizeof only[0], "%lld", (long long)x->only_a);
			snprintf(only[1], sizeof only[1], "%lld", (long long)x->only_b);
			snprintf(p, sizeof p, "%.3g", x->p);
		}
		fprintf(f, "%-*s %-14s %7lld %10.4f %10.4f %10.4f  %-22s %7s %7s %9s\n", (int)width, x->task, x->metric, (long long)x->n,
			x->a, x->b, x->b - x->a, interval, only[0], only[1], p);
	}
}

static json_t *real(double x)
{
	return isfinite(x) ? json_real(x) : json_null();
}

int compare_write(const struct comparisons *c, const char *a, const char *b, struct outfile *o, struct err *e)
{
	json_t *tasks = json_object();
	for (int64_t i = 0; i < c->n; i++) {
		const struct comparison *x = &c->v[i];
		json_t *m = json_pack("{s:I,s:o,s:o,s:o,s:[o,o]}", "n", (json_int_t)x->n, "a", real(x->a), "b", real(x->b),
				      "difference", real(x->b - x->a), "interval", real(x->low), real(x->high));
		if (x->only_a >= 0) {
			json_object_set_new(m, "only_a", json_integer(x->only_a));
			json_object_set_new(m, "only_b", json_integer(x->only_b));
			json_object_set_new(m, "mcnemar_p", real(x->p));
		}
		if (!json_object_get(tasks, x->task))
			json_object_set_new(tasks, x->task, json_object());
		json_object_set_new(json_object_get(tasks, x->task), x->metric, m);
	}
	json_t *all = json_pack("{s:s,s:s,s:o}", "a", a, "b", b, "comparison", tasks);
	char *text = json_text_new(all, 2);
	int rc = outfile_write(o, text, strlen(text), e);
	free(text);
	json_decref(all);
	return rc;
}
