/*
 * cuda.h - what the files of the CUDA backend share: the device, its scratch, the product call
 *
 * Everything of one device goes to one stream, in call order; only downloads and the compaction of rows without a label
 * (logprob) wait for it.  Uploads come by a second one (stage.cu).  Kernels take operands as views (pointer and dtype): the branch on the dtype is the same for a
 * whole launch, so each kernel is compiled once.  The same sources compile as host C++ against tests/cuda/shim.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_CUDA_H
#define ADZE_CUDA_H
#ifdef __cplusplus
extern "C" {
#endif
#include "../kernels.h"

int cuda_ready(char why[256]);
struct dev *cuda_dev_open(int gpu);
void cuda_dev_close(struct dev *);
void *cuda_mem_alloc(struct dev *, size_t bytes);
void cuda_mem_free(struct dev *, void *p, size_t bytes);
size_t cuda_mem_bytes(size_t bytes);
void *cuda_host(void *p);
void cuda_upload(struct dev *, void *dst, const void *host, size_t bytes);
void cuda_download(struct dev *, void *host, const void *src, size_t bytes);
void *cuda_pinned(struct dev *, void *old, size_t bytes);
void cuda_bring_order(struct dev *, int join);
int64_t cuda_bring(struct dev *, void *dst, const void *pinned, size_t bytes);
int cuda_brought(struct dev *, int64_t n, int wait);
void cuda_take(struct dev *, void *pinned, const void *src, size_t bytes);
void cuda_taken(struct dev *);
void cuda_weights_changed(struct dev *);
size_t cuda_held_bytes(const struct dev *, enum held part);
void cuda_plan(struct dev *, int on);
void *cuda_capture(struct dev *, int on);
int cuda_replay(struct dev *, void *captured);
void cuda_drop(struct dev *, void *captured);
void cuda_embed(struct dev *, mat y, mat tok, mat W, float scale);
void cuda_embed_dw(struct dev *, mat dW, mat tok, mat dy, float scale);
void cuda_norm(struct dev *, mat y, mat stat, mat x, mat w, mat b, mat z, int kind, float eps);
void cuda_norm_bwd(struct dev *, mat dx, mat dw, mat db, mat dy, mat x, mat w, mat stat, mat z, int kind, int acc);
void cuda_qknorm(struct dev *, mat y, mat stat, mat x, mat wq, mat wk, const struct attn_geom *, int kind, float eps);
void cuda_qknorm_bwd(struct dev *, mat dx, mat dwq, mat dwk, mat dy, mat x, mat wq, mat wk, mat stat,
		     const struct attn_geom *, int kind);
void cuda_linear(struct dev *, mat y, mat x, mat W, mat bias, mat res);
void cuda_quantise(struct dev *, mat Q, mat W);
int cuda_e4m3(struct dev *);
void cuda_linear_dx(struct dev *, mat dx, mat dy, mat W, int acc);
void cuda_linear_dw(struct dev *, mat dW, mat dbias, mat dy, mat x);
void cuda_attn(struct dev *, mat o, mat lse, mat qkv, mat rope, mat start, const struct attn_geom *);
void cuda_attn_bwd(struct dev *, mat dqkv, mat dout, mat o, mat lse, mat qkv, mat rope, mat start,
		   const struct attn_geom *);
void cuda_attn_tree(struct dev *, mat o, mat qkv, mat past, mat rope, mat node, const struct attn_geom *);
void cuda_attn_kv(struct dev *, mat o, mat kv, mat qkv, mat rope, mat at, const struct attn_geom *);
void cuda_act(struct dev *, mat y, mat x, int kind);
void cuda_act_dx(struct dev *, mat dx, mat dy, mat x, int kind);
void cuda_add(struct dev *, mat y, mat a, mat b);
void cuda_copy(struct dev *, mat y, mat x);
void cuda_scale(struct dev *, mat y, mat x, float c);
void cuda_zero(struct dev *, mat y);
void cuda_add_cols(struct dev *, mat y, mat a, mat z, int64_t at, float c);
void cuda_take_cols(struct dev *, mat y, mat x, int64_t at, float c);
void cuda_mask(struct dev *, mat y, mat x, mat z);
void cuda_mask_dz(struct dev *, mat dz, mat dy, mat x);
void cuda_stat_width(struct dev *, mat acc, mat x, int64_t T, int unit);
void cuda_stat_contrib(struct dev *, mat acc, mat x, mat W, mat z, int64_t T);
void cuda_stat_cos(struct dev *, mat acc, mat a, mat b);
void cuda_kd_head(struct dev *, mat sums, mat dhs, mat dWs, mat hs, mat Ws, mat ht, mat Wt, mat label,
		  const struct kd_head_args *);
void cuda_logprob(struct dev *, mat out, mat h, mat W, mat label);
void cuda_topk(struct dev *, mat ids, mat logp, mat h, mat W, mat label, float tau);
void cuda_mse(struct dev *, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc);
void cuda_cosine(struct dev *, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc);
void cuda_relation(struct dev *, mat sums, mat da, mat a, mat b, mat label, mat start, const struct relation *, float coef,
		   const float *live, int acc);
void cuda_adamw(struct dev *, mat w, mat m, mat v, mat g, mat wb, mat ema, const struct adamw_args *);
void cuda_sumsq(struct dev *, mat out, mat x);
void cuda_guard(struct dev *, struct step_now *now, mat sums, uint32_t which);
#ifdef __cplusplus
}
#include <cuda_bf16.h>
#include <cuda_runtime.h>

enum slot {
	S_PART, S_ROWS, S_UNITS,                                                         /* other ops */
	S_INDEX, S_LOGIT_S, S_LOGIT_T, S_DLOGIT, S_HEAD_S, S_BEST, S_LOSS, S_PARTS, /* the head */
	S_GEMM_A, S_GEMM_B, S_GEMM_C, S_E4M3, S_SCALE, S_FEW_X, S_FEW_Y, S_WORK,                          /* products */
	S_ATTN, S_TURNED, S_COUNT                                                        /* attention */
};

