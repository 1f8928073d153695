/*
 * test_curve.c - fifty steps of distillation against PyTorch's loss curve (tests/oracle/kd_curve.py)
 *
 * The same batches, a new one each step, AdamW with warm-up, cosine and clipping.  Every step's loss within 1 % (in fact 2e-6),
 * the gradient's norm before clipping likewise, the rates to rounding; the weights' moving average to 1e-3 of its norm.  With
 * moments in bf16 the curve may leave PyTorch's (f32 moments) by 0.5 %.  The pairs differ in width and depth; of the first, two
 * matrices have no weight decay.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_fixture.h"
#include "../../common/train/schedule.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { STEPS = 50 };
static const struct {
	const char *name, *no_decay;
} pairs[] = { { "llama-tied-gqa", "embed_tokens,o_proj" }, { "nemotron-deep", NULL } };
static const struct schedule rate = { .kind = SCHED_COSINE, .steps = STEPS, .warmup = 5, .peak = 5e-3, .min = 5e-4 };
static struct engine eng;
static double worst;

/* Batch of step s into j->ids, j->labels */
static void load_step(struct job *j, int s)
{
	const struct st_tensor *t = tensor(j, "curve.ids", "", "");
	int64_t B = t->dims[1], T = t->dims[2] - 1;
	const char *at = (const char *)t->data + 4 * s * B * (T + 1);
	for (int64_t b = 0; b < B; b++, at += 4 * (T + 1)) {
		memcpy(j->ids + b * T, at, 4 * (size_t)T);
		memcpy(j->labels + b * T, at + 4, 4 * (size_t)T);
	}
}

static void follow(int m, bool low, bool nearest, double tol)
{
	struct trainer_spec o = { .clip = 1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .ema = 0.9,
				  .no_decay = pairs[m].no_decay, .low_moments = low, .nearest = nearest, .recompute = RECOMPUTE_NORMS };
	struct job j;
	struct step_result r;
	o.loss.weight[LOSS_KL] = 1;
	o.loss.tau = 1;
	fixture_open(&j, &eng, "curve", pairs[m].name, &o);
	const struct st_tensor *loss = tensor(&j, "curve.loss", "", ""), *norm = tensor(&j, "curve.norm", "", "");
	const struct st_tensor *lr = tensor(&j, "curve.lr", "", "");
	assert_int_equal(loss->elems, STEPS);
	for (int s = 0; s < STEPS; s++) {
		double now = schedule_lr(&rate, s + 1);
		near("rate", now, f64_at(lr, s), 1e-9);
		load_step(&j, s);
		assert_int_equal(trainer_step(&j.t, j.ids, j.labels, now, &r), 0);
		near("loss", r.loss, f64_at(loss, s), tol);
		if (!low)
			near("norm", r.grad_norm, f64_at(norm, s), tol);
		worst = fmax(worst, fabs(r.loss / f64_at(loss, s) - 1));
	}
	if (!low)
		assert_true(each_tensor(&j, "curve.ema", j.t.ema, 1, compare_gradient) > 4);
	fixture_close(&j);
}

static void test_curve(void **state)
{
	(void)state;
	worst = 0;
	for (int m = 0; m < 2; m++)
		follow(m, false, false, 0.01);
	print_message("furthest from PyTorch's curve: %.2g\n", worst);
}

static void test_low_moments(void **state)
{
	(void)state;
	worst = 0;
	for (int m = 0; m < 2; m++)
		for (int nearest = 0; nearest < 2; nearest++)
			follow(m, true, nearest, 0.005);
	print_message("with bf16 moments: %.2g\n", worst);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_curve), cmocka_unit_test(test_low_moments) };
	return on_backends(&eng, tests, sizeof tests / sizeof tests[0]);
}
