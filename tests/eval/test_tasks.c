/*
 * test_tasks.c - tasks against lm-evaluation-harness, from stored results (tests/golden/eval, tests/oracle/eval_parity.py)
 *
 * A tokenizer with a BOS template, texts that start with it, empty context, white space at the seam, contexts cut on the left,
 * documents of several windows, an empty document: log-likelihoods within 1e-4 relative, greedy flags, every score.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/eval/task.h"
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define GOLDEN "tests/golden/eval/"

struct loaded {
	struct engine g;
	struct weights m;
	struct tokenizer *tok;
	struct encoder enc;
	struct ll_set set;
	struct task mc, docs;
	json_t *want;
};

static void load(struct loaded *x, const char *device)
{
	struct err e = { 0 };
	const struct ll_opts o = { .batch_tokens = 64 };
	*x = (struct loaded){ .want = json_load_file(GOLDEN "expected.json", 0, NULL) };
	assert_non_null(x->want);
	int64_t max_length = json_integer_value(json_object_get(x->want, "max_length"));
	x->tok = tok_load(GOLDEN "tokenizer.json", &e);
	if (!x->tok || engine_open(&x->g, device, 2, &e) ||
	    weights_load(&x->m, &x->g, "tests/golden/models/llama-tied-gqa", DT_F32, &e) ||
	    encoder_open(&x->enc, x->tok, max_length, x->m.t->arch.vocab, &e) ||
	    task_open(&x->mc, "mc=" GOLDEN "mc.jsonl", 0, &x->enc, &x->set, &e) ||
	    task_open(&x->docs, "docs=" GOLDEN "docs.jsonl", 0, &x->enc, &x->set, &e) ||
	    ll_score(&x->set, &x->m, &o, &e))
		fail_msg("%s", e.msg);
}

static void unload(struct loaded *x)
{
	json_decref(x->want);
	task_free(&x->mc);
	task_free(&x->docs);
	ll_set_free(&x->set);
	encoder_close(&x->enc);
	tok_free(x->tok);
	weights_free(&x->m);
	engine_close(&x->g);
}

static void near(const char *what, int64_t i, double got, double want)
{
	if (!(fabs(got - want) <= 1e-4 * fmax(1, fabs(want))))
		fail_msg("%s %lld: %.9g, expected %.9g", what, (long long)i, got, want);
}

static void same_scores(const struct loaded *x, const struct task *t)
{
	struct score sc[MAX_SCORES];
	const json_t *want = json_object_get(json_object_get(x->want, "scores"), t->name);
	int n = t->kind->score(t, &x->set, sc), found = 0;
	for (int i = 0; i < n; i++) {
		char key[64];
		snprintf(key, sizeof key, "%s,none", sc[i].metric);
		const json_t *v = json_object_get(want, key);
		snprintf(key, sizeof key, "%s_stderr,none", sc[i].metric);
		const json_t *err = json_object_get(want, key);
		/* the perplexity of a word is the exponential of hundreds: compare the exponents */
		if (v)
			near(sc[i].metric, 0, log(1 + sc[i].value), log(1 + json_real_value(v)));
		if (err)
			near(key, 0, sc[i].err, json_real_value(err));
		found += v != NULL;
	}
	assert_int_equal(found, t == &x->mc ? 2 : 3);
}

static void parity(const char *device)
{
	struct loaded x;
	load(&x, device);
	const json_t *mc = json_object_get(x.want, "mc"), *docs = json_object_get(x.want, "docs");
	assert_int_equal(x.mc.doc[x.mc.n - 1].req0 + x.mc.doc[x.mc.n - 1].n_req, (int64_t)json_array_size(mc));
	for (int64_t i = 0; i < (int64_t)json_array_size(mc); i++) {
		const json_t *r = json_array_get(mc, (size_t)i);
		near("choice", i, x.set.r[i].sum, json_real_value(json_array_get(r, 0)));
		assert_int_equal(x.set.r[i].greedy, json_is_true(json_array_get(r, 1)));
	}
	assert_int_equal(x.docs.n, (int64_t)json_array_size(docs));
	for (int64_t i = 0; i < x.docs.n; i++) {
		const struct doc *d = &x.docs.doc[i];
		double sum = 0;
		for (int64_t k = 0; k < d->n_req; k++)
			sum += x.set.r[d->req0 + k].sum;
		near("document", i, sum, json_real_value(json_array_get(docs, (size_t)i)));
	}
	same_scores(&x, &x.mc);
	same_scores(&x, &x.docs);
	unload(&x);
}

static void parity_ref(void **state)
{
	(void)state;
	parity("ref");
}

static void parity_cpu(void **state)
{
	(void)state;
	parity("cpu");
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(parity_ref), cmocka_unit_test(parity_cpu) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
