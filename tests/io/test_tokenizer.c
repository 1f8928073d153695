/*
 * test_tokenizer.c - the tokenizer against stored ids of the reference, spans, refusals, documents out of text
 *
 * tests/golden/tokenizers.tsv has what Hugging Face's tokenizers make of tricky texts with each tests/golden/tokenizers/
 * NAME.json (written by tests/oracle/mk_tokenizers.py): every pre-tokenizer, normalizer, model, decoder, split behaviour,
 * kind of added token, both spellings of merges, missing bytes; and what sentencepiece makes of them with NAME.model.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/base/outfile.h"
#include "../../common/io/corpus.h"
#include "../../common/io/tok_impl.h"
#include "../../common/io/tokenizer.h"
#include <jansson.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define GOLDEN "tests/golden/"

static struct tokenizer *load(const char *name)
{
	struct err e;
	char *path = xasprintf(GOLDEN "tokenizers/%s%s", name, strstr(name, ".model") ? "" : ".json");
	struct tokenizer *t = tok_load(path, &e);
	if (!t)
		fail_msg("%s", e.msg);
	free(path);
	return t;
}

static char *text_of(const char *json, size_t *n)
{
	json_t *j = json_loads(json, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	assert_true(json_is_string(j));
	*n = json_string_length(j);
	char *s = xmalloc(*n + 1);
	memcpy(s, json_string_value(j), *n);
	s[*n] = 0;
	json_decref(j);
	return s;
}

/* One line of the golden file; returns 0 when ids and decoded text agree, cached or not. */
static int check_line(const struct tokenizer *t, struct tok_scratch *s, char **col)
{
	struct err e;
	struct tok_ids a = { 0 }, b = { 0 };
	struct tok_spans sp = { 0 };
	size_t n, back_n, want_n, k = 0;
	bool decoded = strcmp(col[3], "null") != 0;
	char *text = text_of(col[1], &n), *want = decoded ? text_of(col[3], &want_n) : NULL, *p = col[2];
	assert_true(tok_encode(t, s, text, n, true, &a, &e) >= 0);
	assert_true(tok_encode_spans(t, s, text, n, true, &b, &sp, &e) >= 0);
	assert_int_equal(sp.n, b.n);
	int bad = a.n != b.n || (a.n && memcmp(a.v, b.v, (size_t)a.n * sizeof *a.v));
	for (; *p && !bad; p += strspn(p, " "), k++) {
		uint32_t id = (uint32_t)strtoul(p, &p, 10);
		bad |= (int64_t)k >= a.n || a.v[k] != id;
	}
	bad |= (int64_t)k != a.n;
	for (int64_t i = 0; i < sp.n; i++)
		bad |= sp.v[i].lo < 0 || sp.v[i].lo > sp.v[i].hi || sp.v[i].hi > (int64_t)n;
	char *back = tok_decode_new(t, a.v, a.n, false, &back_n);
	bad |= decoded && (back_n != want_n || memcmp(back, want, want_n));
	if (bad)
		print_error("%s: %s\n", col[0], col[1]);
	free(back);
	free(text);
	free(want);
	free(a.v);
	free(b.v);
	free(sp.v);
	return bad;
}

static void ids_equal_the_reference(void **state)
{
	(void)state;
	struct err e;
	size_t n;
	char *tsv = file_read_new(GOLDEN "tokenizers.tsv", 1 << 22, &n, &e), *save = NULL, name[64] = "";
	struct tokenizer *t = NULL;
	struct tok_scratch *s = NULL;
	int bad = 0, lines = 0;
	assert_non_null(tsv);
	for (char *line = strtok_r(tsv, "\n", &save); line; line = strtok_r(NULL, "\n", &save), lines++) {
		char *col[4] = { line };
		for (int i = 1; i < 4; i++) {
			col[i] = strchr(col[i - 1], '\t');
			assert_non_null(col[i]);
			*col[i]++ = 0;
		}
		if (strcmp(name, col[0])) {
			tok_scratch_free(s);
			tok_free(t);
			t = load(col[0]);
			s = tok_scratch_new(t);
			snprintf(name, sizeof name, "%s", col[0]);
		}
		bad += check_line(t, s, col);
	}
	tok_scratch_free(s);
	tok_free(t);
	free(tsv);
	assert_true(lines > 300);
	assert_int_equal(bad, 0);
}

