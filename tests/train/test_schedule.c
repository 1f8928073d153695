/*
 * test_schedule.c - learning rates in closed form, and the parsing of objectives
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/train/losses.h"
#include "../../common/train/schedule.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define NEAR(a, b) assert_true(fabs((a) - (b)) <= 1e-12 * fabs((double)(b)))

static void test_warmup(void **state)
{
	(void)state;
	for (int kind = SCHED_COSINE; kind <= SCHED_WSD; kind++) {
		struct schedule s = { kind, 100, 10, 20, 1e-3, 1e-5 };
		for (int i = 1; i <= 10; i++)
			NEAR(schedule_lr(&s, i), 1e-3 * i / 10);
		NEAR(schedule_lr(&s, 100), 1e-5);
		NEAR(schedule_lr(&s, 1000), 1e-5);
		for (int64_t i = 11; i <= 100; i++)
			assert_true(schedule_lr(&s, i) <= schedule_lr(&s, i - 1));
	}
}

static void test_shapes(void **state)
{
	(void)state;
	struct schedule c = { SCHED_COSINE, 110, 10, 0, 2e-4, 4.5e-7 }, l = c, w = c;
	l.kind = SCHED_LINEAR;
	w.kind = SCHED_WSD;
	w.decay = 20;
	NEAR(schedule_lr(&c, 60), (2e-4 + 4.5e-7) / 2);
	NEAR(schedule_lr(&c, 35), 4.5e-7 + (2e-4 - 4.5e-7) * (1 + sqrt(0.5)) / 2);
	NEAR(schedule_lr(&l, 35), 2e-4 - 0.25 * (2e-4 - 4.5e-7));
	NEAR(schedule_lr(&w, 90), 2e-4);
	NEAR(schedule_lr(&w, 100), (2e-4 + 4.5e-7) / 2);
}

static void test_edges(void **state)
{
	(void)state;
	struct schedule s = { SCHED_COSINE, 1, 0, 0, 1e-3, 1e-4 };
	NEAR(schedule_lr(&s, 1), 1e-4);
	s.warmup = 1;
	NEAR(schedule_lr(&s, 1), 1e-4);
	struct schedule w = { SCHED_WSD, 10, 5, 100, 1e-3, 0 };
	NEAR(schedule_lr(&w, 5), 1e-3);
	NEAR(schedule_lr(&w, 6), 8e-4);
	assert_int_equal(schedule_kind("cosine"), SCHED_COSINE);
	assert_int_equal(schedule_kind("linear"), SCHED_LINEAR);
	assert_int_equal(schedule_kind("wsd"), SCHED_WSD);
	assert_int_equal(schedule_kind("constant"), -1);
}

static void test_objective(void **state)
{
	struct objective o;
	struct err e;
	(void)state;
	assert_int_equal(objective_parse(&o, "kl:1,ce:0.5", 2, &e), 0);
	double mean[LOSS_KINDS] = { [LOSS_KL] = 3, [LOSS_CE] = 5, [LOSS_RKL] = 7 };
	NEAR(objective_total(&o, mean), 1 * 4 * 3 + 0.5 * 5);
	assert_true(objective_needs_teacher(&o));
	assert_int_equal(objective_parse(&o, "ce", 1, &e), 0);
	assert_false(objective_needs_teacher(&o));
	NEAR(o.weight[LOSS_CE], 1.0);
	assert_int_equal(objective_parse(&o, "kl:1,hinge:1", 1, &e), -1);
	assert_non_null(strstr(e.msg, "hinge"));
	assert_non_null(strstr(e.msg, "rkl"));
	static const char *const wrong[] = { "", "kl:", "kl:x", "kl:-1", "kl:0,ce:0", "kl:1,kl:2", "kl:nan", "kl:inf" };
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		if (!objective_parse(&o, wrong[i], 1, &e))
			fail_msg("accepted '%s'", wrong[i]);
		assert_int_equal(e.code, EXIT_USAGE);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_warmup),
		cmocka_unit_test(test_shapes),
		cmocka_unit_test(test_edges),
		cmocka_unit_test(test_objective),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
