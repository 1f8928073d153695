/*
 * test_hidden.c - losses between hidden states: PyTorch's values and gradients, the spelling, where values come from
 *
 * Fixtures of tests/oracle/kd_hidden.py: loss, L_is and alpha to 1e-6 relative, gradients of projections and of stored
 * parameters to 1e-4 of their norm, the norm of all to 1e-4.  Recomputing blocks changes no bit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_fixture.h"
#include "aux_tiny.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct engine eng;

static const struct {
	const char *model, *word, *spec;
	int dynamic, per_pair, student, teacher, heads, proj;
} cases[] = {
	{ "llama-tied-gqa", "last", "cosine:1@last:last,emb", 1, 0, 1, 2, 0, 1 },
	{ "llama-tied-gqa", "mixed", "mse:0.5@out.0:1,mlp.0:0;cosine:2@in.last:last", 0, 1, 1, 2, 0, 3 },
	{ "llama-tied-gqa", "rel", "relation@last:last;cosine:0.5@last:last", 1, 0, 1, 2, 4, 1 },
	{ "llama-untied", "uniform", "mse@uniform", 1, 0, 2, 3, 0, 1 },
	{ "nemotron", "last", "cosine@norm.last:last,emb", 1, 0, 2, 2, 0, 1 },
	{ "nemotron", "relv", "relation:2@v.0:1,q.0:0", 0, 0, 2, 2, 2, 0 },
};

static void compare_projections(struct job *j, const char *word)
{
	char name[32], number[16];
	for (int k = 0; k < j->t.n_proj; k++) {
		snprintf(name, sizeof name, "%s.pgrad.", word);
		snprintf(number, sizeof number, "%d", k);
		const struct st_tensor *g = tensor(j, name, number, "");
		float *want = xcalloc((size_t)g->elems, 4);
		memcpy(want, g->data, (size_t)g->elems * 4);
		compare_gradient(g->name, j->t.grad + j->t.proj[k].off, want, g->elems);
		free(want);
	}
}

static void one(int c, int recompute, float *grad_out)
{
	struct trainer_spec o = { .clip = 1, .recompute = recompute };
	struct step_result r;
	struct err e;
	struct job j;
	char name[32], number[16];
	assert_int_equal(objective_parse(&o.loss, "kl", 1, &e), 0);
	o.hidden.dynamic = cases[c].dynamic;
	o.hidden.per_pair = cases[c].per_pair;
	o.hidden.heads = cases[c].heads;
	assert_int_equal(hidden_parse(&o.hidden, cases[c].spec, cases[c].student, cases[c].teacher, &e), 0);
	fixture_open(&j, &eng, "hidden", cases[c].model, &o);
	assert_int_equal(j.t.n_proj, cases[c].proj);
	for (int k = 0; k < j.t.n_proj; k++) {
		snprintf(name, sizeof name, "%s.proj.", cases[c].word);
		snprintf(number, sizeof number, "%d", k);
		const struct st_tensor *w = tensor(&j, name, number, "");
		memcpy(j.t.w + j.t.proj[k].off, w->data, (size_t)w->elems * 4);
	}
	trainer_sync(&j.t);
	assert_int_equal(trainer_gradients(&j.t, j.ids, j.labels, &r), 0);
	const struct st_tensor *loss = tensor(&j, cases[c].word, ".loss", "");
	near("loss", r.loss, f64_at(loss, 0), 1e-6);
	near("L_is", r.hidden, f64_at(loss, 1), 1e-6);
	near("alpha", r.alpha, f64_at(loss, 2), 1e-6);
	near("norm", r.grad_norm, f64_at(tensor(&j, cases[c].word, ".norm", ""), 0), 1e-4);
	compare_projections(&j, cases[c].word);
	snprintf(name, sizeof name, "%s.grad", cases[c].word);
	assert_true(each_tensor(&j, name, j.t.grad, 1, compare_gradient) >= 3);
	memcpy(grad_out, j.t.grad, (size_t)j.t.elems * 4);
	fixture_close(&j);
}

static void test_against_autograd(void **state)
{
	(void)state;
	enum { ROOM = 1 << 16 };
	float *a = xcalloc(ROOM, 4), *b = xcalloc(ROOM, 4);
	for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
		one((int)c, 0, a);
		one((int)c, 1, b);
		assert_memory_equal(a, b, ROOM * 4);
	}
	free(a);
	free(b);
	print_message("worst relative gradient difference %.2g\n", worst_gradient);
}

static void test_spelling(void **state)
{
	(void)state;
	static struct hidden h;
	struct err e;
	assert_int_equal(hidden_parse(&h, "cosine:2@last-2:last-2,emb;mse@mlp.0:3,in.2:0,out.uniform", 4, 8, &e), 0);
	assert_int_equal(h.terms, 2);
	assert_int_equal(h.n, 2 + 2 + 4);
	static const struct hidden_pair want[] = {
		{ { SITE_ATTN_IN, 2 }, { SITE_ATTN_IN, 6 }, 0, 0 }, { { SITE_EMBED, -1 }, { SITE_EMBED, -1 }, 0, 0 },
		{ { SITE_FFN_OUT, 0 }, { SITE_FFN_OUT, 3 }, 1, 0 }, { { SITE_BLOCK_OUT, 1 }, { SITE_EMBED, -1 }, 1, 0 },
		{ { SITE_BLOCK_OUT, 0 }, { SITE_BLOCK_OUT, 1 }, 1, 0 }, { { SITE_BLOCK_OUT, 1 }, { SITE_BLOCK_OUT, 3 }, 1, 0 },
	};
	assert_memory_equal(h.pair, want, sizeof want);
	assert_true(h.term[0].opcode == OP_COSINE && h.term[0].weight == 2.0 && h.term[0].pairs == 2);
	assert_true(h.term[1].opcode == OP_MSE && h.term[1].weight == 1.0 && h.term[1].pairs == 6);
	assert_int_equal(hidden_parse(&h, "mse@3:7", 4, 8, &e), 0);
	assert_int_equal(h.pair[0].s.site, SITE_FINAL);
	assert_int_equal(hidden_parse(&h, "relation:3@q.0:3,1:2;mse@0:0", 4, 8, &e), 0);
	static const struct hidden_pair related[] = {
		{ { SITE_QKV, 0 }, { SITE_QKV, 3 }, 0, 0 }, { { SITE_QKV, 1 }, { SITE_QKV, 2 }, 0, 0 },
		{ { SITE_QKV, 1 }, { SITE_QKV, 2 }, 0, 1 }, { { SITE_QKV, 1 }, { SITE_QKV, 2 }, 0, 2 },
		{ { SITE_ATTN_IN, 1 }, { SITE_ATTN_IN, 1 }, 1, 0 },
	};
	assert_memory_equal(h.pair, related, sizeof related);
	assert_true(h.term[0].opcode == OP_RELATION && h.term[0].pairs == 4);
	static const char *const wrong[] = {
		"relation@emb", "relation@norm.0:0", "mse@q.0:0", "relation@w.0:0",
		"", ";", "cosine", "cosine@", "hinge@0:0", "mse:0@0:0", "mse:x@0:0", "mse:-1@0:0", "mse@4:0", "mse@0:8", "mse@last-4:0",
		"mse@last+1:0", "mse@0", "mse@nowhere.0:0", "mse@-1:0", "mse@out.emb", "mse@0:0;;cosine@9:9",
		"mse@0:0;mse@0:0;mse@0:0;mse@0:0;mse@0:0;mse@0:0;mse@0:0;mse@0:0;mse@0:0",
	};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		if (!hidden_parse(&h, wrong[i], 4, 8, &e))
			fail_msg("accepted '%s'", wrong[i]);
		assert_int_equal(e.code, EXIT_USAGE);
	}
}

/* Relation heads divide the widths of both models: given, or the most that leave 16 columns */
static void test_relation_heads(void **state)
{
	(void)state;
	static const struct tiny small = { "llama", 1, 2, 96, 20, 6, 3, 16, 23, 1 }, large = { "llama", 1, 2, 128, 20, 8, 4, 24, 23, 1 };
	struct arch s = tiny_arch(&small), t = tiny_arch(&large);
	static struct hidden h;
	struct err e;
	assert_int_equal(hidden_parse(&h, "relation@q.0:0", 2, 2, &e), 0);
	h.heads = 0;
	assert_int_equal(hidden_settle(&h, &s, &t, &e), 0);
	assert_int_equal(h.heads, 6);          /* 96 and 192 columns */
	assert_int_equal(hidden_parse(&h, "relation@0:0", 2, 2, &e), 0);
	h.heads = 0;
	assert_int_equal(hidden_settle(&h, &s, &t, &e), 0);
	assert_int_equal(h.heads, 3);          /* keys: 48 and 96 */
	struct relation r = hidden_relation(&h, &h.pair[2], &s, &t, 5);
	assert_true(r.T == 5 && r.heads == 3 && r.a0 == 144 && r.da == 16 && r.b0 == 288 && r.db == 32);
	assert_int_equal(r.window, 0);
	t.window = 4;                          /* of the teacher's blocks that slide: what both see */
	arch_set_sliding(&t, 0, true);
	assert_int_equal(hidden_relation(&h, &h.pair[2], &s, &t, 5).window, 4);
	assert_int_equal(hidden_relation(&h, &h.pair[2], &t, &s, 4).window, 0);
	h.heads = 32;
	assert_int_equal(hidden_settle(&h, &s, &t, &e), -1);
	assert_int_equal(e.code, EXIT_USAGE);
	assert_non_null(strstr(e.msg, "48 columns of k in block 0 of the student"));
}

