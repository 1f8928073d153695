/*
 * cpu_gemm.c - matrix products by oneDNN, one cached primitive per shape
 *
 * Operands are read where they lie, with strides: on the machines measured the packed layout gains less than 10 % and
 * would cost a second copy of every weight (NOTES.md).  bias, residual and accumulation ride along as post-ops, on the
 * f32 accumulator.  A product that oneDNN cannot do as it stands (mixed dtypes, or bf16 where the machine has no
 * kernel for it) is done in f32 on converted column tiles of bounded size.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DNN(call) check((call), #call)

struct key {
	int64_t M, N, K, lda, ldb, ldc, ldres;
	int32_t at, bt, ct, ta, tb, sum, bias, res; /* bias, res: dtype or -1; sum: C is added to */
};
enum { N_MEM = 6, CACHE = 512 };
struct prim {
	struct key key;
	dnnl_primitive_t p;
	dnnl_exec_arg_t arg[N_MEM];
	int n_arg, used;
	size_t pad;
};
struct gemm_cache {
	dnnl_engine_t engine;
	dnnl_stream_t stream;
	int n;
	struct prim slot[CACHE]; /* open addressing on the key */
};

static void check(dnnl_status_t s, const char *what)
{
	if (s != dnnl_success) {
		fprintf(stderr, "cpu kernels: oneDNN failed with status %d in %s\n", (int)s, what);
		abort();
	}
}

static dnnl_data_type_t dnn_type(int dtype)
{
	return dtype == DT_BF16 ? dnnl_bf16 : dnnl_f32;
}

static dnnl_memory_desc_t desc(int64_t rows, int64_t cols, int dtype, int trans, int64_t ld)
{
	dnnl_memory_desc_t m;
	dnnl_dims_t dim = { rows, cols }, stride = { trans ? 1 : ld, trans ? ld : 1 };
	DNN(dnnl_memory_desc_init_by_strides(&m, 2, dim, dnn_type(dtype), stride));
	return m;
}

/* NULL when oneDNN has no kernel for it */
static dnnl_primitive_desc_t describe(struct gemm_cache *g, const struct key *k)
{
	dnnl_memory_desc_t a = desc(k->M, k->K, k->at, k->ta, k->lda), b = desc(k->K, k->N, k->bt, k->tb, k->ldb);
	dnnl_memory_desc_t c = desc(k->M, k->N, k->ct, 0, k->ldc), bias = { 0 }, res;
	if (k->bias >= 0)
		bias = desc(1, k->N, k->bias, 0, k->N);
	dnnl_matmul_desc_t md;
	DNN(dnnl_matmul_desc_init(&md, &a, &b, k->bias >= 0 ? &bias : NULL, &c));
	dnnl_primitive_attr_t attr;
	dnnl_post_ops_t ops;
	DNN(dnnl_primitive_attr_create(&attr));
	DNN(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
	DNN(dnnl_post_ops_create(&ops));
	if (k->sum)
		DNN(dnnl_post_ops_append_sum(ops, 1.0f));
	if (k->res >= 0) {
		res = desc(k->M, k->N, k->res, 0, k->ldres);
		DNN(dnnl_post_ops_append_binary(ops, dnnl_binary_add, &res));
	}
	DNN(dnnl_primitive_attr_set_post_ops(attr, ops));
	dnnl_primitive_desc_t pd = NULL;
	if (dnnl_primitive_desc_create(&pd, &md, attr, g->engine, NULL) != dnnl_success)
		pd = NULL;
	dnnl_post_ops_destroy(ops);
	dnnl_primitive_attr_destroy(attr);
	return pd;
}

/* 1 if bf16 products run on a real kernel here, not on oneDNN's plain loops */
static int has_bf16(struct gemm_cache *g)
{
	struct key k = { .M = 64, .N = 64, .K = 64, .lda = 64, .ldb = 64, .ldc = 64, .at = DT_BF16, .bt = DT_BF16,
			 .ct = DT_F32, .tb = 1, .bias = -1, .res = -1 };
	dnnl_primitive_desc_t pd = describe(g, &k);
	if (!pd)
		return 0;
	const char *name = "ref";
	DNN(dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&name));
	int fast = strncmp(name, "ref", 3) != 0;
	dnnl_primitive_desc_destroy(pd);
	return fast;
}

