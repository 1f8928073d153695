/*
 * family_nemotron.c - Nemotron-3/4 and Minitron weights: LayerNorm with zero-centred gain and bias, squared-ReLU MLP
 *
 * The stored norm weight is gain - 1 (NORM_LAYER1P).  Half of each head is rotated.  Linear layers have no biases.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "params.h"

static const struct prow rows[] = {
	{ "embed",       0, AX_HIDDEN, 1, 1, { { "model.embed_tokens.weight", AX_VOCAB } } },
	{ "attn.norm.w", 1, AX_HIDDEN, 0, 1, { { "input_layernorm.weight", AX_NONE } } },
	{ "attn.norm.b", 1, AX_HIDDEN, 0, 1, { { "input_layernorm.bias", AX_NONE } } },
	{ "attn.qkv",    1, AX_HIDDEN, 1, 3, { { "self_attn.q_proj.weight", AX_HEAD },
	                                       { "self_attn.k_proj.weight", AX_GROUP },
	                                       { "self_attn.v_proj.weight", AX_GROUP } } },
	{ "attn.o",      1, AX_HEAD,   1, 1, { { "self_attn.o_proj.weight", AX_HIDDEN } } },
	{ "mlp.norm.w",  1, AX_HIDDEN, 0, 1, { { "post_attention_layernorm.weight", AX_NONE } } },
	{ "mlp.norm.b",  1, AX_HIDDEN, 0, 1, { { "post_attention_layernorm.bias", AX_NONE } } },
	{ "mlp.up",      1, AX_HIDDEN, 1, 1, { { "mlp.up_proj.weight", AX_FFN } } },
	{ "mlp.down",    1, AX_FFN,    1, 1, { { "mlp.down_proj.weight", AX_HIDDEN } } },
	{ "final.norm.w",0, AX_HIDDEN, 0, 1, { { "model.norm.weight", AX_NONE } } },
	{ "final.norm.b",0, AX_HIDDEN, 0, 1, { { "model.norm.bias", AX_NONE } } },
	{ "head",        0, AX_HIDDEN, 1, 1, { { "lm_head.weight", AX_VOCAB } } },
	{ 0 }
};

static int configure(struct arch *a, const json_t *cfg, struct err *e)
{
	const json_t *rope = json_object_get(cfg, "rope_parameters");
	double frac;

	a->norm = NORM_LAYER1P;
	a->act = ACT_RELU2;
	if (cfg_expect_act(cfg, "relu2", e) || cfg_refuse_true(cfg, "attention_bias", e) ||
	    cfg_refuse_true(cfg, "mlp_bias", e))
		return -1;
	if (cfg_real(cfg, "partial_rotary_factor", 0.5, &frac, e))
		return -1;
	if (json_is_object(rope) && cfg_real(rope, "partial_rotary_factor", frac, &frac, e))
		return -1;
	a->rope_frac = frac;
	return cfg_real(cfg, "norm_eps", 1e-5, &a->norm_eps, e);
}

extern const struct family family_nemotron;
const struct family family_nemotron = {
	.model_type = "nemotron",
	.rows = rows,
	.layer_prefix = "model.layers.%d.",
	.hf_class = "NemotronForCausalLM",
	.hf_act = "relu2",
	.eps_key = "norm_eps",
	.configure = configure
};
