/*
 * head.cu - the chunked head: logits, losses and gradients without ever holding N x V
 *
 * Within a chunk of rows, f32 logits of student and teacher exist for a few rows (two products), a block per row turns
 * them into losses and the logits' gradient (head_rows.cuh), and the gradient of the whole chunk, in the operands' dtype,
 * goes at once into dhs and dWs (two products).  The chunk is longer than the logits' because dWs, f32 [V,C], is read and
 * written once per chunk.  Rows without a label get a zero gradient in kd_head and are passed over in topk (no wait
 * for the host inside a step); logprob, whose results are read at once anyway, leaves them out.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "head_rows.cuh"

enum { LOGIT_BYTES = 512 << 20, GRAD_BYTES = 512 << 20, MAX_ROWS = 8192, INDEX_THREADS = 1024 };

/* Losses with a full teacher into l[], gradient of the row into g */
static __device__ void full_teacher(const row_args &r, int64_t n, softmax S, softmax T, float w, double *l)
{
	__shared__ float pad[Q_COUNT * 32];
	float q[Q_COUNT] = {};
	full_sums(q, r, n, S, T);
	block_sum(q, pad);
	full_losses(r, q, l);
	if (r.g.p)
		full_gradient(r, n, label_of(r, n), S, T, w, q);
}

/* Sum over the teacher's K of exp(logp - top), and top: -> log of the sum over K (and the rest with ghost) */
static __device__ float teacher_mass(const row_args &r, int64_t n, int64_t count, float *pad)
{
	float top = -INFINITY, z[1] = { 0 };
	for (int64_t i = 0; i < count; i++)
		top = fmaxf(top, ld1(r.logp, n * (r.K + 1) + i));
	for (int64_t i = threadIdx.x; i < count; i += blockDim.x)
		z[0] += expf(ld1(r.logp, n * (r.K + 1) + i) - top);
	block_sum(z, pad);
	return top + logf(z[0]);
}

/* The teacher's best K.  The student's logits of the K go to r.best, and -inf into their place, so that the rest is
 * what is left of the row. */
static __device__ void best_k(const row_args &r, int64_t n, softmax S, double *l)
{
	__shared__ float pad[64];
	float *s = (float *)r.s + n * r.V, *in = r.best + n * r.K, itau = 1.0f / r.a.tau, q[1] = { 0 };
	const int32_t *ids = r.ids + n * r.K;
	bool ghost = r.a.tail == TAIL_GHOST && r.K < r.V, renorm = r.a.tail == TAIL_RENORM;
	float lt = teacher_mass(r, n, r.K + ghost, pad), c = r.a.coef[LOSS_KL] * r.a.tau, cce = r.a.coef[LOSS_CE];
	for (int64_t i = threadIdx.x; i < r.K; i += blockDim.x) {
		in[i] = s[ids[i]];
		s[ids[i]] = -INFINITY;
	}
	__syncthreads();
	softmax R = row_softmax(s, r.V, itau, pad), In = row_softmax(in, r.K, itau, pad);
	float top = renorm ? In.top : S.top, lz = renorm ? In.lz : S.lz;      /* log ps = (x - top)/tau - lz */
	float lrest = (R.top - top) * itau + R.lz - lz;                       /* log of the student's rest */
	float last = ghost ? ld1(r.logp, n * (r.K + 1) + r.K) - lt : -INFINITY, pt = ghost ? expf(last) : 0.0f;
	if (threadIdx.x == 0 && pt > 0)
		q[0] = pt * (last - lrest);
	for (int64_t v = threadIdx.x; r.g.p && v < r.V; v += blockDim.x) {
		float x = s[v], g = 0;
		if (x == -INFINITY)
			continue;
		if (!renorm)
			g = c * (expf((x - top) * itau - lz) - (pt > 0 ? pt * expf((x - R.top) * itau - R.lz) : 0.0f));
		g += cce * (expf(x - S.top - S.lz1) - (v == r.label[n] ? 1.0f : 0.0f));
		st1(r.g, n * r.V + v, g);
	}
	for (int64_t i = threadIdx.x; i < r.K; i += blockDim.x) {
		float lpt = ld1(r.logp, n * (r.K + 1) + i) - lt, lps = (in[i] - top) * itau - lz, p = expf(lpt);
		if (p > 0)
			q[0] += p * (lpt - lps);
		if (r.g.p)
			st1(r.g, n * r.V + ids[i],
			    c * (expf(lps) - p) + cce * (expf(in[i] - S.top - S.lz1) - (ids[i] == r.label[n] ? 1.0f : 0.0f)));
	}
	block_sum(q, pad);
	l[LOSS_KL] = q[0];
}

