/*
 * cpu.h - what the files of the CPU backend share: the device, its scratch, one matrix product, the SIMD table
 *
 * The one idea: everything that needs SIMD is a row function of `struct simd`, compiled once per instruction set from
 * the same text (simd_rows.h, simd_attn.h); the drivers (cpu_*.c) only cut work into blocks whose bounds never depend
 * on the number of threads, so that sums come out the same on any machine load.  Matrix products are oneDNN's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_CPU_H
#define ADZE_CPU_H
#include "../kernels.h"

enum slot {              /* scratch areas, grown on demand, freed by dev_close */
	S_DNNL, S_PACK,  /* oneDNN's own scratchpad; a rearranged factor */
	S_GEMM_A, S_GEMM_B, S_GEMM_C, S_E4M3_X, S_E4M3_W, S_E4M3_Y, S_GEMM_BIAS, /* operands converted to f32, from 8 bits */
	S_VEC,           /* per-column vectors of norm, mask */
	S_PART,          /* partial sums, one per row block */
	S_CONTRIB,       /* what a unit adds to some rows */
	S_LOGIT_S, S_LOGIT_T, S_DLOGIT, S_HEAD_S, S_HEAD_T, S_HEAD_D, S_INDEX, S_PARTS,
	S_ATTN_K, S_ATTN_V, S_ATTN_THREAD,
	S_COUNT
};

struct simd;
struct gemm_cache;
struct dev {
	int threads;
	int bf16_gemm;           /* oneDNN multiplies bf16 operands on this machine */
	int bf16_dot;            /* attention multiplies bf16 operands in bf16 */
	const struct simd *simd;
	struct gemm_cache *gemm;
	void *slot[S_COUNT];
	size_t slot_bytes[S_COUNT];
	int planning;            /* kernels.h plan(): what calls would take goes here, nothing is computed */
	size_t noted[S_COUNT];
};

/* At least `bytes` of scratch, 64-byte aligned, contents undefined; valid until the next larger request of the slot.
 * While planning: the address means nothing. */
void *scratch(struct dev *d, enum slot s, size_t bytes);

/* A factor of a product: element (i,j) is p[i*ld + j], or p[j*ld + i] when trans. */
struct factor {
	const void *p;
	int dtype, trans;
	int64_t ld;
};
/* C [M,N] (ldc) = or += A [M,K] B [K,N] + bias [1,N] + res [M,N]; bias and res may be absent, res may be C */
struct product {
	int64_t M, N, K;
	struct factor A, B;
	void *C;
	int64_t ldc;
	int c_dtype, acc;
	mat bias, res;
};
struct gemm_cache *gemm_open(struct dev *d);
void gemm_close(struct gemm_cache *g);
void gemm(struct dev *d, const struct product *p);

/* Row blocks of reductions: their number depends on the rows only. */
enum { MAX_BLOCKS = 32 };
static inline int row_blocks(int64_t rows)
{
	int64_t n = (rows + 63) / 64;
	return n < 1 ? 1 : n > MAX_BLOCKS ? MAX_BLOCKS : (int)n;
}
static inline int64_t block_start(int64_t rows, int blocks, int b)
{
	return rows * b / blocks;
}
static inline void *row_at(mat a, int64_t n)
{
	return a.p ? (char *)a.p + (size_t)(n * a.cols) * dtype_size(a.dtype) : NULL;
}
static inline void *elem_at(mat a, int64_t i)
{
	return (char *)a.p + (size_t)i * dtype_size(a.dtype);
}

/* One attention call for the SIMD files; see simd_attn.h. */
struct attn_call {
	struct attn_geom g;
	mat o, lse, qkv, rope, dqkv, dout;
	const int32_t *start;    /* [B*T] first position that each row sees, or NULL */
	int R, BQ, Dp;           /* query heads per kv-head; query positions per block; D padded to 16 */
	int64_t Tp, nq;          /* T padded to KEY_BLOCK; query blocks */
	int parts;               /* backward: items per (b, kv-head) */
	const int32_t *node;     /* attn_tree: position and end of subtree of each row; else NULL */
	mat past;                /* attn_tree: the first past.rows of the T positions; else none */
	void *k, *v;             /* forward: packed keys, values of all (b, kv-head); backward with parts: f32 gradients */
};
enum { KEY_BLOCK = 64 };
struct attn_ops {
	size_t elem;             /* bytes of a packed element */
	size_t (*fwd_bytes)(const struct attn_call *), (*bwd_bytes)(const struct attn_call *); /* scratch per thread */
	void (*pack)(const struct attn_call *, int64_t bg, int64_t kb, void *tmp);
	void (*fwd)(const struct attn_call *, int64_t bg, int64_t qb, void *tmp);
	void (*bwd)(const struct attn_call *, int64_t bg, int64_t part, void *tmp);
	void (*finish)(const struct attn_call *, int64_t bg, float *dK, float *dV, int64_t t0, int64_t t1);
};