struct gemm_cache *gemm_open(struct dev *d)
{
	struct gemm_cache *g = calloc(1, sizeof *g);
	if (!g)
		return NULL;
	if (dnnl_engine_create(&g->engine, dnnl_cpu, 0) != dnnl_success ||
	    dnnl_stream_create(&g->stream, g->engine, dnnl_stream_default_flags) != dnnl_success) {
		free(g);
		return NULL;
	}
	d->bf16_gemm = d->simd == &simd_v4b && has_bf16(g); /* emulated bf16 is slower than converting to f32 */
	return g;
}

static void forget_all(struct gemm_cache *g)
{
	for (int i = 0; i < CACHE; i++) {
		struct prim *p = &g->slot[i];
		if (!p->used)
			continue;
		for (int a = 0; a < p->n_arg; a++)
			dnnl_memory_destroy(p->arg[a].memory);
		dnnl_primitive_destroy(p->p);
		p->used = 0;
	}
	g->n = 0;
}

void gemm_close(struct gemm_cache *g)
{
	forget_all(g);
	dnnl_stream_destroy(g->stream);
	dnnl_engine_destroy(g->engine);
	free(g);
}

static void add_arg(struct gemm_cache *g, struct prim *p, int arg, const dnnl_memory_desc_t *md)
{
	p->arg[p->n_arg].arg = arg;
	DNN(dnnl_memory_create(&p->arg[p->n_arg].memory, md, g->engine, DNNL_MEMORY_NONE));
	p->n_arg++;
}

static void build(struct dev *d, struct prim *p, const struct key *k)
{
	struct gemm_cache *g = d->gemm;
	memset(p, 0, sizeof *p);
	p->key = *k;
	p->used = 1;
	omp_set_num_threads(d->threads); /* the primitive is cut for this many */
	dnnl_primitive_desc_t pd = describe(g, k);
	if (!pd)
		check(dnnl_unimplemented, "matmul");
	DNN(dnnl_primitive_create(&p->p, pd));
	add_arg(g, p, DNNL_ARG_SRC, dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0));
	add_arg(g, p, DNNL_ARG_WEIGHTS, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0));
	add_arg(g, p, DNNL_ARG_DST, dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0));
	const dnnl_memory_desc_t *pad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
	p->pad = dnnl_memory_desc_get_size(pad);
	add_arg(g, p, DNNL_ARG_SCRATCHPAD, pad);
	if (k->bias >= 0)
		add_arg(g, p, DNNL_ARG_BIAS, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 1));
	if (k->res >= 0) {
		dnnl_memory_desc_t res = desc(k->M, k->N, k->res, 0, k->ldres);
		add_arg(g, p, DNNL_ARG_ATTR_MULTIPLE_POST_OP(k->sum ? 1 : 0) | DNNL_ARG_SRC_1, &res);
	}
	dnnl_primitive_desc_destroy(pd);
}

static struct prim *lookup(struct dev *d, const struct key *k)
{
	struct gemm_cache *g = d->gemm;
	uint64_t h = 1469598103934665603u;
	for (size_t i = 0; i < sizeof *k; i++)
		h = (h ^ ((const unsigned char *)k)[i]) * 1099511628211u;
	if (g->n > CACHE * 3 / 4)
		forget_all(g);
	for (unsigned i = (unsigned)(h >> 32);; i++) {
		struct prim *p = &g->slot[i % CACHE];
		if (!p->used) {
			build(d, p, k);
			g->n++;
			return p;
		}
		if (!memcmp(&p->key, k, sizeof *k))
			return p;
	}
}

/* The product as it stands: A and B of one dtype that oneDNN handles here */
static void direct(struct dev *d, const struct product *q)
{
	int in_place = q->acc || (q->res.p && q->res.p == q->C);
	struct key k;
	memset(&k, 0, sizeof k); /* compared as bytes */
	k.M = q->M;
	k.N = q->N;
	k.K = q->K;
	k.lda = q->A.ld;
	k.ldb = q->B.ld;
	k.ldc = q->ldc;
	k.at = q->A.dtype;
	k.bt = q->B.dtype;
	k.ct = q->c_dtype;
	k.ta = q->A.trans;
	k.tb = q->B.trans;
	k.sum = in_place;
	k.bias = q->bias.p ? q->bias.dtype : -1;
	k.res = q->res.p && q->res.p != q->C ? q->res.dtype : -1;
	k.ldres = k.res >= 0 ? q->res.cols : 0;
	struct prim *p = lookup(d, &k);
	const void *ptr[N_MEM] = { q->A.p, q->B.p, q->C, scratch(d, S_DNNL, p->pad) };
	if (d->planning)
		return;
	int n = 4;
	if (k.bias >= 0)
		ptr[n++] = q->bias.p;
	if (k.res >= 0)
		ptr[n++] = q->res.p;
	for (int i = 0; i < n; i++)
		DNN(dnnl_memory_set_data_handle(p->arg[i].memory, (void *)(uintptr_t)ptr[i]));
	DNN(dnnl_primitive_execute(p->p, d->gemm->stream, p->n_arg, p->arg));
	DNN(dnnl_stream_wait(d->gemm->stream));
}

