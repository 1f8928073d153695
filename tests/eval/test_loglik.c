/*
 * test_loglik.c - log-likelihoods of tiny random models against full logits, and what must not change them
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../train/aux_tiny.h"
#include "../../common/base/rng.h"
#include "../../common/eval/loglik.h"
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { VOCAB = 61, MAX_LENGTH = 40, MAX_IDS = 64 };

static const struct tiny shapes[] = {
	{ "llama", 1, 2, 24, 40, 6, 2, 4, VOCAB, 0 },
	{ "nemotron", 0, 2, 24, 40, 4, 2, 6, VOCAB, 0.5 },
};
static struct engine g;
static struct err e;

static void model_new(struct weights *m, const struct tiny *shape)
{
	struct arch a = tiny_arch(shape);
	if (!g.k && engine_open(&g, "ref", 1, &e))
		fail_msg("%s", e.msg);
	*m = (struct weights){ .t = ptable_new(&a), .dtype = DT_F32, .g = &g };
	m->w = g.k->mem_alloc(g.d, (size_t)m->t->elems * 4);
	tiny_fill(m->t, m->w, DT_F32, 7);
}

/* Independent of the engine: every logit of ids[0, n-1), log softmax in double. */
static double direct(const struct weights *m, const uint32_t *ids, int64_t n, int64_t n_cont, int *greedy)
{
	struct build b = { .t = m->t, .dtype = DT_F32, .space = SP_PARAM, .prefix = "", .blk1 = m->t->arch.layers };
	struct frame f;
	struct prog *p = prog_new(1, n - 1);
	val tok = p_input(p, "tok", n - 1, 1, DT_I32);
	val y = p_linear(p, p_forward(p, &b, tok, NONE), p_head_weight(p, &b), NONE, NONE, DT_F32);
	p_keep(p, y);
	if (prog_plan(p, &e) || frame_new(&f, m->g, p, &e))
		fail_msg("%s", e.msg);
	f.base[SP_PARAM] = m->w;
	frame_set(&f, tok, ids);
	prog_run(&f);
	float *x = xcalloc((size_t)((n - 1) * VOCAB), sizeof *x);
	frame_get(&f, y, x);
	double ll = 0;
	*greedy = 1;
	for (int64_t t = n - 1 - n_cont; t < n - 1; t++) {
		double s = 0;
		int best = 0;
		for (int v = 0; v < VOCAB; v++) {
			s += exp((double)x[t * VOCAB + v]);
			best = x[t * VOCAB + v] > x[t * VOCAB + best] ? v : best;
		}
		ll += (double)x[t * VOCAB + ids[t + 1]] - log(s);
		*greedy &= (uint32_t)best == ids[t + 1];
	}
	free(x);
	frame_free(&f);
	prog_free(p);
	return ll;
}

static void random_ids(uint32_t *ids, int64_t n, uint64_t stream)
{
	for (int64_t i = 0; i < n; i++)
		ids[i] = (uint32_t)rng_below(11, stream, (uint64_t)i, VOCAB);
}

static void add(struct ll_set *s, const uint32_t *ids, int64_t n, int64_t n_cont)
{
	if (ll_add(s, ids, n - n_cont, ids + (n - n_cont), n_cont, MAX_LENGTH, &e))
		fail_msg("%s", e.msg);
}

static void score(struct ll_set *s, const struct weights *m, int64_t budget)
{
	for (int64_t i = 0; i < s->n; i++)
		s->r[i].done = 0;
	const struct ll_opts o = { .batch_tokens = budget };
	if (ll_score(s, m, &o, &e))
		fail_msg("%s", e.msg);
}

static void equals_full_logits(void **state)
{
	(void)state;
	for (int k = 0; k < 2; k++) {
		struct weights m;
		struct ll_set s = { 0 };
		uint32_t ids[12][MAX_IDS];
		model_new(&m, &shapes[k]);
		for (int i = 0; i < 12; i++) {
			random_ids(ids[i], MAX_IDS, (uint64_t)i);
			add(&s, ids[i], 2 + 3 * i, 1 + i);
		}
		score(&s, &m, 64);
		for (int i = 0; i < 12; i++) {
			int greedy;
			double want = direct(&m, ids[i], 2 + 3 * i, 1 + i, &greedy);
			if (!(fabs(s.r[i].sum - want) <= 1e-4))
				fail_msg("%s request %d: %.9g, expected %.9g", shapes[k].family, i, s.r[i].sum, want);
			assert_int_equal(s.r[i].greedy, greedy);
		}
		ll_set_free(&s);
		weights_free(&m);
	}
}

