/*
 * bench-kernels.c - speed of every kernel that matters, at the shapes of a real teacher and its student
 *
 * --cpu-time with --threads 1 says what a core does even when the machine is busy with other things.
 *
 * Prints one line per op: milliseconds (best of several), GFLOP/s or GB/s, and for matrix work the share of the best
 * matrix product of this run, so that the table can be read on any machine and beside any neighbour.
 * --shapes small, teacher: hidden 576, ffn 1536, 9 heads on 3 kv-heads of 64, vocabulary 49152; student: 448, 1152, 6 on 2.
 * --shapes large, for GPUs: hidden 2048, ffn 8192, 16 heads on 8 of 128, vocabulary 32000; student: 1536, 7168, 12 on 4.
 * On a GPU ten calls are launched at a time and one wait for them is counted with them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/opt.h"
#include "../kernels/kernels.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct kernels *K;
static struct dev *D;
static double peak;
static const char *filter = "";

static clockid_t clock_used = CLOCK_MONOTONIC;

static double now(void)
{
	struct timespec t;
	clock_gettime(clock_used, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static mat make(int64_t rows, int64_t cols, int dtype)
{
	static uint32_t s = 1;
	int64_t n = rows * cols;
	size_t bytes = (size_t)n * dtype_size(dtype);
	mat m = { K->mem_alloc(D, bytes), rows, cols, dtype, 0 };
	if (!m.p)
		exit(1);
	void *host = K->host(m.p), *own = host ? NULL : xcalloc(bytes, 1);
	host = host ? host : own;
	for (int64_t i = 0; i < n && dtype != DT_F64; i++) {
		s = s * 1664525u + 1013904223u;
		float x = ((float)(s >> 8) / 8388608.0f - 1.0f) * 0.3f;
		if (dtype == DT_BF16)
			((uint16_t *)host)[i] = f32_to_bf16(x);
		else if (dtype == DT_F32)
			((float *)host)[i] = x;
		else
			((int32_t *)host)[i] = (int32_t)((s >> 8) % 32000);
	}
	if (own)
		K->upload(D, m.p, own, bytes);
	free(own);
	return m;
}

static void drop(mat m)
{
	K->mem_free(D, m.p, (size_t)(m.rows * m.cols) * dtype_size(m.dtype));
}

/* All that was launched is done */
static void *mark;
static int repeat = 1;

static void finish(void)
{
	char c;
	if (repeat > 1)
		K->download(D, &c, mark, 1);
}

/* Times BODY: one warm-up, then until 0.3 s or 10 runs */
#define TIME(best, BODY)                                                            \
	double best = 1e9;                                                          \
	for (double begin = now(), count_ = 0; count_ < 2 || (now() - begin < 0.4 && count_ < 12); count_++) { \
		double t0_ = now();                                                 \
		for (int again_ = 0; again_ < repeat; again_++)                     \
			BODY;                                                       \
		finish();                                                           \
		t0_ = (now() - t0_) / repeat;                                       \
		if (count_ > 0 && t0_ < best)                                       \
			best = t0_;                                                 \
	}

static void flops(const char *name, const char *shape, double s, double f)
{
	peak = f / s > peak ? f / s : peak;
	printf("%-22s %-26s %9.3f ms %8.1f GFLOP/s  %3.0f %%\n", name, shape, s * 1e3, f / s * 1e-9, 100 * f / s / peak);
	fflush(stdout);
}

static void bytes(const char *name, const char *shape, double s, double b)
{
	printf("%-22s %-26s %9.3f ms %8.1f GB/s\n", name, shape, s * 1e3, b / s * 1e-9);
	fflush(stdout);
}

static int skip(const char *name)
{
	return !strstr(name, filter);
}

static void bench_linear(int64_t N, int64_t I, int64_t O, int dt)
{
	const mat none = { 0 };
	char shape[64];
	double f = 2.0 * (double)N * (double)I * (double)O;
	if (skip("linear"))
		return;
	mat x = make(N, I, dt), W = make(O, I, dt), y = make(N, O, dt), r = make(N, O, dt), dW = make(O, I, DT_F32);
	snprintf(shape, sizeof shape, "%ld x %ld -> %ld %s", (long)N, (long)I, (long)O, dt == DT_BF16 ? "bf16" : "f32");
	TIME(t1, K->linear(D, y, x, W, none, none))
	flops("linear", shape, t1, f);
	TIME(t2, K->linear(D, y, x, W, none, r))
	flops("linear + res", shape, t2, f);
	TIME(t3, K->linear_dx(D, x, y, W, 0))
	flops("linear_dx", shape, t3, f);
	TIME(t4, K->linear_dx(D, x, y, W, 1))
	flops("linear_dx acc", shape, t4, f);
	TIME(t5, K->linear_dw(D, dW, none, y, x))
	flops("linear_dw", shape, t5, f);
	drop(x), drop(W), drop(y), drop(r), drop(dW);
}

