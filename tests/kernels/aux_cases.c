/*
 * aux_cases.c - every op as a case for the tests: its operands at "size" n, how to call it, and how exact it must be
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_ops.h"
#include <string.h>

#define JOB(f) static void f(struct job *j, int64_t n, int variant)
#define CALL(f) static void f(const struct kernels *k, struct dev *d, __attribute__((unused)) const struct job *j, const mat *m)

static struct operand in(int64_t rows, int64_t cols) { return (struct operand){ IN, ANY, 0, rows, cols, F_NORMAL, 0, NULL, 0 }; }
static struct operand out(int64_t rows, int64_t cols) { return (struct operand){ OUT, ANY, 0, rows, cols, F_NORMAL, 0, NULL, 0 }; }
static struct operand seed(int of, int64_t rows, int64_t cols) { return (struct operand){ SEED, ANY, of, rows, cols, F_NORMAL, 0, NULL, 0 }; }
static struct operand grad(int of, int64_t rows, int64_t cols) { return (struct operand){ GRAD, ANY, of, rows, cols, F_NORMAL, 0, NULL, 0 }; }
static struct operand typed(struct operand o, int dtype) { o.dtype = dtype; return o; }
static struct operand filled(struct operand o, enum fill f, int64_t bound) { o.fill = f; o.bound = bound; return o; }
static struct operand when(struct operand o, int present) { o.absent = !present; return o; }
static struct operand ints(int64_t n, enum fill f, int64_t bound) { return filled(typed(in(n, 1), DT_I32), f, bound); }

/* embed: 0 tok, 1 W, 2 y, 3 dy, 4 dW */
CALL(embed_f) { k->embed(d, m[2], m[0], m[1], j->f); }
CALL(embed_b) { k->embed_dw(d, m[4], m[0], m[3], j->f); }
JOB(embed)
{
	int64_t C = n + 2, V = 7;
	j->f = variant ? 3.0f : 1.0f;
	add_operand(j, ints(n, F_TOKEN, V));
	add_operand(j, in(V, C));
	add_operand(j, out(n, C));
	add_operand(j, seed(2, n, C));
	add_operand(j, typed(grad(1, V, C), DT_F32));
	j->fwd = embed_f;
	j->bwd = embed_b;
}

/* norm: 0 x, 1 w, 2 b, 3 z, 4 y, 5 stat, 6 dy, 7 dx, 8 dw, 9 db */
CALL(norm_f) { k->norm(d, m[4], m[5], m[0], m[1], m[2], m[3], j->kind, 1e-5f); }
CALL(norm_b) { k->norm_bwd(d, m[7], m[8], m[9], m[6], m[0], m[1], m[5], m[3], j->kind, j->acc); }
JOB(norm)
{
	int64_t C = n < 5 ? n + 4 : n, N = n > 100 ? 300 : 5;
	int layer = variant & 1, masked = variant >> 1 & 1;
	j->kind = layer ? NORM_LAYER1P : variant >> 2 & 1 ? NORM_RMS1P : NORM_RMS;
	j->acc = variant >> 2 & 1;
	add_operand(j, in(N, C));
	add_operand(j, in(1, C));
	add_operand(j, when(in(1, C), layer));
	add_operand(j, when(filled(typed(in(1, C), DT_F32), F_MASK, 0), masked));
	add_operand(j, out(N, C));
	add_operand(j, typed(out(N, 2), DT_F32));
	add_operand(j, seed(4, N, C));
	add_operand(j, grad(0, N, C));
	add_operand(j, typed(grad(1, 1, C), DT_F32));
	add_operand(j, when(typed(grad(2, 1, C), DT_F32), layer));
	j->fwd = norm_f;
	j->bwd = norm_b;
}