/* Tokens chosen greedily are recognised as such, and not when the last one differs. */
static void greedy_flag(void **state)
{
	(void)state;
	struct weights m;
	struct ll_set s = { 0 };
	uint32_t ids[8] = { 5, 9 };
	int64_t n = 2;
	model_new(&m, &shapes[0]);
	for (; n < 6; n++) {
		int yes = 0;
		for (ids[n] = 0; ids[n] < VOCAB; ids[n]++) {
			direct(&m, ids, n + 1, 1, &yes);
			if (yes)
				break;
		}
		assert_true(yes);
	}
	add(&s, ids, n, 4);
	ids[n - 1] = (ids[n - 1] + 1) % VOCAB;
	add(&s, ids, n, 4);
	add(&s, ids, n - 1, 3);
	score(&s, &m, 1000);
	assert_int_equal(s.r[0].greedy, 1);
	assert_int_equal(s.r[1].greedy, 0);
	assert_int_equal(s.r[2].greedy, 1);
	ll_set_free(&s);
	weights_free(&m);
}

static void same_in_any_batch(void **state)
{
	(void)state;
	struct weights m;
	struct ll_set all = { 0 };
	uint32_t ids[MAX_IDS];
	model_new(&m, &shapes[1]);
	random_ids(ids, MAX_IDS, 3);
	for (int i = 0; i < 9; i++)
		add(&all, ids + i, 4 + i * i % 30, 2);
	double want[9];
	for (int i = 0; i < 9; i++) {
		struct ll_set one = { 0 };
		add(&one, ids + i, 4 + i * i % 30, 2);
		score(&one, &m, 1);
		want[i] = one.r[0].sum;
		ll_set_free(&one);
	}
	static const int64_t budgets[] = { 1, 40, 100000 };
	for (int b = 0; b < 3; b++) {
		score(&all, &m, budgets[b]);
		for (int i = 0; i < 9; i++)
			assert_true(all.r[i].sum == want[i]);
	}
	ll_set_free(&all);
	weights_free(&m);
}

/* Texts with common starts read them once: as many rows as the tree has nodes, the same results as each text alone. */
static void common_starts(void **state)
{
	(void)state;
	for (int k = 0; k < 2; k++) {
		struct weights m;
		struct ll_set set = { 0 };
		struct ll_cost c;
		uint32_t ids[MAX_IDS];
		const struct ll_opts o = { .batch_tokens = 64 }, alone = { .batch_tokens = 64, .alone = 1 };
		double sum[40];
		model_new(&m, &shapes[k]);
		for (int item = 0; item < 4; item++) /* 12 ids of all, 6 of an item, 2 to 4 of a choice; every id scored twice */
			for (int choice = 0; choice < 10; choice++) {
				random_ids(ids, 12, 1);
				random_ids(ids + 12, 6, 20 + (uint64_t)item);
				random_ids(ids + 18, 6, 30 + (uint64_t)(choice / 2));
				add(&set, ids, 20 + choice / 2 % 3, choice % 2 ? 2 : 12);
			}
		assert_int_equal(ll_cost(&set, m.t, DT_F32, &o, &c, &e), 0);
		assert_true(c.padded < c.tokens / 4);
		score(&set, &m, 64);
		for (int i = 0; i < 40; i++)
			sum[i] = set.r[i].sum;
		for (int64_t i = 0; i < set.n; i++)
			set.r[i].done = 0;
		if (ll_score(&set, &m, &alone, &e))
			fail_msg("%s", e.msg);
		for (int i = 0; i < 40; i++)
			if (!(fabs(set.r[i].sum - sum[i]) <= 1e-5 * fabs(sum[i])))
				fail_msg("%s request %d: %.9g, alone %.9g", shapes[k].family, i, sum[i], set.r[i].sum);
		ll_set_free(&set);
		weights_free(&m);
	}
}

