/*
 * test_gradients.c - the gradient of the whole model, through the program that trains it
 *
 * Every parameter matrix is moved along its own gradient plus a random direction; the slope of the loss there, by a
 * five-point difference, must be the scalar product.  All families, tied and untied, grouped heads, KL, reverse KL, CE
 * and a mix at another temperature.  Recomputation and micro-batches must not change what is computed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_tiny.h"
#include "../../common/base/rng.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct tiny shapes[] = {
	{ "llama", 1, 2, 12, 20, 4, 2, 4, 23, 1 },
	{ "llama", 0, 2, 16, 12, 2, 1, 8, 19, 1 },
	{ "nemotron", 0, 2, 12, 20, 4, 2, 4, 23, 0.5 },
	{ "nemotron", 1, 1, 16, 18, 2, 2, 8, 17, 0.5 },
	{ "qwen2", 0, 2, 12, 20, 4, 2, 4, 23, 1 },
	{ "qwen3", 1, 2, 12, 20, 4, 2, 4, 19, 1 },
	{ "gemma3_text", 1, 2, 12, 18, 4, 2, 6, 23, 1 },
	{ "mistral", 0, 1, 12, 16, 2, 1, 8, 17, 1 },
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const struct tiny wider[] = { /* teachers */
	{ "llama", 0, 1, 20, 24, 2, 2, 8, 23, 1 },
	{ "llama", 1, 2, 12, 20, 4, 2, 4, 19, 1 },
	{ "nemotron", 0, 1, 20, 24, 3, 1, 8, 23, 0.5 },
	{ "llama", 0, 1, 12, 16, 2, 2, 8, 17, 1 },
	{ "qwen2", 1, 1, 16, 24, 2, 2, 8, 23, 1 },
	{ "llama", 1, 2, 12, 20, 4, 2, 4, 19, 1 },
	{ "gemma3_text", 1, 3, 16, 20, 2, 1, 8, 23, 1 },
	{ "mistral", 0, 2, 16, 16, 2, 1, 8, 17, 1 },
};
enum { SEQ = 7, BATCH = 4 };
static struct engine eng;

static struct trainer_spec spec(double kl, double rkl, double ce, double tau)
{
	struct trainer_spec o = { .seq = SEQ, .micro = 2, .batch = BATCH, .dtype = DT_F32, .clip = 1, .beta1 = 0.9,
				  .beta2 = 0.95, .eps = 1e-8 };
	o.loss.weight[LOSS_KL] = kl;
	o.loss.weight[LOSS_RKL] = rkl;
	o.loss.weight[LOSS_CE] = ce;
	o.loss.tau = tau;
	return o;
}

static double loss_at(struct trainer *t, const float *w0, const double *dir, double h, const int32_t *ids, const int32_t *lab)
{
	struct step_result r;
	for (int64_t i = 0; i < t->student->elems; i++)
		t->w[i] = (float)((double)w0[i] + h * dir[i]);
	assert_int_equal(trainer_gradients(t, ids, lab, &r), 0);
	return r.loss;
}

/* Slope along dir of parameter p against g.dir */
static void check_param(struct trainer *t, const struct param *p, const float *w0, const float *g, const int32_t *ids,
			const int32_t *lab)
{
	double *dir = xcalloc((size_t)t->student->elems, sizeof *dir), gn = 0, dot = 0, h = 4e-3;
	int64_t n = p->rows * p->cols;
	for (int64_t i = 0; i < n; i++)
		gn += (double)g[p->off + i] * (double)g[p->off + i];
	gn = sqrt(gn);
	assert_true(gn > 0);
	for (int64_t i = 0; i < n; i++) {
		int64_t k = p->off + i;
		dir[k] = (double)g[k] / gn + rng_normal(5, (uint64_t)p->off, (uint64_t)i) / sqrt((double)n);
		dot += dir[k] * (double)g[k];
	}
	double f1 = loss_at(t, w0, dir, h, ids, lab), b1 = loss_at(t, w0, dir, -h, ids, lab);
	double f2 = loss_at(t, w0, dir, 2 * h, ids, lab), b2 = loss_at(t, w0, dir, -2 * h, ids, lab);
	double slope = (8 * (f1 - b1) - (f2 - b2)) / (12 * h);
	if (fabs(slope - dot) > 1e-3 * gn + 2e-5)
		fail_msg("%s: slope %.8g, gradient says %.8g (norm %.3g)", p->name, slope, dot, gn);
	free(dir);
}

static void check_model(const struct tiny *student, const struct tiny *teacher, struct trainer_spec o)
{
	struct trainer t;
	struct step_result r;
	int32_t ids[SEQ * BATCH], lab[SEQ * BATCH];
	tiny_trainer(&t, &eng, student, teacher, &o, 11);
	tiny_tokens(ids, lab, BATCH, SEQ, student->vocab, 3);
	size_t n = (size_t)t.student->elems;
	float *w0 = xcalloc(n, 4), *g = xcalloc(n, 4);
	memcpy(w0, t.w, n * 4);
	assert_int_equal(trainer_gradients(&t, ids, lab, &r), 0);
	memcpy(g, t.grad, n * 4);
	assert_int_equal(r.labels, BATCH * (SEQ - 1));
	for (int i = 0; i < t.student->n; i++)
		check_param(&t, &t.student->p[i], w0, g, ids, lab);
	free(w0);
	free(g);
	trainer_free(&t);
}

