/*
 * metrics.c - means, errors and perplexities
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "metrics.h"
#include "pyrand.h"
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

double metric_mean(const double *x, int64_t n)
{
	double s = 0;
	for (int64_t i = 0; i < n; i++)
		s += x[i];
	return n ? s / (double)n : NAN;
}

double metric_stderr(const double *x, int64_t n)
{
	if (n < 2)
		return NAN;
	double m = metric_mean(x, n), s = 0;
	for (int64_t i = 0; i < n; i++)
		s += (x[i] - m) * (x[i] - m);
	return sqrt(s / (double)(n - 1)) / sqrt((double)n);
}

enum { RUNS = 100, RESAMPLES = 1000, MAX_WORKERS = 64 };
struct bootstrap {
	const double *x;
	int64_t n;
	double *out;           /* [RUNS * RESAMPLES] */
	int first, step;
};

static void *resample(void *arg)
{
	const struct bootstrap *b = arg;
	struct pyrand *r = xmalloc(sizeof *r);
	for (int run = b->first; run < RUNS; run += b->step) {
		pyrand_seed(r, (uint64_t)run);
		for (int k = 0; k < RESAMPLES; k++) {
			double s = 0;
			for (int64_t i = 0; i < b->n; i++)
				s += b->x[(int64_t)(pyrand_double(r) * (double)b->n)];
			b->out[run * RESAMPLES + k] = exp(-s / (double)b->n);
		}
	}
	free(r);
	return NULL;
}

/* The statistics of a run depend on its number alone, so threads share the runs. */
double metric_ppl_stderr(const double *ll, int64_t n)
{
	int workers = n < 100 ? 1 : cpu_count() < MAX_WORKERS ? cpu_count() : MAX_WORKERS;
	double *out = xcalloc(RUNS * RESAMPLES, sizeof *out);
	struct bootstrap b[MAX_WORKERS];
	pthread_t id[MAX_WORKERS];
	int started[MAX_WORKERS] = { 0 };
	for (int w = 0; w < workers; w++) {
		b[w] = (struct bootstrap){ ll, n, out, w, workers };
		started[w] = w && !pthread_create(&id[w], NULL, resample, &b[w]);
	}
	for (int w = 0; w < workers; w++)
		if (started[w])
			pthread_join(id[w], NULL);
		else
			resample(&b[w]);
	double m = metric_mean(out, RUNS * RESAMPLES), s = 0;
	for (int i = 0; i < RUNS * RESAMPLES; i++)
		s += (out[i] - m) * (out[i] - m);
	free(out);
	return n < 2 ? NAN : sqrt(s / (RUNS * RESAMPLES - 1));
}

double metric_pooled_stderr(const double *se, const int64_t *size, int64_t k)
{
	double sum = 0, all = 0;
	for (int64_t i = 0; i < k; i++) {
		sum += (double)(size[i] - 1) * se[i] * se[i] * (double)size[i];
		all += (double)size[i];
	}
	return all > (double)k ? sqrt(sum / (all - (double)k) / all) : NAN;
}

int64_t metric_best(const double *ll, const int64_t *len, int64_t n)
{
	int64_t best = 0;
	double top = -INFINITY;
	for (int64_t i = 0; i < n; i++) {
		double v = len && len[i] > 0 ? ll[i] / (double)len[i] : ll[i];
		if (v > top) {
			top = v;
			best = i;
		}
	}
	return best;
}

double metric_pass_at_k(int64_t n, int64_t c, int64_t k)
{
	double none = 1;
	if (n - c < k)
		return 1;
	for (int64_t i = n - c + 1; i <= n; i++)
		none *= 1 - (double)k / (double)i;
	return 1 - none;
}

void ppl_add(struct ppl *to, const struct ppl *p)
{
	to->sum += p->sum;
	to->words += p->words;
	to->bytes += p->bytes;
	to->tokens += p->tokens;
}

double ppl_word(const struct ppl *p)
{
	return exp(-p->sum / (double)p->words);
}

double ppl_byte(const struct ppl *p)
{
	return exp(-p->sum / (double)p->bytes);
}

double ppl_bits(const struct ppl *p)
{
	return -p->sum / (double)p->bytes / log(2.0);
}

double ppl_token(const struct ppl *p)
{
	return exp(-p->sum / (double)p->tokens);
}
