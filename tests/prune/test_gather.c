/*
 * test_gather.c - trimmed weights are the kept rows and columns of the parent, element by element
 *
 * The expectation is computed here from indices and strides on the flat arena, without the code under test.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/base/outfile.h"
#include "../../common/base/rng.h"
#include "../../common/prune/gather.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static char dir[] = "/tmp/test_gather.XXXXXX";

static struct arch make_arch(const char *family, int tied, int64_t kv)
{
	struct arch a = { .family = family_find(family), .layers = 4, .hidden = 20, .ffn = 28, .heads = 6, .kv_heads = kv,
		.head_dim = 4, .vocab = 33, .tied = tied, .rope_theta = 1e4, .rope_frac = 1, .max_positions = 64, .bos = -1,
		.eos = -1, .pad = -1, .embed_scale = 1 };
	json_t *none = json_object();

	assert_int_equal(a.family->configure(&a, none, NULL), 0);
	json_decref(none);
	return a;
}

static float *weights_new(const struct ptable *t, uint64_t seed)
{
	float *w = calloc((size_t)t->elems, sizeof *w);

	for (int i = 0; i < t->n; i++)
		for (int64_t j = 0; j < t->p[i].rows * t->p[i].cols; j++)
			w[t->p[i].off + j] = (float)rng_normal(seed, (uint64_t)i, (uint64_t)j);
	return w;
}

static struct ranking ranking_new(const struct arch *a, uint64_t seed)
{
	struct ranking r = { .layers = a->layers, .hidden = a->hidden, .ffn = a->ffn, .heads = a->heads,
		.kv_heads = a->kv_heads, .head_dim = a->head_dim };
	double s[64] = { 0 };
	static const char *const words[] = { "layer", "emb", "head", "mlp" };
	const int64_t n[] = { a->layers, a->hidden, a->heads, a->ffn };

	for (int k = 0; k < 4; k++)
		for (int64_t l = k < 2 ? -1 : 0; l < (k < 2 ? 0 : a->layers); l++) {
			for (int64_t i = 0; i < n[k]; i++)
				s[i] = rng_uniform(seed, (uint64_t)(k * 100 + l + 1), (uint64_t)i);
			ranking_add(&r, words[k], l, s, n[k]);
		}
	return r;
}

/* The parent's element that belongs at (row, col) of parameter p. */
static float expected(const struct keep *k, const struct ptable *src, const float *w, const struct param *p, int64_t row,
		int64_t col)
{
	char name[64];
	int64_t D = k->from.head_dim, L = p->layer < 0 ? 0 : p->layer, first = 0;
	const struct param *q;

	if (p->layer < 0)
		q = ptable_find(src, p->name);
	else {
		snprintf(name, sizeof name, "blk.%d.%s", (int)k->layer[p->layer], p->row->name);
		q = ptable_find(src, name);
	}
	assert_non_null(q);
	int64_t r = row;
	for (int s = 0; s < p->row->nseg; s++) {
		int axis = p->row->seg[s].axis;
		int64_t kept = axis == AX_NONE ? 1 : axis == AX_VOCAB ? 33 : axis == AX_HIDDEN ? k->to.hidden :
			axis == AX_HEAD ? k->to.heads * D : axis == AX_GROUP ? k->to.kv_heads * D : k->to.ffn;
		int64_t all = axis == AX_NONE ? 1 : axis == AX_VOCAB ? 33 : axis == AX_HIDDEN ? 20 :
			axis == AX_HEAD ? 6 * D : axis == AX_GROUP ? k->from.kv_heads * D : 28;
		if (r < kept) {
			r = axis == AX_HIDDEN ? k->hidden[r] : axis == AX_HEAD ? k->head[L * k->to.heads + r / D] * D + r % D :
				axis == AX_GROUP ? k->group[L * k->to.kv_heads + r / D] * D + r % D :
				axis == AX_FFN ? k->ffn[L * k->to.ffn + r] : r;
			row = first + r;
			break;
		}
		r -= kept;
		first += all;
	}
	int64_t c = p->row->cols == AX_HIDDEN ? k->hidden[col] : p->row->cols == AX_FFN ? k->ffn[L * k->to.ffn + col] :
		k->head[L * k->to.heads + col / D] * D + col % D;
	return w[q->off + row * q->cols + c];
}

