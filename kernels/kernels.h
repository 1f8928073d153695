/*
 * kernels.h - the op table: every kernel, its shapes and what it adds to
 *
 * A backend (ref, cpu, cuda) is one `struct kernels`.  Kernels take checked shapes, cannot fail and allocate nothing
 * that outlives the device.  Conventions: outputs first, inputs const, sizes last; matrices are row-major and dense.
 * `acc`: add into the output instead of overwriting it; weight gradients always add.  Absent operands have p == NULL.
 * Any float operand may be f32 or bf16 unless the line says otherwise; ref accumulates in double, the others in f32
 * (sums that become statistics: f64), in a fixed order, so results do not change from run to run with the same
 * thread count.
 *
 * Sizes: B batch, T sequence, N = B*T rows, C hidden, V vocabulary, H query heads, G kv-heads, D head width, F ffn.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_KERNELS_H
#define ADZE_KERNELS_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* DT_E4M3: weights in 8 bits (quantise), codes and behind them, from the next multiple of 16 bytes on, their scale in f32 */
enum dtype { DT_F32, DT_BF16, DT_I32, DT_F64, DT_E4M3, DT_COUNT };
static inline size_t dtype_size(int t)
{
	return t == DT_BF16 ? 2 : t == DT_F64 ? 8 : t == DT_E4M3 ? 1 : 4;
}

/* A matrix in device memory.  `stable` marks weights: their bytes change only between calls of weights_changed(),
 * so a backend may keep a repacked copy keyed by p. */
typedef struct mat {
	void *p;
	int64_t rows, cols;
	int32_t dtype;
	int32_t stable;
} mat;

enum norm_kind {
	NORM_RMS,          /* y = x * rstd * w                       rstd = 1/sqrt(mean(x^2)+eps) */
	NORM_LAYER1P,      /* y = (x - mean) * rstd * (1 + w) + b    rstd = 1/sqrt(var(x)+eps), biased variance */
	NORM_RMS1P         /* y = x * rstd * (1 + w)                 rstd as RMS */
};
enum act_kind {
	ACT_SWIGLU,        /* x [N,2F] = gate | up;   y = silu(gate) * up */
	ACT_RELU2,         /* x [N,F];                y = max(x,0)^2 */
	ACT_GEGLU,         /* x [N,2F];               y = gelu_tanh(gate) * up */
	ACT_GELU           /* x [N,F];                y = gelu_tanh(x) */
};
enum loss_kind { LOSS_KL, LOSS_RKL, LOSS_CE, LOSS_JSD, LOSS_TVD, LOSS_MSE, LOSS_COS, LOSS_KINDS };
/* What becomes of the teacher's probability outside its best K tokens; see kd_head_args */
enum tail_rule { TAIL_RENORM, TAIL_ZERO, TAIL_GHOST };

/* Attention geometry.  qkv rows are [H*D | G*D | G*D]; query head h reads kv-head h / (H/G).
 * The first `rot` of D dimensions are rotated (pairs i, i + rot/2: the rotate-half convention).
 * rope [>= T, rot] f32: cos in the first rot/2 columns, sin in the rest; row t is position t.
 * Causal; scale multiplies q.k (usually 1/sqrt(D)). */
struct attn_geom {
	int64_t B, T;
	int32_t H, G, D, rot;
	float scale;
	int32_t window;    /* 0: full causal; else only the last `window` positions */
};

enum { FEW_ROWS = 32, KV_BLOCK = 64 };

/* Rows of a width statistic, per unit (see stat_width). */
enum { STAT_SUM_X, STAT_M, STAT_M2, STAT_L, STAT_L2, STAT_V, STAT_V2, STAT_ROWS };

/* Attention relations (MiniLM-v2, arXiv 2012.15828) of the vectors in columns [a0, a0 + heads da) of a and [b0, ...) of b, each cut
 * into `heads` pieces whatever number of heads made them.  Row t of a sequence of T rows has, for each piece x,
 *   R_t = softmax over start_t <= u <= t of x_t.x_u / sqrt(its columns)          (causal: the pairs that attention sees)
 *   loss = mean over pieces of KL(R_t(b) || R_t(a)) */
struct relation {
	int64_t T, a0, b0, da, db;
	int32_t heads, window;     /* window: start_t is at least t - window + 1; 0: no matter */
};

/* What of an optimizer step is only known when it runs, in device memory, so that nothing has to come back before the update
 * and a captured step can be replayed: the owner writes all of it before the step, sumsq() adds to `sumsq`, guard() settles
 * norm, scale and skip. */
