/*
 * rows.h - the rows of parameter tables that families share
 *
 * Names on the left are ours (forward.c asks for them), on the right Hugging Face's.  A family lists what it has; optional
 * rows switch a feature of the block on: NAME.b a norm's bias, NAME.bias a linear's, attn.qnorm.w and attn.knorm.w the
 * norm of query and key heads, attn.post.w and mlp.post.w a norm between a part's output and the residual sum.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ROWS_H
#define ADZE_ROWS_H
#include "params.h"

#define ROW_EMBED { "embed", 0, AX_HIDDEN, 1, 1, { { "model.embed_tokens.weight", AX_VOCAB } } }
#define ROW_HEAD { "head", 0, AX_HIDDEN, 1, 1, { { "lm_head.weight", AX_VOCAB } } }
#define ROW_FINAL(ours, hf) { "final.norm." ours, 0, AX_HIDDEN, 0, 1, { { "model.norm." hf, AX_NONE } } }
#define ROW_NORM(ours, hf) { ours, 1, AX_HIDDEN, 0, 1, { { hf, AX_NONE } } }
#define ROW_QKV                                                                                                        \
	{ "attn.qkv", 1, AX_HIDDEN, 1, 3, { { "self_attn.q_proj.weight", AX_HEAD },                                    \
	                                    { "self_attn.k_proj.weight", AX_GROUP },                                   \
	                                    { "self_attn.v_proj.weight", AX_GROUP } } }
#define ROW_QKV_BIAS                                                                                                   \
	{ "attn.qkv.bias", 1, AX_NONE, 0, 3, { { "self_attn.q_proj.bias", AX_HEAD },                                   \
	                                       { "self_attn.k_proj.bias", AX_GROUP },                                  \
	                                       { "self_attn.v_proj.bias", AX_GROUP } } }
#define ROWS_QKNORM                                                                                                    \
	{ "attn.qnorm.w", 1, AX_HEAD_DIM, 0, 1, { { "self_attn.q_norm.weight", AX_NONE } } },                          \
	{ "attn.knorm.w", 1, AX_HEAD_DIM, 0, 1, { { "self_attn.k_norm.weight", AX_NONE } } }
#define ROW_O { "attn.o", 1, AX_HEAD, 1, 1, { { "self_attn.o_proj.weight", AX_HIDDEN } } }
#define ROW_GATE_UP                                                                                                    \
	{ "mlp.up", 1, AX_HIDDEN, 1, 2, { { "mlp.gate_proj.weight", AX_FFN }, { "mlp.up_proj.weight", AX_FFN } } }
#define ROW_UP { "mlp.up", 1, AX_HIDDEN, 1, 1, { { "mlp.up_proj.weight", AX_FFN } } }
#define ROW_DOWN { "mlp.down", 1, AX_FFN, 1, 1, { { "mlp.down_proj.weight", AX_HIDDEN } } }
#endif
