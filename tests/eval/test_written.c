/*
 * test_written.c - tasks in which the model writes, as lm-evaluation-harness has them (tests/golden/written, tests/oracle/eval_write.py)
 *
 * Prompts, texts and scores of a tiny model; what filters and exact_match make of texts; refusals.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "../../common/io/extract.h"
#include "../../common/eval/written.h"

static const char model[] = "tests/golden/models/llama-tied-gqa";
static json_t *fixture;
static struct engine g;
static struct weights m;
static struct tokenizer *tok;
static struct err e;

struct opened {
	struct suite u;
	struct encoder enc;
	struct ll_set s;
	struct written w;
};

/* -1 when there is no sandbox for it */
static int open_task(struct opened *x, const char *spec, int64_t samples, double temperature)
{
	static const int64_t at[] = { 1, 2, 5 };
	*x = (struct opened){ 0 };
	const struct suite_opts so = { .shots = -1, .seed = 1234 };
	const struct write_opts wo = { .max_new = json_integer_value(json_object_get(fixture, "max_new")), .samples = samples,
				       .temperature = temperature, .top_p = 1, .at = at, .n_at = 3, .slots = 3, .seconds = 20 };
	if (encoder_open(&x->enc, tok, json_integer_value(json_object_get(fixture, "max_length")), m.t->arch.vocab, &e) ||
	    suite_add(&x->u, spec, &so, &x->enc, &x->s, &e))
		fail_msg("%s", e.msg);
	if (written_open(&x->w, &x->u, &x->enc, model, &wo, &e)) {
		if (e.code != EXIT_RESOURCE)
			fail_msg("%s", e.msg);
		print_message("skipped: %s\n", e.msg);
		return -1;
	}
	return 0;
}

static void close_task(struct opened *x)
{
	written_close(&x->w);
	suite_free(&x->u);
	ll_set_free(&x->s);
	encoder_close(&x->enc);
}

static void one_task(const char *name)
{
	char spec[128];
	struct opened x;
	const json_t *want = json_object_get(json_object_get(fixture, "tasks"), name), *samples = json_object_get(want, "samples");
	snprintf(spec, sizeof spec, "%s=tests/golden/written/%s", name, name);
	if (!open_task(&x, spec, 1, 0)) {
		struct task *t = &x.u.t[0];
		if (written_run(&x.w, &m, NULL, NULL, &e) || written_judge(&x.w, NULL, NULL, &e))
			fail_msg("%s", e.msg);
		assert_int_equal(t->n, json_array_size(samples));
		assert_int_equal(t->shots, json_integer_value(json_object_get(want, "shots")));
		for (int64_t i = 0; i < t->n; i++) {
			const json_t *row = json_array_get(samples, (size_t)i), *text = json_array_get(t->doc[i].texts, 0);
			assert_string_equal(json_string_value(json_object_get(t->doc[i].item, "ctx")), json_string_value(json_array_get(row, 0)));
			if (!json_equal(text, json_array_get(row, 1)))
				fail_msg("%s, item %ld: wrote '%s', lm-eval '%s'", name, (long)i, json_string_value(text),
					 json_string_value(json_array_get(row, 1)));
		}
		task_score(t, &x.s);
		assert_true(fabs(t->rules->version - json_number_value(json_object_get(want, "version"))) < 1e-9);
		assert_int_equal(t->n_score, json_object_size(json_object_get(want, "scores")));
		for (int k = 0; k < t->n_score; k++) {
			char key[128];
			snprintf(key, sizeof key, "%s,%s", t->score[k].metric, t->score[k].filter ? t->score[k].filter : "none");
			const json_t *score = json_object_get(json_object_get(want, "scores"), key);
			if (!score || fabs(json_number_value(score) - t->score[k].value) > 1e-12)
				fail_msg("%s is %g, lm-eval has %g", key, t->score[k].value, json_number_value(score));
		}
	}
	close_task(&x);
}

static void gsm8k(void **state)
{
	(void)state;
	one_task("gsm8k");
}

static void humaneval(void **state)
{
	(void)state;
	one_task("humaneval");
}

static void mbpp(void **state)
{
	(void)state;
	one_task("mbpp");
}

