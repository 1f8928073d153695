/*
 * test_generate.c - generation with a cache: as transformers, as the whole sequence run again, alone and in company
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "../../common/eval/generate.h"

static const char *const names[] = { "llama-tied-gqa", "llama-untied", "nemotron", "qwen3", "gemma3", "qwen2", "mistral" };
enum { MODELS = sizeof names / sizeof *names, MAX_LENGTH = 256 };
static const char *const devices[] = { "ref", "cpu" };
static json_t *fixture;
static struct err e;

struct loaded {
	struct engine g;
	struct weights w;
};

static void load(struct loaded *x, const char *name, const char *device, int dtype)
{
	char path[128];
	snprintf(path, sizeof path, "tests/golden/models/%s", name);
	if (engine_open(&x->g, device, 2, &e) || weights_load(&x->w, &x->g, path, dtype, &e))
		fail_msg("%s", e.msg);
}

static void unload(struct loaded *x)
{
	weights_free(&x->w);
	engine_close(&x->g);
}

static int64_t ids_of(const json_t *list, uint32_t *out)
{
	for (size_t i = 0; i < json_array_size(list); i++)
		out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
	return (int64_t)json_array_size(list);
}

static void add_row(struct gen_set *s, const json_t *row, int64_t max_new)
{
	uint32_t ids[MAX_LENGTH];
	int64_t n = ids_of(json_object_get(row, "ids"), ids);
	if (gen_add(s, ids, n, max_new, MAX_LENGTH, &e))
		fail_msg("%s", e.msg);
}

/* Every prompt of the fixture, together where their EOS ids are the same */
static void as_transformers(void **state)
{
	(void)state;
	for (int d = 0; d < 2; d++)
		for (int m = 0; m < MODELS; m++) {
			struct loaded x;
			load(&x, names[m], devices[d], DT_F32);
			const json_t *rows = json_object_get(fixture, names[m]);
			assert_true(json_array_size(rows) == 6);
			for (size_t first = 0; first < 2; first++) {
				struct gen_set s = { 0 };
				uint32_t eos[8], want[64];
				int64_t n_eos = ids_of(json_object_get(json_array_get(rows, first), "eos"), eos);
				struct gen_opts o = { .slots = 2, .eos = eos, .n_eos = n_eos };
				for (size_t i = first; i < 6; i += 2)
					add_row(&s, json_array_get(rows, i), 24);
				if (gen_run(&s, &x.w, &o, &e))
					fail_msg("%s", e.msg);
				for (int64_t i = 0; i < s.n; i++) {
					int64_t n = ids_of(json_object_get(json_array_get(rows, first + 2 * (size_t)i), "new"), want);
					if (s.r[i].n_out != n || memcmp(s.r[i].out, want, (size_t)n * 4))
						fail_msg("%s on %s: prompt %ld continues otherwise", names[m], devices[d], (long)i);
					assert_int_equal(s.r[i].end, n < 24 ? GEN_EOS : GEN_LIMIT);
				}
				gen_set_free(&s);
			}
			unload(&x);
		}
}

/* Every logit of ids [n], from one pass over the whole */
static float *whole_logits(const struct weights *w, const int32_t *ids, int64_t n)
{
	struct build b = { .t = w->t, .dtype = w->dtype, .wide = 1, .space = SP_PARAM, .prefix = "", .blk1 = w->t->arch.layers };
	struct frame f;
	struct prog *p = prog_new(1, n);
	val tok = p_input(p, "tok", n, 1, DT_I32);
	val y = p_linear(p, p_forward(p, &b, tok, NONE), p_head_weight(p, &b), NONE, NONE, DT_F32);
	p_keep(p, y);
	if (prog_plan(p, &e) || frame_new(&f, w->g, p, &e))
		fail_msg("%s", e.msg);
	f.base[SP_PARAM] = w->w;
	frame_set(&f, tok, ids);
	prog_run(&f);
	float *x = xcalloc((size_t)(n * w->t->arch.vocab), sizeof *x);
	frame_get(&f, y, x);
	frame_free(&f);
	prog_free(p);
	return x;
}

