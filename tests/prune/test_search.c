/*
 * test_search.c - the Minitron paper's grids give its candidate lists, shape by shape and parameter by parameter
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/prune/search.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct arch nemotron15b(void)
{
	struct arch a = { .family = family_find("nemotron"), .layers = 32, .hidden = 6144, .ffn = 24576, .heads = 48,
		.kv_heads = 8, .head_dim = 128, .vocab = 256000, .act = ACT_RELU2, .norm = NORM_LAYER1P, .rope_frac = 0.5 };

	return a;
}

#define AXIS_OF(...) { .v = (int64_t[]){ __VA_ARGS__ }, .n = sizeof (int64_t[]){ __VA_ARGS__ } / sizeof(int64_t) }
struct row { int64_t layers, heads, ffn, hidden, params; };

static void check(const struct grid *g, double lo, double hi, const struct row *want, int64_t n, int64_t rounding)
{
	struct arch a = nemotron15b();
	struct limit limits[SHAPE_COLUMNS] = { [COL_PARAMS] = { lo, hi } };
	struct shape *s;
	int64_t got, uneven;
	struct err e;

	assert_int_equal(search_shapes(&a, g, limits, &s, &got, &uneven, &e), 0);
	assert_int_equal(got, n);
	assert_int_equal(uneven, 0);
	for (int64_t i = 0; i < n; i++) {
		int64_t hits = 0;
		for (int64_t k = 0; k < n; k++)
			if (s[k].layers == want[i].layers && s[k].heads == want[i].heads && s[k].ffn == want[i].ffn &&
			    s[k].hidden == want[i].hidden) {
				hits++;
				assert_int_equal((s[k].params + rounding / 2) / rounding, want[i].params);
				assert_int_equal(s[k].nonembedding, s[k].params - 2 * 256000 * s[k].hidden);
				/* the table itself agrees with the shape that the search names */
				struct arch b = a;
				b.layers = s[k].layers;
				b.heads = s[k].heads;
				b.ffn = s[k].ffn;
				b.hidden = s[k].hidden;
				struct ptable *t = ptable_new(&b);
				assert_int_equal(t->count, s[k].params);
				ptable_free(t);
				if (rounding == 1)
					assert_int_equal(s[k].id, i + 1);
			}
		assert_int_equal(hits, 1);
	}
	free(s);
}

static void test_8b(void **state)
{
	static const struct row want[] = {
		{ 32, 32, 12800, 5120, 8494131200 }, { 32, 32, 13824, 4608, 7946707968 }, { 32, 48, 11520, 4608, 7871210496 },
		{ 32, 48, 16384, 4096, 8271699968 }, { 31, 32, 12800, 5120, 8310609920 }, { 31, 32, 16128, 4608, 8430345216 },
		{ 31, 48, 13824, 4608, 8357207040 }, { 31, 48, 16384, 4096, 8078745600 }, { 30, 32, 12800, 5120, 8127088640 },
		{ 30, 32, 16128, 4608, 8234505216 }, { 30, 48, 13824, 4608, 8163726336 }, { 30, 48, 16384, 4096, 7885791232 },
		{ 29, 32, 12800, 5120, 7943567360 }, { 29, 32, 16128, 4608, 8038665216 }, { 29, 48, 13824, 4608, 7970245632 },
	};
	struct grid g = { .layers = AXIS_OF(29, 30, 31, 32), .heads = AXIS_OF(32, 48),
		.hidden = AXIS_OF(4096, 4608, 5120, 5632, 6144), .ratio = (double[]){ 2.5, 3, 3.5, 4 }, .nratio = 4, .seq = 4096,
		.batch = 1, .weight_bytes = 2 };

	(void)state;
	check(&g, 7.8e9, 8.5e9, want, 15, 1);
}

