/*
 * simd_table.h - all row functions for the instruction set of the including file, and their table SIMD_TABLE
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "vec.h"
#include "simd_rows.h"
#include "simd_loss.h"
#include "simd_topk.h"
#include "simd_decode.h"

#define EL float
#define PAIR 1
#define ATTN(x) f32_##x
#include "simd_attn.h"
#undef EL
#undef PAIR
#undef ATTN

#ifdef __AVX512BF16__
#define EL uint16_t
#define PAIR 2
#define ATTN(x) bf16_##x
#include "simd_attn.h"
#define ATTN_BF16 (&bf16_ops)
#else
#define ATTN_BF16 NULL
#endif

const struct simd SIMD_TABLE = {
	.name = SIMD_NAME,
	.cvt = row_cvt,
	.lincomb = row_lincomb,
	.mul = row_mul,
	.axpy = row_axpy,
	.addmul = row_addmul,
	.dot3 = row_dot3,
	.sqdiff = row_sqdiff,
	.sumsq = row_sumsq,
	.norm = row_norm,
	.norm_bwd = row_norm_bwd,
	.act = row_act,
	.act_dx = row_act_dx,
	.moments = row_moments,
	
	.kd_row = row_kd,
	.kd_step = { kd_first, kd_second, kd_third },
	.logprob = row_logprob,
	.topk = row_topk,
	.adamw = row_adamw,
	.kv_put = row_kv_put,
	.kv_attend = row_kv_attend,
	.few = row_few,
	.attn_f32 = &f32_ops,
	.attn_bf16 = ATTN_BF16,
};
