/*
 * rows.h - the rows of parameter tables that families share
 *
 * Names on the left are ours (forward.c asks for them), on the right Hugging Face's.  A family lists what it has; optional
 * rows switch a feature of the block on: NAME.b a norm's bias, NAME.bias a linear's, attn.qnorm.w and attn.knorm.w the
 * norm of query and key heads, attn.post.w and mlp.post.w a norm between a part's output and the residual sum.  Rows that
 * only some models of a family have name the BIAS_* bit they depend on.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ROWS_H
#define ADZE_ROWS_H
#include "params.h"

#define ROW_EMBED { "embed", 0, AX_HIDDEN, 1, 1, { { "model.embed_tokens.weight", AX_VOCAB } }, 0 }
#define ROW_HEAD { "head", 0, AX_HIDDEN, 1, 1, { { "lm_head.weight", AX_VOCAB } }, 0 }
#define ROW_FINAL(ours, hf) { "final.norm." ours, 0, AX_HIDDEN, 0, 1, { { "model.norm." hf, AX_NONE } }, 0 }
#define ROW_NORM(ours, hf) { ours, 1, AX_HIDDEN, 0, 1, { { hf, AX_NONE } }, 0 }
#define ROW_QKV                                                                                                        \
	{ "attn.qkv", 1, AX_HIDDEN, 1, 3, { { "self_attn.q_proj.weight", AX_HEAD },                                    \
	                                    { "self_attn.k_proj.weight", AX_GROUP },                                   \
	                                    { "self_attn.v_proj.weight", AX_GROUP } }, 0 }
#define ROW_QKV_BIAS_IF(bit)                                                                                           \
	{ "attn.qkv.bias", 1, AX_NONE, 0, 3, { { "self_attn.q_proj.bias", AX_HEAD },                                   \
	                                       { "self_attn.k_proj.bias", AX_GROUP },                                  \
	                                       { "self_attn.v_proj.bias", AX_GROUP } }, bit }
#define ROW_QKV_BIAS ROW_QKV_BIAS_IF(0)
#define ROW_O_BIAS { "attn.o.bias", 1, AX_NONE, 0, 1, { { "self_attn.o_proj.bias", AX_HIDDEN } }, BIAS_ATTN }
#define ROW_GATE_UP_BIAS                                                                                               \
	{ "mlp.up.bias", 1, AX_NONE, 0, 2, { { "mlp.gate_proj.bias", AX_FFN }, { "mlp.up_proj.bias", AX_FFN } }, BIAS_MLP }
#define ROW_UP_BIAS { "mlp.up.bias", 1, AX_NONE, 0, 1, { { "mlp.up_proj.bias", AX_FFN } }, BIAS_MLP }
#define ROW_DOWN_BIAS { "mlp.down.bias", 1, AX_NONE, 0, 1, { { "mlp.down_proj.bias", AX_HIDDEN } }, BIAS_MLP }
#define ROWS_QKNORM                                                                                                    \
	{ "attn.qnorm.w", 1, AX_HEAD_DIM, 0, 1, { { "self_attn.q_norm.weight", AX_NONE } }, 0 },                          \
	{ "attn.knorm.w", 1, AX_HEAD_DIM, 0, 1, { { "self_attn.k_norm.weight", AX_NONE } }, 0 }
#define ROW_O { "attn.o", 1, AX_HEAD, 1, 1, { { "self_attn.o_proj.weight", AX_HIDDEN } }, 0 }
#define ROW_GATE_UP                                                                                                    \
	{ "mlp.up", 1, AX_HIDDEN, 1, 2, { { "mlp.gate_proj.weight", AX_FFN }, { "mlp.up_proj.weight", AX_FFN } }, 0 }
#define ROW_UP { "mlp.up", 1, AX_HIDDEN, 1, 1, { { "mlp.up_proj.weight", AX_FFN } }, 0 }
#define ROW_DOWN { "mlp.down", 1, AX_FFN, 1, 1, { { "mlp.down_proj.weight", AX_HIDDEN } }, 0 }
#endif
