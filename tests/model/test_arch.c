/*
 * test_arch.c - published parameter counts, both spellings of config.json, refusals, rotary table
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/model/params.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* Writes text to a temporary file and loads it as config.json. */
static int load_text(struct arch *a, const char *text, struct err *e)
{
	char path[] = "/tmp/test_arch.XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	int rc = arch_load(a, path, e);
	unlink(path);
	return rc;
}

static struct arch shape(const char *type, int64_t l, int64_t h, int64_t f, int64_t nh, int64_t kv, int64_t v)
{
	struct arch a = { .family = family_find(type), .layers = l, .hidden = h, .ffn = f, .heads = nh, .kv_heads = kv,
		.head_dim = 128, .vocab = v };

	a.act = strcmp(type, "nemotron") ? ACT_SWIGLU : ACT_RELU2;
	a.rope_frac = 1;
	return a;
}

static void test_published_counts(void **state)
{
	static const struct { const char *name, *type; int64_t l, h, f, nh, kv, v, total, body; } m[] = {
		{ "Nemotron-4 15B", "nemotron", 32, 6144, 24576, 48, 8, 256000, 15628775424, 12483047424 },
		{ "Nemotron-3 8B", "nemotron", 32, 4096, 16384, 32, 32, 256000, 8540135424, 6442983424 },
		{ "Minitron-8B", "nemotron", 32, 4096, 16384, 48, 8, 256000, 8271699968, 6174547968 },
		{ "Minitron-4B", "nemotron", 32, 3072, 9216, 24, 8, 256000, 4190509056, 2617645056 },
		{ "Minitron-8B-Depth", "nemotron", 16, 6144, 24576, 48, 8, 256000, 9387257856, 6241529856 },
		{ "width 7.74B", "nemotron", 32, 4096, 16384, 32, 8, 256000, 7734829056, 5637677056 },
		{ "depth+width 7.91B", "nemotron", 28, 4608, 16384, 32, 8, 256000, 7908885504, 5549589504 },
		{ "Llama-3.1-8B", "llama", 32, 4096, 14336, 32, 8, 128256, 8030261248, 6979588096 },
		{ "L3.1-Minitron-4B-Width", "llama", 32, 3072, 9216, 32, 8, 128256, 4512746496, 3724741632 },
		{ "L3.1-Minitron-4B-Depth", "llama", 16, 4096, 14336, 32, 8, 128256, 4540469248, 3489796096 },
		{ "Mistral-NeMo-12B", "mistral", 40, 5120, 14336, 32, 8, 131072, 12247782400, 10905605120 },
		{ "Qwen3-8B", "qwen3", 36, 4096, 12288, 32, 8, 151936, 8190735360, 6946075648 },
		{ "Qwen3 6.96B", "qwen3", 32, 3840, 12288, 32, 8, 151936, 6955265792, 5788397312 },
		{ "Qwen2.5-7B", "qwen2", 28, 3584, 18944, 28, 4, 152064, 7615616512, 6525621760 },
		{ "MN-Minitron-8B", "mistral", 40, 4096, 11520, 32, 8, 131072, 8414105600, 7340363776 },
	};
	(void)state;
	for (size_t i = 0; i < sizeof m / sizeof *m; i++) {
		struct arch a = shape(m[i].type, m[i].l, m[i].h, m[i].f, m[i].nh, m[i].kv, m[i].v);
		struct ptable *t = ptable_new(&a);
		if (arch_count(&a) != m[i].total || arch_count_nonembedding(&a) != m[i].body || t->count != m[i].total)
			fail_msg("%s: %lld / %lld, table %lld, expected %lld / %lld", m[i].name, (long long)arch_count(&a),
				(long long)arch_count_nonembedding(&a), (long long)t->count, (long long)m[i].total,
				(long long)m[i].body);
		ptable_free(t);
	}
}

static void test_table(void **state)
{
	struct arch a = shape("llama", 2, 576, 1536, 9, 3, 49152);
	char buf[160];

	(void)state;
	a.head_dim = 64;
	struct ptable *t = ptable_new(&a);
	assert_int_equal(t->n, 2 * 6 + 2 + 1 - 0);
	assert_string_equal(t->p[0].name, "embed");
	assert_string_equal(t->p[t->n - 1].name, "head");
	const struct param *p = ptable_find(t, "blk.1.attn.qkv");
	assert_non_null(p);
	assert_int_equal(p->rows, 576 + 2 * 192);
	assert_int_equal(p->cols, 576);
	assert_string_equal(param_hf_name(t, p, 1, buf), "model.layers.1.self_attn.k_proj.weight");
	assert_int_equal(param_seg_rows(t, p, 1), 192);
	assert_string_equal(param_hf_name(t, ptable_find(t, "final.norm.w"), 0, buf), "model.norm.weight");
	for (int i = 0; i < t->n; i++) {
		assert_int_equal(t->p[i].off % 32, 0);
		if (i)
			assert_true(t->p[i].off >= t->p[i - 1].off + t->p[i - 1].rows * t->p[i - 1].cols);
	}
	int64_t untied = t->count;
	ptable_free(t);
	a.tied = 1;
	t = ptable_new(&a);
	assert_int_equal(t->count, untied - 576 * 49152);
	assert_string_equal(ptable_find(t, "head")->name, "embed");
	assert_null(ptable_find(t, "blk.2.attn.o"));
	ptable_free(t);
	/* SmolLM2-135M */
	a.layers = 30;
	assert_int_equal(arch_count(&a), 134515008);
}