/* Items of two subjects, 44 ids of examples each, more than fit in a batch: the examples are read once a subject, whatever is done */
static void trunks(void **state)
{
	(void)state;
	enum { N = 2 * 6 * 4, EXAMPLES = 44 };
	for (int k = 0; k < 2; k++) {
		struct weights m;
		struct ll_set set = { 0 };
		struct ll_cost c, wide;
		uint32_t ids[MAX_IDS];
		const struct ll_opts o = { .batch_tokens = 32 }, all = { .batch_tokens = 1 << 20 }, alone = { .batch_tokens = 32, .alone = 1 };
		double sum[N];
		model_new(&m, &shapes[k]);
		for (int i = 0; i < N; i++) { /* choices of one id, of which a text may be the whole of another's, and of three */
			random_ids(ids, EXAMPLES, 1 + (uint64_t)(i / 24));
			random_ids(ids + EXAMPLES, 7, 20 + (uint64_t)(i / 4));
			random_ids(ids + EXAMPLES + 7, 3, 60 + (uint64_t)(i % 4));
			int64_t n = EXAMPLES + (i % 4 ? 8 : 10), n_cont = i % 4 ? 1 : i / 4 % 2 ? 3 : 9;
			assert_int_equal(ll_add(&set, ids, n - n_cont, ids + n - n_cont, n_cont, MAX_IDS, &e), 0);
		}
		assert_int_equal(ll_cost(&set, m.t, DT_F32, &o, &c, &e), 0);
		assert_int_equal(ll_cost(&set, m.t, DT_F32, &all, &wide, &e), 0);
		assert_in_range(c.padded, wide.padded, wide.padded + 3 * 16 + 4 * 16); /* ends of trunks and of batches */
		score(&set, &m, 32);
		for (int i = 0; i < N; i++)
			sum[i] = set.r[i].sum;
		for (int missing = 0; missing < N; missing += 7) {
			for (int i = 0; i < N; i++)
				set.r[i].done = i != missing;
			set.r[missing].sum = 0;
			assert_int_equal(ll_score(&set, &m, &o, &e), 0);
			for (int i = 0; i < N; i++)
				assert_true(set.r[i].sum == sum[i]);
		}
		for (int i = 0; i < N; i++)
			set.r[i].done = 0;
		assert_int_equal(ll_score(&set, &m, &alone, &e), 0);
		for (int i = 0; i < N; i++)
			if (!(fabs(set.r[i].sum - sum[i]) <= 1e-5 * fabs(sum[i])))
				fail_msg("%s request %d: %.9g, alone %.9g", shapes[k].family, i, sum[i], set.r[i].sum);
		ll_set_free(&set);
		weights_free(&m);
	}
}

static int finished;
static int count(void *arg, const int64_t *req, int64_t n, int64_t tokens, struct err *err)
{
	(void)arg, (void)req, (void)tokens, (void)err;
	finished += (int)n;
	return 0;
}

/* What is done is not run again, and what is not gets the bits that it would have had. */
static void goes_on(void **state)
{
	(void)state;
	struct weights m;
	struct ll_set set = { 0 };
	uint32_t ids[MAX_IDS];
	double sum[20];
	const struct ll_opts o = { .batch_tokens = 64, .step = count };
	model_new(&m, &shapes[0]);
	random_ids(ids, MAX_IDS, 3);
	for (int i = 0; i < 20; i++)
		add(&set, ids + i, 5 + i, 3);
	assert_int_equal(ll_score(&set, &m, &o, &e), 0);
	assert_int_equal(finished, 20);
	for (int i = 0; i < 20; i++) {
		sum[i] = set.r[i].sum;
		set.r[i].done = i != 7;
	}
	finished = 0;
	set.r[7].sum = 0;
	assert_int_equal(ll_score(&set, &m, &o, &e), 0);
	assert_in_range(finished, 1, 10);
	for (int i = 0; i < 20; i++)
		assert_true(set.r[i].sum == sum[i]);
	ll_set_free(&set);
	weights_free(&m);
}

