/*
 * family_mistral.c - Mistral and Mistral-NeMo (MN-Minitron): Llama's weights and arithmetic under another name
 *
 * What differs is attention over a sliding window, which is on by default in transformers when config.json does not say
 * null.  Only models whose window never bites are accepted: null, or at least max_position_embeddings.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "params.h"

enum { DEFAULT_WINDOW = 4096 };

static int configure(struct arch *a, const json_t *cfg, struct err *e)
{
	const json_t *w = json_object_get(cfg, "sliding_window");

	a->norm = NORM_RMS;
	a->act = ACT_SWIGLU;
	if (w && !json_is_null(w) && !json_is_integer(w))
		return err_set(e, EXIT_DATA, "field 'sliding_window' is not an integer or null");
	int64_t window = json_is_integer(w) ? json_integer_value(w) : w ? 0 : DEFAULT_WINDOW;
	if (window && window < a->max_positions)
		return err_set(e, EXIT_DATA, "'sliding_window' is %lld%s, below max_position_embeddings %lld: not supported",
			(long long)window, w ? "" : " by default", (long long)a->max_positions);
	if (cfg_expect_act(cfg, "silu", e) || cfg_refuse_true(cfg, "attention_bias", e))
		return -1;
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