/* qknorm: 0 x, 1 wq, 2 wk, 3 y, 4 stat, 5 dy, 6 dx, 7 dwq, 8 dwk */
CALL(qknorm_f) { k->qknorm(d, m[3], m[4], m[0], m[1], m[2], &j->g, j->kind, 1e-5f); }
CALL(qknorm_b) { k->qknorm_bwd(d, m[6], m[7], m[8], m[5], m[0], m[1], m[2], m[4], &j->g, j->kind); }
JOB(qknorm)
{
	static const struct { int H, G, D; } v[] = { { 1, 1, 4 }, { 6, 2, 20 }, { 3, 1, 64 } };
	int64_t W = (v[variant].H + 2 * v[variant].G) * (int64_t)v[variant].D, D = v[variant].D;
	j->g = (struct attn_geom){ 1, n, v[variant].H, v[variant].G, v[variant].D, 0, 1, 0 };
	j->kind = variant & 1 ? NORM_RMS1P : NORM_RMS;
	add_operand(j, in(n, W));
	add_operand(j, in(1, D));
	add_operand(j, in(1, D));
	add_operand(j, out(n, W));
	add_operand(j, typed(out(n, 2 * (int64_t)(j->g.H + j->g.G)), DT_F32));
	add_operand(j, seed(3, n, W));
	add_operand(j, grad(0, n, W));
	add_operand(j, typed(grad(1, 1, D), DT_F32));
	add_operand(j, typed(grad(2, 1, D), DT_F32));
	j->fwd = qknorm_f;
	j->bwd = qknorm_b;
}

/* linear: 0 x, 1 W, 2 bias, 3 res, 4 y, 5 dy, 6 dx, 7 dW, 8 dbias */
CALL(linear_f) { k->linear(d, m[4], m[0], m[1], m[2], m[3]); }
CALL(linear_b)
{
	k->linear_dx(d, m[6], m[5], m[1], j->acc);
	k->linear_dw(d, m[7], m[8], m[5], m[0]);
}
JOB(linear)
{
	int tall = n > 100 && variant >= 4; /* so many rows that a backend may rearrange W first */
	int64_t N = tall ? 1283 : n, I = n + 3, O = n > 100 ? 3 * n : n / 2 + 1;
	int wdt = variant == 3 ? DT_BF16 : ANY; /* mixed: f32 x, bf16 W */
	add_operand(j, in(N, I));
	add_operand(j, typed(in(O, I), wdt));
	add_operand(j, when(in(1, O), variant & 1));
	add_operand(j, when(in(N, O), variant >> 1 & 1));
	add_operand(j, out(N, O));
	add_operand(j, seed(4, N, O));
	add_operand(j, grad(0, N, I));
	add_operand(j, typed(grad(1, O, I), DT_F32));
	add_operand(j, when(typed(grad(2, 1, O), DT_F32), variant & 1));
	j->acc = variant & 1;
	j->fwd = linear_f;
	j->bwd = linear_b;
}

/* linear in 8 bits: 0 x, 1 W, 2 bias, 3 res, 4 y, 5 room for the codes and their scale; variants 2 and 3: sizes of tensor cores */
CALL(e4m3_f)
{
	mat Q = { m[5].p, m[1].rows, m[1].cols, DT_E4M3, 0 };
	k->quantise(d, Q, m[1]);
	k->linear(d, m[4], m[0], Q, m[2], m[3]);
}
JOB(e4m3)
{
	int64_t N = n, I = n + 3, O = n > 100 ? 3 * n : n / 2 + 1;
	if (variant & 2)
		N = (N + 15) / 16 * 16, I = (I + 15) / 16 * 16, O = (O + 15) / 16 * 16;
	add_operand(j, in(N, I));
	add_operand(j, in(O, I));
	add_operand(j, when(in(1, O), variant & 1));
	add_operand(j, when(in(N, O), variant != 1));
	add_operand(j, typed(out(N, O), variant & 2 ? ANY : DT_F32));
	add_operand(j, typed(in(O, I + 8), DT_F32));
	j->fwd = e4m3_f;
}