/* Tied, with heads of their own width */
static void test_small_counts(void **state)
{
	struct arch q = shape("qwen2", 24, 896, 4864, 14, 2, 151936), g = shape("gemma3_text", 26, 1152, 6912, 4, 1, 262144);

	(void)state;
	q.tied = g.tied = 1;
	q.head_dim = 64;
	g.head_dim = 256;
	assert_int_equal(arch_count(&q), 494032768);
	assert_int_equal(arch_count(&g), 999885952);
}

#define LLAMA_SIZES "\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2," \
	"\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":100,\"hidden_act\":\"silu\""
#define MISTRAL_SIZES "\"model_type\":\"mistral\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2," \
	"\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":100,\"max_position_embeddings\":8192"
#define GEMMA_SIZES "\"model_type\":\"gemma3_text\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":6," \
	"\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":100,\"hidden_activation\":\"gelu_pytorch_tanh\""
#define QWEN_SIZES "\"model_type\":\"qwen2\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":3," \
	"\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":100"
#define NEMOTRON_SIZES "\"model_type\":\"nemotron\",\"hidden_size\":64,\"intermediate_size\":128," \
	"\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":100"

static void test_spellings(void **state)
{
	struct arch a, b;
	struct err e;

	(void)state;
	assert_int_equal(load_text(&a, "{" LLAMA_SIZES ",\"rope_theta\":500000.0,\"rms_norm_eps\":1e-5,"
		"\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
		"\"original_max_position_embeddings\":8192},\"torch_dtype\":\"bfloat16\",\"eos_token_id\":[2,3]}", &e), 0);
	assert_int_equal(load_text(&b, "{" LLAMA_SIZES ",\"rms_norm_eps\":1e-5,\"rope_parameters\":{\"rope_theta\":500000,"
		"\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
		"\"original_max_position_embeddings\":8192},\"dtype\":\"bfloat16\",\"head_dim\":16}", &e), 0);
	assert_int_equal(a.rope_scaling, ROPE_LLAMA3);
	assert_int_equal(b.rope_scaling, ROPE_LLAMA3);
	assert_true(a.rope_theta == 500000 && b.rope_theta == 500000);
	assert_int_equal(a.head_dim, 16);
	assert_string_equal(a.dtype, "bfloat16");
	assert_string_equal(b.dtype, "bfloat16");
	assert_int_equal(a.eos, 2);
	assert_int_equal(b.eos, -1);
	assert_int_equal(a.kv_heads, 2);
	float ta[5 * 16], tb[5 * 16];
	arch_rope_table(&a, ta, 3, 5);
	arch_rope_table(&b, tb, 3, 5);
	assert_memory_equal(ta, tb, sizeof ta);

	struct arch c2;
	assert_int_equal(load_text(&c2, "{" MISTRAL_SIZES ",\"sliding_window\":null}", &e), 0);
	arch_free(&c2);

	/* a trimmed shape changes sizes only, every other key survives */
	a.hidden = 48;
	a.heads = 2;
	json_t *c = arch_config_new(&a);
	assert_int_equal(json_integer_value(json_object_get(c, "hidden_size")), 48);
	assert_int_equal(json_integer_value(json_object_get(c, "head_dim")), 16);
	assert_int_equal(json_array_size(json_object_get(c, "eos_token_id")), 2);
	assert_string_equal(json_string_value(json_object_get(c, "torch_dtype")), "bfloat16");
	assert_null(json_object_get(c, "dtype"));
	json_decref(c);
	arch_free(&a);
	arch_free(&b);
}