/* One call of attn_kv; see simd_decode.h. */
struct kv_call {
	struct attn_geom g;
	mat o, kv, qkv, rope, at;
	int64_t keys;            /* positions that any row sees at most, rounded up to KV_BLOCK */
};
/* A product with at most FEW_ROWS rows: y = x W' + bias + res, x as dense f32 */
struct few_call {
	const float *x;
	int64_t N, K;
	mat y, w, bias, res;
};

/* Sums over the columns of a row of logits, see simd_loss.h; those of parts merge (cpu_parts.c) */
struct kd_sums {
	double ms, mt;           /* maxima of s and t */
	double S, T, A, B;
	double S1, T1;           /* sums of e^(s - ms); of e^(t - mt), for weighted soft labels alone */
	double s_at, t_at;       /* logits of the label; 0 where it is not among the columns */
};
/* What losses other than KL, RKL and CE add, once S and T are known */
struct kd_more {
	double jsd, tvd, mse, U, G, q[3]; /* U = sum ps u, G = sum ps g, q = s.s, t.t, s.t; see kd_grad_slow */
};
struct kd_row {                  /* one row of kd_head */
	float *s, *t;            /* logits, overwritten; t may be NULL */
	const int32_t *ids;      /* the teacher's best K instead of t, or NULL */
	const float *logp;
	int64_t K;
	void *g;                 /* gradient out, or NULL */
	int g_dtype;
	int64_t V, label;        /* label < 0: none of these columns */
	int64_t vocab;           /* V, or that of all parts */
	const struct kd_head_args *a;
	struct kd_sums z;        /* of kd_first; kd_second and kd_third want those of all parts */
	struct kd_more more;     /* of kd_second, likewise */
	double ms, mt;           /* maxima here */
	double loss[LOSS_KINDS];
};

struct norm_row {
	const float *gain, *bias, *ind; /* gain = (w or 1+w) z; bias = b z or NULL; ind = (z != 0) or NULL */
	float width, eps;
	int kind;
	int64_t C;
};

enum { MOMENTS = 1024 };
/* One table per instruction set.  xt, yt, ... are dtypes (f32 or bf16) of the pointer before them. */
struct simd {
	const char *name;
	void (*cvt)(void *y, int yt, const void *x, int xt, float c, int64_t n);          /* y = c x */
	void (*lincomb)(void *y, int yt, int acc, const void *a, int at, float ca, const void *b, int bt, float cb,
			int64_t n);                                                       /* y = [y +] ca a + cb b */
	void (*mul)(void *y, int yt, const void *x, int xt, const float *z, int64_t n);   /* y = x z */
	void (*axpy)(float *s, const void *x, int xt, float c, int64_t n);                /* s += c x */
	void (*addmul)(float *s, const void *x, int xt, const void *y, int yt, int64_t n); /* s += x y */
	void (*dot3)(double out[3], const void *a, int at, const void *b, int bt, int64_t n); /* aa, bb, ab */
	double (*sqdiff)(const void *a, int at, const void *b, int bt, int64_t n);        /* sum (a-b)^2 */
	double (*sumsq)(const void *x, int xt, int64_t n);
	void (*norm)(const struct norm_row *, void *y, int yt, float stat[2], const void *x, int xt);
	void (*norm_bwd)(const struct norm_row *, void *dx, int dxt, int acc, float *sw, float *sb, const void *dy, int dyt,
			 const void *x, int xt, const float stat[2]);
	void (*act)(void *y, int yt, const void *x, int xt, int kind, int64_t F);
	void (*act_dx)(void *dx, int dxt, const void *dy, int dyt, const void *x, int xt, int kind, int64_t F);
	/* columns [0,n), n <= MOMENTS, of rows of x, ld apart, added to to[0..3]: sums of x - about, |x|, x^2, (x - about)^2 */
	void (*moments)(double *const to[4], const float *about, const void *x, int xt, int64_t ld, int64_t rows, int64_t n);
	void (*kd_row)(struct kd_row *);
	void (*kd_step[3])(struct kd_row *); /* the same in steps: parts exchange sums between them */
	void (*logprob)(float out[2], const float *s, int64_t V, int64_t label);
	void (*topk)(int32_t *ids, float *logp, const float *s, int64_t V, int64_t K, float itau);
	void (*adamw)(float *w, float *m, float *v, const float *g, uint16_t *wb, const struct adamw_args *, float c1,
		      float c2, int64_t n);
	void (*kv_put)(const struct kv_call *, int64_t n, int64_t g);                     /* row n, kv-head g */
	void (*kv_attend)(const struct kv_call *, int64_t n, int64_t g, float *tmp);      /* tmp [R (D + keys)] */
	void (*few)(const struct few_call *, int64_t o0, int64_t o1);                     /* columns [o0, o1) of y */
	const struct attn_ops *attn_f32, *attn_bf16; /* attn_bf16 NULL: no bf16 dot products, use f32 */
};
extern const struct simd simd_v1, simd_v3, simd_v4, simd_v4b;

