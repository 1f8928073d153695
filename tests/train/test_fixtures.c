/*
 * test_fixtures.c - one distillation step and three AdamW steps against PyTorch autograd (tests/oracle/kd_step.py)
 *
 * Losses to 1e-6 relative, each gradient tensor to 1e-4 of its norm (in fact far better), the loss curve of three
 * optimizer steps to 1e-4.  Parameters after AdamW are compared by share: an entry whose gradient is rounding noise
 * moves by +-lr whatever its sign.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_fixture.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const names[] = { "llama-tied-gqa", "llama-untied", "nemotron", "qwen3", "gemma3" };
enum { MODELS = sizeof names / sizeof *names };
static const struct {
	const char *word;
	double kl, ce, tau;
	int grads;
} cases[] = { { "kl", 1, 0, 1, 1 }, { "kl2", 1, 0, 2, 0 }, { "mix", 0.75, 0.25, 2, 1 }, { "ce", 0, 1, 1, 0 } };
static struct engine eng;

static void open_job(struct job *j, const char *name, int c)
{
	struct trainer_spec o = { .clip = 1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1 };
	o.loss.weight[LOSS_KL] = cases[c].kl;
	o.loss.weight[LOSS_CE] = cases[c].ce;
	o.loss.tau = cases[c].tau;
	fixture_open(j, &eng, "kd", name, &o);
}

static void test_one_step(void **state)
{
	(void)state;
	for (int m = 0; m < MODELS; m++)
		for (int c = 0; c < 4; c++) {
			struct job j;
			struct step_result r;
			char prefix[32];
			open_job(&j, names[m], c);
			assert_int_equal(trainer_gradients(&j.t, j.ids, j.labels, &r), 0);
			const struct st_tensor *l = tensor(&j, cases[c].word, ".loss", "");
			near("loss", r.loss, f64_at(l, 0), 1e-6);
			near("KL", r.mean[LOSS_KL], f64_at(l, 1), 1e-6);
			near("CE", r.mean[LOSS_CE], f64_at(l, 2), 1e-6);
			near("norm", r.grad_norm, f64_at(tensor(&j, cases[c].word, ".norm", ""), 0), 1e-4);
			snprintf(prefix, sizeof prefix, "%s.grad", cases[c].word);
			if (cases[c].grads)
				each_tensor(&j, prefix, j.t.grad, 0, compare_gradient);
			fixture_close(&j);
		}
	print_message("worst relative gradient difference %.2g\n", worst_gradient);
}

static int64_t far, all;

static void count_far(const char *name, const float *got, const float *want, int64_t n)
{
	(void)name;
	for (int64_t i = 0; i < n; i++)
		far += !(fabs((double)got[i] - (double)want[i]) <= 5e-5 + 1e-4 * fabs((double)want[i]));
	all += n;
}

static void test_adamw_steps(void **state)
{
	(void)state;
	far = all = 0;
	for (int m = 0; m < MODELS; m++) {
		struct job j;
		struct step_result r;
		open_job(&j, names[m], 2);
		const struct st_tensor *loss = tensor(&j, "adamw.loss", "", ""), *norm = tensor(&j, "adamw.norm", "", "");
		for (int s = 0; s < 3; s++) {
			assert_int_equal(trainer_step(&j.t, j.ids, j.labels, 1e-3, &r), 0);
			near("loss", r.loss, f64_at(loss, s), 1e-4);
			near("norm", r.grad_norm, f64_at(norm, s), 1e-3);
		}
		assert_int_equal(trainer_gradients(&j.t, j.ids, j.labels, &r), 0);
		near("last loss", r.loss, f64_at(loss, 3), 1e-4);
		each_tensor(&j, "adamw.param", j.t.w, 0, count_far);
		fixture_close(&j);
	}
	if (far * 100 > all)
		fail_msg("%lld of %lld parameters differ", (long long)far, (long long)all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_step),
		cmocka_unit_test(test_adamw_steps),
	};
	return on_backends(&eng, tests, sizeof tests / sizeof tests[0]);
}