static void truncated_from_the_left(void **state)
{
	(void)state;
	struct weights m;
	struct ll_set s = { 0 };
	uint32_t ids[MAX_IDS];
	model_new(&m, &shapes[0]);
	random_ids(ids, MAX_IDS, 5);
	add(&s, ids, MAX_IDS, 3);
	add(&s, ids + MAX_IDS - (MAX_LENGTH + 1), MAX_LENGTH + 1, 3);
	add(&s, ids, MAX_IDS, MAX_LENGTH);
	assert_int_equal(s.r[0].n, MAX_LENGTH + 1);
	assert_int_equal(s.r[2].n, MAX_LENGTH + 1);
	score(&s, &m, 1000);
	assert_true(s.r[0].sum == s.r[1].sum);
	assert_int_equal(ll_add(&s, ids, 1, ids, MAX_LENGTH + 1, MAX_LENGTH, &e), -1);
	assert_int_equal(e.code, EXIT_DATA);
	assert_int_equal(ll_add(&s, ids, 1, ids, 0, MAX_LENGTH, &e), -1);
	assert_int_equal(e.code, EXIT_DATA);
	ll_set_free(&s);
	weights_free(&m);
}

/* The example of lm-evaluation-harness: ten tokens, windows of four. */
static void windows(void **state)
{
	(void)state;
	static const struct { int n, n_cont, ids[5]; } want[] = {
		{ 5, 4, { 60, 0, 1, 2, 3 } }, { 5, 4, { 3, 4, 5, 6, 7 } }, { 5, 2, { 5, 6, 7, 8, 9 } },
	};
	uint32_t ids[10];
	struct ll_set s = { 0 };
	for (uint32_t i = 0; i < 10; i++)
		ids[i] = i;
	ll_add_rolling(&s, 60, ids, 10, 4);
	assert_int_equal(s.n, 3);
	for (int w = 0; w < 3; w++) {
		assert_int_equal(s.r[w].n, want[w].n);
		assert_int_equal(s.r[w].n_cont, want[w].n_cont);
		assert_memory_equal(s.ids + s.r[w].off, want[w].ids, sizeof want[w].ids);
	}
	ll_set_free(&s);
	ll_add_rolling(&s, 60, ids, 0, 4);
	assert_int_equal(s.n, 0);
	for (int64_t n = 1; n <= 10; n++)
		for (int64_t L = 1; L <= 11; L++) {
			int64_t scored = 0;
			ll_add_rolling(&s, 60, ids, n, L);
			for (int64_t i = 0; i < s.n; i++) {
				assert_true(s.r[i].n <= L + 1);
				/* what is scored is the next stretch of the text */
				assert_int_equal(s.ids[s.r[i].off + s.r[i].n - s.r[i].n_cont], scored);
				scored += s.r[i].n_cont;
			}
			assert_int_equal(scored, n);
			ll_set_free(&s);
		}
}

static void cost(void **state)
{
	(void)state;
	struct arch a = tiny_arch(&shapes[0]);
	struct ptable *t = ptable_new(&a);
	struct ll_set s = { 0 };
	struct ll_cost c;
	const struct ll_opts o = { .batch_tokens = 32 };
	uint32_t ids[MAX_IDS] = { 0 };
	add(&s, ids, 10, 2);
	add(&s, ids, 17, 16);
	add(&s, ids, 20, 1);
	assert_int_equal(ll_cost(&s, t, DT_F32, &o, &c, &e), 0);
	assert_int_equal(c.tokens, 9 + 16 + 19);
	assert_int_equal(c.padded, 32);  /* all begin alike: 19 tokens */
	assert_int_equal(c.scored, 19);
	assert_true(c.flops > 0 && c.act_bytes > 0);
	ll_set_free(&s);
	ptable_free(t);
}

static int close_engine(void **state)
{
	(void)state;
	engine_close(&g);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equals_full_logits), cmocka_unit_test(greedy_flag),
		cmocka_unit_test(same_in_any_batch),  cmocka_unit_test(truncated_from_the_left),
		cmocka_unit_test(common_starts),      cmocka_unit_test(trunks),              cmocka_unit_test(goes_on),
		cmocka_unit_test(windows),            cmocka_unit_test(cost),
	};
	return cmocka_run_group_tests(tests, NULL, close_engine);
}
