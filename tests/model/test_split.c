/*
 * test_split.c - a model spread over processes: everybody's elements together are the whole, each once, and both ways of
 * finding them agree
 *
 * For every family, with biases where it can have them, over 1, 2 and 4 processes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/model/split.h"
#include "../train/aux_tiny.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static struct arch shape(const char *family, int tied)
{
	const struct tiny d = { family, tied, 2, 6, 12, 8, 4, 2, 20, 0 };
	struct arch a = tiny_arch(&d);
	a.biases = a.family->biases;
	return a;
}

/* had[place] counts the processes that have it; own elements in order, in runs of up to `step` */
static void take(const struct split *s, int i, int64_t step, uint8_t *had)
{
	const struct param *own = &s->own->p[i];
	int64_t n = own->rows * own->cols, there, at;
	for (int64_t k = 0, run; k < n; k += run) {
		run = split_out(s, i, k, n - k < step ? n - k : step, &there);
		assert_true(run > 0);
		for (int64_t j = 0; j < run; j++) {
			int64_t found = there + j;
			assert_int_equal(split_in(s, i, &found, 1, &at), 1);
			assert_int_equal(found, there + j);
			assert_int_equal(at, k + j);
			had[there + j]++;
		}
	}
}

/* The other way: whatever piece of the whole is asked for, all of our own in it and nothing else */
static void ask(const struct split *s, int i, int64_t step)
{
	const struct param *own = &s->own->p[i], *p = &s->whole->p[i];
	int64_t n = p->rows * p->cols, at, mine = 0, run, back;
	for (int64_t from = 0; from < n; from += step) {
		int64_t end = from + step < n ? from + step : n;
		for (int64_t there = from; there < end && (run = split_in(s, i, &there, end - there, &at)) > 0; there += run) {
			assert_true(there >= from && there + run <= end);
			for (int64_t j = 0; j < run; j++) {
				split_out(s, i, at + j, 1, &back);
				assert_int_equal(back, there + j);
			}
			mine += run;
		}
	}
	assert_int_equal(mine, own->rows * own->cols);
}

static void check(const char *family, int tied, int size)
{
	struct err e;
	struct arch a = shape(family, tied);
	struct ptable *t = ptable_new(&a);
	for (int64_t step = 1; step < 1000; step = step * 3 + 1)
		for (int i = 0; i < t->n; i++) {
			int64_t n = t->p[i].rows * t->p[i].cols;
			uint8_t *had = xcalloc((size_t)n, 1);
			for (int r = 0; r < size; r++) {
				struct split s;
				assert_int_equal(split_init(&s, ptable_new(&a), r, size, &e), 0);
				assert_int_equal(s.own->n, t->n);
				take(&s, i, step, had);
				ask(&s, i, step);
				split_free(&s);
			}
			for (int64_t k = 0; k < n; k++)
				assert_int_equal(had[k], row_split(t->p[i].row) ? 1 : size);
			free(had);
		}
	ptable_free(t);
	arch_free(&a);
}

static void all_families(void **state)
{
	static const char *const family[] = { "llama", "nemotron", "qwen2", "qwen3", "gemma3_text" };
	(void)state;
	for (size_t i = 0; i < sizeof family / sizeof *family; i++)
		for (int size = 1; size <= 4; size *= 2)
			check(family[i], i % 2 == 0, size);
}

static void refused(const struct arch *a, int size, const char *why)
{
	struct err e = { 0 };
	struct split s;
	assert_int_equal(split_init(&s, ptable_new(a), 0, size, &e), -1);
	assert_int_equal(e.code, EXIT_USAGE);
	if (!strstr(e.msg, why))
		fail_msg("%s", e.msg);
	split_free(&s);
}

/* Units that do not divide; widths that differ from block to block */
static void sizes(void **state)
{
	struct err e;
	struct split s;
	struct arch a = shape("llama", 0);
	(void)state;
	refused(&a, 3, "--tp 3: the model has vocab = 20");
	refused(&a, 8, "vocab = 20");
	a.vocab = 24;
	refused(&a, 8, "ffn = 12");
	a.ffn = 16;
	refused(&a, 8, "kv = 4");
	a.layer_ffn = xcalloc(2, sizeof *a.layer_ffn);
	a.layer_ffn[0] = 16;
	a.layer_ffn[1] = 6;
	refused(&a, 4, "ffn = 6 in a block");
	assert_int_equal(split_init(&s, ptable_new(&a), 1, 2, &e), 0);
	assert_int_equal(ptable_find(s.own, "blk.0.mlp.up")->rows, 16);
	assert_int_equal(ptable_find(s.own, "blk.1.mlp.up")->rows, 6);
	assert_int_equal(ptable_find(s.own, "blk.1.mlp.down")->cols, 3);
	assert_int_equal(ptable_find(s.own, "blk.1.attn.qkv")->rows, (4 + 2 + 2) * 2);
	assert_int_equal(ptable_find(s.own, "blk.1.attn.norm.w")->cols, 6);
	assert_int_equal(ptable_find(s.own, "head")->rows, 12);
	split_free(&s);
	arch_free(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(all_families), cmocka_unit_test(sizes) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