static void check_ascending(const int64_t *v, int64_t n, int64_t below)
{
	for (int64_t i = 0; i < n; i++) {
		assert_true(v[i] >= 0 && v[i] < below);
		assert_true(i == 0 || v[i] > v[i - 1]);
	}
}

/* Trims, loads the result, returns its arena. */
static float *cut(const struct keep *k, const char *parent, const char *out, struct ptable **t)
{
	struct err e;
	struct st_model *m = st_open(parent, &e);

	assert_non_null(m);
	assert_int_equal(mkdir_p(out, &e), 0);
	if (gather_model(k, m, out, 3, NULL, NULL, &e))
		fail_msg("%s", e.msg);
	st_close(m);
	*t = ptable_new(&k->to);
	float *w = calloc((size_t)(*t)->elems, sizeof *w);
	if (params_load(*t, out, w, DT_F32, 0, k->to.layers, &e))
		fail_msg("%s", e.msg);
	return w;
}

static void one(const char *family, int tied, int64_t kv, struct keep_want want)
{
	struct arch a = make_arch(family, tied, kv);
	struct ptable *src = ptable_new(&a), *t;
	float *w = weights_new(src, 5);
	struct ranking r = ranking_new(&a, 9);
	struct model_card card = { .title = "t" };
	struct err e;
	char parent[300], out[300];

	snprintf(parent, sizeof parent, "%s/parent", dir);
	snprintf(out, sizeof out, "%s/out", dir);
	if (params_save(src, w, parent, NULL, "float32", &card, true, &e))
		fail_msg("%s", e.msg);
	struct keep *k = keep_new(&a, &want, &r, "r", &e);
	if (!k)
		fail_msg("%s", e.msg);
	assert_int_equal(k->to.kv_heads, kv == 6 && want.heads ? want.heads : kv);
	check_ascending(k->layer, k->to.layers, 4);
	check_ascending(k->hidden, k->to.hidden, 20);
	for (int64_t l = 0; l < k->to.layers; l++) {
		check_ascending(k->head + l * k->to.heads, k->to.heads, 6);
		check_ascending(k->ffn + l * k->to.ffn, k->to.ffn, 28);
		if (kv == 6)
			assert_memory_equal(k->head + l * k->to.heads, k->group + l * k->to.kv_heads, (size_t)k->to.heads * 8);
		/* equal share of each group: the i-th kept head belongs to group i / share */
		for (int64_t i = 0; kv != 6 && i < k->to.heads; i++)
			assert_int_equal(k->head[l * k->to.heads + i] / (6 / kv), i / (k->to.heads / kv));
	}
	float *got = cut(k, parent, out, &t);
	assert_int_equal(t->count, arch_count(&k->to));
	for (int i = 0; i < t->n; i++)
		for (int64_t x = 0; x < t->p[i].rows; x++)
			for (int64_t y = 0; y < t->p[i].cols; y++)
				if (got[t->p[i].off + x * t->p[i].cols + y] != expected(k, src, w, &t->p[i], x, y))
					fail_msg("%s tied %d kv %lld: %s [%lld, %lld]", family, tied, (long long)kv, t->p[i].name,
						(long long)x, (long long)y);
	assert_int_equal(remove_tree(out, &e), 0);
	free(got);
	free(w);
	ptable_free(t);
	ptable_free(src);
	keep_free(k);
	ranking_free(&r);
}