static __global__ void kd_row_k(row_args r)
{
	if (r.a.live)
#pragma unroll
		for (int k = 0; k < LOSS_KINDS; k++)
			r.a.coef[k] = r.a.live[k];
	__shared__ float pad[64];
	int64_t n = blockIdx.x;
	float itau = 1.0f / r.a.tau, w = 1;
	double l[LOSS_KINDS] = {};
	if (r.label[n] < 0) {
		empty_row(r, n);
		return;
	}
	softmax S = row_softmax(r.s + n * r.V, r.V, itau, pad);
	float ce = S.top + S.lz1 - r.s[n * r.V + r.label[n]];
	__syncthreads();               /* best_k overwrites logits */
	if (r.t) {
		softmax T = row_softmax(r.t + n * r.V, r.V, itau, pad);
		w = trust(r, ce, T.top + T.lz1 - r.t[n * r.V + r.label[n]]);
		if (only_kl(r.a.coef))
			plain_teacher(r, n, S, T, w, l);
		else
			full_teacher(r, n, S, T, w, l);
	} else if (r.ids) {
		best_k(r, n, S, l);
	} else {
		no_teacher(r, n, S);
	}
	put_losses(r, n, ce, w, l);
}

/* index = the rows with a label >= 0, in order, then count [1] behind the N; one block */
static __global__ void index_k(int32_t *index, const int32_t *label, int64_t N)
{
	__shared__ int found[INDEX_THREADS / 32];
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	int64_t base = 0;
	for (int64_t n0 = 0; n0 < N; n0 += INDEX_THREADS) {
		int64_t n = n0 + threadIdx.x;
		bool mine = n < N && label[n] >= 0;
		unsigned bits = __ballot_sync((unsigned)FULL_WARP, mine);
		__syncthreads();
		if (lane == 0)
			found[warp] = __popc(bits);
		__syncthreads();
		int before = 0, all = 0;
		for (int w = 0; w < INDEX_THREADS / 32; w++) {
			before += w < warp ? found[w] : 0;
			all += found[w];
		}
		if (mine)
			index[base + before + __popc(bits & ((1u << lane) - 1))] = (int32_t)n;
		base += all;
	}
	if (threadIdx.x == 0)
		index[N] = (int32_t)base;
}

/* out [n,C] = rows index[r] of h, both of h's dtype */
static __global__ void gather_k(view out, view h, const int32_t *index, int64_t C, bool vec)
{
	int64_t n = blockIdx.x;
	float a[8];
	for (int64_t c = 8 * (int64_t)threadIdx.x; c < C; c += 8 * (int64_t)blockDim.x) {
		ld8(a, h, index[n] * C + c, C - c, vec);
		st8(out, n * C + c, a, C - c, vec);
	}
}

