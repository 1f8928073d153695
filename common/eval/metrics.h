/*
 * metrics.h - from log-likelihoods to the numbers that lm-evaluation-harness prints
 *
 *	mean, stderr     m = sum x / n        sqrt(sum (x-m)^2 / (n-1)) / sqrt(n), absent when n < 2
 *	acc, acc_norm    arg max of ll, of ll / length of the choice in code points; the first maximum wins
 *	ppl              word: exp(-sum ll / words), byte: exp(-sum ll / bytes), bits: -sum ll / bytes / ln 2,
 *	                 token: exp(-sum ll / tokens)
 *
 * Words are one more than the runs of white space (text_words), bytes those of the UTF-8 text.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_METRICS_H
#define ADZE_METRICS_H
#include "../base/base.h"

double metric_mean(const double *x, int64_t n);
double metric_stderr(const double *x, int64_t n);                  /* NAN when n < 2 */
/* Of exp(-mean): lm-evaluation-harness's bootstrap, 100 runs of 1000 resamples, run i drawn by Python's Random(i) */
double metric_ppl_stderr(const double *ll, int64_t n);
/* Error of a mean over tasks that are weighted by size, from theirs: sqrt(sum (n_i-1) n_i se_i^2 / (N-k) / N) */
double metric_pooled_stderr(const double *se, const int64_t *size, int64_t k);
/* Index of the largest ll[i] / (len ? len[i] : 1); a choice without code points divides by one. */
int64_t metric_best(const double *ll, const int64_t *len, int64_t n);
/* Of n samples c passed: the chance that one of k drawn without putting back has, 1 - (n-c over k) / (n over k); k <= n. */
double metric_pass_at_k(int64_t n, int64_t c, int64_t k);

struct ppl {
	double sum;            /* log-likelihood */
	int64_t words, bytes, tokens;
};
void ppl_add(struct ppl *to, const struct ppl *p);
double ppl_word(const struct ppl *p);
double ppl_byte(const struct ppl *p);
double ppl_bits(const struct ppl *p);
double ppl_token(const struct ppl *p);
#endif