static void test_cuts(void **state)
{
	static const int64_t ends[] = { 0, 3 };
	static const struct keep_want wants[] = {
		{ 0 }, { .hidden = 12 }, { .ffn = 9 }, { .layers = 2 }, { .heads = 4 }, { .hidden = 13, .ffn = 1, .heads = 2, .layers = 3 },
		{ .drop = ends, .ndrop = 2, .hidden = 7 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof wants / sizeof *wants; i++)
		for (int f = 0; f < 2; f++)
			for (int tied = 0; tied < 2; tied++) {
				one(f ? "llama" : "nemotron", tied, 2, wants[i]);
				one(f ? "llama" : "nemotron", tied, 6, wants[i]);
			}
}

/* The kept units are the best ones of the ranking. */
static void test_choice(void **state)
{
	struct arch a = make_arch("llama", 0, 2);
	struct ranking r = ranking_new(&a, 3);
	struct keep_want want = { .hidden = 5, .ffn = 3, .heads = 4, .layers = 1 };
	struct err e;
	struct keep *k = keep_new(&a, &want, &r, "r", &e);

	(void)state;
	assert_non_null(k);
	const struct rank_axis *x = ranking_find(&r, "emb", -1);
	for (int64_t i = 0; i < 5; i++) {
		int hit = 0;
		for (int64_t j = 0; j < 5; j++)
			hit += k->hidden[j] == x->order[i];
		assert_int_equal(hit, 1);
	}
	assert_int_equal(k->layer[0], ranking_find(&r, "layer", -1)->order[0]);
	/* of three heads a group the worst one is gone */
	x = ranking_find(&r, "head", k->layer[0]);
	for (int64_t h = 0; h < 6; h++) {
		int64_t g = h / 3, worst = g * 3, kept = 0;
		for (int64_t i = g * 3; i < g * 3 + 3; i++)
			if (x->score[i] < x->score[worst])
				worst = i;
		for (int64_t i = 0; i < 4; i++)
			kept += k->head[i] == h;
		assert_int_equal(kept, h != worst);
	}
	keep_free(k);
	ranking_free(&r);
}

/* Minitron's worked example, 8 groups of 4 heads, keep 2: the two best of each group, here ascending. */
static void test_worked_example(void **state)
{
	struct arch a = make_arch("llama", 0, 2);
	struct ranking r = { .layers = 1, .hidden = 20, .ffn = 28, .heads = 32, .kv_heads = 8, .head_dim = 4 };
	static const int best[8][2] = { { 3, 1 }, { 7, 4 }, { 9, 11 }, { 12, 15 }, { 17, 16 }, { 20, 23 }, { 26, 25 }, { 31, 28 } };
	double s[32] = { 0 };
	struct keep_want want = { .heads = 16 };
	struct err e;

	(void)state;
	a.layers = 1;
	a.heads = 32;
	a.kv_heads = 8;
	for (int g = 0; g < 8; g++) {
		s[best[g][0]] = 2 + g;
		s[best[g][1]] = 1 + 0.1 * g;
	}
	ranking_add(&r, "head", 0, s, 32);
	struct keep *k = keep_new(&a, &want, &r, "r", &e);
	assert_non_null(k);
	for (int g = 0; g < 8; g++) {
		int lo = best[g][0] < best[g][1] ? best[g][0] : best[g][1], hi = best[g][0] + best[g][1] - lo;
		assert_int_equal(k->head[2 * g], lo);
		assert_int_equal(k->head[2 * g + 1], hi);
	}
	keep_free(k);
	ranking_free(&r);
}

/* Add-back with shared key-value heads: only query rows change, W_i' = 2 W_i - W_(2K-i+1) in the order of the group. */
static void test_add_back(void **state)
{
	struct arch a = make_arch("llama", 0, 2);
	struct ptable *src = ptable_new(&a), *t;
	float *w = weights_new(src, 5);
	struct ranking r = ranking_new(&a, 9);
	struct model_card card = { .title = "t" };
	struct keep_want want = { .heads = 4, .add_back = true }, plain = { .heads = 4 };
	struct err e;
	char parent[300], out[300];

	(void)state;
	snprintf(parent, sizeof parent, "%s/parent", dir);
	snprintf(out, sizeof out, "%s/out", dir);
	assert_int_equal(params_save(src, w, parent, NULL, "float32", &card, true, &e), 0);
	struct keep *k = keep_new(&a, &want, &r, "r", &e), *p = keep_new(&a, &plain, &r, "r", &e);
	assert_true(k && p);
	float *got = cut(k, parent, out, &t);
	assert_int_equal(remove_tree(out, &e), 0);
	ptable_free(t);
	float *base = cut(p, parent, out, &t);
	for (int i = 0; i < t->n; i++) {
		bool qkv = !strcmp(t->p[i].row->name, "attn.qkv");
		const struct rank_axis *x = ranking_find(&r, "head", t->p[i].layer);
		for (int64_t j = 0; j < t->p[i].rows * t->p[i].cols; j++) {
			float want_v = base[t->p[i].off + j];
			int64_t row = j / t->p[i].cols, col = j % t->p[i].cols;
			if (qkv && row < 16) {
				/* L=3, K=2 a group: i runs from 2K-L+1 = 2 to 2, so rank 2 takes rank 3 */
				int64_t h = p->head[t->p[i].layer * 4 + row / 4], in_group[3], n = 0;
				for (int64_t q = 0; q < 6; q++)
					if (x->order[q] / 3 == h / 3)
						in_group[n++] = x->order[q];
				const struct param *s = ptable_find(src, t->p[i].name);
				if (in_group[1] == h)
					want_v = 2 * want_v - w[s->off + (in_group[2] * 4 + row % 4) * 20 + col];
			}
			assert_float_equal(got[t->p[i].off + j], want_v, 1e-6);
		}
	}
	want.heads = 2;
	assert_null(keep_new(&a, &want, &r, "r", &e));
	assert_non_null(strstr(e.msg, "add-back"));
	free(got);
	free(base);
	free(w);
	keep_free(k);
	keep_free(p);
	ptable_free(t);
	ptable_free(src);
	ranking_free(&r);
}

/* Merge: theta*_l = theta_l + sum_k (theta_{l+k} - theta_l) over the dropped run behind block l, norms too, cut as l is. */
static void test_merge(void **state)
{
	static const int64_t gone[] = { 1, 2 }, head[] = { 0, 2 };
	struct arch a = make_arch("nemotron", 0, 2);
	struct ptable *src = ptable_new(&a), *t;
	float *w = weights_new(src, 5);
	struct ranking r = ranking_new(&a, 9);
	struct model_card card = { .title = "t" };
	struct keep_want want = { .drop = gone, .ndrop = 2, .ffn = 9, .hidden = 12, .merge = true };
	struct err e;
	char parent[300], out[300], name[64];

	(void)state;
	snprintf(parent, sizeof parent, "%s/parent", dir);
	snprintf(out, sizeof out, "%s/out", dir);
	assert_int_equal(params_save(src, w, parent, NULL, "float32", &card, true, &e), 0);
	struct keep *k = keep_new(&a, &want, &r, "r", &e);
	assert_non_null(k);
	assert_int_equal(keep_merged(k, 0), 2);
	assert_int_equal(keep_merged(k, 1), 0);
	float *got = cut(k, parent, out, &t);
	/* the sum on the parent, so that `expected` reads block 0's place */
	for (int i = 0; i < src->n; i++)
		for (int64_t j = 0; src->p[i].layer == 0 && j < src->p[i].rows * src->p[i].cols; j++) {
			float *x = &w[src->p[i].off + j], sum = 0;
			for (int l = 1; l <= 2; l++) {
				snprintf(name, sizeof name, "blk.%d.%s", l, src->p[i].row->name);
				sum += w[ptable_find(src, name)->off + j] - *x;
			}
			*x += sum;
		}
	for (int i = 0; i < t->n; i++)
		for (int64_t x = 0; x < t->p[i].rows; x++)
			for (int64_t y = 0; y < t->p[i].cols; y++)
				assert_float_equal(got[t->p[i].off + x * t->p[i].cols + y], expected(k, src, w, &t->p[i], x, y), 1e-5);
	assert_int_equal(remove_tree(out, &e), 0);
	want.drop = head;
	assert_null(keep_new(&a, &want, &r, "r", &e));
	assert_non_null(strstr(e.msg, "merge: block 0 is dropped"));
	free(got);
	free(w);
	keep_free(k);
	ptable_free(t);
	ptable_free(src);
	ranking_free(&r);
}

static void test_align(void **state)
{
	static const struct { int64_t ffn, align, want; } rows[] = {
		{ 9, 0, 9 }, { 9, 8, 16 }, { 17, 8, 16 }, { 13, 8, 16 }, { 3, 8, 8 }, { 28, 8, 28 }, { 27, 8, 24 }, { 27, 32, 28 }, { 18, 16, 16 },
		{ 20, 16, 28 / 16 * 16 }, { 10, 4, 12 }, { 9, 4, 12 },
	};
	struct arch a = make_arch("llama", 0, 2);
	struct ranking r = ranking_new(&a, 9);
	struct err e;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct keep_want want = { .ffn = rows[i].ffn, .align = rows[i].align };
		struct keep *k = keep_new(&a, &want, &r, "r", &e);
		assert_non_null(k);
		if (k->to.ffn != rows[i].want)
			fail_msg("ffn %d aligned to %d is %d, expected %d", (int)rows[i].ffn, (int)rows[i].align, (int)k->to.ffn,
				(int)rows[i].want);
		assert_int_equal(k->to.hidden, 20);
		keep_free(k);
	}
	ranking_free(&r);
}

