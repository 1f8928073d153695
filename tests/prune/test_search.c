/*
 * test_search.c - the Minitron paper's grids give its candidate lists, shape by shape and parameter by parameter
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/prune/search.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct arch nemotron15b(void)
{
	struct arch a = { .family = family_find("nemotron"), .layers = 32, .hidden = 6144, .ffn = 24576, .heads = 48,
		.kv_heads = 8, .head_dim = 128, .vocab = 256000, .act = ACT_RELU2, .norm = NORM_LAYER1P, .rope_frac = 0.5 };

	return a;
}

#define WORK { .seq = 4096, .batch = 1, .bytes = 2 }
#define AXIS_OF(...) { .v = (int64_t[]){ __VA_ARGS__ }, .n = sizeof (int64_t[]){ __VA_ARGS__ } / sizeof(int64_t) }
struct row { int64_t layers, heads, ffn, hidden, params; };

static void check(const struct grid *g, double lo, double hi, const struct row *want, int64_t n, int64_t rounding)
{
	struct arch a = nemotron15b();
	struct query q = { .limits = { [COL_PARAMS] = { lo, hi } } };
	struct found f;
	struct err e;

	assert_int_equal(search_shapes(&a, g, &q, &f, &e), 0);
	struct shape *s = f.s;
	assert_int_equal(f.n, n);
	assert_true(f.uneven == 0 && f.fits == (double)n);
	for (int64_t i = 0; i < n; i++) {
		int64_t hits = 0;
		for (int64_t k = 0; k < n; k++)
			if (s[k].layers == want[i].layers && s[k].heads == want[i].heads && s[k].ffn == want[i].ffn &&
			    s[k].hidden == want[i].hidden) {
				hits++;
				assert_int_equal((s[k].params + rounding / 2) / rounding, want[i].params);
				assert_int_equal(s[k].nonembedding, s[k].params - 2 * 256000 * s[k].hidden);
				/* the table itself agrees with the shape that the search names */
				struct arch b = a;
				b.layers = s[k].layers;
				b.heads = s[k].heads;
				b.ffn = s[k].ffn;
				b.hidden = s[k].hidden;
				struct ptable *t = ptable_new(&b);
				assert_int_equal(t->count, s[k].params);
				ptable_free(t);
				if (rounding == 1)
					assert_int_equal(s[k].id, i + 1);
			}
		assert_int_equal(hits, 1);
	}
	free(s);
}

static void test_8b(void **state)
{
	static const struct row want[] = {
		{ 32, 32, 12800, 5120, 8494131200 }, { 32, 32, 13824, 4608, 7946707968 }, { 32, 48, 11520, 4608, 7871210496 },
		{ 32, 48, 16384, 4096, 8271699968 }, { 31, 32, 12800, 5120, 8310609920 }, { 31, 32, 16128, 4608, 8430345216 },
		{ 31, 48, 13824, 4608, 8357207040 }, { 31, 48, 16384, 4096, 8078745600 }, { 30, 32, 12800, 5120, 8127088640 },
		{ 30, 32, 16128, 4608, 8234505216 }, { 30, 48, 13824, 4608, 8163726336 }, { 30, 48, 16384, 4096, 7885791232 },
		{ 29, 32, 12800, 5120, 7943567360 }, { 29, 32, 16128, 4608, 8038665216 }, { 29, 48, 13824, 4608, 7970245632 },
	};
	struct grid g = { .layers = AXIS_OF(29, 30, 31, 32), .heads = AXIS_OF(32, 48),
		.hidden = AXIS_OF(4096, 4608, 5120, 5632, 6144), .ratio = (double[]){ 2.5, 3, 3.5, 4 }, .nratio = 4, .work = WORK };

	(void)state;
	check(&g, 7.8e9, 8.5e9, want, 15, 1);
}