static __global__ void logprob_k(float *out, const float *s, const int32_t *index, const int32_t *label, int64_t V)
{
	__shared__ float pad[64];
	__shared__ int first[32];
	const float *x = s + blockIdx.x * V;
	int64_t n = index[blockIdx.x];
	softmax S = row_softmax(x, V, 1.0f, pad);
	int at = 0x7fffffff;           /* first place of the maximum */
	for (int64_t v = threadIdx.x; v < V; v += blockDim.x)
		if (x[v] == S.top && v < at)
			at = (int)v;
	at = -warp_max(-at);
	if (threadIdx.x % 32 == 0)
		first[threadIdx.x / 32] = at;
	__syncthreads();
	if (threadIdx.x)
		return;
	for (int w = 0; w < (int)blockDim.x / 32; w++)
		at = first[w] < at ? first[w] : at;
	out[2 * n] = x[label[n]] - S.top - S.lz;
	out[2 * n + 1] = at == label[n];
}

/* ---- */

static int64_t rows_in(int64_t bytes, int64_t budget, int64_t top)
{
	int64_t n = budget / bytes;
	n = n > top ? top : n;
	return n >= 128 ? n / 128 * 128 : n > 1 ? n : 1;
}

static mat part_of(mat m, int64_t r, int64_t n)
{
	return { row_at(m, r), n, m.cols, m.dtype, 0 };
}

/* out [n,V] f32 = rows of h times W' */
static void logits(struct dev *d, float *out, mat h, int64_t r, int64_t n, mat W)
{
	mat y = { out, n, W.rows, DT_F32, 0 };
	cuda_linear(d, y, part_of(h, r, n), W, mat{}, mat{});
}

/* Losses and logit gradients of rows [c0, c0+n); q.g is the chunk's */
static void chunk_losses(struct dev *d, row_args q, mat hs, mat Ws, mat ht, mat Wt, const int32_t *label, int64_t c0, int64_t n,
			 int64_t few)
{
	int64_t V = q.V;
	for (int64_t r0 = 0; r0 < n; r0 += few) {
		int64_t m = n - r0 < few ? n - r0 : few, at = c0 + r0;
		row_args r = q;
		logits(d, (float *)q.s, hs, at, m, Ws);
		if (q.t)
			logits(d, (float *)q.t, ht, at, m, Wt);
		if (q.K) {
			r.ids = (const int32_t *)row_at(ht, at);
			r.logp = view_of(part_of(Wt, at, m));
		}
		r.label = label + at;
		r.loss = q.loss + at * LOSS_KINDS;
		if (q.g.p)
			r.g.p = (char *)q.g.p + (size_t)(r0 * V) * dtype_size(q.g.dtype);
		if (q.a.parts)
			rows_of_parts(d, r, m, few);
		else
			LAUNCH(d, kd_row_k, (unsigned)m, ROW_THREADS, 0, r);
	}
}

void cuda_kd_head(struct dev *d, mat sums, mat dhs, mat dWs, mat hs, mat Ws, mat ht, mat Wt, mat label,
		  const struct kd_head_args *a)
{
	int64_t V = Ws.rows, N = hs.rows, K = ht.p && ht.dtype == DT_I32 ? ht.cols : 0;
	bool teacher = ht.p && !K, grad = dhs.p || dWs.p;
	int type = hs.dtype == DT_BF16 && Ws.dtype == DT_BF16 ? DT_BF16 : DT_F32;
	int64_t most = a->parts ? a->parts->rows : V; /* of parts, all cut alike */
	int64_t top = N < MAX_ROWS ? N : (int64_t)MAX_ROWS, chunk = rows_in(most * (int64_t)dtype_size(type), GRAD_BYTES, top);
	int64_t few = rows_in(most * (teacher ? 8 : 4), LOGIT_BYTES, chunk);
	if (!N)
		return;
	row_args q = {};
	q.V = V, q.K = K, q.a = *a;
	q.first = a->parts ? a->parts->rank * a->parts->rows : 0;
	q.vocab = a->parts ? a->parts->vocab : V;
	q.s = (float *)scratch(d, S_LOGIT_S, (size_t)(few * V) * sizeof(float));
	q.t = teacher ? (float *)scratch(d, S_LOGIT_T, (size_t)(few * V) * sizeof(float)) : NULL;
	q.best = K ? (float *)scratch(d, S_BEST, (size_t)(few * K) * sizeof(float)) : NULL;
	q.g = { grad ? scratch(d, S_DLOGIT, (size_t)(chunk * V) * dtype_size(type)) : NULL, type };
	q.loss = (double *)scratch(d, S_LOSS, (size_t)(N * LOSS_KINDS) * sizeof(double));
	for (int64_t c0 = 0; c0 < N; c0 += chunk) {
		int64_t n = N - c0 < chunk ? N - c0 : chunk;
		chunk_losses(d, q, hs, Ws, ht, Wt, (const int32_t *)label.p, c0, n, few);
		mat g = { q.g.p, n, V, type, 0 };
		if (dhs.p)
			cuda_linear_dx(d, part_of(dhs, c0, n), g, Ws, a->acc);
		if (dWs.p)
			cuda_linear_dw(d, dWs, mat{}, g, part_of(hs, c0, n));
	}
	rows_total(d, (double *)sums.p, q.loss, N, LOSS_KINDS);
}

