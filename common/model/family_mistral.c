/*
 * family_mistral.c - Mistral and Mistral-NeMo (MN-Minitron): Llama's weights and arithmetic under another name
 *
 * What differs is attention over a sliding window in all blocks, which is on by default in transformers when config.json
 * does not say null.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "params.h"

enum { DEFAULT_WINDOW = 4096 };

static int configure(struct arch *a, const json_t *cfg, struct err *e)
{
	a->norm = NORM_RMS;
	a->act = ACT_SWIGLU;
	if (cfg_expect_act(cfg, "hidden_act", "silu", e) || cfg_refuse_true(cfg, "attention_bias", e) ||
	    cfg_window(a, cfg, DEFAULT_WINDOW, e))
		return -1;
	for (int64_t l = 0; l < a->layers; l++)
		arch_set_sliding(a, l, true);
	return cfg_real(cfg, "rms_norm_eps", 1e-6, &a->norm_eps, e);
}

extern const struct family family_mistral;
const struct family family_mistral = {
	.model_type = "mistral",
	.rows = llama_rows,
	.layer_prefix = "model.layers.%d.",
	.hf_class = "MistralForCausalLM",
	.hf_act = "silu",
	.hf_null = "sliding_window",
	.eps_key = "rms_norm_eps",
	.configure = configure
};
