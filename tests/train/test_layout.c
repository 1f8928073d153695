/*
 * test_layout.c - bytes, FLOPs and days of the planner against a table worked out by hand for three published pairs
 *
 * N15 -> M8 -> M4: Nemotron-4 15B, Minitron 8B and 4B; L70: Llama-3 70B, S35: half of it.  8192 tokens a micro-batch.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/train/layout.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

enum { N15, M8, M4, L70, S35, MODELS };
static struct arch model[MODELS];

static struct arch shape(const char *family, int64_t L, int64_t h, int64_t f, int64_t q, int64_t V)
{
	struct arch a = { .family = family_find(family), .layers = L, .hidden = h, .ffn = f, .heads = q, .kv_heads = 8, .head_dim = 128,
			  .vocab = V, .norm = !strcmp(family, "llama") ? NORM_RMS : NORM_LAYER1P,
			  .act = !strcmp(family, "llama") ? ACT_SWIGLU : ACT_RELU2, .rope_frac = 1, .max_positions = 4096 };
	return a;
}

static int models(void **state)
{
	(void)state;
	model[N15] = shape("nemotron", 32, 6144, 24576, 48, 256000);
	model[M8] = shape("nemotron", 32, 4096, 16384, 48, 256000);
	model[M4] = shape("nemotron", 32, 3072, 9216, 24, 256000);
	model[L70] = shape("llama", 80, 8192, 28672, 64, 128256);
	model[S35] = shape("llama", 80, 6144, 16384, 64, 128256);
	return 0;
}

static struct need at(int teacher, int student, int64_t world, struct layout l)
{
	struct cluster c = { world, 8, 80e9, 395.6e12, 370e9, 45e9, 1, 0 };
	struct run_shape r = { teacher < 0 ? NULL : &model[teacher], &model[student], 4096, 1152, 2, 94e9 };
	struct need n;
	layout_need(&l, &c, &r, &n);
	return n;
}

static void near(double got, double want, double tolerance)
{
	if (!(fabs(got - want) <= tolerance * want))
		fail_msg("got %.4g, expected %.4g", got, want);
}

static void memory(void **state)
{
	(void)state;
	static const struct { int teacher, student; int64_t world; struct layout l; double gb; } row[] = {
		{ N15, M8, 8, { 2, true, false, RECOMPUTE_NORMS, false, false }, 62.6 + 4.96 + 2.37 }, /* gradients of the output matrix and a block; of the teacher that matrix and a block */
		{ N15, M8, 8, { 3, true, false, RECOMPUTE_NONE, false, false }, 61.7 + 2.37 },
		{ N15, M8, 8, { 1, false, true, RECOMPUTE_FULL, false, false }, 83.5 },
		{ -1, M8, 8, { 1, false, true, RECOMPUTE_NORMS, false, false }, 69.5 },
		{ N15, M8, 32, { 1, true, true, RECOMPUTE_NORMS, false, false }, 65.7 + 2.37 },
		{ M8, M4, 8, { 1, false, false, RECOMPUTE_NORMS, false, false }, 63.9 },
		{ M8, M4, 1, { 0, false, false, RECOMPUTE_NORMS, true, false }, 57.9 },
		{ L70, S35, 8, { 3, true, false, RECOMPUTE_FULL, false, false }, 113.6 + 0.39 },
		{ L70, S35, 8, { 3, true, false, RECOMPUTE_FULL, true, false }, 61.4 + 0.39 },
		{ L70, S35, 32, { 3, true, false, RECOMPUTE_FULL, false, false }, 54.9 + 0.39 },
	};
	for (size_t i = 0; i < sizeof row / sizeof *row; i++)
		near(at(row[i].teacher, row[i].student, row[i].world, row[i].l).sum / 1e9, row[i].gb, 0.01);
	struct need host = at(N15, M4, 1, (struct layout){ .host_teacher = true });
	near(host.bytes[NEED_TEACHER] / 1e9, 2 * (1.573 + 0.390), 0.01);
	near(host.host / 1e9, 31.3, 0.01);
	near(host.traffic, 576 * 31.3 / 50, 0.01);
	struct need off = at(M8, M4, 1, (struct layout){ .offload = true }), on = at(M8, M4, 1, (struct layout){ 0 });
	near(off.host / 1e9, 50, 0.01);
	near(off.to_host, off.host, 1e-9); /* once a step, both ways at a time, with nothing to hide it */
	near(off.from_host, off.host, 1e-9);
	near(off.traffic, 50 / 50.0, 0.01);
	near(off.days - on.days, 94e9 / (1152 * 4096) * off.host / 50e9 / 86400, 1e-6);
	near(on.sum - off.sum, off.host - 25.2e6, 0.001);
	near(at(L70, S35, 8, (struct layout){ .zero = 3, .offload = true }).host / 1e9, 52, 0.01);
}