static void test_nemotron_fields(void **state)
{
	struct arch a, b;
	struct err e;

	(void)state;
	assert_int_equal(load_text(&a, "{" NEMOTRON_SIZES ",\"norm_eps\":1e-5,\"partial_rotary_factor\":0.5}", &e), 0);
	assert_int_equal(a.norm, NORM_LAYER1P);
	assert_int_equal(a.act, ACT_RELU2);
	assert_int_equal(a.kv_heads, 4);
	assert_int_equal(arch_rope_dims(&a), 8);
	/* a config made by hand loads as the same shape */
	json_decref(a.config);
	a.config = NULL;
	json_t *c = arch_config_new(&a);
	char *text = json_dumps(c, 0);
	assert_int_equal(load_text(&b, text, &e), 0);
	assert_int_equal(b.hidden, 64);
	assert_int_equal(arch_rope_dims(&b), 8);
	assert_true(b.norm_eps == a.norm_eps);
	free(text);
	json_decref(c);
	arch_free(&a);
	arch_free(&b);
}

/* Gemma's two spellings are one model; windows, rotary bases and scales by default and given. */
static void test_gemma_fields(void **state)
{
	struct arch a, b;
	struct err e;
	float ta[5 * 256], tb[5 * 256];

	(void)state;
	assert_int_equal(load_text(&a, "{" GEMMA_SIZES ",\"rope_theta\":1e6,\"rope_local_base_freq\":5000,\"rope_scaling\":"
		"{\"rope_type\":\"linear\",\"factor\":8.0},\"sliding_window\":512,\"sliding_window_pattern\":3}", &e), 0);
	assert_int_equal(load_text(&b, "{" GEMMA_SIZES ",\"tie_word_embeddings\":true,\"sliding_window\":512,\"layer_types\":["
		"\"sliding_attention\",\"sliding_attention\",\"full_attention\",\"sliding_attention\",\"sliding_attention\","
		"\"full_attention\"],\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8.0},"
		"\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":5000}}}", &e), 0);
	for (int l = 0; l < 6; l++) {
		assert_int_equal(arch_window(&a, l), l % 3 == 2 ? 0 : 512);
		assert_int_equal(arch_window(&b, l), arch_window(&a, l));
	}
	assert_true(a.tied && b.tied && a.head_dim == 256 && a.embed_scale == 8 && a.attn_scale == 1. / 16);
	assert_true(a.norm == NORM_RMS1P && a.act == ACT_GEGLU);
	for (int local = 0; local < 2; local++) {
		(local ? arch_rope_local_table : arch_rope_table)(&a, ta, 3, 5);
		(local ? arch_rope_local_table : arch_rope_table)(&b, tb, 3, 5);
		assert_memory_equal(ta, tb, sizeof ta);
		assert_float_equal(ta[0], cosf(local ? 3 : 3.0f / 8), 1e-6);
	}
	/* sliding, full, sliding, full: P becomes 2; the first three blocks: P = 3 as before; full, sliding, full: no P */
	json_t *c;
	for (int i = 0; i < 2; i++) {
		a.layers = i ? 3 : 4;
		for (int l = 0; l < a.layers; l++)
			arch_set_sliding(&a, l, i ? l < 2 : l % 2 == 0 && l < 3);
		c = arch_config_new(&a);
		assert_int_equal(json_array_size(json_object_get(c, "layer_types")), a.layers);
		assert_string_equal(json_string_value(json_array_get(json_object_get(c, "layer_types"), 0)), "sliding_attention");
		assert_int_equal(json_integer_value(json_object_get(c, "sliding_window_pattern")), i ? 3 : 2);
		json_decref(c);
	}
	arch_set_sliding(&a, 0, false);
	c = arch_config_new(&a);
	assert_null(json_object_get(c, "sliding_window_pattern"));
	json_decref(c);
	/* made by hand: the fresh config says all of it */
	json_decref(b.config);
	b.config = NULL;
	c = arch_config_new(&b);
	char *text = json_dumps(c, 0);
	arch_free(&a);
	assert_int_equal(load_text(&a, text, &e), 0);
	assert_true(a.attn_scale == b.attn_scale && a.rope_local == 5000 && a.rope_factor == 8 && a.window == 512);
	assert_memory_equal(a.sliding, b.sliding, sizeof a.sliding);
	free(text);
	json_decref(c);
	arch_free(&a);
	arch_free(&b);
	/* Qwen: off unless asked for, then from a block on */
	assert_int_equal(load_text(&a, "{" QWEN_SIZES ",\"sliding_window\":32,\"max_window_layers\":1}", &e), 0);
	assert_int_equal(a.window, 0);
	arch_free(&a);
	assert_int_equal(load_text(&a, "{" QWEN_SIZES ",\"sliding_window\":32,\"max_window_layers\":1,"
		"\"use_sliding_window\":true}", &e), 0);
	assert_true(arch_window(&a, 0) == 0 && arch_window(&a, 1) == 32);
	a.layers = 1;
	arch_set_sliding(&a, 0, true);
	c = arch_config_new(&a);
	assert_int_equal(json_integer_value(json_object_get(c, "max_window_layers")), 0);
	json_decref(c);
	arch_free(&a);
}

