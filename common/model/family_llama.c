/*
 * family_llama.c - Llama's weights: RMSNorm, gated SiLU MLP, grouped-query attention with full rotary, no biases
 *
 * Llama 2 and 3.x, SmolLM2, TinyLlama and everything else that says model_type "llama".
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "params.h"

const struct prow llama_rows[] = {
	{ "embed",       0, AX_HIDDEN, 1, 1, { { "model.embed_tokens.weight", AX_VOCAB } } },
	{ "attn.norm.w", 1, AX_HIDDEN, 0, 1, { { "input_layernorm.weight", AX_NONE } } },
	{ "attn.qkv",    1, AX_HIDDEN, 1, 3, { { "self_attn.q_proj.weight", AX_HEAD },
	                                       { "self_attn.k_proj.weight", AX_GROUP },
	                                       { "self_attn.v_proj.weight", AX_GROUP } } },
	{ "attn.o",      1, AX_HEAD,   1, 1, { { "self_attn.o_proj.weight", AX_HIDDEN } } },
	{ "mlp.norm.w",  1, AX_HIDDEN, 0, 1, { { "post_attention_layernorm.weight", AX_NONE } } },
	{ "mlp.up",      1, AX_HIDDEN, 1, 2, { { "mlp.gate_proj.weight", AX_FFN },
	                                       { "mlp.up_proj.weight", AX_FFN } } },
	{ "mlp.down",    1, AX_FFN,    1, 1, { { "mlp.down_proj.weight", AX_HIDDEN } } },
	{ "final.norm.w",0, AX_HIDDEN, 0, 1, { { "model.norm.weight", AX_NONE } } },
	{ "head",        0, AX_HIDDEN, 1, 1, { { "lm_head.weight", AX_VOCAB } } },
	{ 0 }
};

static int configure(struct arch *a, const json_t *cfg, struct err *e)
{
	a->norm = NORM_RMS;
	a->act = ACT_SWIGLU;
	if (cfg_expect_act(cfg, "silu", e) || cfg_refuse_true(cfg, "attention_bias", e) ||
	    cfg_refuse_true(cfg, "mlp_bias", e))
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
	.configure = configure
};