static void test_4b(void **state)
{
	/* millions of parameters, as published */
	static const struct row want[] = {
		{ 29, 24, 9216, 3072, 3945 }, { 29, 32, 7680, 3072, 3854 }, { 29, 32, 9216, 3072, 4128 },
		{ 29, 48, 10240, 2560, 3896 }, { 30, 24, 9216, 3072, 4027 }, { 30, 32, 7680, 3072, 3933 },
		{ 30, 48, 10240, 2560, 3985 }, { 31, 24, 7680, 3072, 3816 }, { 31, 24, 9216, 3072, 4109 },
		{ 31, 32, 7680, 3072, 4011 }, { 31, 48, 8960, 2560, 3871 }, { 31, 48, 10240, 2560, 4074 },
		{ 32, 24, 7680, 3072, 3889 }, { 32, 24, 9216, 3072, 4191 }, { 32, 32, 7680, 3072, 4090 },
		{ 32, 32, 10240, 2560, 3828 }, { 32, 48, 8960, 2560, 3953 }, { 32, 48, 10240, 2560, 4163 },
	};
	struct grid g = { .layers = AXIS_OF(29, 30, 31, 32), .heads = AXIS_OF(24, 32, 48),
		.hidden = AXIS_OF(2560, 3072, 3584, 4096, 4608), .ratio = (double[]){ 2.5, 3, 3.5, 4 }, .nratio = 4, .work = WORK };

	(void)state;
	check(&g, 4e9 * 0.95, 4e9 * 1.05, want, 18, 1000000);
}

static void test_refusals(void **state)
{
	struct arch a = nemotron15b();
	struct query all = { .top = 0 };
	struct found f;
	struct err e;
	struct grid half = { .hidden = AXIS_OF(4096, 101), .ratio = (double[]){ 2.5 }, .nratio = 1, .work = WORK };
	struct grid large = { .hidden = AXIS_OF(8192), .work = WORK };
	struct grid odd = { .heads = AXIS_OF(12, 24), .work = WORK };
	struct grid none = { .hidden = AXIS_OF(4100, 4200), .div_hidden = 64, .work = WORK };

	(void)state;
	assert_int_equal(search_shapes(&a, &half, &all, &f, &e), -1);
	assert_int_equal(e.code, EXIT_USAGE);
	assert_non_null(strstr(e.msg, "ffn-ratio 2.5 of hidden 101 is 252.5"));
	assert_int_equal(search_shapes(&a, &large, &all, &f, &e), -1);
	assert_non_null(strstr(e.msg, "hidden 8192: the model has 6144"));
	assert_int_equal(search_shapes(&a, &none, &all, &f, &e), -1);
	assert_non_null(strstr(e.msg, "hidden: no value is a multiple of 64"));
	assert_int_equal(search_shapes(&a, &odd, &all, &f, &e), 0);
	assert_int_equal(f.n, 1);
	assert_true(f.uneven == 1);
	assert_int_equal(f.s[0].heads, 24);
	free(f.s);
}

static void test_sort(void **state)
{
	struct arch a = nemotron15b();
	struct query all = { .top = 0 };
	struct grid g = { .layers = AXIS_OF(1, 2, 3, 2), .hidden = AXIS_OF(4096, 6144),
		.work = { .seq = 128, .batch = 2, .bytes = 2 } };
	struct found f;
	struct err e;

	(void)state;
	assert_int_equal(search_shapes(&a, &g, &all, &f, &e), 0);
	struct shape *s = f.s;
	assert_int_equal(f.n, 6);
	/* weights and cache in two bytes each */
	assert_true(s[0].memory == 2.0 * (double)s[0].params + 2.0 * 2 * 3 * 128 * 2 * 8 * 128);
	search_sort(s, f.n, (struct sort){ COL_PARAMS, true });
	for (int64_t i = 1; i < f.n; i++)
		assert_true(s[i].params > s[i - 1].params);
	search_sort(s, f.n, (struct sort){ COL_LAYERS, false });
	assert_int_equal(s[0].layers, 3);
	assert_true(s[0].id < s[1].id);
	free(s);
}

/* Counts and FLOPs by the table for every shape of a grid with five axes; ids in the order promised. */
static struct shape *by_hand(const struct arch *parent, const struct grid *g, int64_t *n)
{
	struct shape *s = calloc(10000, sizeof *s);