static double logprob(const float *x, int64_t V, int32_t id)
{
	double sum = 0;
	for (int64_t v = 0; v < V; v++)
		sum += exp((double)(x[v] - x[id]));
	return -log(sum);
}

/* Each token that was taken is the arg max of the whole sequence before it, or its probability is the same when drawn */
static void as_the_whole_again(void **state)
{
	(void)state;
	for (int m = 0; m < MODELS; m++)
		for (int hot = 0; hot < 2; hot++) {
			struct loaded x;
			struct gen_set s = { 0 };
			struct gen_opts o = { .slots = 3, .seed = 5 };
			load(&x, names[m], "cpu", DT_F32);
			const int64_t V = x.w.t->arch.vocab;
			for (size_t i = 0; i < 5; i++) {
				add_row(&s, json_array_get(json_object_get(fixture, names[m]), i), 20);
				s.r[i].temperature = hot ? 4 : 0;
			}
			if (gen_run(&s, &x.w, &o, &e))
				fail_msg("%s", e.msg);
			for (int64_t i = 0; i < s.n; i++) {
				const struct gen_req *r = &s.r[i];
				int32_t ids[MAX_LENGTH];
				double sum = 0;
				memcpy(ids, s.ids + r->off, (size_t)r->n * 4);
				memcpy(ids + r->n, r->out, (size_t)r->n_out * 4);
				float *y = whole_logits(&x.w, ids, r->n + r->n_out);
				for (int64_t t = 0; t < r->n_out; t++) {
					const float *row = y + (r->n - 1 + t) * V;
					sum += logprob(row, V, r->out[t]);
					for (int64_t v = 0; v < V && !hot; v++)
						if (row[v] > row[r->out[t]] + 1e-4f)
							fail_msg("%s: token %ld of prompt %ld is not the likeliest", names[m], (long)t, (long)i);
				}
				if (!(fabs(sum - r->logprob) <= 2e-4 * (1 + fabs(sum))))
					fail_msg("%s: log-probability %.7g, the whole gives %.7g", names[m], r->logprob, sum);
				free(y);
			}
			gen_set_free(&s);
			unload(&x);
		}
}

/* Drawn tokens and the bits of their probabilities: the same for any number of slots, order and number of requests */
static void company_changes_nothing(void **state)
{
	(void)state;
	static const int64_t slots[] = { 1, 2, 5, 12, 32 };
	for (int dt = DT_F32; dt <= DT_BF16; dt++) {
		struct loaded x;
		struct gen_set all[5] = { { 0 } };
		load(&x, "llama-untied", "cpu", dt);
		const json_t *rows = json_object_get(fixture, "llama-untied");
		for (int k = 0; k < 5; k++) {
			struct gen_opts o = { .slots = slots[k], .seed = 11 };
			for (size_t i = 0; i < 24; i++) {
				size_t j = k == 2 ? 23 - i : i;        /* one of them the other way round */
				add_row(&all[k], json_array_get(rows, j % 5), 6 + 2 * (int64_t)j);
				all[k].r[i].stream = j;
				all[k].r[i].temperature = 1.5;
				all[k].r[i].top_p = j & 1 ? 0.9 : 1;
			}
			if (gen_run(&all[k], &x.w, &o, &e))
				fail_msg("%s", e.msg);
			for (size_t i = 0; i < 24; i++) {
				const struct gen_req *a = &all[0].r[i], *b = &all[k].r[k == 2 ? 23 - i : i];
				assert_int_equal(a->n_out, b->n_out);
				assert_memory_equal(a->out, b->out, (size_t)a->n_out * 4);
				assert_memory_equal(&a->logprob, &b->logprob, sizeof a->logprob);
			}
		}
		for (int k = 0; k < 5; k++)
			gen_set_free(&all[k]);
		unload(&x);
	}
}

