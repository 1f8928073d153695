/*
 * test_mix.c - names of domains, what is drawn, how the weights move
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/train/mix.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { SEQ = 4, BATCH = 8 };

/* A mix of domains in memory, n[i] windows each, with one held-out set each; weights and references to be filled in */
static void make_mix(struct mix *m, int domains, const int64_t *n, uint64_t seed)
{
	*m = (struct mix){ .n = domains, .n_valid = domains, .seq = SEQ, .batch = BATCH, .seed = seed };
	m->d = xcalloc((size_t)domains, sizeof *m->d);
	m->v = xcalloc((size_t)domains, sizeof *m->v);
	m->w = xcalloc((size_t)domains, sizeof *m->w);
	m->reference = xcalloc((size_t)domains, sizeof *m->reference);
	m->taken = xcalloc((size_t)domains, sizeof *m->taken);
	m->before = xcalloc((size_t)domains, sizeof *m->before);
	m->from = xcalloc(BATCH, sizeof *m->from);
	m->at = xcalloc(BATCH, sizeof *m->at);
	for (int i = 0; i < domains; i++) {
		uint32_t *ids = xcalloc((size_t)n[i] * SEQ, sizeof *ids);
		snprintf(m->d[i].name, MIX_NAME, "d%d", i);
		assert_int_equal(batches_from(&m->d[i].data, ids, n[i], SEQ, SEQ, seed + (uint64_t)i), 0);
		assert_int_equal(batches_from(&m->v[i].data, ids, n[i], SEQ, SEQ, 0), 0);
		m->d[i].valid = i;
		free(ids);
	}
}

static void test_names(void **state)
{
	char name[MIX_NAME];
	struct err e;
	(void)state;
	assert_string_equal(mix_name("web=a/b=c", name), "a/b=c");
	assert_string_equal(name, "web");
	static const char *const plain[] = { "a/b=c", "=x", "tok", "a name=x", "0123456789012345678901234567890123=x" };
	for (int i = 0; i < 5; i++) {
		assert_string_equal(mix_name(plain[i], name), plain[i]);
		assert_string_equal(name, "");
	}
	const char *two[] = { "a=x", "a=y" }, *bare[] = { "a=x", "y" }, *none[] = { "x", "y", "z" };
	struct opt_list last = { none, 3 };
	assert_int_equal(mix_names(&last, "data", &e), 0);
	assert_int_equal(last.n, 1);
	assert_string_equal(last.v[0], "z");
	assert_int_equal(mix_names(&(struct opt_list){ two, 2 }, "data", &e), -1);
	assert_int_equal(mix_names(&(struct opt_list){ bare, 2 }, "data", &e), -1);
	assert_int_equal(mix_names(&(struct opt_list){ bare + 1, 1 }, "data", &e), 0);
}

/* Shares follow the weights, a domain's windows come without repeats, and an undone step leaves no trace. */
static void test_draw(void **state)
{
	static const int64_t n[] = { 50, 7, 20 };
	int64_t seen[3] = { 0 }, steps = 500;
	int pass[50] = { 0 };
	struct mix m;
	(void)state;
	make_mix(&m, 3, n, 11);
	m.w[0] = 0.5, m.w[1] = 0.5, m.w[2] = 0;
	for (int64_t s = 0; s < steps; s++) {
		if (s % 3 == 0) {
			mix_draw(&m, s * BATCH);
			mix_undo(&m);
		}
		mix_draw(&m, s * BATCH);
		for (int j = 0; j < BATCH; j++) {
			assert_int_equal(m.at[j], seen[m.from[j]]++);
			if (m.from[j] == 0 && m.at[j] < 50)
				pass[batches_at(&m.d[0].data, m.at[j])]++;
		}
	}
	for (int i = 0; i < 50; i++)
		assert_int_equal(pass[i], 1);
	double share = (double)seen[0] / (double)(steps * BATCH);
	assert_true(fabs(share - 0.5) < 4 * sqrt(0.25 / (double)(steps * BATCH)));
	assert_int_equal(seen[2], 0);
	assert_true(seen[1] > 7);      /* it ran dry long ago and started over */
	mix_free(&m);
}

/* Sheared-LLaMA's rule in numbers: w = (.5 .3 .2), losses over reference (0 .5 -.25), rate 1, floor .1 */
static void test_update(void **state)
{
	static const int64_t n[] = { 4, 4, 4 };
	static const double w[] = { 0.5, 0.3, 0.2 }, over[] = { 0, 0.5, -0.25 };
	struct mix m;
	(void)state;
	make_mix(&m, 3, n, 1);
	double a[3], sum = 0;
	for (int i = 0; i < 3; i++) {
		m.w[i] = w[i];
		m.reference[i] = 2 + i;
		m.v[i].ce = m.reference[i] + over[i];
		sum += a[i] = w[i] * exp(over[i]);
	}
	m.rate = 1;
	m.floor = 0.1;
	assert_true(mix_update(&m));
	for (int i = 0; i < 3; i++)
		assert_true(fabs(m.w[i] - (0.9 * a[i] / sum + 0.1 / 3)) < 1e-15);
	double before = m.w[1];
	m.v[2].ce = NAN;
	assert_false(mix_update(&m));
	assert_true(m.w[1] == before);
	for (int i = 0; i < 3; i++) /* one constant on all references changes nothing */
		m.v[i].ce = 7 + m.reference[i];
	m.floor = 0;
	assert_true(mix_update(&m));
	assert_true(fabs(m.w[1] - before) < 1e-12);
	m.v[0].ce = 1e5;               /* no overflow */
	assert_true(mix_update(&m));
	assert_true(m.w[0] == 1 && m.w[1] == 0);
	assert_true(mix_update(&m));   /* and a weight of 0 stays, without a floor */
	assert_true(m.w[1] == 0);
	mix_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_draw),
		cmocka_unit_test(test_update),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