	*n = 0;
	for (int64_t l = g->layers.n; l--;)
		for (int64_t q = 0; q < g->heads.n; q++)
			for (int64_t h = g->hidden.n; h--;)
				for (int64_t k = 0; k < g->kv_heads.n; k++)
					for (int64_t f = 0; f < g->ffn.n; f++) {
						struct arch a = *parent;
						a.layers = g->layers.v[l];
						a.heads = g->heads.v[q];
						a.hidden = g->hidden.v[h];
						a.kv_heads = g->kv_heads.v[k];
						a.ffn = g->ffn.v[f];
						if (a.heads % a.kv_heads || a.heads * parent->kv_heads > a.kv_heads * parent->heads)
							continue;
						s[*n] = (struct shape){ .id = *n + 1, .layers = a.layers, .hidden = a.hidden, .ffn = a.ffn,
							.heads = a.heads, .kv_heads = a.kv_heads, .params = arch_count(&a),
							.nonembedding = arch_count_nonembedding(&a), .active = arch_count_active(&a),
							.flops = arch_forward_flops(&a, g->work.seq, 1) };
						double bytes = (double)g->work.bytes, ctx = (double)(g->work.batch * g->work.context);
						double cache = 2 * bytes * ctx * (double)(a.kv_heads * a.head_dim);
						s[*n].memory = bytes * (double)s[*n].params + (double)a.layers * cache;
						const struct hardware *hw = &g->work.hw;
						double head = (double)(a.vocab * a.hidden), L = (double)a.layers;
						double ops = (double)g->work.batch * arch_forward_flops(&a, 2 * g->work.context, 0) / L;
						s[*n].latency = L * fmax((bytes * (double)s[*n].nonembedding / L + cache) / hw->bandwidth,
							ops / hw->peak) + fmax(bytes * head / hw->bandwidth,
							(double)g->work.batch * 2 * head / hw->peak);
						(*n)++;
					}
	return s;
}

static bool near(double a, double b)
{
	return fabs(a - b) <= 1e-9 * fabs(b);
}

static const struct grid five = { .layers = AXIS_OF(3, 4, 7, 9), .hidden = AXIS_OF(64, 96, 128, 384), .heads = AXIS_OF(2, 4, 6, 12),
	.kv_heads = AXIS_OF(1, 2, 4), .ffn = AXIS_OF(8, 16, 31, 64, 100, 777),
	.work = { .seq = 100, .batch = 24, .context = 50, .bytes = 2, .hw = { "x", 2e12, 1e11 } } };

static void test_every_shape(void **state)
{
	static const char *const types[] = { "llama", "nemotron" };

	(void)state;
	for (int m = 0; m < 2; m++) {
		struct arch a = { .family = family_find(types[m]), .layers = 9, .hidden = 384, .ffn = 777, .heads = 12, .kv_heads = 4,
			.head_dim = 16, .vocab = 1000, .act = m ? ACT_RELU2 : ACT_SWIGLU, .tied = !m, .rope_frac = 1 };
		struct query all = { .top = 0 };
		struct found f;
		struct err e;
		int64_t n;
		struct shape *s = by_hand(&a, &five, &n);
		assert_int_equal(search_shapes(&a, &five, &all, &f, &e), 0);
		assert_int_equal(f.n, n);
		for (int64_t i = 0; i < n; i++)
			for (int c = 0; c < SHAPE_COLUMNS; c++) {
				if (c == COL_HEAD_DIM || c == COL_LOADABLE)
					continue;
				if (!near(shape_value(&f.s[i], c), shape_value(&s[i], c)))
					fail_msg("%s: shape %lld, %s: %.17g, expected %.17g", types[m], (long long)i, shape_columns[c],
						shape_value(&f.s[i], c), shape_value(&s[i], c));
			}
		free(f.s);
		free(s);
	}
}

