/*
 * gemm.c - bench-gemm: matrix products of the CPU backend and of oneDNN with prepacked weights, in turn
 *
 * The only place besides kernels/cpu that sees oneDNN and OpenMP: here they are the peer.  oneDNN cuts a product for as
 * many threads as OpenMP would start; the backend changes that for itself, so the peer sets its own before every call.
 * Both run in this process, on the same operands, one after the other, pair by pair; medians of the pairs go out as one
 * JSON object a product:
 *
 *	fwd  y [M,O] = x [M,I] W'     dx  x [M,I] = y [M,O] W     dw  dW [O,I] f32 += y' x
 *
 * The peer's W is packed in oneDNN's own blocked layout outside of the timed part; its dW overwrites (ours adds) and
 * takes both operands plainly, because both are new in every step.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/base/opt.h"
#include "../../kernels/kernels.h"
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DNN(call) check((call), #call)
enum form { FWD, DX, DW };
enum { MAX_PAIRS = 99 };
static const char *const form_name[] = { "fwd", "dx", "dw" };
static const struct kernels *K;
static struct dev *D;

struct peer {
	dnnl_primitive_t p;
	dnnl_exec_arg_t arg[3];
};
static dnnl_engine_t engine;
static dnnl_stream_t stream;
static int threads;

static void check(dnnl_status_t s, const char *what)
{
	if (s != dnnl_success)
		die(EXIT_FAIL, "oneDNN failed with status %d in %s", (int)s, what);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Filled with numbers of about 1/3, so that sums over thousands stay finite in any dtype */
static mat make(int64_t rows, int64_t cols, int dtype)
{
	uint32_t s = 1;
	int64_t n = rows * cols;
	mat m = { K->mem_alloc(D, (size_t)n * dtype_size(dtype)), rows, cols, dtype, 0 };
	if (!m.p)
		die(EXIT_RESOURCE, "no memory for %lld x %lld", (long long)rows, (long long)cols);
	for (int64_t i = 0; i < n; i++) {
		s = s * 1664525u + 1013904223u;
		float x = ((float)(s >> 8) / 8388608.0f - 1.0f) * 0.3f;
		if (dtype == DT_BF16)
			((uint16_t *)m.p)[i] = f32_to_bf16(x);
		else
			((float *)m.p)[i] = x;
	}
	return m;
}

static void drop(mat m)
{
	K->mem_free(D, m.p, (size_t)(m.rows * m.cols) * dtype_size(m.dtype));
}

static dnnl_memory_desc_t desc(int64_t rows, int64_t cols, int dtype, dnnl_format_tag_t tag)
{
	dnnl_memory_desc_t m;
	dnnl_dims_t dim = { rows, cols };
	DNN(dnnl_memory_desc_init_by_tag(&m, 2, dim, dtype == DT_BF16 ? dnnl_bf16 : dnnl_f32, tag));
	return m;
}

/* dst [M,N] = src [M,K] weights [K,N]; stags, wtag: how the operands lie; pack: oneDNN may choose the weights' layout */
static struct peer peer_make(mat dst, mat src, dnnl_format_tag_t stag, mat weights, dnnl_format_tag_t wtag, int64_t k, int pack)
{
	struct peer q;
	dnnl_memory_desc_t a = desc(dst.rows, k, src.dtype, stag), plain = desc(k, dst.cols, weights.dtype, wtag);
	dnnl_memory_desc_t b = pack ? desc(k, dst.cols, weights.dtype, dnnl_format_tag_any) : plain;
	dnnl_memory_desc_t c = desc(dst.rows, dst.cols, dst.dtype, dnnl_ab);
	dnnl_matmul_desc_t md;
	dnnl_primitive_desc_t pd, rd;
	dnnl_memory_t from, to;
	dnnl_primitive_t reorder;
	omp_set_num_threads(threads);
	DNN(dnnl_matmul_desc_init(&md, &a, &b, NULL, &c));
	DNN(dnnl_primitive_desc_create(&pd, &md, NULL, engine, NULL));
	DNN(dnnl_primitive_create(&q.p, pd));
	DNN(dnnl_memory_create(&from, &plain, engine, weights.p));
	to = from;
	if (pack) {
		const dnnl_memory_desc_t *packed = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
		DNN(dnnl_memory_create(&to, packed, engine, DNNL_MEMORY_ALLOCATE));
		DNN(dnnl_reorder_primitive_desc_create(&rd, &plain, engine, packed, engine, NULL));
		DNN(dnnl_primitive_create(&reorder, rd));
		dnnl_exec_arg_t arg[] = { { DNNL_ARG_FROM, from }, { DNNL_ARG_TO, to } };
		DNN(dnnl_primitive_execute(reorder, stream, 2, arg));
		DNN(dnnl_stream_wait(stream));
		dnnl_primitive_destroy(reorder);
		dnnl_primitive_desc_destroy(rd);
		dnnl_memory_destroy(from);
	}
	q.arg[0].arg = DNNL_ARG_SRC;
	q.arg[1] = (dnnl_exec_arg_t){ DNNL_ARG_WEIGHTS, to };
	q.arg[2].arg = DNNL_ARG_DST;
	DNN(dnnl_memory_create(&q.arg[0].memory, &a, engine, src.p));
	DNN(dnnl_memory_create(&q.arg[2].memory, &c, engine, dst.p));
	dnnl_primitive_desc_destroy(pd);
	return q;
}