static void encode(const char *name, const char *text, struct tok_ids *ids, struct tok_spans *sp)
{
	struct err e;
	struct tokenizer *t = load(name);
	struct tok_scratch *s = tok_scratch_new(t);
	assert_true(tok_encode_spans(t, s, text, strlen(text), false, ids, sp, &e) >= 0);
	tok_scratch_free(s);
	tok_free(t);
}

static void span_is(const struct tok_spans *sp, int i, int64_t lo, int64_t hi)
{
	assert_true(i < sp->n);
	assert_int_equal(sp->v[i].lo, lo);
	assert_int_equal(sp->v[i].hi, hi);
}

static void spans_point_into_the_text(void **state)
{
	(void)state;
	struct tok_ids ids = { 0 };
	struct tok_spans sp = { 0 };
	encode("smollm", "cat the", &ids, &sp);
	span_is(&sp, 0, 0, 3);
	span_is(&sp, 1, 3, 7);
	ids.n = sp.n = 0;
	encode("prefix", "cat", &ids, &sp);            /* the added space is nowhere in the text */
	assert_int_equal(sp.n, 1);
	span_is(&sp, 0, 0, 3);
	ids.n = sp.n = 0;
	encode("qwen2", "cate\xcc\x81" "cat", &ids, &sp); /* e + U+0301 becomes one character */
	int64_t last = sp.n - 1;
	span_is(&sp, (int)last, sp.v[last].lo, 9);
	span_is(&sp, 0, 0, 3);
	ids.n = sp.n = 0;
	encode("smollm", "a\xff" "cat", &ids, &sp);        /* an invalid byte is U+FFFD, three tokens for one byte */
	last = sp.n - 1;
	span_is(&sp, 0, 0, 1);
	span_is(&sp, (int)last, 2, 5);
	span_is(&sp, 1, 1, 2);
	free(ids.v);
	free(sp.v);
}

static void long_words_are_merged_in_order(void **state)
{
	(void)state;
	/* far above the length where a heap takes over; "a a" ranks first and is done everywhere before "aa a" */
	struct tok_ids ids = { 0 };
	char text[4001];
	memset(text, 'a', 4000);
	text[4000] = 0;
	encode("smollm", text, &ids, NULL);
	assert_int_equal(ids.n, 2000);
	for (int i = 1; i < 2000; i++)
		assert_int_equal(ids.v[i], ids.v[0]);
	free(ids.v);
}

static void questions_are_answered(void **state)
{
	(void)state;
	size_t n;
	struct tokenizer *t = load("smollm");
	assert_int_equal(tok_find(t, "<|end|>"), 0);
	assert_int_equal(tok_find(t, "no such token"), -1);
	assert_int_equal(strlen(tok_digest(t)), 32);
	assert_int_equal(tok_bos(t), -1);
	assert_null(tok_bytes(t, (uint32_t)tok_vocab_size(t), &n));
	int64_t the = tok_find(t, "\xc4\xa0the");
	assert_true(the > 0);
	assert_memory_equal(tok_bytes(t, (uint32_t)the, &n), " the", 4);
	assert_int_equal(n, 4);
	uint32_t out_of_range = 1u << 30;
	char *s = tok_decode_new(t, &out_of_range, 1, false, &n);
	assert_int_equal(n, 0);
	free(s);
	tok_free(t);
}

/* Writes a tokenizer with one part replaced, expects the refusal to name it. */
static void refused(const char *part, const char *json, const char *what)
{
	struct err e = { 0 };
	json_t *root = json_load_file(GOLDEN "tokenizers/smollm.json", 0, NULL), *v = json_loads(json, JSON_DECODE_ANY, NULL);
	assert_non_null(root);
	assert_non_null(v);
	if (!strncmp(part, "model.", 6))
		json_object_set_new(json_object_get(root, "model"), part + 6, v);
	else
		json_object_set_new(root, part, v);
	char path[] = "/tmp/test_tokenizer.XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(json_dump_file(root, path, 0), 0);
	struct tokenizer *t = tok_load(path, &e);
	close(fd);
	unlink(path);
	json_decref(root);
	if (t)
		fail_msg("%s = %s was accepted", part, json);
	assert_int_equal(e.code, EXIT_DATA);
	if (!strstr(e.msg, what))
		fail_msg("'%s' does not name '%s'", e.msg, what);
}