struct step_now {
	uint64_t key;
	double clip;       /* limit of the gradient's norm, 0: none */
	double sumsq, norm;
	float lr, c1, c2;  /* 1/(1-beta1^step), 1/(1-beta2^step) */
	float scale;       /* of the gradient: min(1, clip/(norm + 1e-6)) */
	int32_t skip;      /* the norm, or a sum that guard() was shown, is not finite: no update */
};

struct adamw_args {
	float lr, beta1, beta2, eps, weight_decay;
	float grad_scale;  /* multiplies g first: 1/accumulated micro-batches and the clipping factor */
	int64_t step;      /* 1-based, for bias correction */
	uint64_t key;      /* bf16 moments round at random by (key, index of the element); 0: to nearest even */
	int64_t first;     /* index of the first element */
	float ema;         /* decay of the moving average */
	/* device memory or NULL.  Its scale counts instead of grad_scale and with its skip nothing happens; its lr, c1, c2 and key
	 * are those above, and what a captured call reads */
	const struct step_now *live;
};

/* The chunked head: logits of student (and teacher) exist only in tiles.
 *   s = hs Ws'   t = ht Wt'   ps = softmax(s/tau)   pt = softmax(t/tau)   m = beta pt + (1-beta) ps,  0 < beta < 1
 *   KL  = sum_v pt (log pt - log ps)                   RKL = sum_v ps (log ps - log pt)
 *   JSD = beta KL(pt || m) + (1-beta) KL(ps || m)      TVD = 1/2 sum_v |pt - ps|
 *   MSE = 1/V sum_v (s - t)^2                          COS = 1 - s.t / (|s| |t|)         (raw logits, no tau)
 *   CE  = -log softmax(s)[label]
 * The best K of the teacher only: ht is ids [N,K] i32, ascending in each row, and Wt [N,K+1] f32 their log-probabilities
 * at this tau, then the log of the rest (see topk).  Only KL and CE then:
 *   RENORM  teacher and student over the K alone     ZERO  teacher over the K, student over all
 *   GHOST   both over the K and one token for the rest (K = V: nothing is left, all three are the full KL)
 * wsl: a row's terms with the teacher are weighted by 1 - exp(-CE(student)/CE(teacher)), a constant for the gradient
 *   (weighted soft labels, arXiv 2102.00650); the sums hold the weighted terms.  Not with the best K.
 * Rows with label < 0 count for nothing.  sums[k] += sum over rows of loss k (f64); JSD, TVD, MSE and COS only where
 * their coefficient is not 0.  Gradients of
 *   sum over rows of   tau^2 (coef[KL] KL + coef[RKL] RKL + coef[JSD] JSD + coef[TVD] TVD)
 *                      + coef[MSE] MSE + coef[COS] COS + coef[CE] CE
 * into dhs (=, or += with acc) and dWs (+=); either may be absent (frozen or evaluation only).
 * parts: several processes with rows of Ws, Wt and dWs each, and hs, ht and label alike.  Losses come out whole in each of
 * them, dhs as its summand.  Not with the best K, nor in a captured call. */
struct kd_parts {
	int32_t rank, size;
	int64_t rows;      /* of each part but the last, which has at least one and no more than that */
	int64_t vocab;     /* of all */
	/* x [size pieces of bytes], where the kernels' operands lie: piece `rank` is ours, the others become theirs.  After the
	 * kernels called so far and before those that follow */
	void (*gather)(void *arg, void *x, int64_t bytes);
	void *arg;
};
struct kd_head_args {
	float coef[LOSS_KINDS];
	float tau;
	int32_t acc;
	float beta;        /* JSD */
	int32_t tail;      /* enum tail_rule */
	int32_t wsl;
	const float *live; /* coef in device memory, what a captured call reads; or NULL */
	const struct kd_parts *parts; /* NULL: all rows are here */
};

/* What a backend's own memory is for; HELD_PARTS: all of it */
enum held { HELD_HEAD, HELD_PRODUCTS, HELD_ATTENTION, HELD_OTHER, HELD_PARTS };

struct dev;            /* one per backend in use: threads, stream, handles, packed weights, scratch */

