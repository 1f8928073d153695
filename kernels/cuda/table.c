/*
 * table.c - the CUDA backend's op table
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda.h"

extern const struct kernels adze_kernels;
extern const int adze_kernels_abi;
extern const kernels_ready adze_kernels_ready;
const int adze_kernels_abi = KERNELS_ABI;
const kernels_ready adze_kernels_ready = cuda_ready;
const struct kernels adze_kernels = {
	.name = "cuda",
	.dev_open = cuda_dev_open,
	.dev_close = cuda_dev_close,
	.mem_alloc = cuda_mem_alloc,
	.mem_free = cuda_mem_free,
	.mem_bytes = cuda_mem_bytes,
	.host = cuda_host,
	.upload = cuda_upload,
	.download = cuda_download,
	.pinned = cuda_pinned,
	.bring_order = cuda_bring_order,
	.bring = cuda_bring,
	.brought = cuda_brought,
	.take = cuda_take,
	.taken = cuda_taken,
	.weights_changed = cuda_weights_changed,
	.held_bytes = cuda_held_bytes,
	.plan = cuda_plan,
	.capture = cuda_capture,
	.replay = cuda_replay,
	.drop = cuda_drop,
	.embed = cuda_embed,
	.embed_dw = cuda_embed_dw,
	.norm = cuda_norm,
	.norm_bwd = cuda_norm_bwd,
	.qknorm = cuda_qknorm,
	.qknorm_bwd = cuda_qknorm_bwd,
	.linear = cuda_linear,
	.quantise = cuda_quantise,
	.e4m3 = cuda_e4m3,
	.linear_dx = cuda_linear_dx,
	.linear_dw = cuda_linear_dw,
	.attn = cuda_attn,
	.attn_bwd = cuda_attn_bwd,
	.attn_tree = cuda_attn_tree,
	.attn_kv = cuda_attn_kv,
	.act = cuda_act,
	.act_dx = cuda_act_dx,
	.add = cuda_add,
	.copy = cuda_copy,
	.scale = cuda_scale,
	.zero = cuda_zero,
	.add_cols = cuda_add_cols,
	.take_cols = cuda_take_cols,
	.mask = cuda_mask,
	.mask_dz = cuda_mask_dz,
	.stat_width = cuda_stat_width,
	.stat_contrib = cuda_stat_contrib,
	.stat_cos = cuda_stat_cos,
	.kd_head = cuda_kd_head,
	.logprob = cuda_logprob,
	.topk = cuda_topk,
	.mse = cuda_mse,
	.cosine = cuda_cosine,
	.relation = cuda_relation,
	.adamw = cuda_adamw,
	.sumsq = cuda_sumsq,
	.guard = cuda_guard,
};
