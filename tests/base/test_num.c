/*
 * test_num.c - numbers, lists, random numbers, arena, error lines
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/base/opt.h"
#include "../../common/base/rng.h"
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void integers(void **state)
{
	static const struct { const char *s; int64_t v; } good[] = {
		{ "0", 0 }, { "1024", 1024 }, { "8e9", 8000000000 }, { "4Ki", 4096 }, { "1.5G", 1500000000 }, { "1.5Ki", 1536 },
		{ "-3", -3 }, { "9223372036854775807", INT64_MAX }, { "2k", 2000 }, { "2M", 2000000 },
		{ "1Ti", (int64_t)1 << 40 }, { "1500e-1k", 150000 }, { "8.0e9", 8000000000 },
	};
	static const char *const bad[] = { "", "-", "1.5", "1.05", "12x", "1e", "1e40", "9223372036854775808", "0x10", "1KiB", " 1", "1 ",
					   "1.0001k", "1.5.5", "8Ei", "1ki", "e9", "99999999999999999999999999", "9223372036854775807k" };
	int64_t v;
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		assert_int_equal(parse_i64(good[i].s, &v), 0);
		assert_true(v == good[i].v);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		if (parse_i64(bad[i], &v) != -1)
			fail_msg("'%s' was taken as %lld", bad[i], (long long)v);
}

static void reals(void **state)
{
	double v;
	(void)state;
	assert_int_equal(parse_f64("1e-4", &v), 0);
	assert_true(v == 1e-4);
	assert_int_equal(parse_f64(".5", &v), 0);
	assert_int_equal(parse_f64("1.5Gi", &v), 0);
	assert_true(v == 1.5 * 1073741824);
	static const char *const bad[] = { "", "nan", "inf", "0x1p3", "1,5", "1e999", "x", "1.5 " };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(parse_f64(bad[i], &v), -1);
}

static void people(void **state)
{
	char b[32];
	(void)state;
	assert_string_equal(fmt_count(b, 4.19e9), "4.19B");
	assert_string_equal(fmt_count(b, 512), "512");
	assert_string_equal(fmt_count(b, 999999), "1.00M");
	assert_string_equal(fmt_count(b, 15.2e3), "15.2K");
	assert_string_equal(fmt_bytes(b, 1.5 * 1073741824), "1.50 GiB");
	assert_string_equal(fmt_bytes(b, 17), "17 B");
}

static void lists(void **state)
{
	int64_t *v, n;
	struct err e = { 0 };
	(void)state;
	assert_int_equal(parse_i64_list("1,2,8:10,16:64:16", &v, &n, &e), 0);
	static const int64_t want[] = { 1, 2, 8, 9, 10, 16, 32, 48, 64 };
	assert_int_equal(n, 9);
	assert_memory_equal(v, want, sizeof want);
	free(v);
	static const char *const bad[] = { "", ",", "1,", "3:2", "1:5:0", "1:2:3:4", "x", "0:1e9", "-9e18:9e18" };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(parse_i64_list(bad[i], &v, &n, &e), -1);
	assert_int_equal(e.code, EXIT_USAGE);
}

static int sum_cb(void *arg, const char *name, double v, struct err *e)
{
	double *sum = arg;
	if (!strcmp(name, "no"))
		return err_set(e, EXIT_USAGE, "no such thing");
	*sum += isnan(v) ? 100 : v;
	return 0;
}

static void weights(void **state)
{
	double sum = 0;
	struct err e;
	(void)state;
	assert_int_equal(parse_weights("kl:1,ce:0.5,mse", sum_cb, &sum, &e), 0);
	assert_true(sum == 101.5);
	assert_int_equal(parse_weights("kl:x", sum_cb, &sum, &e), -1);
	assert_int_equal(parse_weights("kl:1,", sum_cb, &sum, &e), -1);
	assert_int_equal(parse_weights("no", sum_cb, &sum, &e), -1);
}

static void philox_known_answers(void **state)
{
	(void)state;
	/* Random123 kat_vectors: philox2x64 10 */
	assert_true(rng_u64(0, 0, 0) == UINT64_C(0xca00a0459843d731));
	assert_true(rng_u64(UINT64_MAX, UINT64_MAX, UINT64_MAX) == UINT64_C(0x65b021d60cd8310f));
}

static void random_shapes(void **state)
{
	double m = 0, s = 0;
	int64_t perm[100], seen[100] = { 0 }, hist[7] = { 0 };
	(void)state;
	for (uint64_t i = 0; i < 100000; i++) {
		double x = rng_normal(1, 2, i);
		m += x;
		s += x * x;
		hist[rng_below(3, 4, i, 7)]++;
	}
	assert_true(fabs(m / 1e5) < 0.02 && fabs(s / 1e5 - 1) < 0.03);
	for (int i = 0; i < 7; i++)
		assert_true(llabs(hist[i] - 14286) < 600);
	rng_permute(5, 6, perm, 100);
	for (int i = 0; i < 100; i++)
		seen[perm[i]]++;
	for (int i = 0; i < 100; i++)
		assert_int_equal(seen[i], 1);
	for (uint64_t i = 0; i < 1000; i++) {
		double u = rng_uniform(9, 9, i);
		assert_true(u >= 0 && u < 1);
		assert_true(rng_below(9, 9, i, (UINT64_C(1) << 63) + 1) <= UINT64_C(1) << 63);
	}
}

static void arenas(void **state)
{
	struct arena a = { 0 };
	(void)state;
	for (size_t i = 1; i < 3000; i += 7) {
		unsigned char *p = arena_alloc(&a, i * 50);
		assert_int_equal((uintptr_t)p % 16, 0);
		assert_int_equal(p[i * 50 - 1], 0);
		memset(p, 255, i * 50);
	}
	assert_string_equal(arena_printf(&a, "%s.%d", "layer", 3), "layer.3");
	arena_free(&a);
	for (size_t n = 1; n < (size_t)64 << 20; n = n * 5 + 3) {
		unsigned char *p = big_alloc(n);
		assert_int_equal((uintptr_t)p % 64, 0);
		p[0] = p[n - 1] = 1;
		big_free(p, n);
	}
}

static void error_lines(void **state)
{
	struct err e = { 0 };
	(void)state;
	assert_int_equal(err_set(&e, EXIT_DATA, "file: layer %d", 3), -1);
	err_wrap(&e, "student\n\033[31m");
	assert_string_equal(e.msg, "student??[31m: file: layer 3");
	assert_int_equal(e.code, EXIT_DATA);
	assert_int_equal(err_set(NULL, 1, "x"), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(integers), cmocka_unit_test(reals), cmocka_unit_test(people), cmocka_unit_test(lists),
		cmocka_unit_test(weights), cmocka_unit_test(philox_known_answers), cmocka_unit_test(random_shapes),
		cmocka_unit_test(arenas), cmocka_unit_test(error_lines),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
