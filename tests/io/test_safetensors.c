/*
 * test_safetensors.c - hostile headers, shards, conversions, and a model that survives saving and loading
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/base/outfile.h"
#include "../../common/base/rng.h"
#include "../../common/io/safetensors.h"
#include "../../common/model/params.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[] = "/tmp/test_st.XXXXXX";

static char *in_dir(const char *name)
{
	static char path[4][300];
	static int k;

	k = (k + 1) % 4;
	snprintf(path[k], sizeof path[k], "%s/%s", dir, name);
	return path[k];
}

static void put_raw(const char *path, uint64_t len, const char *header, size_t data)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	for (int i = 0; i < 8; i++)
		fputc((int)(len >> 8 * i & 255), f);
	fputs(header, f);
	for (size_t i = 0; i < data; i++)
		fputc((int)i & 255, f);
	fclose(f);
}

static void test_hostile(void **state)
{
	static const struct { const char *header; size_t data; long long len; const char *want; } bad[] = {
		{ "{}", 0, 1LL << 62, "header length" },
		{ "{}", 0, 3, "header length 3 does not fit" },
		{ "{\"a\":", 0, -1, "not a JSON object" },
		{ "[]", 0, -1, "not a JSON object" },
		{ "{\"a\":1}", 0, -1, "tensor 'a': entry is not an object" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, -1, "tensor 'a'" },
		{ "{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, -1, "unknown dtype 'F33'" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, -1, "8 bytes, expected 3 elements" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, -1, "not a size" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,8]}}", 8, -1, "overflows" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, -1, "9 dimensions" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, -1, "ascending" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, -1, "truncated" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, -1, "its tensors cover 8" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, -1, "hole" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
		  "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, -1, "overlaps" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
		  "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, -1, "duplicate" },
	};
	char *path = in_dir("bad.safetensors");

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct err e = { 0 };
		put_raw(path, bad[i].len < 0 ? strlen(bad[i].header) : (uint64_t)bad[i].len, bad[i].header, bad[i].data);
		struct st_model *m = st_open(path, &e);
		if (m)
			fail_msg("case %zu was accepted: %s", i, bad[i].header);
		assert_int_equal(e.code, EXIT_DATA);
		if (!strstr(e.msg, bad[i].want) || !strstr(e.msg, "bad.safetensors"))
			fail_msg("case %zu: '%s' does not name the file and '%s'", i, e.msg, bad[i].want);
	}
	struct err e = { 0 };
	FILE *f = fopen(path, "w");
	fputs("short", f);
	fclose(f);
	assert_null(st_open(path, &e));
	assert_int_equal(e.code, EXIT_DATA);
	unlink(path);
	assert_null(st_open(dir, &e));
	assert_non_null(strstr(e.msg, "no model.safetensors"));
}

/* Every byte of a small valid file changed in turn: refused or read, never a crash (sanitizers watch). */
static void test_mutations(void **state)
{
	const char *h = "{\"a\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[0,8]},"
		"\"b\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[8,10]}}";
	char *path = in_dir("mut.safetensors");
	size_t n;

	(void)state;
	put_raw(path, strlen(h), h, 10);
	char *orig = file_read_new(path, 1 << 16, &n, NULL);
	assert_non_null(orig);
	for (size_t i = 0; i < n - 10; i++)
		for (int k = 0; k < 3; k++) {
			char *c = malloc(n);
			memcpy(c, orig, n);
			c[i] = (char)(k == 0 ? c[i] ^ 1 : k == 1 ? '9' : 0xff);
			FILE *f = fopen(path, "w");
			fwrite(c, 1, n, f);
			fclose(f);
			free(c);
			struct st_model *m = st_open(path, NULL);
			for (int t = 0; m && t < st_count(m); t++) {
				float v[64];
				if (st_at(m, t)->dtype <= ST_BF16 && st_at(m, t)->elems <= 64)
					st_to_f32(v, st_at(m, t)->data, st_at(m, t)->dtype, st_at(m, t)->elems);
			}
			st_close(m);
		}
	free(orig);
	unlink(path);
}

