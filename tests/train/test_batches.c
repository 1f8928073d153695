/*
 * test_batches.c - windows and order of the training data; also makes small token sets for tests/cli:
 *
 *	test_batches --make FILE SAMPLES LENGTH VOCAB [FACTOR [SPREAD]]
 *
 * writes sequences in which every token depends on the one before (so that there is something to learn): FACTOR times that,
 * plus one of SPREAD numbers.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/base/rng.h"
#include "../../common/io/artifact.h"
#include "../../common/train/batches.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* lengths: of the n samples, at most seq each */
static void write_set(const char *path, const int64_t *lengths, int64_t n, int64_t seq, int64_t vocab, int pack, uint64_t factor,
		      uint64_t spread)
{
	struct err e;
	struct prov prov = { .seed = 1 };
	struct art_w *w = art_create(path, "tokens", 1, &prov, true, &e);
	if (!w)
		die_err(&e);
	art_meta_str(w, "tokenizer", "00000000000000000000000000000000");
	art_meta_int(w, "vocab", vocab);
	art_meta_int(w, "seq", seq);
	art_meta_int(w, "samples", n);
	art_meta_int(w, "pack", pack);
	art_meta_int(w, "eos", 0);
	void *ids = xcalloc((size_t)seq, 4);
	for (int64_t i = 0; i < n; i++) {
		uint64_t x = rng_below(9, (uint64_t)i, 0, (uint64_t)vocab);
		for (int64_t k = 0; k < lengths[i]; k++) {
			if (vocab > 65536)
				((uint32_t *)ids)[k] = (uint32_t)x;
			else
				((uint16_t *)ids)[k] = (uint16_t)x;
			x = (factor * x + 3 + rng_below(9, (uint64_t)i, (uint64_t)k + 1, spread)) % (uint64_t)vocab;
		}
		art_map(w, 2);
		art_key(w, "i"), art_int(w, i);
		art_key(w, "ids"), art_array(w, vocab > 65536 ? ART_U32 : ART_U16, 1, &lengths[i], ids);
		if (art_end_record(w, &e))
			die_err(&e);
	}
	free(ids);
	if (art_commit(w, &e))
		die_err(&e);
}

static void test_epochs(void **state)
{
	enum { N = 13, SEQ = 4 };
	uint32_t ids[N * SEQ];
	int32_t x[SEQ], y[SEQ];
	struct batches a, b;
	(void)state;
	for (uint32_t i = 0; i < N * SEQ; i++)
		ids[i] = i;
	assert_int_equal(batches_from(&a, ids, N, SEQ, SEQ, 7), 0);
	assert_int_equal(batches_from(&b, ids, N, SEQ, SEQ, 7), 0);
	int order[3][N], moved = 0;
	for (int e = 0; e < 3; e++) {
		int seen[N] = { 0 };
		for (int k = 0; k < N; k++) {
			batches_get(&a, e * N + k, x, y);
			order[e][k] = x[0] / SEQ;
			seen[x[0] / SEQ]++;
			for (int i = 0; i < SEQ; i++)
				assert_int_equal(y[i], i + 1 < SEQ ? x[i + 1] : -1);
		}
		for (int i = 0; i < N; i++)
			assert_int_equal(seen[i], 1);
	}
	for (int k = 0; k < N; k++)
		moved += order[0][k] != order[1][k];
	assert_true(moved > N / 2);
	for (int k = 3 * N - 1; k >= 0; k--) { /* any position, in any order */
		batches_get(&b, k, x, y);
		assert_int_equal(x[0] / SEQ, order[k / N][k % N]);
	}
	batches_free(&b);
	assert_int_equal(batches_from(&b, ids, N, SEQ, SEQ, 8), 0);
	for (int k = 0, same = 0; k < N; k++) {
		batches_get(&b, k, x, y);
		same += x[0] / SEQ == order[0][k];
		assert_true(same < N);
	}
	batches_free(&a);
	batches_free(&b);
}

static void test_windows(void **state)
{
	static const int64_t lengths[] = { 10, 3, 1, 8, 7, 2 };
	char path[] = "/tmp/test_batches.XXXXXX";
	int32_t x[4], y[4];
	struct batches b;
	struct err e;
	(void)state;
	for (int wide = 0; wide < 2; wide++) {
		int fd = mkstemp(path);
		close(fd);
		write_set(path, lengths, 6, 10, wide ? 100000 : 97, 0, 5, 2);
		assert_int_equal(batches_open(&b, path, 4, wide ? 100000 : 97, 1, &e), 0);
		/* 10 -> 4+4 (2 left), 3 -> 1 padded, 1 -> none, 8 -> 2, 7 -> 1 (3 left), 2 -> 1 padded */
		assert_int_equal(b.n, 7);
		assert_int_equal(b.tokens, 8 + 3 + 8 + 4 + 2);
		assert_int_equal(b.left_out, 2 + 1 + 3);
		batches_window(&b, 2, x, y);
		assert_int_equal(y[0], x[1]);
		assert_int_equal(y[1], x[2]);
		assert_int_equal(y[2], -1);
		assert_int_equal(y[3], -1);
		batches_free(&b);
		assert_int_equal(batches_open(&b, path, 11, 100000, 1, &e), -1);
		assert_int_equal(e.code, EXIT_DATA);
		assert_int_equal(batches_open(&b, path, 4, 96, 1, &e), -1);
		assert_int_equal(e.code, EXIT_DATA);
		unlink(path);
		memcpy(path + strlen(path) - 6, "XXXXXX", 6);
	}
}

