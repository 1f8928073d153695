/*
 * cpu_gemm.c - matrix products by oneDNN, cut into tiles of C that threads take in turn; one cached primitive per shape of tile
 *
 * Who finishes a tile takes the next one, so a core that another process shares does less and nobody waits for it (a static
 * split runs at the pace of the slowest core). 
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
	dnnl_exec_arg_t *arg;  /* [threads][N_MEM] */
	int n_arg, used;
	size_t pad;            /* bytes of scratch that one execution needs, a multiple of 64 */
};
struct gemm_cache {
	dnnl_engine_t engine;
	dnnl_stream_t stream;
	int n, threads;
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
	g->threads = d->threads;
	d->bf16_gemm = d->simd == &simd_v4b && has_bf16(g); /* emulated bf16 is slower than converting to f32 */
	return g;
}

static void forget_all(struct gemm_cache *g)
{
	for (int i = 0; i < CACHE; i++) {
		struct prim *p = &g->slot[i];
		if (!p->used)
			continue;
		for (int t = 0; t < g->threads; t++)
			for (int a = 0; a < p->n_arg; a++)
				dnnl_memory_destroy(p->arg[t * N_MEM + a].memory);
		dnnl_primitive_destroy(p->p);
		free(p->arg);
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

/* The next argument of p, an object for each thread: where it lies is set at every execution */
static void add_arg(struct gemm_cache *g, struct prim *p, int arg, const dnnl_memory_desc_t *md)
{
	for (int t = 0; t < g->threads; t++) {
		dnnl_exec_arg_t *to = &p->arg[t * N_MEM + p->n_arg];
		to->arg = arg;
		DNN(dnnl_memory_create(&to->memory, md, g->engine, DNNL_MEMORY_NONE));
	}
	p->n_arg++;
}

static void build(struct gemm_cache *g, struct prim *p, const struct key *k)
{
	memset(p, 0, sizeof *p);
	p->key = *k;
	p->used = 1;
	dnnl_primitive_desc_t pd = describe(g, k);
	p->arg = calloc((size_t)g->threads * N_MEM, sizeof *p->arg);
	if (!pd || !p->arg)
		check(pd ? dnnl_out_of_memory : dnnl_unimplemented, "matmul");
	DNN(dnnl_primitive_create(&p->p, pd));
	add_arg(g, p, DNNL_ARG_SRC, dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0));
	add_arg(g, p, DNNL_ARG_WEIGHTS, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0));
	add_arg(g, p, DNNL_ARG_DST, dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0));
	const dnnl_memory_desc_t *pad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
	p->pad = (dnnl_memory_desc_get_size(pad) + 63) / 64 * 64;
	add_arg(g, p, DNNL_ARG_SCRATCHPAD, pad);
	if (k->bias >= 0)
		add_arg(g, p, DNNL_ARG_BIAS, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 1));
	if (k->res >= 0) {
		dnnl_memory_desc_t res = desc(k->M, k->N, k->res, 0, k->ldres);
		add_arg(g, p, DNNL_ARG_ATTR_MULTIPLE_POST_OP(k->sum ? 1 : 0) | DNNL_ARG_SRC_1, &res);
	}
	dnnl_primitive_desc_destroy(pd);
}

static struct prim *lookup(struct gemm_cache *g, const struct key *k)
{
	uint64_t h = 1469598103934665603u;
	for (size_t i = 0; i < sizeof *k; i++)
		h = (h ^ ((const unsigned char *)k)[i]) * 1099511628211u;
	for (unsigned i = (unsigned)(h >> 32);; i++) {
		struct prim *p = &g->slot[i % CACHE];
		if (!p->used) {
			build(g, p, k);
			g->n++;
			return p;
		}
		if (!memcmp(&p->key, k, sizeof *k))
			return p;
	}
}

/* How many parts of at most `most` n is cut into, and (*step) how long they are: a multiple of 64, the last one may be shorter */
static int64_t cut(int64_t n, int64_t most, int64_t *step)
{
	int64_t parts = (n + most - 1) / most;
	*step = ((n + parts - 1) / parts + 63) / 64 * 64;
	return (n + *step - 1) / *step;
}

/*
 * Tiles of C [M,N], some for every thread, whole rows as long as that gives enough of them (each tile rearranges its part of B,
 * or of A where A is transposed: few rows of C would pay for that too often); one thread takes C whole
 */
