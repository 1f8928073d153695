/*
 * test_gguf.c - GGUF files made here: values of every type, the tokenizer that a vocabulary implies, hostile input
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/io/gguf.h"
#include "../../common/base/outfile.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char path[] = "/tmp/test_gguf.XXXXXX";
static unsigned char buf[1 << 16];
static size_t len;

static void put(const void *p, size_t n)
{
	assert_true(len + n <= sizeof buf);
	memcpy(buf + len, p, n);
	len += n;
}

static void u32(uint32_t v)
{
	put(&v, 4);
}

static void u64(uint64_t v)
{
	put(&v, 8);
}

static void str(const char *s)
{
	u64(strlen(s));
	put(s, strlen(s));
}

static void key_str(const char *k, const char *v)
{
	str(k);
	u32(GGUF_STRING);
	str(v);
}

static void key_u32(const char *k, uint32_t v)
{
	str(k);
	u32(GGUF_U32);
	u32(v);
}

static void header(uint32_t version, uint64_t tensors, uint64_t keys)
{
	len = 0;
	put("GGUF", 4);
	u32(version);
	u64(tensors);
	u64(keys);
}

static void tensor(const char *name, uint64_t cols, uint64_t rows, uint32_t type, uint64_t off)
{
	str(name);
	u32(2);
	u64(cols);
	u64(rows);
	u32(type);
	u64(off);
}

static void align(void)
{
	while (len % 32)
		put("", 1);
}

static struct gguf *reopen(size_t n, struct err *e)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(buf, 1, n, f), n);
	fclose(f);
	return gguf_open(path, e);
}

/* One tensor of 64 columns and 1 row per type; the bytes are given. */
static void test_types(void **state)
{
	struct err e = { 0 };
	float x[64];
	const struct gguf_tensor *t;

	(void)state;
	header(3, 4, 0);
	tensor("f32", 64, 1, 0, 0);
	tensor("q4_0", 64, 1, 2, 256);
	tensor("q4_1", 64, 1, 3, 320);
	tensor("q8_0", 64, 1, 8, 384);
	align();
	size_t base = len;
	for (int i = 0; i < 64; i++) {
		float f = (float)i / 3;
		put(&f, 4);
	}
	for (int b = 0; b < 2; b++) {
		put("\x00\x38", 2);                      /* d = 0.5 */
		for (int i = 0; i < 16; i++)
			put((unsigned char[]){ (unsigned char)(i | (15 - i) << 4) }, 1);
	}
	align();
	assert_int_equal(len - base, 320);
	for (int b = 0; b < 2; b++) {
		put("\x00\x3c\x00\xc0", 4);              /* d = 1, m = -2 */
		for (int i = 0; i < 16; i++)
			put((unsigned char[]){ (unsigned char)(i | (15 - i) << 4) }, 1);
	}
	align();
	assert_int_equal(len - base, 384);
	for (int b = 0; b < 2; b++) {
		put("\x00\xb4", 2);                      /* d = -0.25 */
		for (int i = 0; i < 32; i++)
			put((signed char[]){ (signed char)(i * 8 - 128) }, 1);
	}
	struct gguf *g = reopen(len, &e);
	if (!g)
		fail_msg("%s", e.msg);
	assert_int_equal(gguf_count(g), 4);
	gguf_row(gguf_find(g, "f32"), 0, x);
	assert_true(x[5] == (float)5 / 3);
	t = gguf_find(g, "q4_0");
	gguf_row(t, 0, x);
	for (int b = 0; b < 2; b++)
		for (int i = 0; i < 16; i++) {
			assert_true(x[32 * b + i] == (float)(i - 8) * 0.5f);
			assert_true(x[32 * b + 16 + i] == (float)(15 - i - 8) * 0.5f);
		}
	gguf_row(gguf_find(g, "q4_1"), 0, x);
	for (int i = 0; i < 16; i++) {
		assert_true(x[i] == (float)i - 2);
		assert_true(x[16 + i] == (float)(15 - i) - 2);
	}
	gguf_row(gguf_find(g, "q8_0"), 0, x);
	for (int i = 0; i < 32; i++)
		assert_true(x[32 + i] == (float)(i * 8 - 128) * -0.25f);
	assert_null(gguf_find(g, "none"));
	gguf_close(g);
}

static void vocabulary(const char *pre, const char *last, bool bos)
{
	static const char *const tokens[] = { "<s>", "a", "b", "ab" };

	header(3, 0, 7);
	key_str("tokenizer.ggml.model", "gpt2");
	key_str("tokenizer.ggml.pre", pre);
	key_u32("tokenizer.ggml.bos_token_id", 0);
	str("tokenizer.ggml.add_bos_token");
	u32(GGUF_BOOL);
	put(bos ? "\1" : "\0", 1);
	str("tokenizer.ggml.tokens");
	u32(GGUF_ARRAY);
	u32(GGUF_STRING);
	u64(4);
	for (int i = 0; i < 4; i++)
		str(i == 3 ? last : tokens[i]);
	str("tokenizer.ggml.token_type");
	u32(GGUF_ARRAY);
	u32(GGUF_I32);
	u64(4);
	for (int i = 0; i < 4; i++)
		u32(i ? 1 : 3);
	str("tokenizer.ggml.merges");
	u32(GGUF_ARRAY);
	u32(GGUF_STRING);
	u64(1);
	str("a b");
}