/* Rows without a label count for nothing: other tokens there change neither loss nor gradient of what comes before. */
static void test_masked_rows(void **state)
{
	(void)state;
	static const struct tiny shape = { "llama", 1, 2, 12, 20, 4, 2, 4, 23, 1 };
	enum { SEQ = 8, BATCH = 2 };
	struct engine ref = { 0 };
	double loss[2], norm[2];
	for (int v = 0; v < 2; v++) {
		struct trainer t;
		struct trainer_spec o = { .seq = SEQ, .micro = 1, .batch = BATCH, .dtype = DT_F32, .clip = 1 };
		struct step_result r;
		struct err e;
		int32_t ids[SEQ * BATCH], lab[SEQ * BATCH];
		assert_int_equal(objective_parse(&o.loss, "kl", 1, &e), 0);
		assert_int_equal(hidden_parse(&o.hidden, "cosine@uniform;mse@mlp.uniform;relation@uniform", 2, 2, &e), 0);
		tiny_trainer(&t, &ref, &shape, &shape, &o, 5);
		tiny_tokens(ids, lab, BATCH, SEQ, 23, 3);
		for (int i = 0; i < SEQ * BATCH; i++)
			if (i % SEQ >= 5) {
				lab[i] = -1;
				ids[i] = v ? 7 : ids[i];
			}
		assert_int_equal(trainer_gradients(&t, ids, lab, &r), 0);
		assert_int_equal(t.n_proj, 0);
		loss[v] = r.loss;
		norm[v] = r.grad_norm;
		trainer_free(&t);
	}
	ref.k->dev_close(ref.d);
	assert_true(loss[0] > 0);
	near("loss", loss[1], loss[0], 1e-7);
	near("norm", norm[1], norm[0], 1e-7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_against_autograd), cmocka_unit_test(test_spelling), cmocka_unit_test(test_relation_heads), cmocka_unit_test(test_masked_rows),
	};
	return on_backends(&eng, tests, sizeof tests / sizeof tests[0]);
}
