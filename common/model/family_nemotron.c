/*
 * family_nemotron.c - Nemotron-3/4 and Minitron weights: LayerNorm with zero-centred gain and bias, squared-ReLU MLP
 *
 * The stored norm weight is gain - 1 (NORM_LAYER1P).  Half of each head is rotated.  Linear layers have biases
 * where attention_bias or mlp_bias says so.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rows.h"

static const struct prow rows[] = {
	ROW_EMBED,
	ROW_NORM("attn.norm.w", "input_layernorm.weight"), ROW_NORM("attn.norm.b", "input_layernorm.bias"), ROW_QKV,
	ROW_QKV_BIAS_IF(BIAS_ATTN), ROW_O, ROW_O_BIAS,
	ROW_NORM("mlp.norm.w", "post_attention_layernorm.weight"), ROW_NORM("mlp.norm.b", "post_attention_layernorm.bias"),
	ROW_UP, ROW_UP_BIAS, ROW_DOWN, ROW_DOWN_BIAS, ROW_FINAL("w", "weight"), ROW_FINAL("b", "bias"), ROW_HEAD, { 0 }
};

static int configure(struct arch *a, const json_t *cfg, struct err *e)
{
	const json_t *rope = json_object_get(cfg, "rope_parameters");
	double frac;

	a->norm = NORM_LAYER1P;
	a->act = ACT_RELU2;
	if (cfg_expect_act(cfg, "hidden_act", "relu2", e) || cfg_biases(a, cfg, e))
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
	.biases = BIAS_ATTN | BIAS_MLP,
	.configure = configure
};