static void bench_attn(int64_t B, int64_t T, int H, int G, int d, int dt)
{
	char shape[64];
	struct attn_geom g = { B, T, H, G, d, d, 1 / sqrtf((float)d), 0 };
	double f = 4.0 * (double)d * (double)(B * H) * (double)T * (double)(T + 1) / 2;
	if (skip("attn"))
		return;
	mat qkv = make(B * T, (H + 2 * G) * d, dt), o = make(B * T, H * d, dt), lse = make(B * T, H, DT_F32);
	mat rope = make(T, d, DT_F32), dq = make(B * T, (H + 2 * G) * d, dt);
	snprintf(shape, sizeof shape, "%ld x %ld, %d/%d of %d %s", (long)B, (long)T, H, G, d, dt == DT_BF16 ? "bf16" : "f32");
	TIME(t1, K->attn(D, o, lse, qkv, rope, (mat){ 0 }, &g))
	flops("attn", shape, t1, f);
	TIME(t2, K->attn_bwd(D, dq, o, o, lse, qkv, rope, (mat){ 0 }, &g))
	flops("attn_bwd", shape, t2, 2.5 * f);
	drop(qkv), drop(o), drop(lse), drop(rope), drop(dq);
}

static void bench_rows(int64_t N, int64_t C, int64_t F)
{
	const mat none = { 0 };
	char shape[64];
	double e = (double)(N * C) * 2, ef = (double)(N * F) * 2;
	if (skip("rows"))
		return;
	mat x = make(N, C, DT_BF16), y = make(N, C, DT_BF16), w = make(1, C, DT_BF16), stat = make(N, 2, DT_F32);
	mat u = make(N, 2 * F, DT_BF16), v = make(N, F, DT_BF16), du = make(N, 2 * F, DT_BF16), dw = make(1, C, DT_F32);
	mat acc = make(STAT_ROWS, F, DT_F64), tok = make(N, 1, DT_I32), E = make(49152, C, DT_BF16), dE = make(49152, C, DT_F32);
	snprintf(shape, sizeof shape, "%ld, hidden %ld, ffn %ld", (long)N, (long)C, (long)F);
	TIME(t0, K->embed(D, y, tok, E, 1.0f))
	bytes("embed", shape, t0, 2 * e);
	TIME(t00, K->embed_dw(D, dE, tok, y, 1.0f))
	bytes("embed_dw", shape, t00, 5 * e);
	TIME(t1, K->norm(D, y, stat, x, w, none, none, NORM_RMS, 1e-5f))
	bytes("norm", shape, t1, 2 * e);
	TIME(t2, K->norm_bwd(D, y, dw, none, x, x, w, stat, none, NORM_RMS, 1))
	bytes("norm_bwd acc", shape, t2, 4 * e);
	TIME(t3, K->act(D, v, u, ACT_SWIGLU))
	bytes("act swiglu", shape, t3, 3 * ef);
	TIME(t4, K->act_dx(D, du, v, u, ACT_SWIGLU))
	bytes("act_dx swiglu", shape, t4, 5 * ef);
	TIME(t5, K->add(D, y, y, x))
	bytes("add", shape, t5, 3 * e);
	TIME(t6, K->stat_width(D, acc, v, N / 4, 1))
	bytes("stat_width ffn", shape, t6, ef);
	drop(x), drop(y), drop(w), drop(stat), drop(u), drop(v), drop(du), drop(dw), drop(acc), drop(tok), drop(E), drop(dE);
}

static void bench_adamw(int64_t n)
{
	const struct adamw_args a = { .lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .grad_scale = 1, .step = 3 };
	if (skip("adamw"))
		return;
	mat w = make(1, n, DT_F32), m = make(1, n, DT_F32), v = make(1, n, DT_F32), g = make(1, n, DT_F32), b = make(1, n, DT_BF16), sum = make(1, 1, DT_F64);
	K->zero(D, v);
	TIME(t1, K->adamw(D, w, m, v, g, b, (mat){ 0 }, &a))
	bytes("adamw", "", t1, 30.0 * (double)n);
	TIME(t2, K->sumsq(D, sum, g))
	bytes("sumsq", "", t2, 4.0 * (double)n);
	drop(w), drop(m), drop(v), drop(g), drop(b), drop(sum);
}

