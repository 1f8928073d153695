/*
 * test_loss_fixtures.c - every loss on logits against PyTorch autograd (tests/oracle/kd_losses.py)
 *
 * Values to 1e-6 relative, each stored gradient to 1e-4 of its norm (in fact far better), the norm of all of them to 1e-4.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_fixture.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static struct engine eng;

static const struct {
	const char *word, *loss;
	struct objective o;
} cases[] = {
	{ "rkl", "rkl", { .tau = 1 } }, { "rkl2", "rkl", { .tau = 2 } },
	{ "jsd", "jsd", { .tau = 1, .beta = 0.5 } }, { "jsd3", "jsd:0.8,ce:0.2", { .tau = 2, .beta = 0.3 } },
	{ "tvd", "tvd", { .tau = 1.5 } }, { "mse", "mse", { .tau = 1 } }, { "cos", "cos", { .tau = 1 } },
	{ "wsl", "kl", { .tau = 1, .wsl = 1 } }, { "wsl2", "kl:0.5,jsd:0.5,ce:0.1", { .tau = 2, .beta = 0.5, .wsl = 1 } },
	{ "all", "kl:.1,rkl:.2,jsd:.3,tvd:.4,mse:.05,cos:.6,ce:.7", { .tau = 1.5, .beta = 0.6 } },
	{ "renorm", "kl", { .tau = 1, .best = 8, .tail = TAIL_RENORM } },
	{ "zero", "kl", { .tau = 1, .best = 8, .tail = TAIL_ZERO } },
	{ "ghost", "kl", { .tau = 1, .best = 8, .tail = TAIL_GHOST } },
	{ "renorm2", "kl:0.7,ce:0.3", { .tau = 2, .best = 5, .tail = TAIL_RENORM } },
	{ "zero2", "kl:0.7,ce:0.3", { .tau = 2, .best = 5, .tail = TAIL_ZERO } },
	{ "ghost2", "kl:0.7,ce:0.3", { .tau = 2, .best = 5, .tail = TAIL_GHOST } },
};

static void one(const char *model, int c, int grads)
{
	struct trainer_spec o = { .clip = 1 };
	struct objective q = cases[c].o;
	struct step_result r;
	struct err e;
	struct job j;
	char prefix[32];
	assert_int_equal(objective_parse(&o.loss, cases[c].loss, q.tau, &e), 0);
	memcpy(q.weight, o.loss.weight, sizeof q.weight);
	o.loss = q;
	assert_int_equal(objective_check(&o.loss, &e), 0);
	fixture_open(&j, &eng, "losses", model, &o);
	assert_int_equal(trainer_gradients(&j.t, j.ids, j.labels, &r), 0);
	near(cases[c].word, r.loss, f64_at(tensor(&j, cases[c].word, ".loss", ""), 0), 1e-6);
	near(cases[c].word, r.grad_norm, f64_at(tensor(&j, cases[c].word, ".norm", ""), 0), 1e-4);
	snprintf(prefix, sizeof prefix, "%s.grad", cases[c].word);
	if (grads)
		assert_int_equal(each_tensor(&j, prefix, j.t.grad, 1, compare_gradient), 3);
	fixture_close(&j);
}

static void test_losses(void **state)
{
	(void)state;
	for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
		one("llama-tied-gqa", (int)c, 1);
		one("nemotron", (int)c, 0);
	}
	print_message("worst relative gradient difference %.2g\n", worst_gradient);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_losses) };
	return on_backends(&eng, tests, sizeof tests / sizeof tests[0]);
}