static void states(void **state)
{
	(void)state;
	static const double gb[][4] = { { 148.9, 62.0, 33.1, 18.6 }, { 148.9, 52.7, 20.7, 4.7 } };
	for (int i = 0; i < 2; i++)
		for (int z = 0; z < 4; z++) {
			struct need n = at(N15, M8, i ? 32 : 8, (struct layout){ .zero = z });
			double block = (double)arch_count_nonembedding(&model[M8]) / 32;
			double gathered = z == 3 ? 4 * block : z == 2 ? 4 * (256000.0 * 4096 + block) : 0;
			near((n.bytes[NEED_STUDENT] - gathered) / 1e9, gb[i][z], 0.011);
		}
}

/* Tensor parallel over eight: what reference tables give for student states, with 6 + 12/d bytes a parameter, and traffic by hand */
static void spread_over_eight(void **state)
{
	(void)state;
	static const struct { int student; int64_t world; double gb; } row[] = { { M8, 8, 18.6 }, { M8, 32, 9.3 }, { M4, 8, 9.4 }, { M4, 32, 4.7 }, { S35, 8, 78.3 }, { S35, 32, 39.1 } };
	struct err e;
	struct need n;
	struct layout l = { .zero = 1 };
	for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
		struct arch a = model[row[i].student];
		assert_int_equal(arch_split(&a, 8, &e), 0);
		struct cluster c = { row[i].world, 8, 80e9, 400e12, 370e9, 45e9, 8, 0 };
		struct run_shape r = { NULL, &a, 4096, 1152, 2, 94e9 };
		layout_need(&l, &c, &r, &n);
		near(n.bytes[NEED_STUDENT] / 1e9, row[i].gb, 0.01);
		near(n.step_flops, 6 * (double)arch_count(&model[row[i].student]) * 1152 * 4096 / (double)row[i].world, 0.001);
	}
	struct arch a = model[M4], b = model[M8];
	struct layout out[LAYOUTS_MAX];
	arch_split(&a, 8, &e);
	arch_split(&b, 8, &e);
	struct cluster c = { 8, 8, 80e9, 400e12, 370e9, 45e9, 8, 0 };
	struct run_shape r = { &b, &a, 4096, 1152, 2, 94e9 };
	layout_need(&l, &c, &r, &n);
	double sums = 3072 * (4 * 32 + 2) + 4096 * (2 * 32 + 1), tokens = 1152 * 4096;
	near(n.sent_node, tokens * (2 * 7 / 8.0 * 4 * sums + 7 * 18 * 8), 1e-6);
	assert_true(n.sent_net == 0);
	for (int k = layout_list(&c, &r, out, LAYOUTS_MAX); k-- > 0;)
		assert_true(out[k].zero == 0 && !out[k].sharded_teacher); /* there is one copy */
}

