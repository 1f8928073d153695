/*
 * product_lt.cu - matrix products by cuBLASLt, one plan per shape
 *
 * The library is column-major: row-major C = A B is column-major C' = B' A', so the factors change places and a stored
 * transposition turns into the opposite one.  Bias rides along as an epilogue, a residual as C with beta 1 (out of place),
 * accumulation as C = D with beta 1.  Plans (descriptors and the algorithm that the heuristic ranks first for the
 * alignment at hand) are made at the first call of a shape and kept; f32 is true f32, not TF32.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda.h"
#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LT(call) lt_check((call), #call)
enum { CACHE = 1024, WORK_BYTES = 32 << 20 };

struct key {
	int64_t M, N, K, lda, ldb, ldc;
	int32_t at, ct, ta, tb, bias, add, align;
	int32_t unused;            /* no padding: compared as bytes */
};
struct plan {
	struct key key;
	int used;
	cublasLtMatmulDesc_t op;
	cublasLtMatrixLayout_t a, b, c;
	cublasLtMatmulAlgo_t algo;
};
struct products {
	cublasLtHandle_t lt;
	int n;
	struct plan slot[CACHE];   /* open addressing on the key */
};

static void lt_check(cublasStatus_t s, const char *what)
{
	if (s != CUBLAS_STATUS_SUCCESS) {
		fprintf(stderr, "cuda kernels: cuBLASLt failed with %s in %s\n", cublasLtGetStatusString(s), what);
		abort();
	}
}

struct products *products_open(struct dev *d)
{
	struct products *g = (struct products *)calloc(1, sizeof *g);
	(void)d;
	if (g && cublasLtCreate(&g->lt) != CUBLAS_STATUS_SUCCESS) {
		free(g);
		return NULL;
	}
	return g;
}

static void forget_all(struct products *g)
{
	for (int i = 0; i < CACHE; i++) {
		struct plan *p = &g->slot[i];
		if (!p->used)
			continue;
		LT(cublasLtMatrixLayoutDestroy(p->a));
		LT(cublasLtMatrixLayoutDestroy(p->b));
		LT(cublasLtMatrixLayoutDestroy(p->c));
		LT(cublasLtMatmulDescDestroy(p->op));
		p->used = 0;
	}
	g->n = 0;
}

void products_close(struct products *g)
{
	forget_all(g);
	LT(cublasLtDestroy(g->lt));
	free(g);
}

static cudaDataType_t lt_type(int dtype)
{
	return dtype == DT_BF16 ? CUDA_R_16BF : dtype == DT_E4M3 ? CUDA_R_8F_E4M3 : CUDA_R_32F;
}

/* The first algorithm of the heuristic for operands with that alignment */
static void choose(struct products *g, struct plan *p)
{
	static const cublasLtMatmulPreferenceAttributes_t align[] = {
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES
	};
	cublasLtMatmulPreference_t pref;
	cublasLtMatmulHeuristicResult_t best;
	uint64_t work = WORK_BYTES;
	uint32_t bytes = (uint32_t)p->key.align;
	int found = 0;
	LT(cublasLtMatmulPreferenceCreate(&pref));
	LT(cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &work, sizeof work));
	for (int i = 0; i < 4; i++)
		LT(cublasLtMatmulPreferenceSetAttribute(pref, align[i], &bytes, sizeof bytes));
	cublasStatus_t s = cublasLtMatmulAlgoGetHeuristic(g->lt, p->op, p->a, p->b, p->c, p->c, pref, 1, &best, &found);
	LT(cublasLtMatmulPreferenceDestroy(pref));
	if (s != CUBLAS_STATUS_SUCCESS || !found) {
		fprintf(stderr, "cuda kernels: cuBLASLt has no product [%lld,%lld] x [%lld,%lld]\n", (long long)p->key.M,
			(long long)p->key.K, (long long)p->key.K, (long long)p->key.N);
		abort();
	}
	p->algo = best.algo;
}

static void build(struct products *g, struct plan *p, const struct key *k)
{
	cublasOperation_t ta = k->tb ? CUBLAS_OP_T : CUBLAS_OP_N, tb = k->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
	cudaDataType_t type = lt_type(k->at);
	p->key = *k;
	p->used = 1;
	LT(cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
	LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta));
	LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb));
	if (k->at == DT_E4M3) {
		int8_t fast = 1;       /* sums stay in the tensor core's own registers */
		LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast));
	}
	if (k->bias) {
		cublasLtEpilogue_t e = CUBLASLT_EPILOGUE_BIAS;
		cudaDataType_t bt = lt_type(k->ct);
		LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &e, sizeof e));
		LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bt, sizeof bt));
	}
	/* stored shapes seen column by column */
	LT(cublasLtMatrixLayoutCreate(&p->a, type, (uint64_t)(k->tb ? k->K : k->N), (uint64_t)(k->tb ? k->N : k->K), k->ldb));
	LT(cublasLtMatrixLayoutCreate(&p->b, type, (uint64_t)(k->ta ? k->M : k->K), (uint64_t)(k->ta ? k->K : k->M), k->lda));
	LT(cublasLtMatrixLayoutCreate(&p->c, lt_type(k->ct), (uint64_t)k->N, (uint64_t)k->M, k->ldc));
	choose(g, p);
}

static struct plan *lookup(struct products *g, const struct key *k)
{
	uint64_t h = 1469598103934665603u;
	for (size_t i = 0; i < sizeof *k; i++)
		h = (h ^ ((const unsigned char *)k)[i]) * 1099511628211u;
	if (g->n > CACHE * 3 / 4)
		forget_all(g);
	for (unsigned i = (unsigned)(h >> 32);; i++) {
		struct plan *p = &g->slot[i % CACHE];
		if (!p->used) {
			build(g, p, k);
			g->n++;
			return p;
		}
		if (!memcmp(&p->key, k, sizeof *k))
			return p;
	}
}

void product_direct(struct dev *d, const struct product_args *q)
{
	static const float one = 1, none = 0;
	const void *add = q->acc ? q->C : q->res.p;
	uintptr_t bits = (uintptr_t)q->A.p | (uintptr_t)q->B.p | (uintptr_t)q->C | (uintptr_t)add | (uintptr_t)q->bias.p | 256;
	struct key k;
	memset(&k, 0, sizeof k);
	k.M = q->M, k.N = q->N, k.K = q->K;
	k.lda = q->A.ld, k.ldb = q->B.ld, k.ldc = q->ldc;
	k.at = q->A.dtype, k.ct = q->c_dtype;
	k.ta = q->A.trans, k.tb = q->B.trans;
	k.bias = q->bias.p != NULL;
	k.add = add != NULL;
	k.align = (int32_t)(bits & (~bits + 1));
	void *work = scratch(d, S_WORK, WORK_BYTES);
	if (d->planning)
		return;
	struct plan *p = lookup(d->products, &k);
	if (q->bias.p)
		LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &q->bias.p, sizeof q->bias.p));
	if (q->scale_a) {              /* the library's A is our B */
		LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &q->scale_b, sizeof q->scale_b));
		LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &q->scale_a, sizeof q->scale_a));
	}
	LT(cublasLtMatmul(d->products->lt, p->op, &one, q->B.p, p->a, q->A.p, p->b, add ? &one : &none, add ? add : q->C, p->c, q->C,
			  p->c, &p->algo, work, WORK_BYTES, d->stream));
}
