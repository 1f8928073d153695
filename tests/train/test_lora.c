/*
 * test_lora.c - low-rank adapters: PyTorch's values and gradients, how they start, the merged model, PEFT's files
 *
 * Fixtures of tests/oracle/kd_lora.py: loss to 1e-6 relative, gradients of A and B to 1e-4 of their norm, the norm of all to
 * 1e-4, the merged model's loss to 1e-6.  Recomputing blocks changes no bit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/base/outfile.h"
#include "aux_fixture.h"
#include "aux_tiny.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static struct engine eng;
static char dir[] = "/tmp/adze-lora-XXXXXX";

static const struct {
	const char *word, *targets, *loss;
	int64_t rank;
	double alpha;
} cases[] = {
	{ "attn", "q_proj,v_proj", "kl", 3, 6 },
	{ "all", "*_proj", "kl:0.7,ce:0.3", 2, 5 },
	{ "down", "layers.0.mlp.down_proj", "ce", 4, 1 },
};
static const char *const models[] = { "llama-tied-gqa", "nemotron" };

static struct trainer_spec spec(int c)
{
	struct trainer_spec o = { .clip = 1, .choice = { .none = true }, .lora = { cases[c].targets, cases[c].rank, cases[c].alpha } };
	struct err e;
	assert_int_equal(objective_parse(&o.loss, cases[c].loss, 1, &e), 0);
	return o;
}

/* The fixture's tensor CASE.KIND.MODULE of half `b` of adapter i */
static const struct st_tensor *half(struct job *j, int c, const char *kind, int i, int b)
{
	const struct adapter *q = &j->t.adapter[i];
	char hf[160], name[32];
	int64_t first = 0;
	int s = 0;
	while (first < q->at)
		first += param_seg_rows(j->t.student, q->base, s++);
	param_hf_name(j->t.student, q->base, s, hf);
	*strrchr(hf, '.') = '\0';
	snprintf(name, sizeof name, "%s.%s%c.", cases[c].word, kind, b ? 'B' : 'A');
	return tensor(j, name, hf, "");
}

static void one(const char *model, int c, int recompute, float **grad_new, size_t *bytes)
{
	struct trainer_spec o = spec(c);
	struct step_result r;
	struct job j;
	o.recompute = recompute;
	fixture_open(&j, &eng, "lora", model, &o);
	assert_true(j.t.n_adapter > 0 && j.t.n_param == 2 * j.t.n_adapter);
	for (int i = 0; i < 2 * j.t.n_adapter; i++) {
		const struct param *q = j.t.param[i];
		const struct st_tensor *w = half(&j, c, "", i / 2, i % 2);
		assert_true(w->dims[0] == q->rows && w->dims[1] == q->cols);
		memcpy(j.t.w + q->off, w->data, (size_t)w->elems * 4);
	}
	trainer_sync(&j.t);
	assert_int_equal(trainer_gradients(&j.t, j.ids, j.labels, &r), 0);
	near("loss", r.loss, f64_at(tensor(&j, cases[c].word, ".loss", ""), 0), 1e-6);
	near("norm", r.grad_norm, f64_at(tensor(&j, cases[c].word, ".norm", ""), 0), 1e-4);
	for (int i = 0; i < 2 * j.t.n_adapter; i++) {
		const struct st_tensor *g = half(&j, c, "g", i / 2, i % 2);
		float *want = xmalloc((size_t)g->elems * 4);
		memcpy(want, g->data, (size_t)g->elems * 4);
		compare_gradient(g->name, j.t.grad + j.t.param[i]->off, want, g->elems);
		free(want);
	}
	for (int i = 0; i < j.t.train.p->n; i++) /* no product for the gradient of a frozen matrix */
		if (j.t.train.p->op[i].code == OP_LINEAR_DW)
			assert_non_null(strstr(j.t.train.p->v[j.t.train.p->op[i].out[0].id].name, "lora_"));
	*bytes = (size_t)j.t.trained * 4;
	*grad_new = xmalloc(*bytes);
	memcpy(*grad_new, j.t.grad, *bytes);
	if (!recompute) {      /* the merged model, alone */
		char from[160], out[160];
		struct trainer_spec plain = { .loss = o.loss, .clip = 1 };
		struct err e = { 0 };
		struct job k;
		snprintf(from, sizeof from, "tests/golden/models/%s-student", model);
		snprintf(out, sizeof out, "%s/merged", dir);
		if (trainer_export(&j.t, OF_STUDENT, from, out, "float32", NULL, &e))
			fail_msg("%s", e.msg);
		fixture_open(&k, &eng, "lora", model, &plain);
		if (trainer_load(&k.t, out, NULL, &e))
			fail_msg("%s", e.msg);
		trainer_sync(&k.t);
		struct step_result m;
		assert_int_equal(trainer_gradients(&k.t, k.ids, k.labels, &m), 0);
		near("merged loss", m.loss, f64_at(tensor(&j, cases[c].word, ".merged", ""), 0), 1e-6);
		near("merged and not", m.loss, r.loss, 1e-6);
		fixture_close(&k);
	}
	fixture_close(&j);
}

