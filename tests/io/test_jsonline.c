/*
 * test_jsonline.c - what the fast reader of JSON lines takes, the full parser takes too, with the same text
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/base/rng.h"
#include "../../common/io/jsonline.h"
#include "../../common/io/tok_impl.h"
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const flat[] = {
	"{\"text\": \"plain\"}",
	" {\"id\":17,\"text\":\"a\\n\\t\\\"b\\\\ \\u00e9 \\ud83d\\ude42 \\u0000 end\",\"ok\":true,\"x\":null,\"y\":-0.50} ",
	"{\"text\":\"\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x99\x82\",\"n\":123456789012345,\"z\":false}",
	"{\"text\":\"\",\"\":\"empty key\"}",
};
static const char *const others[] = {
	"", "{", "{}", "[\"text\"]", "{\"text\":1}", "{\"text\":\"a\"} x", "{\"text\":\"a\",}", "{\"text\":\"a\" \"b\":1}", "{\"a\":1}",
	"{\"text\":\"a\",\"text\":\"b\"}", "{\"text\":\"a\tb\"}", "{\"text\":\"\xff\"}", "{\"text\":\"\\ud800\"}", "{\"text\":\"\\x\"}", "{\"text\":\"a\",\"n\":01}",
	"{\"text\":\"a\",\"n\":1.}", "{\"text\":\"a\",\"n\":-}", "{\"text\":\"a\",\"n\":nul}", "{\"text\":\"a\",\"deep\":[1]}", "{\"te\\u0000xt\":\"a\",\"text\":\"b\"}",
	"{\"text\":\"a\",\"n\":1e999}", "{\"text\":\"a\",\"n\":99999999999999999999}",
};

/* True when the fast reader took it; the full parser then agrees. */
static bool takes(const char *line, size_t n, struct jbuf *b)
{
	json_error_t je;
	if (!json_line_field(line, n, "text", b))
		return false;
	json_t *j = json_loadb(line, n, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &je), *v = json_object_get(j, "text");
	if (!v || !json_is_string(v) || json_string_length(v) != b->n || memcmp(json_string_value(v), b->s, b->n))
		fail_msg("taken, but not by the full parser or with another text: %.*s", (int)n, line);
	json_decref(j);
	return true;
}

static void known_lines(void **state)
{
	struct jbuf b = { 0 };
	(void)state;
	for (size_t i = 0; i < sizeof flat / sizeof *flat; i++)
		assert_true(takes(flat[i], strlen(flat[i]), &b));
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		assert_false(takes(others[i], strlen(others[i]), &b));
	free(b.s);
}

/* Every line with one to three bytes changed, dropped or doubled */
static void damaged_lines(void **state)
{
	static const char bytes[] = "\"\\{}[]:,0159.-+eEtrufalsn /\x01\x80\xc3\xed\xf4\xff";
	struct jbuf b = { 0 };
	int64_t taken = 0, at = 0;
	(void)state;
	for (int round = 0; round < 60000; round++) {
		char s[160];
		size_t n = strlen(flat[round % 4]);
		memcpy(s, flat[round % 4], n);
		for (int k = round % 3; k >= 0; k--) {
			size_t i = rng_u64(7, 1, (uint64_t)at++) % n;
			uint64_t how = rng_u64(7, 2, (uint64_t)at++);
			if (how % 4 == 0 && n > 2)
				memmove(s + i, s + i + 1, --n - i);
			else if (how % 4 == 1 && n < sizeof s)
				memmove(s + i + 1, s + i, n++ - i);
			else
				s[i] = bytes[how / 4 % (sizeof bytes - 1)];
		}
		char *line = malloc(n);        /* so that a sanitizer sees what is read behind it */
		memcpy(line, s, n);
		taken += takes(line, n, &b);
		free(line);
	}
	assert_true(taken > 1000);
	free(b.s);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(known_lines), cmocka_unit_test(damaged_lines) };
	return cmocka_run_group_tests_name("jsonline", tests, NULL, NULL);
}