/* Losses and gradients of n rows of parts: row[i] has its logits, labels count from our first column (cpu_parts.c) */
void kd_rows_of_parts(struct dev *d, struct kd_row *row, int64_t n, int64_t room);
void cpu_embed(struct dev *, mat y, mat tok, mat W, float scale);
void cpu_embed_dw(struct dev *, mat dW, mat tok, mat dy, float scale);
void cpu_norm(struct dev *, mat y, mat stat, mat x, mat w, mat b, mat z, int kind, float eps);
void cpu_norm_bwd(struct dev *, mat dx, mat dw, mat db, mat dy, mat x, mat w, mat stat, mat z, int kind, int acc);
void cpu_qknorm(struct dev *, mat y, mat stat, mat x, mat wq, mat wk, const struct attn_geom *, int kind, float eps);
void cpu_qknorm_bwd(struct dev *, mat dx, mat dwq, mat dwk, mat dy, mat x, mat wq, mat wk, mat stat,
		    const struct attn_geom *, int kind);
void cpu_linear(struct dev *, mat y, mat x, mat W, mat bias, mat res);
void cpu_quantise(struct dev *, mat Q, mat W);
int cpu_e4m3(struct dev *);
void cpu_linear_e4m3(struct dev *, mat y, mat x, mat W, mat bias, mat res);
void cpu_linear_dx(struct dev *, mat dx, mat dy, mat W, int acc);
void cpu_linear_dw(struct dev *, mat dW, mat dbias, mat dy, mat x);
void cpu_attn(struct dev *, mat o, mat lse, mat qkv, mat rope, mat start, const struct attn_geom *);
void cpu_attn_bwd(struct dev *, mat dqkv, mat dout, mat o, mat lse, mat qkv, mat rope, mat start, const struct attn_geom *);
void cpu_attn_tree(struct dev *, mat o, mat qkv, mat past, mat rope, mat node, const struct attn_geom *);
void cpu_attn_kv(struct dev *, mat o, mat kv, mat qkv, mat rope, mat at, const struct attn_geom *);
void cpu_act(struct dev *, mat y, mat x, int kind);
void cpu_act_dx(struct dev *, mat dx, mat dy, mat x, int kind);
void cpu_add(struct dev *, mat y, mat a, mat b);
void cpu_copy(struct dev *, mat y, mat x);
void cpu_scale(struct dev *, mat y, mat x, float c);
void cpu_zero(struct dev *, mat y);
void cpu_add_cols(struct dev *, mat y, mat a, mat z, int64_t at, float c);
void cpu_take_cols(struct dev *, mat y, mat x, int64_t at, float c);
void cpu_mask(struct dev *, mat y, mat x, mat z);
void cpu_mask_dz(struct dev *, mat dz, mat dy, mat x);
void cpu_stat_width(struct dev *, mat acc, mat x, int64_t T, int unit);
void cpu_stat_contrib(struct dev *, mat acc, mat x, mat W, mat z, int64_t T);
void cpu_stat_cos(struct dev *, mat acc, mat a, mat b);
void cpu_kd_head(struct dev *, mat sums, mat dhs, mat dWs, mat hs, mat Ws, mat ht, mat Wt, mat label,
		 const struct kd_head_args *);
void cpu_logprob(struct dev *, mat out, mat h, mat W, mat label);
void cpu_topk(struct dev *, mat ids, mat logp, mat h, mat W, mat label, float tau);
void cpu_mse(struct dev *, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc);
void cpu_cosine(struct dev *, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc);
void cpu_relation(struct dev *, mat sums, mat da, mat a, mat b, mat label, mat start, const struct relation *, float coef,
		  const float *live, int acc);
void cpu_adamw(struct dev *, mat w, mat m, mat v, mat g, mat wb, mat ema, const struct adamw_args *);
void cpu_sumsq(struct dev *, mat out, mat x);
void cpu_guard(struct dev *, struct step_now *now, mat sums, uint32_t which);
#endif
