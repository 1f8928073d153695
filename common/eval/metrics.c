/*
 * metrics.c - means, errors and perplexities
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "metrics.h"
#include <math.h>

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