static int after_five(void *arg, const struct gen_req *r)
{
	++*(int *)arg;
	return r->n_out == 5;
}

static void stops_and_limits(void **state)
{
	(void)state;
	struct loaded x;
	struct gen_set s = { 0 };
	int calls = 0;
	uint32_t ids[300] = { 3, 4, 5 };
	load(&x, "mistral", "cpu", DT_F32);
	assert_int_equal(gen_add(&s, ids, 0, 4, 64, &e), -1);
	assert_int_equal(gen_add(&s, ids, 3, 64, 64, &e), -1);
	assert_int_equal(gen_add(&s, ids, 300, 4, 64, &e), 0);
	assert_int_equal(s.r[0].n, 60);            /* the last 60 */
	assert_int_equal(gen_add(&s, ids, 3, 50, 64, &e), 0);
	struct gen_opts o = { .slots = 32, .stop = after_five, .stop_arg = &calls };
	assert_int_equal(gen_run(&s, &x.w, &o, &e), 0);
	assert_int_equal(s.r[0].n_out, 4);
	assert_int_equal(s.r[0].end, GEN_LIMIT);
	assert_int_equal(s.r[1].n_out, 5);
	assert_int_equal(s.r[1].end, GEN_STOP);
	assert_int_equal(calls, 9);
	struct gen_cost c;
	gen_cost(&s, &x.w.t->arch, DT_F32, 8, &c);
	assert_int_equal(c.tokens, 64 + 53);
	assert_int_equal(c.kv_bytes, 2 * 2 * 2 * 2 * 6 * 64 * 4);     /* slots, layers, k and v, heads x width, positions, f32 */
	gen_set_free(&s);
	assert_int_equal(gen_run(&s, &x.w, &o, &e), 0);                /* nothing to do */
	unload(&x);
}

/* Frequencies of draws against softmax; top-p keeps exactly the nucleus */
static void draws(void **state)
{
	(void)state;
	static const float l[6] = { 0, 1, 2, -1, 2, -INFINITY };
	enum { N = 20000 };
	double p[6], sum = 0;
	for (int v = 0; v < 6; v++)
		sum += p[v] = exp((double)l[v] / 2);
	int count[6] = { 0 }, nucleus[6] = { 0 };
	for (int i = 0; i < N; i++) {
		count[gen_pick(l, 6, 2, 1, (i + 0.5) / N)]++;
		nucleus[gen_pick(l, 6, 2, 0.7, (i + 0.5) / N)]++;
	}
	for (int v = 0; v < 6; v++)
		assert_true(fabs(count[v] / (double)N - p[v] / sum) < 1e-3);
	/* masses 0.31 0.31 0.19: two are 0.62, so the third is needed; 0 and -1 are out */
	assert_true(nucleus[2] && nucleus[4] && nucleus[1] && !nucleus[0] && !nucleus[3] && !nucleus[5]);
	assert_true(fabs(nucleus[2] / (double)N - p[2] / (p[1] + p[2] + p[4])) < 1e-3);
	assert_int_equal(gen_pick(l, 6, 0, 1, 0.99), 2);       /* greedy: the first of equals */
	assert_int_equal(gen_pick(l, 6, 1, 1e-9, 0.99), 2);    /* never empty */
	assert_int_equal(gen_pick(l, 6, 1e-3, 1, 0.999), 4);   /* two equals share everything */
}

static int start(void **state)
{
	(void)state;
	fixture = json_load_file("tests/golden/generate.json", 0, NULL);
	return fixture ? 0 : -1;
}

static int stop(void **state)
{
	(void)state;
	json_decref(fixture);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_transformers), cmocka_unit_test(as_the_whole_again), cmocka_unit_test(company_changes_nothing),
		cmocka_unit_test(stops_and_limits), cmocka_unit_test(draws),
	};
	return cmocka_run_group_tests(tests, start, stop);
}