/* The rows that count: their indices on the device, how many on the host */
static int64_t rows_with_label(struct dev *d, mat label, int32_t **index)
{
	int32_t n = 0;
	*index = (int32_t *)scratch(d, S_INDEX, (size_t)(label.rows + 1) * sizeof **index);
	LAUNCH(d, index_k, 1, INDEX_THREADS, 0, *index, (const int32_t *)label.p, label.rows);
	if (d->planning)
		return label.rows;
	cuda_download(d, &n, *index + label.rows, sizeof n);
	return n;
}

void head_pieces(struct dev *d, mat h, mat W, void (*each)(struct dev *, const head_piece *, void *), void *arg)
{
	int64_t n = h.rows, few = rows_in(W.rows * 4, LOGIT_BYTES, n < MAX_ROWS ? n : (int64_t)MAX_ROWS);
	for (int64_t c0 = 0; c0 < n; c0 += few) {
		int64_t m = n - c0 < few ? n - c0 : few;
		float *s = (float *)scratch(d, S_LOGIT_S, (size_t)(few * W.rows) * sizeof *s);
		logits(d, s, h, c0, m, W);
		head_piece piece = { s, NULL, c0, m, W.rows };
		each(d, &piece, arg);
	}
}

void head_labelled(struct dev *d, mat h, mat W, mat label, void (*each)(struct dev *, const head_piece *, void *), void *arg)
{
	int32_t *index;
	int64_t n = rows_with_label(d, label, &index), few = rows_in(W.rows * 4, LOGIT_BYTES, n < MAX_ROWS ? n : (int64_t)MAX_ROWS);
	for (int64_t c0 = 0; c0 < n; c0 += few) {
		int64_t m = n - c0 < few ? n - c0 : few;
		mat x = { scratch(d, S_HEAD_S, (size_t)(few * h.cols) * dtype_size(h.dtype)), m, h.cols, h.dtype, 0 };
		LAUNCH(d, gather_k, (unsigned)m, row_threads(h.cols), 0, view_of(x), view_of(h), index + c0, h.cols, vec_ok(h.cols, x, h));
		float *s = (float *)scratch(d, S_LOGIT_S, (size_t)(few * W.rows) * sizeof *s);
		logits(d, s, x, 0, m, W);
		head_piece piece = { s, index + c0, c0, m, W.rows };
		each(d, &piece, arg);
	}
}

struct logprob_args {
	float *out;
	const int32_t *label;
};

static void logprob_piece(struct dev *d, const head_piece *p, void *arg)
{
	const logprob_args *a = (const logprob_args *)arg;
	LAUNCH(d, logprob_k, (unsigned)p->rows, ROW_THREADS, 0, a->out, p->s, p->index, a->label, p->V);
}

void cuda_logprob(struct dev *d, mat out, mat h, mat W, mat label)
{
	logprob_args a = { (float *)out.p, (const int32_t *)label.p };
	cuda_zero(d, out);
	head_labelled(d, h, W, label, logprob_piece, &a);
}