/* Kept apart, what follows an end id is no label, and starts are those of the documents. */
static void test_documents(void **state)
{
	static const uint32_t ids[] = { 4, 5, 9, 6, 9, 9, 1, 2 };
	static const int32_t start[] = { 0, 0, 0, 3, 3, 5, 6, 6 }, want[] = { 5, 9, -1, 9, -1, -1, 2, -1 };
	int32_t x[8], y[8], s[8];
	struct batches b;
	struct err e = { 0 };
	(void)state;
	assert_int_equal(batches_from(&b, ids, 1, 8, 8, 1), 0);
	b.packed = true;
	assert_int_equal(batches_apart(&b, "x", &e), -1);
	assert_int_equal(e.code, EXIT_DATA);
	b.eos = 9;
	assert_int_equal(batches_apart(&b, "x", &e), 0);
	batches_window(&b, 0, x, y);
	document_starts(s, x, 8, 8, 9);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(y[i], want[i]);
		assert_int_equal(s[i], start[i]);
	}
	document_starts(s, x, 8, 4, 9); /* two windows of four */
	assert_int_equal(s[3], 3);
	assert_int_equal(s[4], 0);
	assert_int_equal(s[5], 1);
	batches_free(&b);
}

/* Labels are what follows 7 8, up to and with 9; without it, up to the end id. */
static void test_responses(void **state)
{
	static const uint32_t ids[] = { 3, 7, 8, 4, 9, 5, 7, 7, 8, 0, 6, 9, 7, 8, 1, 2, /* next window: */ 1, 9, 7, 8, 4, 4, 7, 8, 9, 9, 1, 1, 1, 1, 1, 7 };
	static const int32_t want[2][32] = {
		{ -1, -1, 4, 9, -1, -1, -1, -1, 0, 6, 9, -1, -1, 1, 2, -1, -1, -1, -1, 4, 4, 7, 8, 9, -1, -1, -1, -1, -1, -1, -1, -1 },
		{ -1, -1, 4, 9, 5, 7, 7, 8, 0, -1, -1, -1, -1, 1, 2, -1, -1, -1, -1, 4, 4, 7, 8, 9, 9, 1, 1, 1, 1, 1, 7, -1 } };
	int32_t from[] = { 7, 8 }, to[] = { 9 }, x[16], y[16];
	struct err e = { 0 };
	(void)state;
	for (int end = 0; end < 2; end++) {
		struct responses only = { from, end ? NULL : to, { 2, !end } };
		struct batches b;
		assert_int_equal(batches_from(&b, ids, 2, 16, 16, 1), 0);
		b.eos = 0;
		assert_int_equal(batches_responses(&b, "x", &only, &e), 0);
		for (int k = 0; k < 2; k++) {
			batches_window(&b, k, x, y);
			for (int i = 0; i < 16; i++)
				assert_int_equal(y[i], want[end][k * 16 + i]);
		}
		batches_free(&b);
	}
	int32_t never[] = { 8, 7 };
	struct responses none = { never, NULL, { 2, 0 } };
	struct batches b;
	assert_int_equal(batches_from(&b, ids, 2, 16, 16, 1), 0);
	assert_int_equal(batches_responses(&b, "x", &none, &e), -1);
	assert_int_equal(e.code, EXIT_DATA);
	batches_free(&b);
}

static int make(int c, char **v)
{
	int64_t n, len, vocab, factor = 5, spread = 2;
	if (parse_i64(v[1], &n) || parse_i64(v[2], &len) || parse_i64(v[3], &vocab) || (c > 4 && parse_i64(v[4], &factor)) ||
	    (c > 5 && parse_i64(v[5], &spread)))
		return 2;
	int64_t *lengths = xcalloc((size_t)n, sizeof *lengths);
	for (int64_t i = 0; i < n; i++)
		lengths[i] = len;
	write_set(v[0], lengths, n, len, vocab, 1, (uint64_t)factor, (uint64_t)spread);
	free(lengths);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 6 && argc <= 8 && !strcmp(argv[1], "--make"))
		return make(argc - 2, argv + 2);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_epochs),
		cmocka_unit_test(test_windows),
		cmocka_unit_test(test_documents),
		cmocka_unit_test(test_responses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