static void unsupported_parts_are_named(void **state)
{
	(void)state;
	refused("model.type", "\"WordPiece\"", "WordPiece");
	refused("model.type", "\"Unigram\"", "vocab");
	refused("model.dropout", "0.1", "dropout");
	refused("model.continuing_subword_prefix", "\"##\"", "continuing_subword_prefix");
	refused("model.byte_fallback", "true", "byte_fallback");
	refused("model.unk_token", "\"<none>\"", "unk_token");
	refused("model.merges", "[\"a\"]", "merges");
	refused("model.merges", "[[\"a\",\"zzz\"]]", "vocabulary");
	refused("model.vocab", "{\"a\":-1}", "vocab");
	refused("model.vocab", "{\"a\":99999999999}", "vocab");
	refused("model.vocab", "[]", "vocab");
	refused("normalizer", "{\"type\":\"BertNormalizer\"}", "BertNormalizer");
	refused("normalizer", "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}", "Precompiled");
	refused("normalizer", "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(a\"},\"content\":\"\"}", "Replace");
	refused("pre_tokenizer", "{\"type\":\"BertPreTokenizer\"}", "BertPreTokenizer");
	refused("pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"odd\"}", "odd");
	refused("pre_tokenizer", "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},"
		"\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\"}]}", "(a");
	refused("pre_tokenizer", "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}]}", "after ByteLevel");
	refused("post_processor", "{\"type\":\"Odd\"}", "Odd");
	refused("decoder", "{\"type\":\"WordPiece\"}", "WordPiece");
	refused("added_tokens", "[{\"content\":\"x\"}]", "added_tokens");
}

static void model_file_is_read_without_a_json(void **state)
{
	(void)state;
	struct err e;
	size_t n;
	char dir[] = "/tmp/test_tokenizer.XXXXXX", *path;
	assert_non_null(mkdtemp(dir));
	path = xasprintf("%s/tokenizer.model", dir);
	char *data = file_read_new(GOLDEN "tokenizers/spm-bpe.model", 1 << 22, &n, &e);
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, n, f), n);
	fclose(f);
	struct tokenizer *t = tok_load(dir, &e);
	assert_non_null(t);
	assert_int_equal(tok_bos(t), 1);
	assert_int_equal(tok_eos(t), 2);
	assert_string_equal(tok_spelling(t, 2), "</s>");
	assert_int_equal(tok_bytes(t, (uint32_t)tok_find(t, "<0x0A>"), &n)[0], '\n');
	tok_free(t);
	unlink(path);
	rmdir(dir);
	free(path);
	free(data);
}

/* Processor time for the first n bytes: the machine may be busy. */
static double encoding_takes(const char *name, char *text, size_t n)
{
	struct tok_ids ids = { 0 };
	char after = text[n];
	text[n] = 0;
	clock_t start = clock();
	encode(name, text, &ids, NULL);
	double took = (double)(clock() - start) / CLOCKS_PER_SEC;
	assert_true(ids.n > 1000);
	free(ids.v);
	text[n] = after;
	return took;
}

/* A megabyte without a space, in each kind of model: time must grow with the length, not with its square. */
static void long_words_take_linear_time(void **state)
{
	(void)state;
	static const char *const name[] = { "smollm", "whole", "bpe-legacy", "across-first", "unibytes-first", "spm-bpe.model", "spm-unibytes.model" };
	size_t n = 1 << 20;
	char *text = xmalloc(n + 1);
	for (size_t i = 0; i < n; i++)
		text[i] = i % 7 ? 'a' : "thecat"[i % 6];
	text[n] = 0;
	for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
		double part = encoding_takes(name[i], text, n / 16), all = encoding_takes(name[i], text, n);
		if (all > 5 && all > 100 * part)      /* it takes 0.1 s and 16 times the part; the square would take minutes, 256 times */
			fail_msg("%s: %.1f s, a sixteenth of it %.1f s", name[i], all, part);
	}
	free(text);
}

/* SentencePiece sums float scores and starts over beyond 100000: texts long enough for that, with ties on the way.  Numbers of ids and
 * their sums h = 31 h + id are those of sentencepiece 0.2.3 for the same words. */
