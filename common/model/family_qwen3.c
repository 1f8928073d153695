/*
 * family_qwen3.c - Qwen3 (dense): Llama's arithmetic with an RMSNorm on each query and key head
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rows.h"

static const struct prow rows[] = {
	ROW_EMBED, ROW_NORM("attn.norm.w", "input_layernorm.weight"), ROW_QKV, ROW_QKV_BIAS_IF(BIAS_ATTN),
	ROWS_QKNORM, ROW_O, ROW_O_BIAS,
	ROW_NORM("mlp.norm.w", "post_attention_layernorm.weight"), ROW_GATE_UP, ROW_DOWN, ROW_FINAL("w", "weight"), ROW_HEAD,
	{ 0 }
};

extern const struct family family_qwen3;
const struct family family_qwen3 = {
	.model_type = "qwen3",
	.rows = rows,
	.layer_prefix = "model.layers.%d.",
	.hf_class = "Qwen3ForCausalLM",
	.hf_act = "silu",
	.eps_key = "rms_norm_eps",
	.layer_types = true,
	.head_dim = 128,
	.biases = BIAS_ATTN,
	.configure = qwen_configure
};