static void answers(void **state)
{
	(void)state;
	static const char *const spec[] = { "strict-match first #### (\\-?[0-9\\.\\,]+)", "flexible-extract last (-?[$0-9.,]{2,})|(-?[0-9]+)" };
	static const char *const ignore[] = { ",", "\\$", "(?s).*#### ", "\\.$", NULL };
	const json_t *rows = json_object_get(fixture, "answers");
	assert_true(json_array_size(rows) > 30);
	for (int k = 0; k < 2; k++) {
		struct extractor *f = extractor_new(spec[k], &e);
		assert_non_null(f);
		for (size_t i = 0; i < json_array_size(rows); i++) {
			const json_t *row = json_array_get(rows, i), *said = json_array_get(row, 0);
			char *a = extract_new(f, json_string_value(said), json_string_length(said), &e);
			assert_string_equal(a, json_string_value(json_array_get(row, 2 + 2 * (size_t)k)));
			int same = exact_match(a, json_string_value(json_array_get(row, 1)), ignore, 5, &e);
			if (same != json_is_true(json_array_get(row, 3 + 2 * (size_t)k)))
				fail_msg("'%s' and '%s': %d", a, json_string_value(json_array_get(row, 1)), same);
			free(a);
		}
		extractor_free(f);
	}
}

/* Samples of an item differ, and pass@k is reported for the k that they allow */
static void several_samples(void **state)
{
	(void)state;
	struct opened x;
	if (!open_task(&x, "humaneval=tests/golden/written/humaneval", 3, 1)) {
		struct task *t = &x.u.t[0];
		if (written_run(&x.w, &m, NULL, NULL, &e) || written_judge(&x.w, NULL, NULL, &e))
			fail_msg("%s", e.msg);
		task_score(t, &x.s);
		assert_int_equal(t->n_score, 2);
		assert_string_equal(t->score[0].metric, "pass@1");
		assert_string_equal(t->score[1].metric, "pass@2");
		for (int64_t i = 0; i < t->n; i++) {
			assert_int_equal(json_array_size(t->doc[i].texts), 3);
			assert_int_equal(json_array_size(t->doc[i].verdicts), 3);
		}
	}
	close_task(&x);
}

static void refusals(void **state)
{
	(void)state;
	static const struct {
		const char *item, *text;
	} bad[] = {
		{ "{\"ctx\": \"a\", \"until\": \"x\", \"target\": \"b\"}", "'until' must be a list" },
		{ "{\"ctx\": \"a\", \"until\": [\"\"], \"target\": \"b\"}", "not empty" },
		{ "{\"ctx\": \"a\", \"until\": [], \"target\": 1}", "'target' must be a string" },
		{ "{\"until\": [], \"target\": \"b\"}", "'ctx' must be a string" },
		{ "{\"ctx\": \"a\", \"until\": [], \"test\": \"b\", \"prefix\": 1}", "'prefix' must be a string" },
		{ "{\"ctx\": \"a\", \"until\": [], \"target\": \"b\", \"max_new\": 0}", "'max_new'" },
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct suite u = { 0 };
		struct encoder enc;
		struct ll_set s = { 0 };
		const struct suite_opts so = { .shots = -1 };
		char path[] = "/tmp/adze-item-XXXXXX", spec[64];
		FILE *f = fdopen(mkstemp(path), "w");
		fputs(bad[i].item, f);
		fclose(f);
		snprintf(spec, sizeof spec, "x=%s", path);
		assert_int_equal(encoder_open(&enc, tok, 64, m.t->arch.vocab, &e), 0);
		assert_int_equal(suite_add(&u, spec, &so, &enc, &s, &e), -1);
		if (!strstr(e.msg, bad[i].text))
			fail_msg("'%s' not in: %s", bad[i].text, e.msg);
		remove(path);
		suite_free(&u);
		ll_set_free(&s);
		encoder_close(&enc);
	}
	assert_null(extractor_new("name only", &e));
	assert_null(extractor_new("name last (", &e));
}

static int start(void **state)
{
	(void)state;
	fixture = json_load_file("tests/golden/written/expected.json", 0, NULL);
	tok = tok_load("tests/golden/written", &e);
	return !fixture || !tok || engine_open(&g, "cpu", 2, &e) || weights_load(&m, &g, model, DT_F32, &e) ? -1 : 0;
}

static int stop(void **state)
{
	(void)state;
	json_decref(fixture);
	weights_free(&m);
	engine_close(&g);
	tok_free(tok);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gsm8k), cmocka_unit_test(humaneval), cmocka_unit_test(mbpp), cmocka_unit_test(answers),
		cmocka_unit_test(several_samples), cmocka_unit_test(refusals),
	};
	return cmocka_run_group_tests(tests, start, stop);
}