static void bench_head(int64_t N, int64_t V, int64_t Cs, int64_t Ct, int dt)
{
	const struct kd_head_args a = { .coef = { 1 }, .tau = 1 }, all = { .coef = { 0.2f, 0.2f, 0.2f, 0.2f, 0.2f }, .tau = 2, .beta = 0.5f };
	const mat none = { 0 };
	char shape[64];
	double f = 2.0 * (double)N * (double)V;
	if (skip("head"))
		return;
	mat hs = make(N, Cs, dt), Ws = make(V, Cs, dt), ht = make(N, Ct, dt), Wt = make(V, Ct, dt), label = make(N, 1, DT_I32);
	mat sums = make(1, LOSS_KINDS, DT_F64), dh = make(N, Cs, dt), dW = make(V, Cs, DT_F32), lp = make(N, 2, DT_F32);
	snprintf(shape, sizeof shape, "%ld x %ld, %ld and %ld %s", (long)N, (long)V, (long)Cs, (long)Ct, dt == DT_BF16 ? "bf16" : "f32");
	TIME(t1, K->kd_head(D, sums, dh, dW, hs, Ws, ht, Wt, label, &a))
	flops("kd_head", shape, t1, f * (double)(3 * Cs + Ct));
	TIME(t2, K->kd_head(D, sums, none, none, hs, Ws, ht, Wt, label, &a))
	flops("kd_head, loss only", shape, t2, f * (double)(Cs + Ct));
	TIME(t4, K->kd_head(D, sums, dh, dW, hs, Ws, ht, Wt, label, &all))
	flops("kd_head, five losses", shape, t4, f * (double)(3 * Cs + Ct));
	mat ids = make(N, 64, DT_I32), best = make(N, 65, DT_F32);
	TIME(t5, K->topk(D, ids, best, ht, Wt, label, 1.0f))
	flops("topk 64", shape, t5, f * (double)Ct);
	TIME(t6, K->kd_head(D, sums, dh, dW, hs, Ws, ids, best, label, &a))
	flops("kd_head, best 64", shape, t6, f * (double)(3 * Cs));
	drop(ids), drop(best);
	TIME(t3, K->logprob(D, lp, hs, Ws, label))
	flops("logprob", shape, t3, f * (double)Cs);
	drop(hs), drop(Ws), drop(ht), drop(Wt), drop(label), drop(sums), drop(dh), drop(dW), drop(lp);
}

static struct {
	const char *backend;
	int64_t rows;
	bool cpu_time;
	const char *shapes;
} o = { .backend = "cpu", .rows = 4096, .shapes = "small" };
static const struct opt opts[] = {
	OPT_STR('b', "backend", &o.backend, "NAME", "kernels to measure: cpu, cuda or ref"),
	OPT_CHOICE(0, "shapes", &o.shapes, "small|large", "widths of a 135M or of a 1.6e9 teacher and its student"),
	OPT_I64('n', "rows", &o.rows, "N", "rows of the activations", 64, 1 << 24),
	OPT_CHOICE(0, "only", &filter, "linear|attn|rows|adamw|head", "one group of operations"),
	OPT_FLAG('c', "cpu-time", &o.cpu_time, "count processor time of all threads instead of wall time"),
	OPT_COMMON_ROWS, OPT_END
};
static const struct usage usage = {
	"bench-kernels", "Times the kernels that matter, at the shapes of a real teacher and its student.",
	"[--only GROUP] [--threads N]",
	"bench-kernels --only linear\n"
	"bench-kernels --threads 1 --cpu-time --only attn",
	opts,
};

static void small_shapes(int64_t N)
{
	for (int dt = DT_BF16; dt >= DT_F32; dt--) {
		bench_linear(N, 576, 960, dt);
		bench_linear(N, 576, 3072, dt);
		bench_linear(N, 1536, 576, dt);
		bench_linear(N, 448, 2304, dt);
		bench_linear(N, 384, 448, dt);
		bench_attn(4, N / 4, 9, 3, 64, dt);
		bench_attn(4, N / 4, 6, 2, 64, dt);
		bench_head(N, 49152, 448, 576, dt);
	}
}

static void large_shapes(int64_t N)
{
	bench_linear(N, 2048, 4096, DT_BF16);
	bench_linear(N, 2048, 16384, DT_BF16);
	bench_linear(N, 8192, 2048, DT_BF16);
	bench_linear(N, 1536, 14336, DT_BF16);
	bench_linear(N, 7168, 1536, DT_BF16);
	bench_attn(N / 4096 ? N / 4096 : 1, N < 4096 ? N : 4096, 16, 8, 128, DT_BF16);
	bench_attn(N / 4096 ? N / 4096 : 1, N < 4096 ? N : 4096, 12, 4, 128, DT_BF16);
	bench_head(N, 32000, 1536, 2048, DT_BF16);
}

int main(int argc, char **argv)
{
	char why[256];
	if (opt_parse(&usage, argc, argv))
		opt_die("'%s' is not expected", argv[0]);
	if (o.cpu_time)
		clock_used = CLOCK_PROCESS_CPUTIME_ID;
	int64_t N = o.rows;
	K = kernels_open(o.backend, why);
	if (!K)
		die(EXIT_RESOURCE, "%s", why);
	bool gpu = !strcmp(o.backend, "cuda");
	D = K->dev_open(gpu ? 0 : (int)com.threads);
	if (!D || !(mark = K->mem_alloc(D, 64)))
		die(EXIT_RESOURCE, "the %s backend cannot be opened", o.backend);
	repeat = gpu ? 10 : 1;
	if (strcmp(o.shapes, "large")) {
		small_shapes(N);
		bench_rows(N, 576, 1536);
	} else {
		large_shapes(N);
		bench_rows(N, 2048, 8192);
	}
	bench_adamw(70 << 20);
	printf("best matrix product %.1f GFLOP/s; the backend holds %.1f MB\n", peak * 1e-9, (double)K->held_bytes(D, HELD_PARTS) * 1e-6);
	K->mem_free(D, mark, 64);
	K->dev_close(D);
	return 0;
}