static void test_conversions(void **state)
{
	(void)state;
	/* every f16 that is a number goes through f32 unchanged, and rounding halves goes to even */
	for (uint32_t h = 0; h < 65536; h++) {
		uint16_t in = (uint16_t)h, out;
		float f;
		st_to_f32(&f, &in, ST_F16, 1);
		if (isnan(f))
			continue;
		st_from_f32(&out, ST_F16, &f, 1);
		assert_int_equal(in, out);
		if ((h & 0x7fff) < 0x7bff) {
			uint16_t up = (uint16_t)(h + 1);
			float g, mid;
			st_to_f32(&g, &up, ST_F16, 1);
			mid = (f + g) / 2;
			st_from_f32(&out, ST_F16, &mid, 1);
			assert_int_equal(out, in & 1 ? up : in);
		}
	}
	float v[4] = { 65519, 65520, -1e30f, 1.00390625f };
	uint16_t o[4];
	st_from_f32(o, ST_F16, v, 3);
	assert_int_equal(o[0], 0x7bff);
	assert_int_equal(o[1], 0x7c00);
	assert_int_equal(o[2], 0xfc00);
	st_from_f32(o, ST_BF16, v + 3, 1);
	assert_int_equal(o[0], 0x3f80);
	assert_int_equal(st_dtype_parse("bfloat16"), ST_BF16);
	assert_int_equal(st_dtype_parse("int8"), -1);
}

static void test_shards(void **state)
{
	struct st_spec s[5] = { { "z", ST_F32, 2, { 3, 4 } }, { "empty", ST_F32, 1, { 0 } }, { "a", ST_BF16, 1, { 5 } },
		{ "m", ST_F32, 1, { 7 } }, { "q", ST_F16, 2, { 1, 2 } } };
	float x[12];
	uint16_t h[5];
	struct err e = { 0 };

	(void)state;
	for (int i = 0; i < 12; i++)
		x[i] = (float)i - 3.5f;
	st_from_f32(h, ST_BF16, x, 5);
	for (int64_t limit = 20; limit <= 1000; limit += 40) {
		char *d = in_dir("shards");
		assert_int_equal(mkdir_p(d, &e), 0);
		struct st_w *w = st_create(d, s, 5, limit, &e);
		assert_non_null(w);
		assert_int_equal(st_write(w, x, 20, &e), 0);
		assert_int_equal(st_write(w, (char *)x + 20, 28, &e), 0);
		assert_int_equal(st_write(w, h, 10, &e), 0);
		assert_int_equal(st_write(w, x, 28, &e), 0);
		assert_int_equal(st_write(w, h, 4, &e), 0);
		assert_int_equal(st_finish(w, &e), 0);
		struct st_model *m = st_open(d, &e);
		if (!m)
			fail_msg("limit %lld: %s", (long long)limit, e.msg);
		assert_int_equal(st_count(m), 5);
		assert_string_equal(st_at(m, 0)->name, "a");
		assert_memory_equal(st_find(m, "z")->data, x, 48);
		assert_memory_equal(st_find(m, "a")->data, h, 10);
		assert_int_equal(st_find(m, "empty")->elems, 0);
		assert_null(st_find(m, "b"));
		st_close(m);
		if (limit == 20) {
			/* an index that points elsewhere, then a shard that is gone */
			char *index = in_dir("shards/model.safetensors.index.json");
			const char *lie = "{\"weight_map\":{\"z\":\"../x.safetensors\"}}";
			size_t n;
			char *good = file_read_new(index, 1 << 16, &n, &e);
			assert_int_equal(file_write(index, lie, strlen(lie), &e), 0);
			assert_null(st_open(d, &e));
			assert_non_null(strstr(e.msg, "not a plain name"));
			assert_int_equal(file_write(index, good, n, &e), 0);
			unlink(in_dir("shards/model-00002-of-00004.safetensors"));
			assert_null(st_open(d, &e));
			assert_non_null(strstr(e.msg, "model-00002-of-00004.safetensors"));
			free(good);
		}
		assert_int_equal(remove_tree(d, &e), 0);
	}
}

static struct arch small(const char *family, int tied)
{
	struct arch a = { .family = family_find(family), .layers = 2, .hidden = 24, .ffn = 40, .heads = 6, .kv_heads = 2,
		.head_dim = 8, .vocab = 50, .tied = tied, .rope_theta = 1e4, .rope_frac = 1, .max_positions = 64, .bos = 1,
		.eos = 2, .pad = -1, .embed_scale = 1 };
	json_t *none = json_object();

	assert_int_equal(a.family->configure(&a, none, NULL), 0);
	json_decref(none);
	return a;
}