/* Where each row's document begins; absent without docs */
static void add_starts(struct job *j, int64_t B, int64_t T, int docs)
{
	static const int64_t length[] = { 1, 6, 2, 21, 70, 9, 3 };
	static double start[2 * 4096];
	for (int64_t i = 0, at = 0, k = 0; i < B * T; i++) {
		at = i % T == 0 ? 0 : i % T - at >= length[k++ % 7] ? i % T : at;
		start[i] = (double)at;
	}
	int op = add_operand(j, when(filled(typed(in(B * T, 1), DT_I32), F_GIVEN, 0), docs));
	j->op[op].given = start;
}

/* attn: 0 qkv, 1 rope, 2 o, 3 lse, 4 do, 5 dqkv, 6 start */
CALL(attn_f) { k->attn(d, m[2], m[3], m[0], m[1], m[6], &j->g); }
CALL(attn_b) { k->attn_bwd(d, m[5], m[4], m[2], m[3], m[0], m[1], m[6], &j->g); }
JOB(attn)
{
	static const struct { int H, G, D, rot, window; } v[] = {
		{ 1, 1, 4, 4, 0 }, { 6, 2, 6, 4, 0 }, { 3, 1, 64, 64, 0 }, { 4, 2, 20, 10, 7 }, { 8, 1, 16, 0, 0 },
		{ 2, 1, 96, 96, 20 }, { 1, 1, 128, 32, 0 }, { 1, 1, 256, 256, 50 },
		{ 6, 2, 6, 4, 0 }, { 3, 1, 64, 64, 0 }, { 4, 2, 20, 10, 7 }, { 2, 1, 128, 128, 70 } /* with documents */
	};
	int64_t B = n > 100 ? 1 : 2, T = n, W;
	j->g = (struct attn_geom){ B, T, v[variant].H, v[variant].G, v[variant].D, v[variant].rot, 0.4f, v[variant].window };
	W = (j->g.H + 2 * j->g.G) * (int64_t)j->g.D;
	add_operand(j, in(B * T, W));
	add_operand(j, when(filled(typed(in(T, j->g.rot ? j->g.rot : 2), DT_F32), F_ROPE, 0), j->g.rot > 0));
	add_operand(j, out(B * T, j->g.H * (int64_t)j->g.D));
	add_operand(j, typed(out(B * T, j->g.H), DT_F32));
	add_operand(j, seed(2, B * T, j->g.H * (int64_t)j->g.D));
	add_operand(j, grad(0, B * T, W));
	add_starts(j, B, T, variant > 7);
	j->fwd = attn_f;
	j->bwd = attn_b;
}

/* attn_tree: 0 qkv, 1 rope, 2 node, 3 o, 4 past.  A row follows the one before it, or one of that row's ancestors, or starts a text */
CALL(attn_tree_f) { k->attn_tree(d, m[3], m[0], m[4], m[1], m[2], &j->g); }
JOB(attn_tree)
{
	static const struct { int H, G, D, rot, window; } v[] = {
		{ 1, 1, 4, 4, 0 }, { 6, 2, 6, 4, 0 }, { 3, 1, 64, 64, 0 }, { 4, 2, 20, 10, 7 }, { 8, 1, 16, 0, 3 },
		{ 6, 2, 6, 4, 0 }, { 3, 1, 64, 64, 5 } /* a third of the rows were there before */
	};
	static double node[2 * 200];
	static int64_t parent[200];
	int64_t W = (v[variant].H + 2 * v[variant].G) * (int64_t)v[variant].D;
	j->g = (struct attn_geom){ 1, n, v[variant].H, v[variant].G, v[variant].D, v[variant].rot, 0.4f, v[variant].window };
	for (int64_t i = 0; i < n; i++) {
		parent[i] = i - 1;
		for (int64_t up = i % 11 == 7 ? i % 5 : i % 37 == 20 ? n : 0; up > 0 && parent[i] >= 0; up--)
			parent[i] = parent[parent[i]];
		node[2 * i] = parent[i] < 0 ? 0 : node[2 * parent[i]] + 1;
		for (int64_t a = i; a >= 0; a = parent[a])
			node[2 * a + 1] = (double)(i + 1);
	}
	int64_t past = variant > 4 ? n / 3 : 0;
	add_operand(j, in(n - past, W));
	add_operand(j, when(filled(typed(in(n, j->g.rot ? j->g.rot : 2), DT_F32), F_ROPE, 0), j->g.rot > 0));
	int at = add_operand(j, filled(typed(in(n, 2), DT_I32), F_GIVEN, 0));
	j->op[at].given = node;
	add_operand(j, out(n - past, j->g.H * (int64_t)j->g.D));
	add_operand(j, when(in(past ? past : 1, W), past > 0));
	j->fwd = attn_tree_f;
}