struct kernels {
	const char *name;
	struct dev *(*dev_open)(int threads);          /* cuda: the number of the GPU */
	void (*dev_close)(struct dev *);
	/* device memory; zeroed, 64-byte aligned.  NULL when it cannot be had. */
	void *(*mem_alloc)(struct dev *, size_t bytes);
	void (*mem_free)(struct dev *, void *p, size_t bytes);
	size_t (*mem_bytes)(size_t bytes);             /* what mem_alloc really takes for that many */
	/* where the host can read and write device memory p itself; NULL: nowhere, bytes come and go by the two below */
	void *(*host)(void *p);
	void (*upload)(struct dev *, void *dst, const void *host, size_t bytes);
	void (*download)(struct dev *, void *host, const void *src, size_t bytes);
	/* Bytes that come and go beside the kernels, both ways at a time, for a backend with memory of its own (else NULL, all of them).
	 * pinned       [bytes] of the host's memory for such copies, or NULL; with `old`, which it returned, frees that
	 * bring_order  what is brought from here on comes after the kernels called and what was taken so far; join: kernels called
	 *              from here on come after what was brought so far
	 * bring        begins a copy to dst and returns its number, 1 and up
	 * brought      is copy n done, and its source free again?  wait: it is when this returns
	 * take         begins a copy from device memory, after the kernels called so far
	 * taken        all of these are done when this returns */
	void *(*pinned)(struct dev *, void *old, size_t bytes);
	void (*bring_order)(struct dev *, int join);
	int64_t (*bring)(struct dev *, void *dst, const void *pinned, size_t bytes);
	int (*brought)(struct dev *, int64_t n, int wait);
	void (*take)(struct dev *, void *pinned, const void *src, size_t bytes);
	void (*taken)(struct dev *);
	void (*weights_changed)(struct dev *); /* every packed copy of a stable operand is stale from now on */
	/* bytes that the backend itself holds now (packed weights, scratch); while planning: would hold */
	size_t (*held_bytes)(const struct dev *, enum held part);
	/* plan(1): until plan(0), products, attention, relations and the head only note the scratch that a call would take and do not
	 * touch their operands; no other kernel may be called.  NULL: this backend has no scratch */
	void (*plan)(struct dev *, int on);
	/* capture(1): until capture(0), calls are noted and do nothing; nothing may be uploaded or downloaded.  capture(0) returns them.
	 * Every call must have been made before with the same shapes.  NULL: this backend cannot
	 * replay    runs them again, with operands and values as they were but what lies in device memory as it is.  -1: the
	 *           backend's own memory has moved since, they are of no use any more
	 * drop      forgets them */
	void *(*capture)(struct dev *, int on);
	int (*replay)(struct dev *, void *captured);
	void (*drop)(struct dev *, void *captured);

	/* embed     y [N,C] = W[tok] * scale; tok [N,1] i32, W [V,C]          embed_dw: dW [V,C] f32 += scale * dy
	 *           tok < 0: y is 0, nothing is added */
	void (*embed)(struct dev *, mat y, mat tok, mat W, float scale);
	void (*embed_dw)(struct dev *, mat dW, mat tok, mat dy, float scale);

	/* norm      y, x [N,C]; w [1,C]; b [1,C] or absent; stat [N,2] f32 = mean, rstd, kept for backward
	 *           z [1,C] f32 or absent: hidden mask.  With z, mean and variance are over the channels with z != 0
	 *           (their count is the width) and y is multiplied by z: exactly the trimmed model's norm. */
	void (*norm)(struct dev *, mat y, mat stat, mat x, mat w, mat b, mat z, int kind, float eps);
	/* dx (=, += with acc); dw, db [1,C] f32 += (absent when frozen) */
	void (*norm_bwd)(struct dev *, mat dx, mat dw, mat db, mat dy, mat x, mat w, mat stat, mat z, int kind, int acc);

	/* qknorm    y = x [N,(H+2G)*D] (rows as attn's qkv) with each head of q and of k normalised over its D columns by
	 *           kind (RMS or RMS1P); wq, wk [1,D]; v is copied; stat [N,2*(H+G)] f32 as norm's, a pair a head
	 *           bwd: dx (=); dwq, dwk [1,D] f32 += (absent when frozen) */
	void (*qknorm)(struct dev *, mat y, mat stat, mat x, mat wq, mat wk, const struct attn_geom *, int kind, float eps);
	void (*qknorm_bwd)(struct dev *, mat dx, mat dwq, mat dwk, mat dy, mat x, mat wq, mat wk, mat stat,
			   const struct attn_geom *, int kind);