static void test_tokenizer(void **state)
{
	struct err e = { 0 };
	json_t *tok, *conf;

	(void)state;
	vocabulary("smollm", "ab", false);
	struct gguf *g = reopen(len, &e);
	if (!g)
		fail_msg("%s", e.msg);
	if (gguf_tokenizer_new(g, 4, 128, &tok, &conf, &e))
		fail_msg("%s", e.msg);
	const json_t *steps = json_object_get(json_object_get(tok, "pre_tokenizer"), "pretokenizers");
	assert_string_equal(json_string_value(json_object_get(json_array_get(steps, 0), "type")), "Digits");
	assert_true(json_is_true(json_object_get(json_array_get(steps, 0), "individual_digits")));
	assert_string_equal(json_string_value(json_object_get(json_array_get(steps, 1), "type")), "ByteLevel");
	assert_true(json_is_null(json_object_get(tok, "post_processor")));
	assert_int_equal(json_integer_value(json_object_get(json_object_get(json_object_get(tok, "model"), "vocab"), "ab")), 3);
	const json_t *added = json_object_get(tok, "added_tokens");
	assert_int_equal(json_array_size(added), 1);
	assert_true(json_is_true(json_object_get(json_array_get(added, 0), "special")));
	assert_string_equal(json_string_value(json_object_get(conf, "bos_token")), "<s>");
	assert_string_equal(json_string_value(json_object_get(conf, "tokenizer_class")), "PreTrainedTokenizerFast");
	json_decref(tok);
	json_decref(conf);
	assert_int_equal(gguf_tokenizer_new(g, 3, 128, &tok, &conf, &e), -1);
	assert_non_null(strstr(e.msg, "4 tokens, but embeddings for 3"));
	gguf_close(g);

	vocabulary("llama-bpe", "ab", true);
	g = reopen(len, &e);
	assert_non_null(g);
	assert_int_equal(gguf_tokenizer_new(g, 4, 128, &tok, &conf, &e), 0);
	assert_string_equal(json_string_value(json_object_get(json_object_get(tok, "post_processor"), "type")),
		"TemplateProcessing");
	assert_true(json_is_true(json_object_get(json_object_get(tok, "model"), "ignore_merges")));
	json_decref(tok);
	json_decref(conf);
	gguf_close(g);

	static const struct { const char *pre, *last, *want; } bad[] = {
		{ "hal9000", "ab", "pre-tokenizer 'hal9000' is not known" },
		{ "smollm", "a", "tokens 1 and 3 are both 'a'" },
		{ "smollm", "\xff\xfe", "token 3 is not valid UTF-8" },
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		vocabulary(bad[i].pre, bad[i].last, false);
		g = reopen(len, &e);
		assert_non_null(g);
		assert_int_equal(gguf_tokenizer_new(g, 4, 128, &tok, &conf, &e), -1);
		assert_int_equal(e.code, EXIT_DATA);
		if (!strstr(e.msg, bad[i].want))
			fail_msg("'%s' does not say '%s'", e.msg, bad[i].want);
		gguf_close(g);
	}
}

static void refused(const char *want)
{
	struct err e = { 0 };
	struct gguf *g = reopen(len, &e);

	if (g)
		fail_msg("accepted, expected '%s'", want);
	assert_int_equal(e.code, EXIT_DATA);
	if (!strstr(e.msg, want) || !strstr(e.msg, path))
		fail_msg("'%s' does not name the file and '%s'", e.msg, want);
}

static void test_hostile(void **state)
{
	(void)state;
	header(1, 0, 0);
	refused("version 1");
	header(3, 1ULL << 60, 0);
	refused("do not fit");
	header(3, 0, 1);
	refused("do not fit");
	memcpy(buf, "GGML", 4);
	refused("not a GGUF");
	header(3, 0, 1);
	str("k");
	u32(99);
	align();
	refused("value type 99");
	header(3, 0, 1);
	str("k");
	u32(GGUF_ARRAY);
	u32(GGUF_U8);
	u64(1ULL << 62);
	refused("does not fit");
	header(3, 0, 1);
	str("k");
	u32(GGUF_STRING);
	u64(1ULL << 63);
	align();
	refused("string of");
	header(3, 0, 2);
	key_u32("k", 1);
	key_u32("k", 2);
	refused("twice");
	header(3, 1, 0);
	tensor("t", 64, 1ULL << 62, 0, 0);
	refused("overflows");
	header(3, 1, 0);
	tensor("t", 64, 1, 14, 0);
	refused("type 14 is not supported");
	header(3, 1, 0);
	tensor("t", 33, 1, 8, 0);
	refused("not whole Q8_0 blocks");
	header(3, 1, 0);
	tensor("t", 64, 1, 0, 0);
	align();
	refused("truncated");
	header(3, 1, 0);
	tensor("t", 64, 1, 0, 1ULL << 63);
	align();
	refused("outside");
	header(3, 1, 1);
	key_u32("general.alignment", 3);
	tensor("t", 64, 1, 0, 0);
	refused("general.alignment is 3");
	header(3, 1, 0);
	tensor("t\n", 64, 1, 0, 0);
	refused("control characters");
}

/* Every prefix of a valid file and every byte set to two other values: refused or read, never a crash. */
static void test_mutations(void **state)
{
	struct err e;
	json_t *tok, *conf;

	(void)state;
	vocabulary("smollm", "ab", true);
	size_t n = len;
	for (size_t k = 0; k < n; k++)
		gguf_close(reopen(k, &e));
	for (size_t k = 0; k < n; k++)
		for (int v = 0; v < 2; v++) {
			unsigned char old = buf[k];
			buf[k] = v ? 0xff : (unsigned char)(old ^ 1);
			struct gguf *g = reopen(n, &e);
			if (g && !gguf_tokenizer_new(g, 4, 128, &tok, &conf, &e)) {
				json_decref(tok);
				json_decref(conf);
			}
			gguf_close(g);
			buf[k] = old;
		}
}

static int setup(void **state)
{
	(void)state;
	int fd = mkstemp(path);
	return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
	(void)state;
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_types), cmocka_unit_test(test_tokenizer), cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_mutations),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