static void long_unigram_sums_start_over(void **state)
{
	(void)state;
	static const char *const word[] = { "the", "cat", "sat", "ab", "<user>", "===", "000", "9999", "honey", "bees", "make", "e\u0301",
					    "\u4f60\u597d", "aaaa", "...", "\n", "xab" };
	static const struct { uint64_t seed; int words; int64_t ids; uint64_t sum; } want[] = {
		{ 1, 20000, 62592, 0xbbcdf3e310569b29 }, { 2, 60000, 186693, 0x7c3b4c7c1b5568ed }, { 3, 60000, 186431, 0xa8c18bcb30e59bfb }
	};
	struct err e;
	struct tokenizer *t = load("spm-unibytes.model");
	struct tok_scratch *s = tok_scratch_new(t);
	for (size_t k = 0; k < sizeof want / sizeof *want; k++) {
		struct tok_ids ids = { 0 };
		uint64_t x = want[k].seed, sum = 0;
		char *text = xmalloc((size_t)want[k].words * 8), *at = text;
		for (int i = 0; i < want[k].words; i++) {
			x = x * 6364136223846793005u + 1442695040888963407u;
			at += sprintf(at, "%s%s", i ? " " : "", word[(x >> 33) % (sizeof word / sizeof *word)]);
		}
		assert_true(tok_encode(t, s, text, (size_t)(at - text), false, &ids, &e) >= 0);
		for (int64_t i = 0; i < ids.n; i++)
			sum = 31 * sum + ids.v[i];
		assert_int_equal(ids.n, want[k].ids);
		assert_true(sum == want[k].sum);
		free(ids.v);
		free(text);
	}
	tok_scratch_free(s);
	tok_free(t);
}

/* Every so many-th prefix of the file, or the file with a byte changed: an error or a tokenizer, never a crash. */
static void break_file(const char *file, bool prefix)
{
	struct err e;
	size_t n;
	char *data = file_read_new(file, 1 << 22, &n, &e), path[] = "/tmp/test_tokenizer.XXXXXX";
	int fd = mkstemp(path);
	assert_non_null(data);
	for (size_t at = 0; at + 2 < n; at += 1 + n / 97) {
		struct tok_ids ids = { 0 };
		size_t size = prefix ? at : n;
		data[at] ^= prefix ? 0 : 0x15;
		assert_int_equal(ftruncate(fd, 0), 0);
		assert_int_equal(pwrite(fd, data, size, 0), (ssize_t)size);
		data[at] ^= prefix ? 0 : 0x15;
		e.code = 0;
		struct tokenizer *t = tok_load(path, &e);
		if (prefix && data[0] == '{')
			assert_null(t);
		if (!t) {
			assert_int_equal(e.code, EXIT_DATA);
			continue;
		}
		struct tok_scratch *s = tok_scratch_new(t);
		assert_true(tok_encode(t, s, "the cat \xe2\x96\x81x\t\xe4\xbd\xa0 <user>ab", 23, true, &ids, &e) >= 0);
		tok_scratch_free(s);
		tok_free(t);
		free(ids.v);
	}
	close(fd);
	unlink(path);
	free(data);
}

static void broken_files_are_refused(void **state)
{
	(void)state;
	struct err e;
	break_file(GOLDEN "tokenizers/added.json", true);
	break_file(GOLDEN "tokenizers/unigram-t5.json", true);
	break_file(GOLDEN "tokenizers/unigram-charsmap.json", false);
	break_file(GOLDEN "tokenizers/spm-rules.model", true);
	break_file(GOLDEN "tokenizers/spm-rules.model", false);
	break_file(GOLDEN "tokenizers/spm-bpe.model", false);
	assert_null(tok_load("/nonexistent/tokenizer.json", &e));
	assert_int_equal(e.code, EXIT_IO);
}

/* Documents of a text, joined with '|' for comparison. */
static char *documents(const char *text, struct corpus_how how, struct err *e)
{
	char path[] = "/tmp/test_corpus.XXXXXX", *all = xstrdup("");
	int fd = mkstemp(path), rc;
	const char *p;
	size_t n;
	e->code = 0;
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	struct corpus *c = corpus_open(path, &how, e);
	while (c && (rc = corpus_next(c, &p, &n, e)) == 1) {
		char *more = xasprintf("%s%.*s|", all, (int)n, p);
		free(all);
		all = more;
	}
	corpus_close(c);
	close(fd);
	unlink(path);
	return all;
}

