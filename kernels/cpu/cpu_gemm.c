/*
 * cpu_gemm.c - matrix products by oneDNN, cut into tiles of C that threads take in turn; one cached primitive per shape of tile
 *
 * Who finishes a tile takes the next one, so a core that another process shares does less and nobody waits for it (a static
 * split runs at the pace of the slowest core). 
 *
 * Operands are read where they lie, with strides.  Where many rows of A meet a B of moderate size, B is first rearranged as
 * oneDNN likes it, once for all tiles, into scratch: each tile would do that for itself otherwise, and a second copy of every
 * weight is not worth it (NOTES.md).  bias, residual and accumulation ride along as post-ops, on the
 * f32 accumulator.  A product that oneDNN cannot do as it stands (mixed dtypes, or bf16 where the machine has no
 * kernel for it) is done in f32 on converted column tiles of bounded size.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include "cpu_tiles.h"
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DNN(call) check((call), #call)

struct key {
	int64_t M, N, K, lda, ldb, ldc, ldres;
	int32_t at, bt, ct, ta, tb, sum, bias, res; /* bias, res: dtype or -1; sum: C is added to */
	int64_t packed;        /* B is rearranged first */
};
enum { N_MEM = 6, CACHE = 512 };
/* Rearranges columns of B: pieces of `cols` columns, the last one maybe shorter, each by one thread */
struct packing {
	dnnl_primitive_t p[2];     /* a piece, the last piece */
	dnnl_exec_arg_t *arg;      /* [2][threads][2] */
	int64_t cols, pieces;
	size_t step, bytes;        /* from one piece to the next; of all */
};
struct prim {
	struct key key;
	dnnl_primitive_t p;
	dnnl_exec_arg_t *arg;  /* [threads][N_MEM] */
	int n_arg, used;
	size_t pad;            /* bytes of scratch that one execution needs, a multiple of 64 */
	struct packing pack;   /* key.packed: how B gets there, */
	dnnl_memory_desc_t layout; /* and where it has to be */
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
	if (k->packed)
		DNN(dnnl_memory_desc_init_by_tag(&b, 2, b.dims, b.data_type, dnnl_format_tag_any));
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

static void forget_packing(struct gemm_cache *g, struct packing *k)
{
	for (int i = 0; k->arg && i < 4 * g->threads; i++)
		dnnl_memory_destroy(k->arg[i].memory);
	for (int i = 0; k->arg && i < 2; i++)
		dnnl_primitive_destroy(k->p[i]);
	free(k->arg);
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
		forget_packing(g, &p->pack);
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

/* Columns of a block when B in layout m is one block of columns after the other, else 0 */
static int64_t column_block(const dnnl_memory_desc_t *m)
{
	const dnnl_blocking_desc_t *b = &m->format_desc.blocking;
	int64_t block = 1;
	if (m->format_kind != dnnl_blocked || b->strides[1] < b->strides[0])
		return 0;
	for (int i = 0; i < b->inner_nblks; i++)
		block *= b->inner_idxs[i] == 1 ? b->inner_blks[i] : 1;
	return block;
}

static void build_packing(struct gemm_cache *g, struct prim *p, const dnnl_memory_desc_t *layout)
{
	enum { COLS = 256 };
	const struct key *k = &p->key;
	struct packing *to = &p->pack;
	int64_t block = column_block(layout);
	p->layout = *layout;
	to->cols = block ? (COLS + block - 1) / block * block : k->N;
	to->pieces = (k->N + to->cols - 1) / to->cols;
	to->step = block ? (size_t)(to->cols / block * layout->format_desc.blocking.strides[1]) * dtype_size(k->bt) : 0;
	to->bytes = (dnnl_memory_desc_get_size(layout) + 63) / 64 * 64;
	to->arg = calloc((size_t)g->threads * 4, sizeof *to->arg);
	if (!to->arg)
		check(dnnl_out_of_memory, "reorder");
	for (int last = 0; last < 2; last++) {
		int64_t n = last ? k->N - (to->pieces - 1) * to->cols : to->pieces > 1 ? to->cols : k->N;
		dnnl_memory_desc_t from = desc(k->K, n, k->bt, k->tb, k->ldb), piece = *layout;
		dnnl_primitive_desc_t pd;
		piece.dims[1] = n;
		piece.padded_dims[1] = block ? (n + block - 1) / block * block : layout->padded_dims[1];
		DNN(dnnl_reorder_primitive_desc_create(&pd, &from, g->engine, &piece, g->engine, NULL));
		DNN(dnnl_primitive_create(&to->p[last], pd));
		dnnl_primitive_desc_destroy(pd);
		for (int t = 0; t < 2 * g->threads; t++) {
			dnnl_exec_arg_t *a = to->arg + last * 2 * g->threads + t;
			a->arg = t % 2 ? DNNL_ARG_TO : DNNL_ARG_FROM;
			DNN(dnnl_memory_create(&a->memory, t % 2 ? &piece : &from, g->engine, DNNL_MEMORY_NONE));
		}
	}
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
	if (k->packed)
		build_packing(g, p, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0));
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

/* Whether rearranging B once is paid for by the rows that meet it */
static int packs(const struct product *q)
{
	enum { ROWS = 1024, MOST = 8 << 20 };
	return q->A.dtype == DT_BF16 && !q->A.trans && q->M >= ROWS && q->N >= 64 && q->K >= 64 && q->N <= MOST / q->K;
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
	k.packed = packs(q);
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

/* Piece i of the columns of B from n on, by thread t */
static void pack_piece(struct gemm_cache *g, const struct packing *k, const struct product *q, int64_t n, int64_t i, int t, char *to)
{
	int last = i == k->pieces - 1;
	dnnl_exec_arg_t *arg = k->arg + 2 * (last * g->threads + t);
	DNN(dnnl_memory_set_data_handle(arg[0].memory, (void *)(uintptr_t)columns(q->B, n + i * k->cols).p));
	DNN(dnnl_memory_set_data_handle(arg[1].memory, to + (size_t)i * k->step));
	DNN(dnnl_primitive_execute(k->p[last], g->stream, 2, arg));
}

/* The tile of C whose first element is (m, n), by thread t with its scratch; B: the tile's columns of it */
static void one_tile(struct gemm_cache *g, const struct prim *p, const struct product *q, int64_t m, int64_t n, const void *B, int t, char *pad)
{
	char *C = (char *)q->C + (size_t)(m * q->ldc + n) * dtype_size(q->c_dtype);
	const void *at[N_MEM] = { rows(q->A, m).p, B, C, pad };
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

/* Primitives of all tiles: p[last row of tiles][last column]; their scratch in *pad */
static void look_up(struct gemm_cache *g, const struct product *q, const struct tiles *t, struct key *k, struct prim *p[2][2], size_t *pad)
{
	*pad = 0;
	for (int i = 0; i < 4; i++) {
		if ((i / 2 == 0 && t->m == 1) || (i % 2 == 0 && t->n == 1))
			continue; /* a single row or column of tiles is the last one */
		k->M = i / 2 ? q->M - (t->m - 1) * t->dm : t->dm;
		k->N = i % 2 ? q->N - (t->n - 1) * t->dn : t->dn;
		struct prim *x = p[i / 2][i % 2] = lookup(g, k);
		*pad = x->pad > *pad ? x->pad : *pad;
		if (i / 2 && t->m > 1 && k->packed && !dnnl_memory_desc_equal(&x->layout, &p[0][i % 2]->layout))
			k->packed = 0;
	}
}

/* The product as it stands: A and B of one dtype that oneDNN handles here */
static void direct(struct dev *d, const struct product *q)
{
	struct gemm_cache *g = d->gemm;
	struct tiles t = tiles_of(q->M, q->N, q->A.trans, q->A.dtype == DT_F32, d->threads);
	struct prim *p[2][2];
	size_t pad;
	omp_set_num_threads(1); /* to oneDNN, here and in the threads below: a tile is one thread's, its scratch too */
	if (g->n + 8 > CACHE * 3 / 4)
		forget_all(g);
	struct key k = key_of(q);
	look_up(g, q, &t, &k, p, &pad);
	if (!k.packed && packs(q)) /* the last rows want another layout than the others */
		look_up(g, q, &t, &k, p, &pad);
	const struct packing *first = &p[1][t.n == 1]->pack, *last = &p[1][1]->pack;
	char *B = k.packed ? scratch(d, S_PACK, first->bytes * (size_t)t.n) : NULL;
	char *scr = scratch(d, S_DNNL, pad * (size_t)d->threads);
	if (d->planning)
		return;
	if (B) {
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
		for (int64_t i = 0; i < (t.n - 1) * first->pieces + last->pieces; i++) {
			int64_t n = i / first->pieces < t.n ? i / first->pieces : t.n - 1;
			pack_piece(g, n == t.n - 1 ? last : first, q, n * t.dn, i - n * first->pieces, omp_get_thread_num(), B + first->bytes * (size_t)n);
		}
	}
#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (int64_t i = 0; i < t.m * t.n; i++) {
		int64_t m = i / t.n, n = i % t.n;
		int me = omp_get_thread_num();
		const void *b = B ? B + first->bytes * (size_t)n : columns(q->B, n * t.dn).p;
		one_tile(g, p[m == t.m - 1][n == t.n - 1], q, m * t.dm, n * t.dn, b, me, scr + pad * (size_t)me);
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