static void test_refusals(void **state)
{
	static const struct { const char *text, *want; } bad[] = {
		{ "{\"model_type\":\"gpt2\"}", "model_type 'gpt2' is not supported" },
		{ "{}", "'model_type' is missing" },
		{ "[1,2]", "not a JSON object" },
		{ "{\"model_type\":", "line 1" },
		{ "{" MISTRAL_SIZES ",\"attention_bias\":true}", "'attention_bias' is true" },
		{ "{" QWEN_SIZES ",\"mlp_bias\":true}", "'mlp_bias' is true" },
		{ "{" LLAMA_SIZES ",\"head_dim\":-4}", "'head_dim' is -4" },
		{ "{" LLAMA_SIZES ",\"rms_norm_eps\":0}", "'rms_norm_eps' is 0" },
		{ "{" LLAMA_SIZES ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}", "rope type 'yarn'" },
		{ "{" LLAMA_SIZES ",\"bos_token_id\":100}", "outside the vocabulary of 100" },
		{ "{" LLAMA_SIZES ",\"quantization_config\":{\"bits\":4}}", "quantization_config" },
		{ "{" NEMOTRON_SIZES ",\"hidden_act\":\"silu\"}", "hidden_act is 'silu', expected 'relu2'" },
		{ "{" NEMOTRON_SIZES ",\"num_key_value_heads\":3}", "not a multiple of num_key_value_heads 3" },
		{ "{" MISTRAL_SIZES ",\"sliding_window\":\"4096\"}", "'sliding_window' is not an integer" },
		{ "{" MISTRAL_SIZES ",\"sliding_window\":0}", "'sliding_window' is 0, expected 1" },
		{ "{" GEMMA_SIZES ",\"final_logit_softcapping\":30.0}", "'final_logit_softcapping' is set" },
		{ "{" GEMMA_SIZES ",\"sliding_window\":null}", "'sliding_window' is null" },
		{ "{" GEMMA_SIZES ",\"layer_types\":[\"full_attention\"]}", "'layer_types' is not a list of 6 words" },
		{ "{" QWEN_SIZES ",\"layer_types\":[\"full_attention\",\"linear\",\"x\"]}", "layer_types[1] is 'linear'" },
		{ "{" QWEN_SIZES ",\"attention_bias\":true}", "'attention_bias' is true" },
		{ "{" GEMMA_SIZES ",\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"linear\",\"factor\":2}}}",
			"rope type 'linear' of sliding blocks" },
		{ "{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2}", "'intermediate_size' is missing" },
		{ "{\"model_type\":\"llama\",\"hidden_size\":\"64\",\"num_hidden_layers\":2}", "'hidden_size' is not an integer" },
	};
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct arch a;
		struct err e = { 0 };
		assert_int_equal(load_text(&a, bad[i].text, &e), -1);
		assert_int_equal(e.code, EXIT_DATA);
		if (!strstr(e.msg, bad[i].want))
			fail_msg("'%s' does not say '%s'", e.msg, bad[i].want);
	}
	struct arch a;
	struct err e = { 0 };
	assert_int_equal(arch_load(&a, "/nonexistent/model", &e), -1);
}

static void test_rope_and_axes(void **state)
{
	struct arch a = shape("llama", 2, 576, 1536, 9, 3, 49152);
	float t[3 * 64];

	(void)state;
	a.head_dim = 64;
	a.rope_theta = 10000;
	arch_rope_table(&a, t, 0, 3);
	assert_float_equal(t[0], 1, 0);
	assert_float_equal(t[32], 0, 0);
	assert_float_equal(t[2 * 64], cosf(2), 1e-6);
	assert_float_equal(t[2 * 64 + 33], sin(2 * pow(10000, -1.0 / 32)), 1e-6);
	assert_int_equal(axis_units(&a, AX_HEAD), 9);
	assert_int_equal(axis_size(&a, AX_GROUP), 192);
	assert_string_equal(axis_word(AX_FFN), "ffn");
	assert_int_equal(site_find("ffn_act"), SITE_FFN_ACT);
	assert_int_equal(site_axis(SITE_ATTN_OUT), AX_HEAD);
	assert_int_equal(site_find("nonsense"), -1);
	/* 2 FLOPs a weight for everything but the embedding table and the norms, plus causal attention */
	double want = 2.0 * (double)(arch_count_nonembedding(&a) - 5 * 576 + 576 * 49152) + 2 * 2.0 * 128 * 576;
	assert_true(arch_forward_flops(&a, 128, 1) == want);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_published_counts), cmocka_unit_test(test_small_counts), cmocka_unit_test(test_table),
		cmocka_unit_test(test_gemma_fields),
		cmocka_unit_test(test_spellings), cmocka_unit_test(test_nemotron_fields),
		cmocka_unit_test(test_refusals), cmocka_unit_test(test_rope_and_axes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
