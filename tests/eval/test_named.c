/*
 * test_named.c - named tasks against lm-evaluation-harness, from stored results (tests/golden/tasks, tests/oracle/eval_tasks.py)
 *
 * Every public task on items written in its data set's schema, without examples and with three, contexts cut on the left:
 * the same texts (digests of context and continuation), log-likelihoods, greedy flags, scores, errors, groups.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/eval/task.h"
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define GOLDEN "tests/golden/tasks/"

static struct engine g;
static struct weights m;
static struct tokenizer *tok;
static struct encoder enc;
static json_t *want;

static void near(const char *task, const char *what, int64_t i, double got, double expected, double tol)
{
	if (!(fabs(got - expected) <= tol * fmax(1, fabs(expected))))
		fail_msg("%s: %s %lld: %.9g, expected %.9g", task, what, (long long)i, got, expected);
}

static void same_text(const struct task *t, int64_t i, const json_t *ours, const char *expected)
{
	const json_t *c = json_object_get(ours, "context"), *k = json_object_get(ours, "continuation");
	size_t nc = json_string_length(c), nk = json_string_length(k);
	char *s = calloc(1, nc + nk + 2), hex[33];
	memcpy(s, json_string_value(c), nc);
	memcpy(s + nc + 1, json_string_value(k), nk);
	digest_hex(s, nc + 1 + nk, hex);
	if (strncmp(hex, expected, 8))
		fail_msg("%s: request %lld is \"%s\" + \"%s\"", t->name, (long long)i, s, s + nc + 1);
	free(s);
}

static void same_requests(const struct task *t, const struct ll_set *set, const json_t *expected)
{
	size_t k = 0;
	for (int64_t i = 0; i < t->n; i++) {
		json_t *line = json_object(), *r;
		size_t j;
		t->kind->sample(&t->doc[i], set, line);
		json_array_foreach(json_object_get(line, "requests"), j, r) {
			const json_t *x = json_array_get(expected, k++);
			same_text(t, i, r, json_string_value(json_array_get(x, 2)));
			near(t->name, "log-likelihood", i, json_real_value(json_object_get(r, "loglikelihood")),
			     json_real_value(json_array_get(x, 0)), 1e-4);
			if (json_is_integer(json_array_get(x, 1)))
				assert_int_equal(json_is_true(json_object_get(r, "greedy")),
						 json_integer_value(json_array_get(x, 1)));
		}
		json_decref(line);
	}
	assert_int_equal(k, json_array_size(expected));
}

static void same_score(const char *task, const struct score *sc, const json_t *expected)
{
	char key[64];
	snprintf(key, sizeof key, "%s,none", sc->metric);
	const json_t *v = json_object_get(expected, key);
	snprintf(key, sizeof key, "%s_stderr,none", sc->metric);
	const json_t *err = json_object_get(expected, key);
	if (!v)
		fail_msg("%s: %s is not expected", task, sc->metric);
	/* perplexities are exponentials of hundreds: their exponents are compared */
	near(task, sc->metric, 0, log(1 + sc->value), log(1 + json_real_value(v)), 1e-5);
	if (err)
		near(task, key, 0, log(1 + sc->err), log(1 + json_real_value(err)), 1e-4);
	else
		assert_true(isnan(sc->err));
}

static int metrics_in(const json_t *expected)
{
	const char *key;
	json_t *v;
	int n = 0;
	json_object_foreach((json_t *)expected, key, v)
		n += !strstr(key, "_stderr");
	return n;
}

static void same_groups(const struct suite *u, const json_t *expected)
{
	struct group *gr;
	int n = groups_new(u->t, u->n, &gr);
	assert_int_equal(n, json_object_size(expected));
	for (int i = 0; i < n; i++)
		same_score(gr[i].name, &gr[i].acc, json_object_get(expected, gr[i].name));
	free(gr);
}

static void open_run(struct suite *u, struct ll_set *set, int64_t shots)
{
	static const char *const all[] = {
		"hellaswag", "piqa", "winogrande", "arc_easy", "arc_challenge", "boolq", "mmlu", "race", "lambada_openai",
		"truthfulqa_mc2", "wikitext",
	};
	const struct suite_opts o = { .shots = shots ? shots : -1, .seed = 1234 };
	struct err e = { 0 };
	for (size_t i = 0; i < sizeof all / sizeof *all - (shots ? 2 : 0); i++) {
		char spec[128];
		snprintf(spec, sizeof spec, "%s=" GOLDEN "%s", all[i], all[i]);
		if (suite_add(u, spec, &o, &enc, set, &e))
			fail_msg("%s", e.msg);
	}
}

static void parity(void **state)
{
	(void)state;
	json_t *runs = json_object_get(want, "runs"), *run;
	size_t k;
	json_array_foreach(runs, k, run) {
		struct suite u = { 0 };
		struct ll_set set = { 0 };
		struct err e = { 0 };
		const struct ll_opts lo = { .batch_tokens = 4096 };
		const json_t *tasks = json_object_get(run, "tasks");
		open_run(&u, &set, json_integer_value(json_object_get(run, "shots")));
		assert_int_equal(u.n, json_object_size(tasks));
		if (ll_score(&set, &m, &lo, &e))
			fail_msg("%s", e.msg);
		for (int i = 0; i < u.n; i++) {
			struct task *t = &u.t[i];
			const json_t *x = json_object_get(tasks, t->name), *scores = json_object_get(x, "scores");
			if (!x)
				fail_msg("%s is not expected", t->name);
			task_score(t, &set);
			same_requests(t, &set, json_object_get(x, "requests"));
			assert_int_equal(t->n_score, metrics_in(scores));
			for (int j = 0; j < t->n_score; j++)
				same_score(t->name, &t->score[j], scores);
			assert_int_equal(t->shots, json_integer_value(json_object_get(x, "shots")));
			near(t->name, "version", 0, t->rules->version, json_real_value(json_object_get(x, "version")), 0);
		}
		same_groups(&u, json_object_get(run, "groups"));
		suite_free(&u);
		ll_set_free(&set);
	}
}

static int setup(void **state)
{
	struct err e = { 0 };
	(void)state;
	want = json_load_file(GOLDEN "expected.json", 0, NULL);
	tok = tok_load("tests/golden/eval/tokenizer.json", &e);
	if (!want || !tok || engine_open(&g, "cpu", 2, &e) ||
	    weights_load(&m, &g, "tests/golden/models/llama-tied-gqa", DT_F32, &e) ||
	    encoder_open(&enc, tok, json_integer_value(json_object_get(want, "max_length")), m.t->arch.vocab, &e)) {
		fprintf(stderr, "%s\n", e.msg);
		return -1;
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	encoder_close(&enc);
	weights_free(&m);
	engine_close(&g);
	tok_free(tok);
	json_decref(want);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(parity) };
	return cmocka_run_group_tests(tests, setup, teardown);
}