static void documents_are_cut(void **state)
{
	(void)state;
	static const struct { const char *text; struct corpus_how how; const char *want; int code; } rows[] = {
		{ "a\n\nb\nc\n", { CORPUS_TEXT, CORPUS_FILE, NULL, CHAT_NONE }, "a\n\nb\nc\n|", 0 },
		{ "\n\na\nb\n \n\nc", { CORPUS_TEXT, CORPUS_PARAGRAPH, NULL, CHAT_NONE }, "a\nb|c|", 0 },
		{ "a\n\n\n", { CORPUS_AUTO, CORPUS_PARAGRAPH, NULL, CHAT_NONE }, "a|", 0 },
		{ "a\n\nb\nc", { CORPUS_TEXT, CORPUS_LINE, NULL, CHAT_NONE }, "a|b|c|", 0 },
		{ "", { CORPUS_AUTO, CORPUS_FILE, NULL, CHAT_NONE }, "", 0 },
		{ " {\"text\":\"x\"}\n\n{\"text\":\"\"}\n{\"text\":\"y\"}", { CORPUS_AUTO, CORPUS_FILE, NULL, CHAT_NONE }, "x|y|", 0 },
		{ "{\"t\":\"x\"}", { CORPUS_JSONL, CORPUS_FILE, "t", CHAT_NONE }, "x|", 0 },
		{ "{\"text\":\"x\"}\n{\"text\":3}\n", { CORPUS_JSONL, CORPUS_FILE, NULL, CHAT_NONE }, "x|", EXIT_DATA },
		{ "{\"text\":\"x\"}\n{\"tex", { CORPUS_JSONL, CORPUS_FILE, NULL, CHAT_NONE }, "x|", EXIT_DATA },
		{ "{\"other\":\"x\"}\n", { CORPUS_JSONL, CORPUS_FILE, NULL, CHAT_NONE }, "", EXIT_DATA },
		{ "\x1f\x8b\x08", { CORPUS_AUTO, CORPUS_FILE, NULL, CHAT_NONE }, "", EXIT_DATA },
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct err e;
		char *got = documents(rows[i].text, rows[i].how, &e);
		assert_string_equal(got, rows[i].want);
		assert_int_equal(e.code, rows[i].code);
		free(got);
	}
}

/* A digit of Unicode 15, a letter of 16 (both outside of a class and inside), and what is neither: as the reference's engine has it */
static void categories_have_what_is_new(void **state)
{
	static const struct { const char *re, *text; int found; } c[] = {
		{ "\\p{N}", "\U0001E4F0", 1 }, { "\\p{Nd}", "\U0001E4F0", 1 }, { "[^\\s\\p{L}\\p{N}]", "\U0001E4F0", 0 },
		{ "[\\p{Lu}x]", "\U00010D50", 1 }, { "\\p{Ll}", "\U00010D50", 0 }, { "\\p{L}", "\U00010D50", 1 },
		{ "\\p{Han}", "\u4e00", 1 }, { "\\p{N}", "a", 0 }, { "\\p{N}", "7", 1 } };
	(void)state;
	for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
		struct pattern p = { 0 };
		struct err e;
		pcre2_match_data *md = NULL;
		size_t lo, hi;
		assert_int_equal(pattern_compile(&p, c[i].re, "file", "part", &e), 0);
		if (pattern_find(&p, &md, c[i].text, 0, strlen(c[i].text), 0, &lo, &hi, &e) != c[i].found)
			fail_msg("%s finds %s otherwise", c[i].re, c[i].text);
		pcre2_match_data_free(md);
		pattern_free(&p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ids_equal_the_reference), cmocka_unit_test(spans_point_into_the_text),
		cmocka_unit_test(long_words_are_merged_in_order), cmocka_unit_test(questions_are_answered),
		cmocka_unit_test(unsupported_parts_are_named), cmocka_unit_test(broken_files_are_refused),
		cmocka_unit_test(documents_are_cut), cmocka_unit_test(model_file_is_read_without_a_json),
		cmocka_unit_test(categories_have_what_is_new), cmocka_unit_test(long_words_take_linear_time), cmocka_unit_test(long_unigram_sums_start_over),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