	/* linear    y [N,O] = x [N,I] W' + bias + res;  W [O,I]; bias [1,O] or absent; res [N,O] or absent (may be y)
	 *           Where N <= FEW_ROWS a row of y depends, bit for bit, on its own row of x and not on N. */
	void (*linear)(struct dev *, mat y, mat x, mat W, mat bias, mat res);
	/* quantise  Q [O,I] e4m3 = W [O,I] / scale to the nearest, scale = max |W| / 448; Q may begin where W does (it needs no more
	 *           room, from 32 elements on).  A linear with such a W rounds x likewise, by the largest of all of x, and
	 *           multiplies in f32: a row then depends on the others.
	 * e4m3      whether the device has such products, not only their emulation from wider ones; ref and cpu emulate */
	void (*quantise)(struct dev *, mat Q, mat W);
	int (*e4m3)(struct dev *);
	/* dx [N,I] = dy [N,O] W (+= with acc)      dW [O,I] f32 += dy' x;  dbias [1,O] f32 += column sums, or absent */
	void (*linear_dx)(struct dev *, mat dx, mat dy, mat W, int acc);
	void (*linear_dw)(struct dev *, mat dW, mat dbias, mat dy, mat x);

	/* attn      o [N,H*D]; lse [N,H] f32 = log-sum-exp of the scaled scores; qkv [N,(H+2G)*D] unrotated; rope f32
	 *           Never forms T x T for a whole sequence at once.  start [N,1] i32 or absent, for documents packed into
	 *           one sequence: row n sees positions from start[n] on, and there its rotation begins (row t - start[n] of
	 *           rope).  0 <= start[n] <= n mod T, never falling within a sequence. */
	void (*attn)(struct dev *, mat o, mat lse, mat qkv, mat rope, mat start, const struct attn_geom *);
	void (*attn_bwd)(struct dev *, mat dqkv, mat dout, mat o, mat lse, mat qkv, mat rope, mat start,
			 const struct attn_geom *);

	/* attn_tree attention of rows packed as a forest in depth-first order: texts with a common start, the start once.
	 *           node [N,2] i32: position of the row in its text, and the end of its subtree: row j is seen by rows
	 *           [j, end) within the window.  o, qkv, rope as attn with B 1; nothing is kept for a gradient.
	 *           past [P,(H+2G)*D] or absent: rows of qkv of an earlier call that stand before those of this one; T = P + N,
	 *           node [P+N,2] counts them, o has the rows of qkv alone.  NULL where a backend has none. */
	void (*attn_tree)(struct dev *, mat o, mat qkv, mat past, mat rope, mat node, const struct attn_geom *);

	/* attn_kv   attention of rows that stand anywhere in the sequences of a cache, which it extends.  at [N,2] i32: slot and
	 *           position of each row (slot < 0: no row, its o is 0); qkv [N,(H+2G)*D] unrotated; rope [T,rot] f32;
	 *           kv [B, 2*G*D*T]: a row is a slot of T positions, a multiple of KV_BLOCK; its inner order is the
	 *           backend's own.  First every row's key and value go to their place, then row (s, p) attends to
	 *           positions (p - window, p] of slot s, all of which this call or an earlier one has written.
	 *           What a row gets depends on its own slot, bit for bit, not on N nor on the other rows. */
	void (*attn_kv)(struct dev *, mat o, mat kv, mat qkv, mat rope, mat at, const struct attn_geom *);

	/* act       y [N,F] from x [N,F or 2F] by kind;   act_dx: dx (overwrites) from dy and x */
	void (*act)(struct dev *, mat y, mat x, int kind);
	void (*act_dx)(struct dev *, mat dx, mat dy, mat x, int kind);

	/* add       y = a + b (y may be a);   copy: y = x (converts dtype);   scale: y = c * x;   zero */
	void (*add)(struct dev *, mat y, mat a, mat b);
	void (*copy)(struct dev *, mat y, mat x);
	void (*scale)(struct dev *, mat y, mat x, float c);
	void (*zero)(struct dev *, mat y);

	/* add_cols  y [N,C] = a, to whose columns [at, at + w) c z is added; z [N,w]; y has a's dtype and may be a
	 * take_cols y [N,w] = c x[:, at .. at + w) */
	void (*add_cols)(struct dev *, mat y, mat a, mat z, int64_t at, float c);
	void (*take_cols)(struct dev *, mat y, mat x, int64_t at, float c);

	/* mask      y [N,C] = x * z, z [1,U] f32, unit = C/U neighbouring columns share one z
	 *           mask_dz: dz [1,U] f32 += sum over rows and unit of dy * x   (dx is mask() of dy) */
	void (*mask)(struct dev *, mat y, mat x, mat z);
	void (*mask_dz)(struct dev *, mat dz, mat dy, mat x);