static void test_differences(void **state)
{
	(void)state;
	for (int i = 0; i < SHAPES; i++)
		check_model(&shapes[i], &wider[i], spec(1, 0, 0, 1));
}

static void test_differences_mixed(void **state)
{
	(void)state;
	check_model(&shapes[0], &wider[0], spec(0.75, 0, 0.25, 2));
	check_model(&shapes[2], &wider[2], spec(0, 1, 0.5, 1.5));
}

static void test_differences_no_teacher(void **state)
{
	(void)state;
	check_model(&shapes[1], NULL, spec(0, 0, 1, 1));
	check_model(&shapes[3], NULL, spec(0, 0, 1, 1));
}

/* Gradients of one step with micro-batches of `micro`, into a new array. */
static float *gradients(const struct tiny *s, const struct tiny *teacher, int dtype, int64_t micro, int recompute,
			struct step_result *r)
{
	struct trainer t;
	struct trainer_spec o = spec(1, 0, 0.5, 1);
	int32_t ids[SEQ * BATCH], lab[SEQ * BATCH];
	o.dtype = dtype;
	o.micro = micro;
	o.recompute = recompute;
	tiny_trainer(&t, &eng, s, teacher, &o, 21);
	tiny_tokens(ids, lab, BATCH, SEQ, s->vocab, 4);
	assert_int_equal(trainer_gradients(&t, ids, lab, r), 0);
	float *g = xcalloc((size_t)t.student->elems, 4);
	memcpy(g, t.grad, (size_t)t.student->elems * 4);
	trainer_free(&t);
	return g;
}

static int64_t table_elems(const struct tiny *s)
{
	struct arch a = tiny_arch(s);
	struct ptable *t = ptable_new(&a);
	int64_t n = t->elems;
	ptable_free(t);
	return n;
}

static void test_recompute_bitwise(void **state)
{
	(void)state;
	for (int i = 0; i < SHAPES; i++)
		for (int k = 0; k < 4; k++) {
			struct step_result r, q;
			int dtype = k % 2 ? DT_BF16 : DT_F32, how = k / 2 ? RECOMPUTE_FULL : RECOMPUTE_NORMS;
			float *a = gradients(&shapes[i], &wider[i], dtype, 2, 0, &r);
			float *b = gradients(&shapes[i], &wider[i], dtype, 2, how, &q);
			assert_memory_equal(a, b, (size_t)table_elems(&shapes[i]) * 4);
			assert_true(r.loss == q.loss && r.grad_norm == q.grad_norm);
			free(a);
			free(b);
		}
}

static void test_micro_batches_add(void **state)
{
	(void)state;
	for (int i = 0; i < SHAPES; i++) {
		struct step_result r, q;
		float *a = gradients(&shapes[i], &wider[i], DT_F32, BATCH, 0, &r);
		float *b = gradients(&shapes[i], &wider[i], DT_F32, 1, 0, &q);
		double d = 0, s = 0;
		for (int64_t k = 0; k < table_elems(&shapes[i]); k++) {
			d += ((double)a[k] - (double)b[k]) * ((double)a[k] - (double)b[k]);
			s += (double)a[k] * (double)a[k];
		}
		assert_true(sqrt(d) < 1e-5 * sqrt(s));
		assert_true(fabs(r.loss - q.loss) < 1e-6 * r.loss);
		free(a);
		free(b);
	}
}

/* A teacher with the student's own weights: nothing to learn. */
static void test_teacher_is_student(void **state)
{
	(void)state;
	for (int i = 0; i < SHAPES; i++) {
		struct trainer t;
		struct trainer_spec o = spec(1, 1, 0, 1);
		struct step_result r;
		int32_t ids[SEQ * BATCH], lab[SEQ * BATCH];
		tiny_trainer(&t, &eng, &shapes[i], &shapes[i], &o, 31);
		memcpy(t.tw, t.w, (size_t)t.student->elems * 4);
		tiny_tokens(ids, lab, BATCH, SEQ, shapes[i].vocab, 5);
		assert_int_equal(trainer_gradients(&t, ids, lab, &r), 0);
		assert_true(fabs(r.mean[LOSS_KL]) <= 1e-6 && fabs(r.mean[LOSS_RKL]) <= 1e-6);
		assert_true(r.grad_norm <= 1e-5);
		assert_true(r.mean[LOSS_CE] > 1);
		trainer_free(&t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_differences),
		cmocka_unit_test(test_differences_mixed),
		cmocka_unit_test(test_differences_no_teacher),
		cmocka_unit_test(test_recompute_bitwise),
		cmocka_unit_test(test_micro_batches_add),
		cmocka_unit_test(test_teacher_is_student),
	};
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	if (eng.d)
		eng.k->dev_close(eng.d);
	return rc;
}