struct products;               /* the product library's handle and its plans, one per shape */
struct bring;
struct dev {
	cudaStream_t stream;
	int gpu;
	int planning;              /* scratch is only noted, nothing is launched */
	int capturing;             /* launches are only noted */
	int moves;                 /* how often scratch has moved: captured calls point to where it was */
	struct stage *stage;
	struct bring *bring;       /* NULL: not needed so far (bring.cu) */
	struct products *products;
	void *slot[S_COUNT];
	size_t slot_bytes[S_COUNT], noted[S_COUNT];
};

/* What uploads pass through (stage.cu); NULL: no memory */
struct stage *stage_open(void);
void stage_close(struct stage *);
void bring_close(struct dev *);
size_t stage_bytes(void);              /* of device memory */

/* At least `bytes` of device memory that stay as they are until the slot is asked for again */
void *scratch(struct dev *, enum slot, size_t bytes);

/* C [M,N] (=, += with acc) A B + bias + res, row-major; A is [M,K], stored [K,M] with trans; B [K,N], stored [N,K] with trans */
struct factor {
	const void *p;
	int dtype, trans;
	int64_t ld;
};
struct product_args {
	int64_t M, N, K;
	struct factor A, B;
	void *C;
	int c_dtype, acc;
	int64_t ldc;
	mat bias, res;         /* [1,N], [M,N] (may be C); only of C's dtype in product_direct */
	const float *scale_a, *scale_b; /* of e4m3 factors, in device memory */
};
struct products *products_open(struct dev *);
void products_close(struct products *);
/* Any mix of dtypes (linear.cu) */
void product(struct dev *, const struct product_args *);
/* The same for W in e4m3 (e4m3.cu) */
void linear_e4m3(struct dev *, mat y, mat x, mat W, mat bias, mat res);
/* C [M,N] = sa sb tile + bias + res, f32 tile; no sa: unscaled (linear.cu) */
void settle(struct dev *, mat C, const float *tile, mat bias, mat res, const float *sa, const float *sb);
/* A and B of one dtype; f32 gives f32, bf16 and e4m3 (A as stored, B transposed, M, N, K multiples of 16) give either */
void product_direct(struct dev *, const struct product_args *);

/* f32 logits of a few rows: row r of s [rows,V] is row index[r] of the call, without an index first + r */
struct head_piece {
	float *s;
	const int32_t *index;
	int64_t first, rows, V;
};
/* Calls each() for piece after piece of h W' (head.cu): all rows; those that have a label, for which the host waits */
void head_pieces(struct dev *, mat h, mat W, void (*each)(struct dev *, const head_piece *, void *), void *arg);
void head_labelled(struct dev *, mat h, mat W, mat label, void (*each)(struct dev *, const head_piece *, void *), void *arg);

/* Ends the program: kernels cannot fail.  One line: the call, the reason. */
/* out [K] (f64) += sum over n rows of x [n,K] (stat.cu) */
void rows_total(struct dev *, double *out, const double *x, int64_t n, int K);

#define CUDA(call) cuda_check((call), #call)
void cuda_check(cudaError_t, const char *what);

#ifndef LAUNCH                 /* the shim has its own */
#define LAUNCH(d, kernel, grid, block, shared, ...)                                       \
	do {                                                                              \
		const dim3 launch_grid(grid);                                             \
		if (launch_grid.x && launch_grid.y && !(d)->planning) {                                     \
			kernel<<<launch_grid, block, shared, (d)->stream>>>(__VA_ARGS__); \
			CUDA(cudaGetLastError());                                         \
		}                                                                         \
	} while (0)
#define SHARED_BYTES(type, name) \
	extern __shared__ __align__(16) unsigned char launch_shared[]; \
	type *name = reinterpret_cast<type *>(launch_shared)
/* More than 48 KiB of shared memory must be asked for */
#define ALLOW_SHARED(kernel, bytes) \
	CUDA(cudaFuncSetAttribute((const void *)(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes)))
#endif

static inline char *row_at(mat m, int64_t r)
{
	return (char *)m.p + (size_t)(r * m.cols) * dtype_size(m.dtype);
}

static inline unsigned blocks_for(int64_t n, int64_t each)
{
	return (unsigned)((n + each - 1) / each);
}
#endif
#endif