static void test_against_autograd(void **state)
{
	(void)state;
	for (int m = 0; m < 2; m++)
		for (int c = 0; c < 3; c++) {
			float *a, *b;
			size_t n, n2;
			one(models[m], c, 0, &a, &n);
			one(models[m], c, 1, &b, &n2);
			assert_int_equal(n, n2);
			assert_memory_equal(a, b, n);
			free(a);
			free(b);
		}
	print_message("worst relative gradient difference %.2g\n", worst_gradient);
}

/* B = 0: the student itself; only B has a gradient; A is uniform in its bounds and a function of the seed */
static void test_start(void **state)
{
	(void)state;
	struct trainer_spec o = spec(1), plain = { .loss = o.loss, .clip = 1 };
	struct step_result r, q;
	struct job j, k;
	double sum = 0, sq = 0;
	int64_t n = 0;
	fixture_open(&j, &eng, "lora", models[0], &o);
	fixture_open(&k, &eng, "lora", models[0], &plain);
	lora_init(&j.t, 5);
	trainer_sync(&j.t);
	assert_int_equal(trainer_gradients(&j.t, j.ids, j.labels, &r), 0);
	assert_int_equal(trainer_gradients(&k.t, k.ids, k.labels, &q), 0);
	near("loss", r.loss, q.loss, 1e-7);
	for (int i = 0; i < j.t.n_param; i++) {
		const struct param *p = j.t.param[i];
		double bound = 1 / sqrt((double)p->cols);
		for (int64_t e = p->off; e < p->off + p->rows * p->cols; e++) {
			assert_true(i % 2 ? j.t.w[e] == 0 : fabs(j.t.w[e]) <= bound && j.t.grad[e] == 0);
			if (i % 2 == 0) {
				double u = j.t.w[e] / bound;
				sum += u;
				sq += u * u;
				n++;
			}
		}
	}
	assert_true(r.grad_norm > 0 && fabs(sum / (double)n) < 0.15 && fabs(sq / (double)n - 1.0 / 3) < 0.08);
	fixture_close(&j);
	fixture_close(&k);
}

static void test_peft_files(void **state)
{
	(void)state;
	struct trainer_spec o = spec(0);
	struct err e = { 0 };
	struct job j;
	char out[64], path[128];
	fixture_open(&j, &eng, "lora", models[1], &o);
	lora_init(&j.t, 5);
	snprintf(out, sizeof out, "%s/adapter", dir);
	if (lora_save(&j.t, out, "base", &e))
		fail_msg("%s", e.msg);
	snprintf(path, sizeof path, "%s/adapter_config.json", out);
	json_t *c = json_load_file(path, 0, NULL), *words = json_object_get(c, "target_modules");
	assert_int_equal(json_integer_value(json_object_get(c, "r")), 3);
	assert_true(json_number_value(json_object_get(c, "lora_alpha")) == 6.0);
	assert_int_equal(json_array_size(words), 2);
	assert_string_equal(json_string_value(json_array_get(words, 1)), "v_proj");
	json_decref(c);
	snprintf(path, sizeof path, "%s/adapter_model.safetensors", out);
	struct st_model *m = st_open(path, &e);
	assert_non_null(m);
	assert_int_equal(st_count(m), 2 * j.t.n_adapter);
	const struct st_tensor *t = st_find(m, "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight");
	assert_true(t && t->nd == 2 && t->dims[0] == 3 && t->dims[1] == j.t.student->arch.hidden);
	assert_memory_equal(t->data, j.t.w + j.t.adapter[3].a.off, t->bytes);
	st_close(m);
	fixture_close(&j);
}

static void test_refusals(void **state)
{
	static const struct { const char *targets, *train, *say; } row[] = {
		{ "embed_tokens", NULL, "model.embed_tokens.weight is not the matrix of a linear in a block" },
		{ "input_layernorm", NULL, "is not the matrix" },
		{ "r_proj", NULL, "--lora 'r_proj': the student has no such tensor" },
		{ "o_proj", "layers.0.*", "model.layers.0.self_attn.o_proj.weight is trained itself" },
	};
	static const struct tiny shape = { "llama", 1, 2, 12, 20, 4, 2, 4, 23, 1 };
	struct arch a = tiny_arch(&shape);
	(void)state;
	for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
		struct trainer_spec o = spec(2);
		struct trainer t;
		struct err e = { 0 };
		o.seq = 4, o.micro = o.batch = 1;
		o.choice.train = row[i].train;
		o.lora.targets = row[i].targets;
		assert_int_equal(trainer_plan(&t, ptable_new(&a), NULL, &o, &e), -1);
		assert_int_equal(e.code, EXIT_USAGE);
		if (!strstr(e.msg, row[i].say))
			fail_msg("%s", e.msg);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_against_autograd), cmocka_unit_test(test_start), cmocka_unit_test(test_peft_files),
		cmocka_unit_test(test_refusals),
	};
	static const char *const backend[] = { "ref", "cpu" };
	int rc = 0;
	struct err e = { 0 };
	if (!mkdtemp(dir))
		return 1;
	for (int i = 0; i < 2; i++) {
		if (engine_open(&eng, backend[i], 2, &e)) {
			print_message("%s\n", e.msg);
			rc++;
			continue;
		}
		worst_gradient = 0;
		rc += cmocka_run_group_tests_name(backend[i], tests, NULL, NULL);
		engine_close(&eng);
	}
	return remove_tree(dir, &e) ? 1 : rc;
}