/* Limits, the first K and the front against going through all shapes; ids are those of the list. */
static void test_selections(void **state)
{
	struct arch a = { .family = family_find("llama"), .layers = 9, .hidden = 384, .ffn = 777, .heads = 48, .kv_heads = 4,
		.head_dim = 16, .vocab = 1000, .act = ACT_SWIGLU, .rope_frac = 1 };
	struct query q = { .limits = { [COL_PARAMS] = { 2e5, 3e6 }, [COL_MEMORY] = { 0, 8e6 }, [COL_LATENCY] = { 2e-6, 1 } } };
	struct found all, some;
	struct err e;

	(void)state;
	assert_int_equal(search_shapes(&a, &five, &(struct query){ .top = 0 }, &all, &e), 0);
	int64_t fit = 0;
	for (int64_t i = 0; i < all.n; i++) {
		bool in = true;
		for (int c = 0; c < SHAPE_COLUMNS; c++)
			if (q.limits[c].hi > 0)
				in &= shape_value(&all.s[i], c) >= q.limits[c].lo && shape_value(&all.s[i], c) <= q.limits[c].hi;
		if (in) {
			all.s[fit] = all.s[i];
			all.s[fit].id = fit + 1;
			fit++;
		}
	}
	assert_true(fit > 100 && fit < all.n - 100);
	for (int c = COL_ID; c < SHAPE_COLUMNS; c++)
		for (int rising = 0; rising < 2; rising++)
			for (int64_t top = 0; top <= 40; top += top < 3 ? 1 : 37) {
				struct query k = q;
				k.by = (struct sort){ c, rising };
				k.top = top;
				assert_int_equal(search_shapes(&a, &five, &k, &some, &e), 0);
				assert_true(some.fits == (double)fit);
				assert_int_equal(some.n, top ? top : fit);
				if (top || c != COL_ID) {
					search_sort(all.s, fit, k.by);
					for (int64_t i = 0; i < some.n; i++)
						assert_int_equal(some.s[i].id, all.s[i].id);
				}
				free(some.s);
			}
	search_sort(all.s, fit, (struct sort){ COL_ID, true });
	static const struct sort pairs[][3] = { { { COL_PARAMS, false }, { COL_LATENCY, true }, { 0, 0 } },
		{ { COL_LAYERS, false }, { COL_FLOPS, true }, { 0, 0 } }, { { COL_PARAMS, false }, { COL_MEMORY, true }, { COL_HIDDEN, false } } };
	for (int p = 0; p < 3; p++) {
		struct query k = q;
		k.n_front = p == 2 ? 3 : 2;
		memcpy(k.front, pairs[p], sizeof pairs[p]);
		k.by = (struct sort){ COL_ID, true };
		assert_int_equal(search_shapes(&a, &five, &k, &some, &e), 0);
		int64_t want = 0;
		for (int64_t i = 0; i < fit; i++) {
			bool beaten = false;
			for (int64_t j = 0; j < fit && !beaten; j++) {
				bool as_good = i != j, equal = true;
				for (int c = 0; c < k.n_front; c++) {
					double x = shape_value(&all.s[i], k.front[c].column), y = shape_value(&all.s[j], k.front[c].column);
					as_good &= k.front[c].rising ? y <= x : y >= x;
					equal &= x == y;
				}
				beaten = as_good && (!equal || j < i);
			}
			if (!beaten) {
				bool there = false;
				for (int64_t r = 0; r < some.n; r++)
					there |= some.s[r].id == all.s[i].id;
				assert_true(there);
				want++;
			}
		}
		assert_int_equal(some.n, want);
		assert_true(want > 1);
		free(some.s);
	}
	free(all.s);
}

static void test_loadable(void **state)
{
	struct arch a = { .family = family_find("llama"), .layers = 2, .hidden = 64, .ffn = 32, .heads = 8, .kv_heads = 8,
		.head_dim = 8, .vocab = 100, .act = ACT_SWIGLU, .rope_frac = 1 };
	struct grid g = { .hidden = AXIS_OF(40, 48, 56, 64), .heads = AXIS_OF(6, 7, 8), .work = WORK };
	struct found f;
	struct err e;

	(void)state;
	assert_int_equal(search_shapes(&a, &g, &(struct query){ .top = 0 }, &f, &e), 0);
	assert_int_equal(f.n, 12);
	for (int64_t i = 0; i < f.n; i++) {
		assert_int_equal(f.s[i].loadable, f.s[i].hidden % f.s[i].heads == 0);
		assert_int_equal(f.s[i].kv_heads, f.s[i].heads);
	}
	free(f.s);
	g.loadable = true;
	assert_int_equal(search_shapes(&a, &g, &(struct query){ .top = 0 }, &f, &e), 0);
	assert_int_equal(f.n, 6);      /* 48/6, 56/7 and all four of 8 heads */
	assert_true(f.refused == 6);
	free(f.s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_8b), cmocka_unit_test(test_4b), cmocka_unit_test(test_refusals), cmocka_unit_test(test_sort),
		cmocka_unit_test(test_every_shape), cmocka_unit_test(test_selections), cmocka_unit_test(test_loadable),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
