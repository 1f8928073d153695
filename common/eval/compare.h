/*
 * compare.h - two evaluations of the same items: is the difference more than chance?
 *
 *	difference   mean over items of b - a (bits_per_byte: quotient of sums of B less that of A)
 *	interval     2.5 and 97.5 % of the difference over resamples of the items, both models on the same items (paired
 *	             bootstrap); items drawn by Python's Random(seed), percentiles interpolated as numpy's
 *	McNemar      where values are 0 and 1: items that A alone got right against those that B alone did, exact, two-sided:
 *	             p = min(1, 2 sum_{k <= min} C(n,k) / 2^n)
 *
 * Of scores artifacts, which hold no items, only the difference and a normal interval from the two standard errors.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_COMPARE_H
#define ADZE_COMPARE_H
#include "../base/outfile.h"

struct comparison {
	char *task, *metric;
	int64_t n;
	double a, b, low, high; /* means; interval of b - a */
	int64_t only_a, only_b; /* -1: not a question of right or wrong */
	double p;              /* McNemar; NAN */
};
struct comparisons {
	struct comparison *v;
	int64_t n, cap;
};
/* a, b: two --log-samples files or two scores artifacts.  Refuses (EXIT_DATA) files whose items differ. */
int compare_files(struct comparisons *c, const char *a, const char *b, int64_t resamples, uint64_t seed, struct err *e);
void comparisons_free(struct comparisons *c);
void compare_table(const struct comparisons *c, FILE *f);
int compare_write(const struct comparisons *c, const char *a, const char *b, struct outfile *o, struct err *e);

double mcnemar_exact(int64_t only_a, int64_t only_b);
/* Interval of the difference of sum(x)/sum(w) over the items; w NULL: 1.  x, w [n] of each model. */
void paired_bootstrap(const double *xa, const double *wa, const double *xb, const double *wb, int64_t n, int64_t resamples,
		      uint64_t seed, double *low, double *high);
#endif