/* attn_kv: 0 qkv, 1 rope, 2 at, 3 o; the cache is the backend's own.  Rows of three slots in turn, the last as a second call */
CALL(attn_kv_f)
{
	const struct attn_geom *g = &j->g;
	int64_t cols = 2 * g->G * g->D * g->T, last = m[3].rows - 1;
	int dt = j->f > 0 ? DT_F32 : m[0].dtype;
	mat kv = { k->mem_alloc(d, (size_t)(g->B * cols) * dtype_size(dt)), g->B, cols, dt, 0 }, q = m[0], o = m[3], at = m[2];
	q.rows = o.rows = at.rows = last;
	if (last > 0)
		k->attn_kv(d, o, kv, q, m[1], at, g);
	q.rows = o.rows = at.rows = 1;
	q.p = (char *)q.p + (size_t)(last * q.cols) * dtype_size(q.dtype);
	o.p = (char *)o.p + (size_t)(last * o.cols) * dtype_size(o.dtype);
	at.p = (int32_t *)at.p + 2 * last;
	k->attn_kv(d, o, kv, q, m[1], at, g);
	k->mem_free(d, kv.p, (size_t)(g->B * cols) * dtype_size(dt));
}
JOB(attn_kv)
{
	static const struct { int H, G, D, rot, window; } v[] = {
		{ 1, 1, 4, 4, 0 }, { 6, 2, 6, 4, 0 }, { 3, 1, 64, 64, 0 }, { 4, 2, 20, 10, 7 }, { 2, 1, 80, 80, 40 }, { 8, 1, 16, 0, 0 }
	};
	static double place[2 * 200];
	int64_t W = (v[variant].H + 2 * v[variant].G) * (int64_t)v[variant].D;
	j->g = (struct attn_geom){ 3, 2 * KV_BLOCK, v[variant].H, v[variant].G, v[variant].D, v[variant].rot, 0.4f, v[variant].window };
	j->f = (float)(variant & 1);   /* the cache in f32, or as the other operands */
	for (int64_t i = 0, gap = 0; i < n; i++) {
		int none = i % 7 == 5;
		place[2 * i] = none ? -1 : (double)((i - gap) % 3);
		place[2 * i + 1] = none ? 0 : (double)((i - gap) / 3);
		gap += none;
	}
	add_operand(j, in(n, W));
	add_operand(j, when(filled(typed(in(j->g.T, j->g.rot ? j->g.rot : 2), DT_F32), F_ROPE, 0), j->g.rot > 0));
	int at = add_operand(j, filled(typed(in(n, 2), DT_I32), F_GIVEN, 0));
	j->op[at].given = place;
	add_operand(j, out(n, j->g.H * (int64_t)j->g.D));
	j->fwd = attn_kv_f;
}