static void test_save_load(void **state)
{
	static const char *const types[] = { "float32", "bfloat16", "float16" };
	struct err e = { 0 };
	char *d = in_dir("model");

	(void)state;
	for (int k = 0; k < 6; k++) {
		struct arch a = small(k % 2 ? "llama" : "nemotron", k > 2), b;
		struct ptable *t = ptable_new(&a);
		float *x = calloc((size_t)t->elems, 4), *y = calloc((size_t)t->elems, 4);
		uint16_t *z = calloc((size_t)t->elems, 2);
		struct model_card card = { .title = "t" };
		/* values that all three types hold exactly */
		for (int i = 0; i < t->n; i++)
			for (int64_t j = 0; j < t->p[i].rows * t->p[i].cols; j++)
				x[t->p[i].off + j] = (float)((double)rng_below(7, (uint64_t)i, (uint64_t)j, 255) / 64 - 2);
		if (params_save(t, x, d, NULL, types[k % 3], &card, true, &e))
			fail_msg("%s", e.msg);
		assert_int_equal(params_load(t, d, y, DT_F32, 0, 2, &e), 0);
		assert_memory_equal(x, y, (size_t)t->elems * 4);
		assert_int_equal(params_load(t, d, z, DT_BF16, 0, 2, &e), 0);
		for (int64_t j = 0; j < t->elems; j++)
			assert_true(bf16_to_f32(z[j]) == x[j]);
		assert_int_equal(arch_load(&b, d, &e), 0);
		assert_string_equal(b.dtype, types[k % 3]);
		assert_int_equal(b.eos, 2);
		arch_free(&b);
		char f1[33], f2[33];
		assert_int_equal(model_fingerprint(d, f1, &e), 0);
		x[t->p[3].off] += 1;
		assert_int_equal(params_save(t, x, d, NULL, types[k % 3], &card, true, &e), 0);
		assert_int_equal(model_fingerprint(d, f2, &e), 0);
		assert_string_not_equal(f1, f2);
		/* only block 1 is asked for: block 0 stays untouched */
		const struct param *p0 = ptable_find(t, "blk.0.attn.o"), *p1 = ptable_find(t, "blk.1.attn.o");
		memset(y, 0, (size_t)t->elems * 4);
		assert_int_equal(params_load(t, d, y, DT_F32, 1, 2, &e), 0);
		assert_true(y[p0->off] == 0 && y[p0->off + 1] == 0);
		assert_memory_equal(y + p1->off, x + p1->off, (size_t)(p1->rows * p1->cols) * 4);
		assert_int_equal(remove_tree(d, &e), 0);
		free(x);
		free(y);
		free(z);
		ptable_free(t);
	}
}

static void expect_refusal(struct ptable *t, const struct st_spec *s, int n, const char *want)
{
	struct err e = { 0 };
	char *d = in_dir("odd");
	float *zeros = calloc((size_t)t->elems, 4);

	assert_int_equal(mkdir_p(d, &e), 0);
	struct st_w *w = st_create(d, s, n, ST_SHARD_BYTES, &e);
	assert_non_null(w);
	for (int i = 0; i < n; i++)
		assert_int_equal(st_write(w, zeros, (size_t)(s[i].dims[0] * (s[i].nd > 1 ? s[i].dims[1] : 1)) *
			st_dtype_size(s[i].dtype), &e), 0);
	assert_int_equal(st_finish(w, &e), 0);
	assert_int_equal(params_load(t, d, zeros, DT_F32, 0, t->arch.layers, &e), -1);
	assert_int_equal(e.code, EXIT_DATA);
	if (!strstr(e.msg, want) || !strstr(e.msg, "odd"))
		fail_msg("'%s' does not name the directory and '%s'", e.msg, want);
	assert_int_equal(remove_tree(d, &e), 0);
	free(zeros);
}

static void test_mismatch(void **state)
{
	struct arch a = small("llama", 0);
	struct ptable *t = ptable_new(&a);
	struct st_spec s[64];
	int n = 0;

	(void)state;
	for (int i = 0; i < t->n; i++)
		for (int k = 0; k < t->p[i].row->nseg; k++) {
			int vec = t->p[i].row->seg[k].axis == AX_NONE;
			s[n] = (struct st_spec){ .nd = vec ? 1 : 2, .dims = { vec ? t->p[i].cols : param_seg_rows(t, &t->p[i], k),
				t->p[i].cols } };
			param_hf_name(t, &t->p[i], k, s[n++].name);
		}
	struct st_spec keep = s[3];
	s[3].dims[0]++;
	expect_refusal(t, s, n, "tensor 'model.layers.0.self_attn.k_proj.weight': shape [17, 24], expected [16, 24]");
	s[3] = keep;
	s[3].dtype = ST_I32;
	expect_refusal(t, s, n, "dtype I32");
	s[3] = keep;
	expect_refusal(t, s, n - 1, "tensor 'lm_head.weight' is missing");
	s[n] = (struct st_spec){ "model.layers.2.mlp.up_proj.weight", ST_F32, 1, { 4 } };
	expect_refusal(t, s, n + 1, "'model.layers.2.mlp.up_proj.weight' is not part of");
	ptable_free(t);
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
		cmocka_unit_test(test_hostile), cmocka_unit_test(test_mutations), cmocka_unit_test(test_conversions),
		cmocka_unit_test(test_shards), cmocka_unit_test(test_save_load), cmocka_unit_test(test_mismatch),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