	/* stat_width  acc [STAT_ROWS,U] f64 +=; x [N,U*unit], N = samples * T.  Per sample and unit, over its T rows of
	 *           a_t = x (unit 1) or the L2 norm of the unit's columns (unit > 1):
	 *           m = mean |a|, l = sqrt(sum a^2), v = biased variance of a;  rows: sum a, m, m^2, l, l^2, v, v^2 */
	void (*stat_width)(struct dev *, mat acc, mat x, int64_t T, int unit);
	/* stat_contrib  acc [STAT_ROWS,U] f64 += the same seven sums of a_t = |W_u x_t,u|, what a unit of C/U neighbouring
	 *           columns adds to x W';  x [N,C], W [O,C]; z [1,O] f32 or absent multiplies its columns */
	void (*stat_contrib)(struct dev *, mat acc, mat x, mat W, mat z, int64_t T);
	/* stat_cos  acc [1,2] f64 += ( sum over rows of 1 - cos(a_n, b_n),  N );  a, b [N,C] */
	void (*stat_cos)(struct dev *, mat acc, mat a, mat b);

	/* kd_head   see struct kd_head_args.  hs [N,Cs], Ws [V,Cs], ht [N,Ct] and Wt [V,Ct] or both absent,
	 *           label [N,1] i32, sums [1,LOSS_KINDS] f64 +=, dhs [N,Cs], dWs [V,Cs] f32 */
	void (*kd_head)(struct dev *, mat sums, mat dhs, mat dWs, mat hs, mat Ws, mat ht, mat Wt, mat label,
			const struct kd_head_args *);
	/* logprob   out [N,2] f32: log softmax(h W')[label] and 1 if label is the arg max (lowest index on ties) else 0;
	 *           rows with label < 0 get 0, 0 and cost nothing */
	void (*logprob)(struct dev *, mat out, mat h, mat W, mat label);
	/* topk      the K best of softmax(h W' / tau): ids [N,K] i32 ascending (among equal logits the lower id is in), logp
	 *           [N,K+1] f32 their log-probabilities, last the log of the sum of all others (-inf: none), K <= V;
	 *           rows with label < 0 are left at 0 */
	void (*topk)(struct dev *, mat ids, mat logp, mat h, mat W, mat label, float tau);
	/* mse       sums [1,1] f64 += sum over rows of mean_c (a-b)^2;  da (=, += acc) = coef * 2 (a-b)/C, or absent
	 * cosine    sums [1,1] f64 += sum over rows of 1 - cos(a,b);    da likewise
	 *           Rows with label < 0 (label [N,1] i32 or absent) count for nothing.  live: coef as in kd_head_args. */
	void (*mse)(struct dev *, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc);
	void (*cosine)(struct dev *, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc);

	/* relation  sums [1,1] f64 += sum over rows of the loss above; a [N,Ca], b [N,Cb];  da [N,Ca] (=, += acc) coef times its
	 *           gradient, 0 in other columns, or absent.  label as above, start as attn's.  T x T is never formed. */
	void (*relation)(struct dev *, mat sums, mat da, mat a, mat b, mat label, mat start, const struct relation *, float coef, const float *live,
			 int acc);

	/* adamw     w, g [1,n] f32, m, v [1,n] both f32 or both bf16, in place (decoupled weight decay); ema [1,n] f32 or absent:
	 *           ema = args->ema ema + (1 - args->ema) w;  wb [1,n] bf16 copy of w (nearest even) or
	 *           absent; decay is skipped when args->weight_decay is 0.    Loshchilov & Hutter 2019 */
	void (*adamw)(struct dev *, mat w, mat m, mat v, mat g, mat wb, mat ema, const struct adamw_args *);
	/* sumsq     out [1,1] f64 += sum of squares of x; NaN or Inf show up in the result
	 * guard     settles now (struct step_now, device memory); sums [1,n] f64: those whose bit of `which` is set must be finite */
	void (*sumsq)(struct dev *, mat out, mat x);
	void (*guard)(struct dev *, struct step_now *now, mat sums, uint32_t which);
};

extern const struct kernels kernels_ref;

/* "ref", or "cpu", "cuda" (loaded from lib/adze/adze-NAME.so beside the program's bin/, or in the same build tree).
 * NULL with why[] filled (one line) when it cannot be had. */