static void test_refusals(void **state)
{
	struct arch a = make_arch("llama", 0, 2);
	struct ranking r = ranking_new(&a, 3), empty = { 0 };
	static const int64_t bad_drop[] = { 1, 9 };
	const struct { struct keep_want w; const char *want; int code; } bad[] = {
		{ { .hidden = 21 }, "hidden 21: the model has 20", EXIT_USAGE },
		{ { .layers = 5 }, "layers 5: the model has 4", EXIT_USAGE },
		{ { .heads = 3 }, "heads 3: not a multiple of the 2 query groups", EXIT_USAGE },
		{ { .drop = bad_drop, .ndrop = 2 }, "layer 9 to drop", EXIT_USAGE },
		{ { .drop = bad_drop, .ndrop = 1, .layers = 2 }, "leaves 3, not 2", EXIT_USAGE },
	};
	struct err e;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_null(keep_new(&a, &bad[i].w, &r, "r", &e));
		assert_int_equal(e.code, bad[i].code);
		if (!strstr(e.msg, bad[i].want))
			fail_msg("'%s' does not say '%s'", e.msg, bad[i].want);
	}
	struct keep_want w = { .ffn = 4 };
	assert_true(keep_needs_ranking(&a, &w));
	assert_null(keep_new(&a, &w, &empty, "some.rank", &e));
	assert_int_equal(e.code, EXIT_DATA);
	assert_non_null(strstr(e.msg, "some.rank: axis 'mlp' of layer 0 is not ranked"));
	w = (struct keep_want){ .drop = bad_drop, .ndrop = 1 };
	assert_false(keep_needs_ranking(&a, &w));
	ranking_free(&r);
}

