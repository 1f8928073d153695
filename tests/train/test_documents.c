/*
 * test_documents.c - packed documents that do not see each other: against PyTorch with an explicit mask
 * (tests/oracle/kd_documents.py), and against the same documents one to a sequence
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_fixture.h"
#include "aux_tiny.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { END = 7, SEQ = 24 };
static const struct trainer_spec base = { .loss = { .weight = { [LOSS_KL] = 0.75, [LOSS_CE] = 0.25 }, .tau = 1, .beta = 0.5 },
					  .clip = 1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .apart = true, .doc_end = END };

static void pytorch(const char *backend)
{
	static const char *const names[] = { "llama-tied-gqa", "nemotron", "gemma3" };
	struct engine g;
	struct err e = { 0 };
	if (engine_open(&g, backend, 2, &e))
		fail_msg("%s", e.msg);
	for (int m = 0; m < 3; m++) {
		struct trainer_spec o = base;
		struct step_result r;
		struct job j;
		fixture_open(&j, &g, "docs", names[m], &o);
		for (int64_t i = 0; i < j.t.o.batch * j.t.o.seq; i++)
			j.labels[i] = j.ids[i] == END ? -1 : j.labels[i];
		assert_int_equal(trainer_gradients(&j.t, j.ids, j.labels, &r), 0);
		const struct st_tensor *l = tensor(&j, "docs", ".loss", "");
		near("loss", r.loss, f64_at(l, 0), 1e-6);
		near("KL", r.mean[LOSS_KL], f64_at(l, 1), 1e-6);
		near("CE", r.mean[LOSS_CE], f64_at(l, 2), 1e-6);
		near("norm", r.grad_norm, f64_at(tensor(&j, "docs", ".norm", ""), 0), 1e-4);
		assert_true(each_tensor(&j, "docs.grad", j.t.grad, 1, compare_gradient) > 5);
		fixture_close(&j);
	}
	engine_close(&g);
}

static void test_pytorch(void **state)
{
	(void)state;
	pytorch("ref");
	pytorch("cpu");
}

/* One window of five documents; as five windows of one document, padded.  The same losses, the same gradients.
 * hidden: or NULL, a --hidden-loss beside them. */
static void alone_as_packed(const char *hidden)
{
	static const int64_t length[] = { 5, 1, 9, 6, 3 };
	static const struct tiny student = { .family = "gemma3_text", .layers = 2, .hidden = 12, .ffn = 10, .heads = 4, .kv_heads = 2,
					     .head_dim = 6, .vocab = 23, .tied = 1 };
	static const struct tiny teacher = { .family = "llama", .layers = 2, .hidden = 16, .ffn = 12, .heads = 2, .kv_heads = 1,
					     .head_dim = 8, .vocab = 23 };
	uint32_t packed[SEQ], alone[5 * SEQ];
	int32_t x[5 * SEQ], y[5 * SEQ];
	struct step_result r[2];
	float *grad = NULL;
	for (int64_t k = 0, at = 0; k < 5; k++)
		for (int64_t i = 0; i < SEQ; i++) {
			uint32_t id = i == length[k] - 1 ? END : (uint32_t)((i * 5 + k * 3) % 6 + 8);
			alone[k * SEQ + i] = i < length[k] ? id : 1;
			if (i < length[k])
				packed[at++] = id;
		}
	for (int pass = 0; pass < 2; pass++) {
		struct trainer_spec o = base;
		struct engine g = { 0 };
		struct batches b;
		struct trainer t;
		o.seq = SEQ;
		o.batch = o.micro = pass ? 5 : 1;
		o.apart = !pass;
		o.hidden.heads = 2;
		if (hidden)
			assert_int_equal(hidden_parse(&o.hidden, hidden, 2, 2, NULL), 0);
		assert_int_equal(batches_from(&b, pass ? alone : packed, o.batch, SEQ, SEQ, 1), 0);
		b.eos = END;
		b.apart = true;
		for (int64_t k = 0; k < o.batch; k++) {
			batches_window(&b, k, x + k * SEQ, y + k * SEQ);
			for (int64_t i = pass ? length[k] - 1 : SEQ; i < SEQ; i++)
				y[k * SEQ + i] = -1;
		}
		tiny_trainer(&t, &g, &student, &teacher, &o, 5);
		assert_int_equal(trainer_gradients(&t, x, y, &r[pass]), 0);
		if (!pass) {
			grad = xcalloc((size_t)t.elems, sizeof *grad);
			memcpy(grad, t.grad, (size_t)t.elems * sizeof *grad);
		} else {
			for (int64_t i = 0; i < t.elems; i++)
				assert_true(fabs(grad[i] - t.grad[i]) <= 1e-6 + 1e-5 * fabs(grad[i]));
		}
		trainer_free(&t);
		g.k->dev_close(g.d);
		batches_free(&b);
	}
	assert_int_equal(r[0].labels, SEQ - 5);
	assert_int_equal(r[1].labels, SEQ - 5);
	near("KL", r[0].mean[LOSS_KL], r[1].mean[LOSS_KL], 1e-6);
	near("CE", r[0].mean[LOSS_CE], r[1].mean[LOSS_CE], 1e-6);
	near("hidden", r[0].hidden, r[1].hidden, 1e-6);
	assert_int_equal(r[0].hidden > 0, hidden != NULL);
	free(grad);
}

static void test_alone(void **state)
{
	(void)state;
	alone_as_packed(NULL);
	alone_as_packed("relation:3@0:1,1:1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pytorch),
		cmocka_unit_test(test_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