/* act: 0 x, 1 y, 2 dy, 3 dx */
CALL(act_f) { k->act(d, m[1], m[0], j->kind); }
CALL(act_b) { k->act_dx(d, m[3], m[2], m[0], j->kind); }
JOB(act)
{
	int64_t wide = variant == ACT_SWIGLU || variant == ACT_GEGLU ? 2 * n : n;
	j->kind = variant;
	j->scale = 2;
	add_operand(j, in(n, wide));
	add_operand(j, out(n, n));
	add_operand(j, seed(1, n, n));
	add_operand(j, grad(0, n, wide));
	j->fwd = act_f;
	j->bwd = act_b;
}

/* element-wise: 0 a, 1 b, 2 sum, 3 copy (other dtype), 4 scaled, 5 zeroed */
CALL(elem_f)
{
	k->add(d, m[2], m[0], m[1]);
	k->add(d, m[2], m[2], m[1]);
	k->copy(d, m[3], m[0]);
	k->scale(d, m[4], m[0], j->f);
	k->zero(d, m[5]);
}
JOB(elem)
{
	j->f = -1.5f;
	add_operand(j, in(n, n));
	add_operand(j, in(n, n));
	add_operand(j, out(n, n));
	add_operand(j, typed(out(n, n), variant ? DT_F32 : DT_BF16));
	add_operand(j, out(n, n));
	add_operand(j, out(n, n));
	j->fwd = elem_f;
}

/* mask: 0 x, 1 z, 2 y, 3 dy, 4 dz */
CALL(mask_f) { k->mask(d, m[2], m[0], m[1]); }
CALL(mask_b) { k->mask_dz(d, m[4], m[3], m[0]); }
JOB(mask)
{
	int64_t C = variant ? 5 * n : n;
	add_operand(j, in(n, C));
	add_operand(j, typed(in(1, n), DT_F32));
	add_operand(j, out(n, C));
	add_operand(j, seed(2, n, C));
	add_operand(j, typed(grad(1, 1, n), DT_F32));
	j->fwd = mask_f;
	j->bwd = mask_b;
}

/* columns: 0 a, 1 z, 2 y, 3 dy, 4 dz, 5 sum in place */
CALL(cols_f)
{
	k->add_cols(d, m[2], m[0], m[1], j->T, j->f);
	k->add_cols(d, m[5], m[5], m[1], j->T, j->f);
}
CALL(cols_b) { k->take_cols(d, m[4], m[3], j->T, j->f); }
JOB(cols)
{
	int64_t C = 3 * n + 1, w = variant ? C : n;
	j->T = variant ? 0 : n;
	j->f = 0.5f;
	add_operand(j, in(n, C));
	add_operand(j, in(n, w));
	add_operand(j, out(n, C));
	add_operand(j, seed(2, n, C));
	add_operand(j, grad(1, n, w));
	add_operand(j, out(n, C));
	j->fwd = cols_f;
	j->bwd = cols_b;
}

/* statistics: 0 x, 1 b, 2 acc width, 3 acc cosine, 4 out of sumsq, 5 W, 6 acc contributions, 7 z */
CALL(stat_f)
{
	k->stat_width(d, m[2], m[0], j->T, j->unit);
	k->stat_cos(d, m[3], m[0], m[1]);
	k->zero(d, m[4]);
	k->sumsq(d, m[4], m[0]);
	k->stat_contrib(d, m[6], m[0], m[5], m[7], j->T);
}
/* variant 0: columns, 1: units of four, 2: a few long columns far from 0 with an outlier, or more of them than are done at once */
JOB(stat)
{
	enum { LONG = 1290, FAR = 5 };
	static double far[2 * LONG * FAR];
	int64_t big = n > 100, U = variant < 2 ? n : big ? 1030 : FAR, O = big ? 40 : n + 2;
	j->T = variant == 2 && !big ? LONG : big ? 50 : 3;
	j->unit = variant == 1 ? 4 : 1;
	for (int i = 0; i < 2 * LONG * FAR; i++)
		far[i] = i % (LONG * FAR) < FAR ? 900.0 : i % FAR * 70.0 + i * 37 % 11 * 0.125;
	add_operand(j, in(2 * j->T, U * j->unit));
	if (variant == 2 && !big) {
		j->op[0].fill = F_GIVEN;
		j->op[0].given = far;
	}
	add_operand(j, in(2 * j->T, U * j->unit));
	add_operand(j, typed(out(STAT_ROWS, U), DT_F64));
	add_operand(j, typed(out(1, 2), DT_F64));
	add_operand(j, typed(out(1, 1), DT_F64));
	add_operand(j, in(O, U * j->unit));
	add_operand(j, typed(out(STAT_ROWS, variant == 1 ? n : 1), DT_F64));
	add_operand(j, when(typed(in(1, O), DT_F32), variant == 1));
	j->fwd = stat_f;
}