/* Stored rows x cols of a factor as dense f32 in slot s; a factor that is f32 already stays where it is. */
static struct factor as_f32(struct dev *d, enum slot s, struct factor f, int64_t rows, int64_t cols)
{
	if (f.dtype == DT_F32)
		return f;
	float *out = scratch(d, s, (size_t)(rows * cols) * sizeof *out);
	const uint16_t *in = f.p;
	int64_t ld = f.ld;
	if (d->planning)
		return (struct factor){ out, DT_F32, f.trans, cols };
#pragma omp parallel for num_threads(d->threads) schedule(static)
	for (int64_t r = 0; r < rows; r++)
		d->simd->cvt(out + r * cols, DT_F32, in + r * ld, DT_BF16, 1.0f, cols);
	return (struct factor){ out, DT_F32, f.trans, cols };
}

static struct factor columns(struct factor f, int64_t n0)
{
	f.p = (const char *)f.p + (size_t)(f.trans ? n0 * f.ld : n0) * dtype_size(f.dtype);
	return f;
}

/* y = [y +] tile [+ res] row by row, with conversion */
static void settle(struct dev *d, const struct product *q, const float *tile, int64_t n0, int64_t n)
{
	size_t cs = dtype_size(q->c_dtype), rs = dtype_size(q->res.dtype);
#pragma omp parallel for num_threads(d->threads) schedule(static)
	for (int64_t m = 0; m < q->M; m++) {
		char *y = (char *)q->C + (size_t)(m * q->ldc + n0) * cs;
		const char *r = q->res.p ? (const char *)q->res.p + (size_t)(m * q->res.cols + n0) * rs : NULL;
		if (r)
			d->simd->lincomb(y, q->c_dtype, q->acc, tile + m * n, DT_F32, 1.0f, r, q->res.dtype, 1.0f, n);
		else
			d->simd->lincomb(y, q->c_dtype, q->acc, tile + m * n, DT_F32, 1.0f, NULL, DT_F32, 0.0f, n);
	}
}

/* The product in f32, by tiles of columns, operands converted where they are not f32 */
static void converted(struct dev *d, const struct product *q)
{
	enum { TILE = 4 << 20 };
	int64_t step = TILE / (q->K > q->M ? q->K : q->M);
	step = step < 64 ? 64 : step;
	struct factor A = as_f32(d, S_GEMM_A, q->A, q->A.trans ? q->K : q->M, q->A.trans ? q->M : q->K);
	for (int64_t n0 = 0; n0 < q->N; n0 += step) {
		int64_t n = q->N - n0 < step ? q->N - n0 : step;
		struct product t = *q;
		struct factor B = columns(q->B, n0);
		t.A = A;
		t.B = as_f32(d, S_GEMM_B, B, B.trans ? n : q->K, B.trans ? q->K : n);
		t.N = n;
		t.acc = 0;
		t.C = scratch(d, S_GEMM_C, (size_t)(q->M * n) * sizeof(float));
		t.c_dtype = DT_F32;
		t.ldc = n;
		t.res.p = NULL;
		if (q->bias.p) {
			t.bias = (mat){ scratch(d, S_GEMM_BIAS, (size_t)n * sizeof(float)), 1, n, DT_F32, 0 };
			if (!d->planning)
				d->simd->cvt(t.bias.p, DT_F32, elem_at(q->bias, n0), q->bias.dtype, 1.0f, n);
		}
		direct(d, &t);
		if (!d->planning)
			settle(d, q, t.C, n0, n);
	}
}

void gemm(struct dev *d, const struct product *q)
{
	if (q->M <= 0 || q->N <= 0)
		return;
	int same = q->A.dtype == q->B.dtype;
	int plain = !q->bias.p || q->bias.dtype == DT_F32 || q->A.dtype == DT_BF16;
	plain &= !q->res.p || q->res.dtype == q->c_dtype;
	if (same && plain && q->A.dtype == DT_BF16 && d->bf16_gemm)
		direct(d, q);
	else if (same && plain && q->A.dtype == DT_F32 && q->c_dtype == DT_F32)
		direct(d, q);
	else
		converted(d, q);
}
