/*
 * test_metrics.c - closed forms of the metrics, and text measures as Python takes them
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/eval/metrics.h"
#include "../../common/io/text.h"
#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>

static void near(double got, double want)
{
	if (!(fabs(got - want) <= 1e-12 * (1 + fabs(want))))
		fail_msg("got %.17g, expected %.17g", got, want);
}

static void means(void **state)
{
	(void)state;
	const double x[] = { 1, 0, 1, 1 };
	near(metric_mean(x, 4), 0.75);
	near(metric_stderr(x, 4), 0.25);       /* sqrt(0.75 / 3) / 2 */
	assert_true(isnan(metric_stderr(x, 1)));
	assert_true(isnan(metric_mean(x, 0)));
}

static void best_choice(void **state)
{
	(void)state;
	const double ll[] = { -4, -3, -3, -8 };
	const int64_t len[] = { 2, 1, 1, 8 }, none[] = { 0, 1, 1, 1 };
	assert_int_equal(metric_best(ll, NULL, 4), 1);     /* the first maximum */
	assert_int_equal(metric_best(ll, len, 4), 3);      /* -2 -3 -3 -1 */
	assert_int_equal(metric_best(ll, none, 4), 1);     /* a choice without characters divides by one */
}

static void perplexities(void **state)
{
	(void)state;
	struct ppl p = { -2, 1, 3, 1 }, all = { 0 };
	const struct ppl q = { -4, 3, 21, 2 };
	ppl_add(&all, &p);
	ppl_add(&all, &q);
	near(ppl_word(&all), exp(1.5));
	near(ppl_byte(&all), exp(0.25));
	near(ppl_bits(&all), 0.25 / log(2));
	near(ppl_token(&all), exp(2));
	near(log2(ppl_byte(&all)), ppl_bits(&all));
}

/* Against counting: c right ones of n, every choice of k */
static void pass_at_k(void **state)
{
	(void)state;
	for (int n = 1; n <= 8; n++)
		for (int c = 0; c <= n; c++)
			for (int k = 1; k <= n; k++) {
				int all = 0, some = 0;
				for (unsigned set = 0; set < 1u << n; set++)
					if (__builtin_popcount(set) == k) {
						all++;
						some += (set & ((1u << c) - 1)) != 0;
					}
				near(metric_pass_at_k(n, c, k), (double)some / all);
			}
}

static int64_t words(const char *s)
{
	return text_words(s, strlen(s));
}

static void text(void **state)
{
	(void)state;
	/* values of len(re.split(r"\s+", s)) */
	assert_int_equal(words(""), 1);
	assert_int_equal(words("one"), 1);
	assert_int_equal(words(" one  two\n"), 4);
	assert_int_equal(words("a\xc2\xa0" "b\xe3\x80\x80" "c\x1c" "d"), 4);
	assert_int_equal(words("a\xe2\x80\x8b" "b"), 1);       /* U+200B is no white space */
	assert_int_equal(text_codepoints("na\xc3\xafve \xf0\x9f\x98\x80", 11), 7);
	assert_int_equal(text_rstrip("ab \t\xe2\x80\x89\n", 8), 2);
	assert_int_equal(text_rstrip(" \n", 2), 0);
	assert_int_equal(text_rstrip("\xc3\xa9", 2), 2);
	assert_int_equal(utf8_check("ok \xc3\xa9", 5), -1);
	assert_int_equal(utf8_check("ab\xff", 3), 2);
	assert_int_equal(utf8_check("ab\xc3", 3), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(means),
		cmocka_unit_test(best_choice),
		cmocka_unit_test(perplexities),
		cmocka_unit_test(pass_at_k),
		cmocka_unit_test(text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