/* kd_head: 0 hs, 1 Ws, 2 ht, 3 Wt, 4 label, 5 sums, 6 weights of the losses, 7 dhs, 8 dWs */
CALL(kd_f)
{
	mat none = { 0 };
	k->kd_head(d, m[5], none, none, m[0], m[1], m[2], m[3], m[4], &j->kd);
}
CALL(kd_b)
{
	k->zero(d, m[5]);
	k->kd_head(d, m[5], m[7], m[8], m[0], m[1], m[2], m[3], m[4], &j->kd);
}
enum { KD_VARIANTS = 16 };
JOB(kd)
{
	static const struct kd_head_args v[KD_VARIANTS] = {
		{ .coef = { 1 }, .tau = 1 }, { .coef = { 0.7f, 0, 0.3f }, .tau = 1, .acc = 1 },
		{ .coef = { 0.5f, 0.25f, 0.25f }, .tau = 2 }, { .coef = { [LOSS_CE] = 1 }, .tau = 1 },
		{ .coef = { [LOSS_JSD] = 1 }, .tau = 1, .beta = 0.5f }, { .coef = { [LOSS_JSD] = 1 }, .tau = 2, .beta = 0.2f, .acc = 1 },
		{ .coef = { [LOSS_TVD] = 1 }, .tau = 1.5f }, { .coef = { [LOSS_MSE] = 1 }, .tau = 2 }, { .coef = { [LOSS_COS] = 1 }, .tau = 1 },
		{ .coef = { 0.3f, 0.2f, 0.1f, 0.4f, 0.5f, 0.6f, 0.7f }, .tau = 1.5f, .beta = 0.7f, .acc = 1 },
		{ .coef = { 1 }, .tau = 1, .tail = TAIL_RENORM }, { .coef = { 0.6f, 0, 0.4f }, .tau = 2, .tail = TAIL_RENORM },
		{ .coef = { 1 }, .tau = 1, .tail = TAIL_ZERO }, { .coef = { 0.6f, 0, 0.4f }, .tau = 0.5f, .tail = TAIL_ZERO },
		{ .coef = { 1 }, .tau = 1, .tail = TAIL_GHOST }, { .coef = { 0.6f, 0, 0.4f }, .tau = 2, .tail = TAIL_GHOST, .acc = 1 },
	};
	enum { BEST = 10 };
	static double weight[KD_VARIANTS][LOSS_KINDS];
	n = n > 100 && variant > 3 ? 80 : n;
	int64_t V = 3 * n + 1, Cs = n + 1, Ct = n + 4, K = n < 5 ? n : V / 4;
	int best = variant >= BEST, teacher = variant != 3 && !best;
	j->kd = v[variant];
	j->acc = j->kd.acc;
	j->scale = n > 100 ? 0.3 : 0.6;
	for (int l = 0; l < LOSS_KINDS; l++)
		weight[variant][l] = (double)j->kd.coef[l] * (l == LOSS_CE || l == LOSS_MSE || l == LOSS_COS ? 1 : (double)(j->kd.tau * j->kd.tau));
	add_operand(j, in(n, Cs));
	add_operand(j, in(V, Cs));
	add_operand(j, best ? filled(typed(in(n, K), DT_I32), F_ASCEND, V) : when(in(n, Ct), teacher));
	add_operand(j, best ? typed(in(n, K + 1), DT_F32) : when(in(V, Ct), teacher));
	add_operand(j, ints(n, F_LABEL, V));
	add_operand(j, typed(out(1, LOSS_KINDS), DT_F64));
	int w = add_operand(j, typed(filled(seed(5, 1, LOSS_KINDS), F_GIVEN, 0), DT_F64));
	j->op[w].given = weight[variant];
	add_operand(j, grad(0, n, Cs));
	add_operand(j, typed(grad(1, V, Cs), DT_F32));
	j->fwd = kd_f;
	j->bwd = kd_b;
}

