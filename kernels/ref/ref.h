/*
 * ref.h - what the files of the reference backend share: operand access in double
 *
 * Every element is read and written through ld() and st(), so each loop is written once for all mixes of dtypes.
 * Nothing here is ever tuned: these functions are what the other backends are judged by.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_REF_H
#define ADZE_REF_H
#include "../kernels.h"
#include <stdlib.h>
#include <string.h>

static inline double ld(mat a, int64_t i)
{
	switch (a.dtype) {
	case DT_F32: return (double)((const float *)a.p)[i];
	case DT_BF16: return (double)bf16_to_f32(((const uint16_t *)a.p)[i]);
	case DT_F64: return ((const double *)a.p)[i];
	case DT_E4M3: return (double)e4m3_to_f32(((const uint8_t *)a.p)[i]);
	default: return (double)((const int32_t *)a.p)[i];
	}
}

static inline void st(mat a, int64_t i, double x)
{
	switch (a.dtype) {
	case DT_F32: ((float *)a.p)[i] = (float)x; break;
	case DT_BF16: ((uint16_t *)a.p)[i] = f32_to_bf16((float)x); break;
	case DT_F64: ((double *)a.p)[i] = x; break;
	default: ((int32_t *)a.p)[i] = (int32_t)x; break;
	}
}

static inline void st_acc(mat a, int64_t i, double x, int acc)
{
	st(a, i, acc ? ld(a, i) + x : x);
}

static inline int64_t ref_int(mat a, int64_t i)
{
	return ((const int32_t *)a.p)[i];
}

/* Temporary doubles of one call, zeroed; the caller frees them. */
static inline double *ref_tmp(int64_t n)
{
	double *p = calloc((size_t)(n > 0 ? n : 1), sizeof *p);
	if (!p)
		abort();
	return p;
}

void ref_embed(struct dev *, mat y, mat tok, mat W, float scale);
void ref_embed_dw(struct dev *, mat dW, mat tok, mat dy, float scale);
void ref_norm(struct dev *, mat y, mat stat, mat x, mat w, mat b, mat z, int kind, float eps);
void ref_norm_bwd(struct dev *, mat dx, mat dw, mat db, mat dy, mat x, mat w, mat stat, mat z, int kind, int acc);
void ref_qknorm(struct dev *, mat y, mat stat, mat x, mat wq, mat wk, const struct attn_geom *, int kind, float eps);
void ref_qknorm_bwd(struct dev *, mat dx, mat dwq, mat dwk, mat dy, mat x, mat wq, mat wk, mat stat,
		    const struct attn_geom *, int kind);
void ref_linear(struct dev *, mat y, mat x, mat W, mat bias, mat res);
void ref_quantise(struct dev *, mat Q, mat W);
int ref_e4m3(struct dev *);
void ref_linear_dx(struct dev *, mat dx, mat dy, mat W, int acc);
void ref_linear_dw(struct dev *, mat dW, mat dbias, mat dy, mat x);
void ref_attn(struct dev *, mat o, mat lse, mat qkv, mat rope, mat start, const struct attn_geom *);
void ref_attn_bwd(struct dev *, mat dqkv, mat dout, mat o, mat lse, mat qkv, mat rope, mat start, const struct attn_geom *);
void ref_attn_tree(struct dev *, mat o, mat qkv, mat past, mat rope, mat node, const struct attn_geom *);
void ref_attn_kv(struct dev *, mat o, mat kv, mat qkv, mat rope, mat at, const struct attn_geom *);
void ref_act(struct dev *, mat y, mat x, int kind);
void ref_act_dx(struct dev *, mat dx, mat dy, mat x, int kind);
void ref_add_cols(struct dev *, mat y, mat a, mat z, int64_t at, float c);
void ref_take_cols(struct dev *, mat y, mat x, int64_t at, float c);
void ref_mask(struct dev *, mat y, mat x, mat z);
void ref_mask_dz(struct dev *, mat dz, mat dy, mat x);
void ref_stat_width(struct dev *, mat acc, mat x, int64_t T, int unit);
void ref_stat_contrib(struct dev *, mat acc, mat x, mat W, mat z, int64_t T);
void ref_stat_cos(struct dev *, mat acc, mat a, mat b);
void ref_kd_head(struct dev *, mat sums, mat dhs, mat dWs, mat hs, mat Ws, mat ht, mat Wt, mat label,
		 const struct kd_head_args *);
void ref_logprob(struct dev *, mat out, mat h, mat W, mat label);
void ref_topk(struct dev *, mat ids, mat logp, mat h, mat W, mat label, float tau);
void ref_mse(struct dev *, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc);
void ref_cosine(struct dev *, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc);
void ref_relation(struct dev *, mat sums, mat da, mat a, mat b, mat label, mat start, const struct relation *, float coef,
		  const float *live, int acc);
void ref_adamw(struct dev *, mat w, mat m, mat v, mat g, mat wb, mat ema, const struct adamw_args *);
void ref_sumsq(struct dev *, mat out, mat x);
void ref_guard(struct dev *, struct step_now *now, mat sums, uint32_t which);
#endif
