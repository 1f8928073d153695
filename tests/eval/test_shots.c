/*
 * test_shots.c - Python's random numbers, samples and capitals, literals, templates: closed cases and Python's own answers
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/eval/items.h"
#include "../../common/io/pyliteral.h"
#include "../../common/io/text.h"
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void numbers(void **state)
{
	(void)state;
	static const uint32_t first[] = { 4150886329u, 3342196574u, 1892932127u, 501869158u };
	struct pyrand r;
	pyrand_seed(&r, 1234);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pyrand_u32(&r), first[i]);
	pyrand_seed(&r, 0);
	assert_true(pyrand_double(&r) == 0.8444218515250481);
	pyrand_seed(&r, 1ull << 40);
	assert_int_equal(pyrand_u32(&r), 445128065u);
}

static void samples(void **state)
{
	(void)state;
	static const struct {
		int n, k, first[8], next[4];
	} v[] = {
		{ 8, 4, { 7, 0, 6, 5 }, { 0, 5, 6, 7 } },
		{ 21, 5, { 14, 3, 0, 2, 1 }, { 2, 3, 11, 7 } },
		{ 22, 5, { 14, 3, 0, 2, 18 }, { 1, 21, 2, 3 } },
		{ 85, 6, { 56, 14, 0, 11, 74, 4 }, { 10, 12, 45, 30 } },
		{ 86, 6, { 56, 14, 0, 11, 74, 4 }, { 85, 10, 12, 45 } },
		{ 7473, 5, { 6374, 3610, 957, 61, 742 }, { 7462, 6610 } },
	};
	for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
		struct pyrand r;
		int64_t out[8];
		pyrand_seed(&r, 1234);
		pyrand_sample(&r, v[i].n, v[i].k, out);
		for (int j = 0; j < v[i].k; j++)
			assert_int_equal(out[j], v[i].first[j]);
		pyrand_sample(&r, v[i].n, v[i].k, out);
		for (int j = 0; j < 4 && (v[i].next[j] || j < 2); j++)
			assert_int_equal(out[j], v[i].next[j]);
	}
}

static void capitals(void **state)
{
	(void)state;
	static const char *const v[][2] = {
		{ "", "" }, { "mr. \xc3\x89MILE Brown", "Mr. \xc3\xa9mile brown" }, { "\xc3\x9f" "A", "Ssa" },
		{ "\xef\xac\x81" "T", "Fit" }, { "a\xce\xa3", "A\xcf\x82" }, { "a\xce\xa3" "b \xce\xa3", "A\xcf\x83" "b \xcf\x83" },
		{ "a\xce\xa3.", "A\xcf\x82." }, { "x\xc4\xb0", "Xi\xcc\x87" }, { "\xc7\x84", "\xc7\x85" }, { " AB", " ab" },
	};
	for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
		size_t n;
		char *s = text_capitalize_new(v[i][0], strlen(v[i][0]), &n);
		assert_string_equal(s, v[i][1]);
		assert_int_equal(n, strlen(v[i][1]));
		free(s);
	}
}

static void literals(void **state)
{
	(void)state;
	static const char good[] = "[{'a': 'it\\'s \\x41\\u00e9\\n', \"b\": [1, -2, True, None,], }, \"x'y\"]";
	static const char *const bad[] = { "", "[", "['a'", "[1 2]", "{'a' 1}", "{1: 2}", "'a", "'\\q'", "[] []", "x", "f(1)", "'\\ud800'" };
	struct err e;
	json_t *j = pyliteral_read(good, strlen(good), &e);
	assert_string_equal(json_string_value(rules_field(j, "0.a")), "it's A\xc3\xa9\n");
	assert_int_equal(json_integer_value(rules_field(j, "0.b.1")), -2);
	assert_string_equal(json_string_value(rules_field(j, "1")), "x'y");
	json_decref(j);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		if (pyliteral_read(bad[i], strlen(bad[i]), &e))
			fail_msg("taken for a literal: %s", bad[i]);
	char deep[200];
	memset(deep, '[', sizeof deep);
	assert_null(pyliteral_read(deep, sizeof deep, &e));
}

static void templates(void **state)
{
	(void)state;
	struct err e;
	json_t *item = json_loads("{\"a\": {\"b\": [\"x\", 7]}, \"s\": \"  y_z \", \"t\": true, \"r\": 1.5}", 0, NULL);
	static const char *const good[][2] = {
		{ "", "" }, { "{a.b.0}-{a.b.1}", "x-7" }, { "{{{s|strip}}}", "{y_z}" }, { "{s|words}", "  y z " }, { "{t}", "True" },
	};
	static const char *const bad[] = { "{", "}", "{none}", "{a}", "{a.b.2}", "{s|upper}", "{r}", "{a.b.-1}" };
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		size_t n;
		char *s = rules_fill_new(good[i][0], item, &n, &e);
		assert_string_equal(s, good[i][1]);
		free(s);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		if (rules_fill_new(bad[i], item, NULL, &e))
			fail_msg("filled: %s", bad[i]);
	json_decref(item);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers), cmocka_unit_test(samples), cmocka_unit_test(capitals),
		cmocka_unit_test(literals), cmocka_unit_test(templates),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