static void test_4b(void **state)
{
	/* millions of parameters, as published */
	static const struct row want[] = {
		{ 29, 24, 9216, 3072, 3945 }, { 29, 32, 7680, 3072, 3854 }, { 29, 32, 9216, 3072, 4128 },
		{ 29, 48, 10240, 2560, 3896 }, { 30, 24, 9216, 3072, 4027 }, { 30, 32, 7680, 3072, 3933 },
		{ 30, 48, 10240, 2560, 3985 }, { 31, 24, 7680, 3072, 3816 }, { 31, 24, 9216, 3072, 4109 },
		{ 31, 32, 7680, 3072, 4011 }, { 31, 48, 8960, 2560, 3871 }, { 31, 48, 10240, 2560, 4074 },
		{ 32, 24, 7680, 3072, 3889 }, { 32, 24, 9216, 3072, 4191 }, { 32, 32, 7680, 3072, 4090 },
		{ 32, 32, 10240, 2560, 3828 }, { 32, 48, 8960, 2560, 3953 }, { 32, 48, 10240, 2560, 4163 },
	};
	struct grid g = { .layers = AXIS_OF(29, 30, 31, 32), .heads = AXIS_OF(24, 32, 48),
		.hidden = AXIS_OF(2560, 3072, 3584, 4096, 4608), .ratio = (double[]){ 2.5, 3, 3.5, 4 }, .nratio = 4, .seq = 4096,
		.batch = 1, .weight_bytes = 2 };

	(void)state;
	check(&g, 4e9 * 0.95, 4e9 * 1.05, want, 18, 1000000);
}

static void test_refusals(void **state)
{
	struct arch a = nemotron15b();
	struct limit none[SHAPE_COLUMNS] = { { 0, 0 } };
	struct shape *s = NULL;
	int64_t n, uneven;
	struct err e;
	struct grid half = { .hidden = AXIS_OF(4096, 101), .ratio = (double[]){ 2.5 }, .nratio = 1, .seq = 1, .batch = 1,
		.weight_bytes = 2 };
	struct grid large = { .hidden = AXIS_OF(8192), .seq = 1, .batch = 1, .weight_bytes = 2 };
	struct grid odd = { .heads = AXIS_OF(12, 24), .seq = 1, .batch = 1, .weight_bytes = 2 };

	(void)state;
	assert_int_equal(search_shapes(&a, &half, none, &s, &n, &uneven, &e), -1);
	assert_int_equal(e.code, EXIT_USAGE);
	assert_non_null(strstr(e.msg, "ffn-ratio 2.5 of hidden 101 is 252.5"));
	assert_int_equal(search_shapes(&a, &large, none, &s, &n, &uneven, &e), -1);
	assert_non_null(strstr(e.msg, "hidden 8192: the model has 6144"));
	assert_int_equal(search_shapes(&a, &odd, none, &s, &n, &uneven, &e), 0);
	assert_int_equal(n, 1);
	assert_int_equal(uneven, 1);
	assert_int_equal(s[0].heads, 24);
	free(s);
}

static void test_sort(void **state)
{
	struct arch a = nemotron15b();
	struct limit none[SHAPE_COLUMNS] = { { 0, 0 } };
	struct grid g = { .layers = AXIS_OF(1, 2, 3, 2), .hidden = AXIS_OF(4096, 6144), .seq = 128, .batch = 2,
		.weight_bytes = 2 };
	struct shape *s;
	int64_t n, uneven;
	struct err e;

	(void)state;
	assert_int_equal(search_shapes(&a, &g, none, &s, &n, &uneven, &e), 0);
	assert_int_equal(n, 6);
	/* weights and cache in two bytes each */
	assert_true(s[0].memory == 2.0 * (double)s[0].params + 2.0 * 2 * 3 * 128 * 2 * 8 * 128);
	search_sort(s, n, COL_PARAMS, true);
	for (int64_t i = 1; i < n; i++)
		assert_true(s[i].params > s[i - 1].params);
	search_sort(s, n, COL_LAYERS, false);
	assert_int_equal(s[0].layers, 3);
	assert_true(s[0].id < s[1].id);
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_8b), cmocka_unit_test(test_4b), cmocka_unit_test(test_refusals), cmocka_unit_test(test_sort),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
