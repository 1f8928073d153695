/*
 * family_qwen2.c - Qwen2 and Qwen2.5: Llama's arithmetic with a bias on queries, keys and values
 *
 * A sliding window is off unless use_sliding_window says otherwise; it then holds for blocks from max_window_layers on,
 * or for those that layer_types names.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rows.h"

static const struct prow rows[] = {
	ROW_EMBED, ROW_NORM("attn.norm.w", "input_layernorm.weight"), ROW_QKV, ROW_QKV_BIAS, ROW_O,
	ROW_NORM("mlp.norm.w", "post_attention_layernorm.weight"), ROW_GATE_UP, ROW_DOWN, ROW_FINAL("w", "weight"), ROW_HEAD,
	{ 0 }
};

int qwen_configure(struct arch *a, const json_t *cfg, struct err *e)
{
	int64_t from;

	a->norm = NORM_RMS;
	a->act = ACT_SWIGLU;
	if (cfg_expect_act(cfg, "hidden_act", "silu", e) || cfg_biases(a, cfg, e) ||
	    cfg_int(cfg, "max_window_layers", 28, 0, INT32_MAX, &from, e))
		return -1;
	if (json_is_true(json_object_get(cfg, "use_sliding_window")) && cfg_window(a, cfg, 4096, e))
		return -1;
	for (int64_t l = 0; l < a->layers; l++)
		arch_set_sliding(a, l, a->window && l >= from);
	return cfg_layer_types(a, cfg, e) || cfg_real(cfg, "rms_norm_eps", 1e-6, &a->norm_eps, e) ? -1 : 0;
}

extern const struct family family_qwen2;
const struct family family_qwen2 = {
	.model_type = "qwen2",
	.rows = rows,
	.layer_prefix = "model.layers.%d.",
	.hf_class = "Qwen2ForCausalLM",
	.hf_act = "silu",
	.eps_key = "rms_norm_eps",
	.layer_types = true,
	.configure = qwen_configure
};