static void time_and_traffic(void **state)
{
	(void)state;
	struct layout z1 = { .zero = 1, .sharded_teacher = true };
	near(at(N15, M8, 8, z1).days, 27.8, 0.01);
	near(at(N15, M8, 32, z1).days, 7.0, 0.01);
	near(at(-1, M8, 8, z1).days, 17.1, 0.01);
	near(at(M8, M4, 8, z1).days, 14.3, 0.01);
	near(at(N15, M8, 8, z1).step_flops, 80.9e9 * 1152 * 4096 / 8, 0.001);
	/* gradients f32 .078 s and weights .039 s at 370 GB/s once a step; the teacher 72 times .074 s */
	near(at(N15, M8, 8, z1).traffic, .078 + .039 + 72 * .074, 0.02);
	/* the teacher stays in the node whatever the others do: k = 18, 7/8 of 2 bytes a parameter; over two nodes 15/16 between them */
	struct need q = at(N15, M8, 32, z1);
	near(q.teacher_node, 18 * 2 * 15.63e9 * 7 / 8, 0.01);
	assert_true(q.sent_node == q.teacher_node && q.teacher_net == 0);
	struct cluster two = { 32, 8, 80e9, 400e12, 370e9, 45e9, 1, 16 };
	struct run_shape r = { &model[N15], &model[M8], 4096, 1152, 2, 94e9 };
	double whole = q.bytes[NEED_TEACHER] - 2 * 15.63e9 / 8;
	layout_need(&z1, &two, &r, &q);
	near(q.teacher_net, 18 * 2 * 15.63e9 * 15 / 16, 0.01);
	near(q.bytes[NEED_TEACHER], whole + 2 * 15.63e9 / 16, 0.01);
	assert_true(q.sent_node == 0 && q.sent_net > q.teacher_net);
	struct need alone = at(M8, M4, 1, (struct layout){ 0 });
	assert_true(alone.sent_net == 0 && alone.sent_node == 0);
}

static void proposed(void **state)
{
	(void)state;
	struct cluster c = { 8, 8, 80e9, 400e12, 370e9, 45e9, 1, 0 };
	struct run_shape r = { &model[M8], &model[M4], 4096, 1152, 2, 94e9 };
	struct layout l[LAYOUTS_MAX];
	struct need q;
	int n = layout_list(&c, &r, l, LAYOUTS_MAX), i = 0;
	while (i < n && (layout_need(&l[i], &c, &r, &q), q.sum > c.memory))
		i++;
	assert_true(i < n);
	assert_int_equal(l[i].zero, 1); /* for 8B -> 4B sharding the optimizer is enough */
	r.teacher = NULL;
	int m = layout_list(&c, &r, l, LAYOUTS_MAX);
	assert_true(m > 0 && m < n);
	for (i = 0; i < m; i++)
		assert_false(l[i].sharded_teacher);
	c.world = 1;
	m = layout_list(&c, &r, l, LAYOUTS_MAX);
	for (i = 0; i < m; i++)
		assert_true(l[i].zero == 0 && !l[i].host_teacher);
	char buf[160];
	r.teacher = &model[N15];
	r.student = &model[M4];
	c.memory = 100e9;
	n = layout_list(&c, &r, l, LAYOUTS_MAX);
	for (i = 0; i < n && (layout_need(&l[i], &c, &r, &q), q.sum > c.memory);)
		i++;
	assert_true(i < n && l[i].host_teacher && !l[i].offload); /* 15B whole and 4B's 75 GB are more than 100 GB */
	assert_string_equal(layout_words(&(struct layout){ 2, true, true, RECOMPUTE_FULL, true, false }, &c, &r, buf),
			    "ZeRO 2, teacher sharded in the node, bf16 gradients, full recomputation, optimizer on the host");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory), cmocka_unit_test(states), cmocka_unit_test(spread_over_eight), cmocka_unit_test(time_and_traffic), cmocka_unit_test(proposed),
	};
	return cmocka_run_group_tests(tests, models, NULL);
}