struct grid {
	int64_t m, n;       /* tiles down, across */
	int64_t dm, dn;     /* rows, columns of a tile */
};
static struct grid tiles(const struct product *q, int threads)
{
	enum { EACH = 6, MOST = 512, COLS = 256, F32_MOST = 1024 };
	struct grid t = { 1, 1, q->M, q->N };
	if (threads == 1)
		return t;
	int64_t least = q->A.trans ? 128 : 256, rows = q->M / (EACH * threads);
	t.m = cut(q->M, rows < least ? least : rows > MOST ? MOST : rows, &t.dm);
	int64_t cols = q->N * t.m / (EACH * threads);
	if (q->A.dtype == DT_F32 && cols > F32_MOST)
		cols = F32_MOST;
	if (cols < q->N)
		t.n = cut(q->N, cols < COLS ? COLS : cols, &t.dn);
	return t;
}

static struct key key_of(const struct product *q)
{
	struct key k;
	memset(&k, 0, sizeof k); /* compared as bytes */
	k.lda = q->A.ld;
	k.ldb = q->B.ld;
	k.ldc = q->ldc;
	k.K = q->K;
	k.at = q->A.dtype;
	k.bt = q->B.dtype;
	k.ct = q->c_dtype;
	k.ta = q->A.trans;
	k.tb = q->B.trans;
	k.sum = q->acc || (q->res.p && q->res.p == q->C);
	k.bias = q->bias.p ? q->bias.dtype : -1;
	k.res = q->res.p && q->res.p != q->C ? q->res.dtype : -1;
	k.ldres = k.res >= 0 ? q->res.cols : 0;
	return k;
}

/* Factors from row m on, from column n on */
static struct factor rows(struct factor f, int64_t m)
{
	f.p = (const char *)f.p + (size_t)(f.trans ? m : m * f.ld) * dtype_size(f.dtype);
	return f;
}

static struct factor columns(struct factor f, int64_t n)
{
	f.p = (const char *)f.p + (size_t)(f.trans ? n * f.ld : n) * dtype_size(f.dtype);
	return f;
}

/* The tile of C whose first element is (m, n), by thread t with its scratch */
static void one_tile(struct gemm_cache *g, const struct prim *p, const struct product *q, int64_t m, int64_t n, int t, char *pad)
{
	char *C = (char *)q->C + (size_t)(m * q->ldc + n) * dtype_size(q->c_dtype);
	const void *at[N_MEM] = { rows(q->A, m).p, columns(q->B, n).p, C, pad };
	int k = 4;
	if (p->key.bias >= 0)
		at[k++] = elem_at(q->bias, n);
	if (p->key.res >= 0)
		at[k++] = elem_at(q->res, m * q->res.cols + n);
	dnnl_exec_arg_t *arg = p->arg + t * N_MEM;
	for (int i = 0; i < k; i++)
		DNN(dnnl_memory_set_data_handle(arg[i].memory, (void *)(uintptr_t)at[i]));
	DNN(dnnl_primitive_execute(p->p, g->stream, p->n_arg, arg));
}

/* The product as it stands: A and B of one dtype that oneDNN handles here */
static void direct(struct dev *d, const struct product *q)
{
	struct gemm_cache *g = d->gemm;
	struct grid t = tiles(q, d->threads);
	struct prim *p[2][2]; /* [last row of tiles][last column] */
	size_t pad = 0;
	omp_set_num_threads(1); /* to oneDNN, here and in the threads below: a tile is one thread's, its scratch too */
	if (g->n + 4 > CACHE * 3 / 4)
		forget_all(g);
	struct key k = key_of(q);
	for (int i = 0; i < 4; i++) {
		if ((i / 2 == 0 && t.m == 1) || (i % 2 == 0 && t.n == 1))
			continue; /* a single row or column of tiles is the last one */
		k.M = i / 2 ? q->M - (t.m - 1) * t.dm : t.dm;
		k.N = i % 2 ? q->N - (t.n - 1) * t.dn : t.dn;
		p[i / 2][i % 2] = lookup(g, &k);
		pad = p[i / 2][i % 2]->pad > pad ? p[i / 2][i % 2]->pad : pad;
	}
	char *scr = scratch(d, S_DNNL, pad * (size_t)d->threads);
	if (d->planning)
		return;
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (int64_t i = 0; i < t.m * t.n; i++) {
		int64_t m = i / t.n, n = i % t.n;
		int me = omp_get_thread_num();
		one_tile(g, p[m == t.m - 1][n == t.n - 1], q, m * t.dm, n * t.dn, me, scr + pad * (size_t)me);
	}
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