/* topk: 0 h, 1 W, 2 label, 3 ids, 4 logp; always f32: a rounded logit may change places */
CALL(topk_f) { k->topk(d, m[3], m[4], m[0], m[1], m[2], j->f); }
JOB(topk)
{
	int64_t V = 2 * n + 3, K = variant == 0 ? 1 : variant == 1 ? (n + 3) / 2 : V - 1;
	j->f = variant ? 1.0f : 2.0f;
	j->scale = n > 100 ? 0.3 : 1;
	add_operand(j, typed(in(n, n + 1), DT_F32));
	add_operand(j, typed(in(V, n + 1), DT_F32));
	add_operand(j, ints(n, F_LABEL, V));
	add_operand(j, typed(out(n, K), DT_I32));
	add_operand(j, typed(out(n, K + 1), DT_F32));
	j->fwd = topk_f;
}

/* logprob: 0 h, 1 W, 2 label, 3 out */
CALL(logprob_f) { k->logprob(d, m[3], m[0], m[1], m[2]); }
JOB(logprob)
{
	(void)variant;
	add_operand(j, in(n, n + 1));
	add_operand(j, in(n + 2, n + 1));
	add_operand(j, ints(n, F_LABEL, n + 2));
	add_operand(j, typed(out(n, 2), DT_F32));
	j->fwd = logprob_f;
}

/* mse, cosine: 0 a, 1 b, 2 sums, 3 weight, 4 da, 5 label */
CALL(pair_f) { (j->kind ? k->cosine : k->mse)(d, m[2], (mat){ 0 }, m[0], m[1], m[5], j->f, NULL, j->acc); }
CALL(pair_b) { (j->kind ? k->cosine : k->mse)(d, m[2], m[4], m[0], m[1], m[5], j->f, NULL, j->acc); }
JOB(pair)
{
	static const double weight[1] = { 0.75 };
	j->kind = variant & 1;
	j->acc = variant >> 1 & 1;
	j->f = 0.75f;
	add_operand(j, in(n, n + 1));
	add_operand(j, in(n, n + 1));
	add_operand(j, typed(out(1, 1), DT_F64));
	int w = add_operand(j, typed(filled(seed(2, 1, 1), F_GIVEN, 0), DT_F64));
	j->op[w].given = weight;
	add_operand(j, grad(0, n, n + 1));
	add_operand(j, when(ints(n, F_LABEL, 9), variant >> 2));
	j->fwd = pair_f;
	j->bwd = pair_b;
}

