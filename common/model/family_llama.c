/*
 * family_llama.c - Llama's weights: RMSNorm, gated SiLU MLP, grouped-query attention with full rotary, biases where attention_bias
 * or mlp_bias says so
 *
 * Llama 2 and 3.x, SmolLM2, TinyLlama and everything else that says model_type "llama".
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rows.h"

const struct prow llama_rows[] = {
	ROW_EMBED, ROW_NORM("attn.norm.w", "input_layernorm.weight"), ROW_QKV, ROW_QKV_BIAS_IF(BIAS_ATTN), ROW_O, ROW_O_BIAS,
	ROW_NORM("mlp.norm.w", "post_attention_layernorm.weight"), ROW_GATE_UP, ROW_GATE_UP_BIAS, ROW_DOWN, ROW_DOWN_BIAS,
	ROW_FINAL("w", "weight"), ROW_HEAD,
	{ 0 }
};

static int configure(struct arch *a, const json_t *cfg, struct err *e)
{
	a->norm = NORM_RMS;
	a->act = ACT_SWIGLU;
	if (cfg_expect_act(cfg, "hidden_act", "silu", e) || cfg_biases(a, cfg, e))
		return -1;
	return cfg_real(cfg, "rms_norm_eps", 1e-6, &a->norm_eps, e);
}

extern const struct family family_llama;
const struct family family_llama = {
	.model_type = "llama",
	.rows = llama_rows,
	.layer_prefix = "model.layers.%d.",
	.hf_class = "LlamaForCausalLM",
	.hf_act = "silu",
	.eps_key = "rms_norm_eps",
	.hidden_by_heads = true,
	.biases = BIAS_ATTN | BIAS_MLP,
	.configure = configure
};
