/*
 * family_gemma3.c - Gemma 3, text only: norms before and after each part, GeGLU, norms of query and key heads
 *
 * Norm weights are stored minus 1.  Most blocks slide over a window with rotary frequencies of their own; every n-th sees
 * everything.  Embeddings are multiplied by sqrt(hidden), which transformers computes from hidden_size: trimming
 * hidden folds the difference into the weights (embed_sqrt, see gather.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rows.h"
#include <math.h>

static const struct prow rows[] = {
	ROW_EMBED, ROW_NORM("attn.norm.w", "input_layernorm.weight"), ROW_QKV, ROWS_QKNORM, ROW_O,
	ROW_NORM("attn.post.w", "post_attention_layernorm.weight"),
	ROW_NORM("mlp.norm.w", "pre_feedforward_layernorm.weight"), ROW_GATE_UP, ROW_DOWN,
	ROW_NORM("mlp.post.w", "post_feedforward_layernorm.weight"), ROW_FINAL("w", "weight"), ROW_HEAD, { 0 }
};

static int refuse_cap(const json_t *cfg, const char *key, struct err *e)
{
	const json_t *j = json_object_get(cfg, key);

	if (j && !json_is_null(j))
		return err_set(e, EXIT_DATA, "'%s' is set: not supported", key);
	return 0;
}

static int configure(struct arch *a, const json_t *cfg, struct err *e)
{
	int64_t pattern;
	double scalar;

	a->norm = NORM_RMS1P;
	a->act = ACT_GEGLU;
	if (!json_object_get(cfg, "tie_word_embeddings"))
		a->tied = 1;
	if (cfg_expect_act(cfg, "hidden_activation", "gelu_pytorch_tanh", e) || cfg_refuse_true(cfg, "attention_bias", e) ||
	    cfg_refuse_true(cfg, "use_bidirectional_attention", e) || refuse_cap(cfg, "attn_logit_softcapping", e) ||
	    refuse_cap(cfg, "final_logit_softcapping", e))
		return -1;
	if (cfg_real(cfg, "query_pre_attn_scalar", 256, &scalar, e) ||
	    cfg_int(cfg, "sliding_window_pattern", 6, 1, INT32_MAX, &pattern, e) || cfg_window(a, cfg, 4096, e))
		return -1;
	if (!a->window)
		return err_set(e, EXIT_DATA, "'sliding_window' is null: not supported");
	a->attn_scale = 1 / sqrt(scalar);
	for (int64_t l = 0; l < a->layers; l++)
		arch_set_sliding(a, l, (l + 1) % pattern != 0);
	return cfg_layer_types(a, cfg, e) || cfg_real(cfg, "rms_norm_eps", 1e-6, &a->norm_eps, e) ? -1 : 0;
}

extern const struct family family_gemma3;
const struct family family_gemma3 = {
	.model_type = "gemma3_text",
	.rows = rows,
	.layer_prefix = "model.layers.%d.",
	.hf_class = "Gemma3ForCausalLM",
	.hf_act = "gelu_pytorch_tanh",
	.act_key = "hidden_activation",
	.eps_key = "rms_norm_eps",
	.rope_theta = 1e6,
	.rope_local = 1e4,
	.head_dim = 256,
	.layer_types = true,
	.hidden_by_heads = true,
	.embed_sqrt = true,
	.configure = configure
};