/* layer_types goes with its layers. */
static void test_lists(void **state)
{
	struct arch a = make_arch("llama", 0, 2);
	struct keep_want w = { .drop = (int64_t[]){ 0, 2 }, .ndrop = 2 };
	struct err e;

	(void)state;
	a.config = json_pack("{s:[s,s,s,s],s:[i,i]}", "layer_types", "a", "b", "c", "d", "eos_token_id", 1, 2);
	struct keep *k = keep_new(&a, &w, NULL, "", &e);
	assert_non_null(k);
	const json_t *l = json_object_get(k->to.config, "layer_types");
	assert_int_equal(json_array_size(l), 2);
	assert_string_equal(json_string_value(json_array_get(l, 0)), "b");
	assert_string_equal(json_string_value(json_array_get(l, 1)), "d");
	assert_int_equal(json_array_size(json_object_get(k->to.config, "eos_token_id")), 2);
	assert_int_equal(json_integer_value(json_object_get(k->to.config, "num_hidden_layers")), 2);
	assert_int_equal(json_array_size(json_object_get(a.config, "layer_types")), 4);
	keep_free(k);
	arch_free(&a);
}

static int setup(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	struct err e;

	(void)state;
	return remove_tree(dir, &e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cuts), cmocka_unit_test(test_choice), cmocka_unit_test(test_worked_example),
		cmocka_unit_test(test_add_back), cmocka_unit_test(test_merge), cmocka_unit_test(test_align),
		cmocka_unit_test(test_refusals), cmocka_unit_test(test_lists),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