static void peer_run(const struct peer *q)
{
	omp_set_num_threads(threads);
	DNN(dnnl_primitive_execute(q->p, stream, 3, q->arg));
	DNN(dnnl_stream_wait(stream));
}

static void peer_drop(struct peer *q)
{
	for (int i = 0; i < 3; i++)
		dnnl_memory_destroy(q->arg[i].memory);
	dnnl_primitive_destroy(q->p);
}

static void ours_run(enum form f, mat x, mat W, mat y, mat dW)
{
	const mat none = { 0 };
	if (f == FWD)
		K->linear(D, y, x, W, none, none);
	else if (f == DX)
		K->linear_dx(D, x, y, W, 0);
	else
		K->linear_dw(D, dW, none, y, x);
}

static int up(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof *v, up);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Pairs of equally many calls, each long enough for the clock: at least 3 ms */
static void measure(enum form f, int64_t M, int64_t I, int64_t O, int dt, int pairs)
{
	mat x = make(M, I, dt), W = make(O, I, dt), y = make(M, O, dt), dW = { 0 };
	double flop = 2e-9 * (double)M * (double)I * (double)O, ours[MAX_PAIRS], theirs[MAX_PAIRS];
	struct peer q;
	if (f == DW)
		dW = make(O, I, DT_F32);
	W.stable = 1;
	if (f == FWD)
		q = peer_make(y, x, dnnl_ab, W, dnnl_ba, I, 1);
	else if (f == DX)
		q = peer_make(x, y, dnnl_ab, W, dnnl_ab, O, 1);
	else
		q = peer_make(dW, y, dnnl_ba, x, dnnl_ab, M, 0);
	ours_run(f, x, W, y, dW);
	peer_run(&q);
	double t = now();
	ours_run(f, x, W, y, dW);
	int calls = 1 + (int)(3e-3 / (now() - t));
	for (int i = 0; i < pairs; i++) {
		t = now();
		for (int k = 0; k < calls; k++)
			ours_run(f, x, W, y, dW);
		double u = now();
		for (int k = 0; k < calls; k++)
			peer_run(&q);
		ours[i] = flop * calls / (u - t);
		theirs[i] = flop * calls / (now() - u);
	}
	double a = median(ours, pairs), b = median(theirs, pairs);
	printf("{\"form\":\"%s\",\"rows\":%lld,\"in\":%lld,\"out\":%lld,\"dtype\":\"%s\",\"ours\":%.4g,\"onednn\":%.4g,\"ratio\":%.4g}\n",
	       form_name[f], (long long)M, (long long)I, (long long)O, dt == DT_BF16 ? "bf16" : "f32", a, b, a / b);
	fflush(stdout);
	peer_drop(&q);
	drop(x), drop(W), drop(y);
	if (f == DW)
		drop(dW);
}

static int64_t pairs = 9;
static const char *dtype = "bf16";
static const struct opt opts[] = {
	OPT_I64('p', "pairs", &pairs, "N", "measurements of each side", 1, MAX_PAIRS),
	OPT_CHOICE(0, "dtype", &dtype, "f32|bf16", "of the operands"),
	OPT_COMMON_ROWS, OPT_END
};
static const struct usage usage = {
	"bench-gemm", "Times matrix products of the CPU backend and of oneDNN with prepacked weights, in turn.",
	"FORM:ROWS:IN:OUT...",
	"bench-gemm fwd:2048:576:1536 dw:2048:576:1536\n"
	"bench-gemm --threads 1 --dtype f32 fwd:512:576:576",
	opts,
};

int main(int argc, char **argv)
{
	char why[256], word[4], tail;
	int n = opt_parse(&usage, argc, argv), dt = !strcmp(dtype, "bf16") ? DT_BF16 : DT_F32;
	K = kernels_open("cpu", why);
	if (!K)
		die(EXIT_RESOURCE, "%s", why);
	threads = com.threads ? (int)com.threads : omp_get_num_procs();
	D = K->dev_open(threads);
	DNN(dnnl_engine_create(&engine, dnnl_cpu, 0));
	DNN(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags));
	for (int i = 0; i < n; i++) {
		long long M, I, O;
		int f = 0;
		if (sscanf(argv[i], "%3[a-z]:%lld:%lld:%lld%c", word, &M, &I, &O, &tail) != 4 || M < 1 || I < 1 || O < 1)
			opt_die("'%s' is not FORM:ROWS:IN:OUT", argv[i]);
		while (f < 3 && strcmp(word, form_name[f]))
			f++;
		if (f == 3)
			opt_die("'%s': the form is fwd, dx or dw", argv[i]);
		measure((enum form)f, M, I, O, dt, (int)pairs);
	}
	dnnl_stream_destroy(stream);
	dnnl_engine_destroy(engine);
	K->dev_close(D);
	return 0;
}