const struct kernels *kernels_open(const char *name, char why[256]);
#define KERNELS_SYMBOL "adze_kernels"         /* const struct kernels, exported by each shared object */
#define KERNELS_ABI_SYMBOL "adze_kernels_abi" /* const int */
#define KERNELS_READY_SYMBOL "adze_kernels_ready" /* const kernels_ready; absent: always ready */
typedef int (*kernels_ready)(char why[256]);  /* 0, or -1 with why[]: this machine lacks what the backend needs */
enum { KERNELS_ABI = 16 };

static inline float bf16_to_f32(uint16_t b)
{
	union { uint32_t u; float f; } x = { (uint32_t)b << 16 };
	return x.f;
}
static inline uint16_t f32_to_bf16(float f)   /* round to nearest even; NaN stays NaN */
{
	union { float f; uint32_t u; } x = { f };
	if ((x.u & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)((x.u >> 16) | 0x40u);
	return (uint16_t)((x.u + 0x7fffu + ((x.u >> 16) & 1u)) >> 16);
}
/* guard() where the host can read device memory */
static inline void step_settle(struct step_now *now, const double *sums, int64_t n, uint32_t which)
{
	now->norm = sqrt(now->sumsq);
	double scale = now->clip > 0 ? now->clip / (now->norm + 1e-6) : 1;
	now->scale = (float)(scale < 1 ? scale : 1);
	now->skip |= !isfinite(now->norm);
	for (int64_t k = 0; k < n; k++)
		now->skip |= (which >> k & 1) && !isfinite(sums[k]);
}
/* 8-bit floats with 4 bits of exponent, 3 of mantissa, no infinity, 0x7f and 0xff NaN, largest 448 (e4m3fn).  To the nearest,
 * ties to even; what is larger becomes 448. */
enum { E4M3_TOP = 448 };
static inline uint8_t f32_to_e4m3(float f)
{
	union { float f; uint32_t u; } x = { f };
	uint8_t sign = (uint8_t)(x.u >> 24 & 0x80u);
	x.u &= 0x7fffffffu;
	if (x.u > 0x7f800000u)
		return (uint8_t)(sign | 0x7fu);
	if (x.f >= (float)E4M3_TOP)
		return (uint8_t)(sign | 0x7eu);
	if (x.f < 0.015625f) {                         /* 2^-6: steps of 2^-9; adding 2^14 rounds to them */
		x.f += 16384.0f;
		return (uint8_t)(sign | (x.u & 0x0fu));
	}
	x.u += 0x7ffffu + (x.u >> 20 & 1u);
	return (uint8_t)(sign | ((x.u >> 20) - ((127u - 7u) << 3)));
}
static inline float e4m3_to_f32(uint8_t q)
{
	int e = q >> 3 & 15, m = q & 7;
	float x = e == 15 && m == 7 ? NAN : e ? ldexpf((float)(8 + m), e - 10) : (float)m * 0.001953125f;
	return q & 0x80u ? -x : x;
}
/* What to multiply by before rounding, and after, where the largest magnitude is amax */
struct e4m3_by {
	float in, out;
};
static inline struct e4m3_by e4m3_factors(float amax)
{
	struct e4m3_by none = { 1, 1 }, by = { (float)E4M3_TOP / amax, amax / (float)E4M3_TOP };
	return amax > 1e-30f ? by : none;
}
static inline float *e4m3_scale(mat Q)
{
	return (float *)((char *)Q.p + (size_t)(Q.rows * Q.cols + 15) / 16 * 16);
}
/* 32 bits that look random, a function of both */
static inline uint32_t rounding_bits(uint64_t key, uint64_t i)
{
	uint32_t x = (uint32_t)i * 0x9e3779b1u ^ (uint32_t)key ^ (uint32_t)(i >> 32) * 0x85ebca6bu;
	x = (x ^ x >> 16) * 0x7feb352du;
	x = (x ^ x >> 15) + (uint32_t)(key >> 32);
	x = (x ^ x >> 16) * 0x846ca68bu;
	return x ^ x >> 16;
}
/* One of f's two neighbours, so that the mean over all 16-bit r is f; what bf16 holds stays, Inf and NaN too */
static inline uint16_t f32_to_bf16_random(float f, uint32_t r)
{
	union { float f; uint32_t u; } x = { f };
	if ((x.u & 0x7f800000u) == 0x7f800000u)
		return f32_to_bf16(f);
	return (uint16_t)((x.u + (r & 0xffffu)) >> 16);
}
#endif