/* relation: 0 a, 1 b, 2 sums, 3 seed, 4 da, 5 label, 6 start; variants 4, 5 and 7 with documents, 6 and 7 in a window */
CALL(relation_f) { k->relation(d, m[2], (mat){ 0 }, m[0], m[1], m[5], m[6], &j->rel, j->f, NULL, j->acc); }
CALL(relation_b) { k->relation(d, m[2], m[4], m[0], m[1], m[5], m[6], &j->rel, j->f, NULL, j->acc); }
JOB(relation)
{
	static const double weight[1] = { 0.75 };
	j->rel = (struct relation){ .T = n, .a0 = 2, .b0 = 1, .da = 4, .db = variant ? 4 : 6, .heads = variant ? 3 : 2,
					.window = variant > 5 ? (int32_t)(n / 2) + 1 : 0 };
	j->acc = variant & 1;
	j->f = 0.75f;
	add_operand(j, in(2 * n, 15));
	add_operand(j, in(2 * n, 13));
	add_operand(j, typed(out(1, 1), DT_F64));
	int w = add_operand(j, typed(filled(seed(2, 1, 1), F_GIVEN, 0), DT_F64));
	j->op[w].given = weight;
	add_operand(j, grad(0, 2 * n, 15));
	add_operand(j, when(ints(2 * n, F_LABEL, 9), variant >> 1 & 1));
	add_starts(j, 2, n, variant > 3 && variant != 6);
	j->fwd = relation_f;
	j->bwd = relation_b;
}

/* adamw: 0 g, 1 w, 2 m, 3 v, 4 wb, 5 ema; variants 2 and 3 have bf16 moments, 3 rounds them at random */
CALL(adamw_f) { k->adamw(d, m[1], m[2], m[3], m[0], m[4], m[5], &j->adam); }
JOB(adamw)
{
	j->adam = (struct adamw_args){ .lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = variant ? 0.1f : 0.0f,
					.grad_scale = 0.5f, .step = variant ? 1 : 7, .key = variant == 3 ? 77 : 0, .first = 5, .ema = 0.75f };
	int moments = variant < 2 ? DT_F32 : DT_BF16;
	add_operand(j, typed(in(1, n * n), DT_F32));
	add_operand(j, typed(out(1, n * n), DT_F32));
	add_operand(j, typed(out(1, n * n), moments));
	add_operand(j, filled(typed(out(1, n * n), moments), F_POSITIVE, 0));
	add_operand(j, when(typed(out(1, n * n), DT_BF16), variant));
	add_operand(j, when(typed(out(1, n * n), DT_F32), variant));
	j->fwd = adamw_f;
}

const struct op_case op_cases[] = {
	{ "embed", embed, 2, 1e-6, 4e-3 },   { "norm", norm, 8, 2e-5, 1e-2 },       { "linear", linear, 7, 4e-6, 6e-3 }, { "e4m3", e4m3, 4, 1e-5, 6e-3 },
	{ "qknorm", qknorm, 3, 2e-5, 1e-2 },
	{ "attn", attn, 12, 1e-5, 1.5e-2 },   { "attn_tree", attn_tree, 7, 1e-5, 1.5e-2 },
	{ "attn_kv", attn_kv, 6, 1e-5, 1.5e-2 }, { "act", act, 4, 2e-6, 5e-3 },         { "elem", elem, 2, 4e-3, 8e-3 },
	{ "cols", cols, 2, 2e-6, 5e-3 },
	{ "mask", mask, 2, 4e-6, 4e-3 },     { "stat", stat, 3, 1e-6, 1e-6 },       { "kd_head", kd, KD_VARIANTS, 2e-5, 1.5e-2 },
	{ "logprob", logprob, 1, 2e-6, 2e-6 }, { "topk", topk, 3, 4e-6, 4e-6 },       { "mse/cosine", pair, 8, 4e-6, 6e-3 },
	{ "relation", relation, 8, 2e-5, 2e-2 },
	{ "adamw", adamw, 4, 4e-3, 4e-3 },
};
const int n_op_cases = sizeof op_cases / sizeof op_cases[0];

struct job case_job(const struct op_case *c, int64_t n, int variant)
{
	struct job j = { .name = c->name, .tol_f32 = c->tol_f32, .tol_bf16 = c->tol_bf16 };
	c->build(&j, n, variant);
	return j;
}
