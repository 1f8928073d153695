/*
 * test_compare.c - McNemar and the paired bootstrap against scipy and numpy (values from scipy.stats.binomtest, and from
 * numpy.percentile over resamples drawn by random.Random(seed).choices)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/eval/compare.h"
#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>

static void same(double got, double want, double tol)
{
	if (!(fabs(got - want) <= tol))
		fail_msg("%.17g, expected %.17g", got, want);
}

static void mcnemar(void **state)
{
	(void)state;
	static const struct { int a, b; double p; } v[] = {
		{ 0, 0, 1 }, { 1, 0, 1 }, { 3, 9, 0.14599609375 }, { 10, 10, 1 }, { 2, 15, 0.002349853515625 },
		{ 100, 140, 0.01166409231767769 },
	};
	for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
		same(mcnemar_exact(v[i].a, v[i].b), v[i].p, 1e-12);
		same(mcnemar_exact(v[i].b, v[i].a), v[i].p, 1e-12);
	}
}

static void bootstrap(void **state)
{
	(void)state;
	enum { N = 40 };
	double a[N], b[N], x[N], y[N], w[N], low, high;
	for (int i = 0; i < N; i++) {
		a[i] = i * 7 % 3 == 0;
		b[i] = i * 5 % 4 < 2;
		x[i] = fmod(i * 0.37, 5) + 1;
		y[i] = fmod(i * 0.91, 5) + 1;
		w[i] = i % 7 + 3.0;
	}
	paired_bootstrap(a, NULL, b, NULL, N, 2000, 5, &low, &high);
	same(low, -0.050000000000000044, 1e-12);
	same(high, 0.375, 1e-12);
	paired_bootstrap(x, w, y, w, N, 1000, 7, &low, &high);
	same(low, -0.1305989583333332, 1e-12);
	same(high, 0.06628041942961886, 1e-12);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(mcnemar), cmocka_unit_test(bootstrap) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
