/*
 * explicit_block.c - every formula of the dense decoder and its derivative, in double, with plain loops
 *
 * Uses no kernel, no program and no pass of the project: only the parameter table to find weights.  Everything is kept
 * (also T x T probabilities), nothing is clever; it is for models of a few hundred parameters.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "explicit_block.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct layer {                 /* what backward needs of one block, N = B*T rows */
	double *x, *h1, *qkv, *prob, *o, *mid, *h2, *up, *act;
	double *st1, *st2;     /* mean, rstd */
};
struct ctx {
	const struct ptable *t;
	const struct arch *a;
	const float *w;
	float *dw;
	int64_t B, T, N;
	float *rope;
};

static double *vec(int64_t n)
{
	return xcalloc((size_t)n, sizeof(double));
}

static const struct param *find(const struct ctx *c, int64_t l, const char *name)
{
	char full[64];
	if (l >= 0)
		snprintf(full, sizeof full, "blk.%lld.%s", (long long)l, name);
	else
		snprintf(full, sizeof full, "%s", name);
	return ptable_find(c->t, full);
}

/* y [N,O] = x [N,I] W'  (+= when add) */
static void mul(const struct ctx *c, const struct param *p, const double *x, double *y, int add)
{
	const float *W = c->w + p->off;
	for (int64_t n = 0; n < c->N; n++)
		for (int64_t o = 0; o < p->rows; o++) {
			double s = add ? y[n * p->rows + o] : 0;
			for (int64_t i = 0; i < p->cols; i++)
				s += x[n * p->cols + i] * (double)W[o * p->cols + i];
			y[n * p->rows + o] = s;
		}
}

static void mul_back(const struct ctx *c, const struct param *p, const double *x, const double *dy, double *dx)
{
	const float *W = c->w + p->off;
	float *dW = c->dw + p->off;
	for (int64_t o = 0; o < p->rows; o++)
		for (int64_t i = 0; i < p->cols; i++) {
			double s = dW[o * p->cols + i];
			for (int64_t n = 0; n < c->N; n++)
				s += dy[n * p->rows + o] * x[n * p->cols + i];
			dW[o * p->cols + i] = (float)s;
		}
	for (int64_t n = 0; n < c->N; n++)
		for (int64_t i = 0; i < p->cols; i++) {
			double s = 0;
			for (int64_t o = 0; o < p->rows; o++)
				s += dy[n * p->rows + o] * (double)W[o * p->cols + i];
			dx[n * p->cols + i] = s;
		}
}

static void norm(const struct ctx *c, int64_t l, const char *name, const double *x, double *y, double *st)
{
	char b[32], wn[32];
	snprintf(wn, sizeof wn, "%s.w", name);
	snprintf(b, sizeof b, "%s.b", name);
	const struct param *pw = find(c, l, wn), *pb = find(c, l, b);
	int64_t C = c->a->hidden;
	for (int64_t n = 0; n < c->N; n++) {
		double m = 0, v = 0;
		for (int64_t i = 0; i < C && c->a->norm == NORM_LAYER1P; i++)
			m += x[n * C + i] / (double)C;
		for (int64_t i = 0; i < C; i++)
			v += (x[n * C + i] - m) * (x[n * C + i] - m) / (double)C;
		double r = 1 / sqrt(v + c->a->norm_eps);
		st[2 * n] = m, st[2 * n + 1] = r;
		for (int64_t i = 0; i < C; i++) {
			double g = (double)c->w[pw->off + i] + (c->a->norm == NORM_LAYER1P);
			y[n * C + i] = (x[n * C + i] - m) * r * g + (pb ? (double)c->w[pb->off + i] : 0);
		}
	}
}

/* dx += */
static void norm_back(const struct ctx *c, int64_t l, const char *name, const double *x, const double *st, const double *dy,
		      double *dx)
{
	char b[32], wn[32];
	snprintf(wn, sizeof wn, "%s.w", name);
	snprintf(b, sizeof b, "%s.b", name);
	const struct param *pw = find(c, l, wn), *pb = find(c, l, b);
	int64_t C = c->a->hidden;
	int center = c->a->norm == NORM_LAYER1P;
	for (int64_t n = 0; n < c->N; n++) {
		double m = st[2 * n], r = st[2 * n + 1], s1 = 0, s2 = 0;
		for (int64_t i = 0; i < C; i++) {
			double g = (double)c->w[pw->off + i] + center, xh = (x[n * C + i] - m) * r, d = dy[n * C + i];
			c->dw[pw->off + i] += (float)(d * xh);
			if (pb)
				c->dw[pb->off + i] += (float)d;
			s1 += d * g / (double)C;
			s2 += d * g * xh / (double)C;
		}
		for (int64_t i = 0; i < C; i++) {
			double g = (double)c->w[pw->off + i] + center, xh = (x[n * C + i] - m) * r;
			dx[n * C + i] += r * (dy[n * C + i] * g - (center ? s1 : 0) - xh * s2);
		}
	}
}

/* dir 1: rotate by the position's angle; -1: back (the transpose) */
static void rotate(const struct ctx *c, double *q, int64_t pos, int dir)
{
	int64_t rot = arch_rope_dims(c->a), half = rot / 2;
	for (int64_t i = 0; i < half; i++) {
		double co = (double)c->rope[pos * rot + i], si = dir * (double)c->rope[pos * rot + half + i];
		double a = q[i], b = q[i + half];
		q[i] = a * co - b * si;
		q[i + half] = b * co + a * si;
	}
}

static void attention(const struct ctx *c, struct layer *y)
{
	int64_t H = c->a->heads, G = c->a->kv_heads, D = c->a->head_dim, W = (H + 2 * G) * D, T = c->T;
	for (int64_t n = 0; n < c->N; n++)
		for (int64_t h = 0; h < H + G; h++)
			rotate(c, y->qkv + n * W + h * D, n % T, 1);
	for (int64_t b = 0; b < c->B; b++)
		for (int64_t h = 0; h < H; h++)
			for (int64_t i = 0; i < T; i++) {
				const double *q = y->qkv + (b * T + i) * W + h * D;
				double *p = y->prob + ((b * H + h) * T + i) * T, most = -1e300, sum = 0;
				for (int64_t j = 0; j <= i; j++) {
					const double *k = y->qkv + (b * T + j) * W + (H + h / (H / G)) * D;
					for (int64_t d = 0; d < D; d++)
						p[j] += q[d] * k[d] / sqrt((double)D);
					most = fmax(most, p[j]);
				}
				for (int64_t j = 0; j <= i; j++)
					sum += p[j] = exp(p[j] - most);
				for (int64_t j = 0; j <= i; j++) {
					const double *v = y->qkv + (b * T + j) * W + (H + G + h / (H / G)) * D;
					p[j] /= sum;
					for (int64_t d = 0; d < D; d++)
						y->o[(b * T + i) * H * D + h * D + d] += p[j] * v[d];
				}
			}
}

static void attention_back(const struct ctx *c, const struct layer *y, const double *d_o, double *dqkv)
{
	int64_t H = c->a->heads, G = c->a->kv_heads, D = c->a->head_dim, W = (H + 2 * G) * D, T = c->T;
	for (int64_t b = 0; b < c->B; b++)
		for (int64_t h = 0; h < H; h++)
			for (int64_t i = 0; i < T; i++) {
				const double *p = y->prob + ((b * H + h) * T + i) * T, *g = d_o + (b * T + i) * H * D + h * D;
				int64_t kk = (H + h / (H / G)) * D, vv = (H + G + h / (H / G)) * D;
				double dot = 0;
				for (int64_t d = 0; d < D; d++)
					dot += g[d] * y->o[(b * T + i) * H * D + h * D + d];
				for (int64_t j = 0; j <= i; j++) {
					const double *row = y->qkv + (b * T + j) * W;
					double dp = 0;
					for (int64_t d = 0; d < D; d++) {
						dp += g[d] * row[vv + d];
						dqkv[(b * T + j) * W + vv + d] += p[j] * g[d];
					}
					double ds = p[j] * (dp - dot) / sqrt((double)D);
					for (int64_t d = 0; d < D; d++) {
						dqkv[(b * T + i) * W + h * D + d] += ds * row[kk + d];
						dqkv[(b * T + j) * W + kk + d] += ds * y->qkv[(b * T + i) * W + h * D + d];
					}
				}
			}
	for (int64_t n = 0; n < c->N; n++)
		for (int64_t h = 0; h < H + G; h++)
			rotate(c, dqkv + n * W + h * D, n % T, -1);
}

/* Forward (d NULL) or backward of the activation. */
static void activation(const struct ctx *c, const double *up, double *act, const double *d, double *dup)
{
	int64_t F = c->a->ffn, U = act_gated(c->a->act) ? 2 * F : F;
	for (int64_t n = 0; n < c->N; n++)
		for (int64_t i = 0; i < F; i++) {
			double g = up[n * U + i];
			if (c->a->act == ACT_RELU2) {
				double r = g > 0 ? g : 0;
				if (d)
					dup[n * U + i] = 2 * r * d[n * F + i];
				else
					act[n * F + i] = r * r;
				continue;
			}
			double u = up[n * U + F + i], s = 1 / (1 + exp(-g));
			if (d) {
				dup[n * U + i] = d[n * F + i] * u * s * (1 + g * (1 - s));
				dup[n * U + F + i] = d[n * F + i] * g * s;
			} else {
				act[n * F + i] = g * s * u;
			}
		}
}

static void block(const struct ctx *c, int64_t l, struct layer *y, double *out)
{
	int64_t N = c->N, C = c->a->hidden, F = c->a->ffn, H = c->a->heads, G = c->a->kv_heads, D = c->a->head_dim;
	y->h1 = vec(N * C), y->st1 = vec(2 * N), y->qkv = vec(N * (H + 2 * G) * D), y->prob = vec(c->B * H * c->T * c->T);
	y->o = vec(N * H * D), y->mid = vec(N * C), y->h2 = vec(N * C), y->st2 = vec(2 * N);
	y->up = vec(N * 2 * F), y->act = vec(N * F);
	norm(c, l, "attn.norm", y->x, y->h1, y->st1);
	mul(c, find(c, l, "attn.qkv"), y->h1, y->qkv, 0);
	attention(c, y);
	memcpy(y->mid, y->x, (size_t)(N * C) * sizeof(double));
	mul(c, find(c, l, "attn.o"), y->o, y->mid, 1);
	norm(c, l, "mlp.norm", y->mid, y->h2, y->st2);
	mul(c, find(c, l, "mlp.up"), y->h2, y->up, 0);
	activation(c, y->up, y->act, NULL, NULL);
	memcpy(out, y->mid, (size_t)(N * C) * sizeof(double));
	mul(c, find(c, l, "mlp.down"), y->act, out, 1);
}

/* d holds the gradient of the block's output and becomes that of its input. */
static void block_back(const struct ctx *c, int64_t l, const struct layer *y, double *d)
{
	int64_t N = c->N, C = c->a->hidden, F = c->a->ffn, H = c->a->heads, G = c->a->kv_heads, D = c->a->head_dim;
	double *da = vec(N * F), *du = vec(N * 2 * F), *dh = vec(N * C), *d_o = vec(N * H * D), *dq = vec(N * (H + 2 * G) * D);
	mul_back(c, find(c, l, "mlp.down"), y->act, d, da);
	activation(c, y->up, NULL, da, du);
	mul_back(c, find(c, l, "mlp.up"), y->h2, du, dh);
	norm_back(c, l, "mlp.norm", y->mid, y->st2, dh, d);
	mul_back(c, find(c, l, "attn.o"), y->o, d, d_o);
	attention_back(c, y, d_o, dq);
	mul_back(c, find(c, l, "attn.qkv"), y->h1, dq, dh);
	norm_back(c, l, "attn.norm", y->x, y->st1, dh, d);
	free(da), free(du), free(dh), free(d_o), free(dq);
}

/* Mean cross-entropy of the output matrix on h; dh gets its gradient. */
static double head(const struct ctx *c, const double *h, const int32_t *label, double *dh)
{
	const struct param *p = find(c, -1, "head");
	int64_t V = p->rows, counted = 0;
	double *z = vec(c->N * V), loss = 0;
	mul(c, p, h, z, 0);
	for (int64_t n = 0; n < c->N; n++)
		counted += label[n] >= 0;
	for (int64_t n = 0; n < c->N; n++) {
		double most = -1e300, sum = 0, *r = z + n * V;
		for (int64_t v = 0; v < V; v++)
			most = fmax(most, r[v]);
		for (int64_t v = 0; v < V; v++)
			sum += exp(r[v] - most);
		if (label[n] >= 0)
			loss += (most + log(sum) - r[label[n]]) / (double)counted;
		for (int64_t v = 0; v < V; v++)
			r[v] = label[n] < 0 ? 0 : (exp(r[v] - most) / sum - (v == label[n])) / (double)counted;
	}
	mul_back(c, p, h, z, dh);
	free(z);
	return loss;
}

double explicit_model(const struct ptable *t, const float *w, const int32_t *tok, const int32_t *label, int64_t B, int64_t T,
		      float *dw, double *hidden)
{
	struct ctx c = { t, &t->arch, w, dw, B, T, B * T, NULL };
	int64_t C = t->arch.hidden, L = t->arch.layers, N = c.N;
	const struct param *emb = ptable_find(t, "embed");
	c.rope = xcalloc((size_t)(T * arch_rope_dims(c.a)) + 1, sizeof(float));
	arch_rope_table(c.a, c.rope, 0, T);
	memset(dw, 0, (size_t)t->elems * sizeof *dw);
	struct layer *y = xcalloc((size_t)L, sizeof *y);
	double *x = vec(N * C), *h = vec(N * C), *st = vec(2 * N), *dh = vec(N * C), *d = vec(N * C);
	for (int64_t i = 0; i < N * C; i++)
		x[i] = (double)w[emb->off + tok[i / C] * C + i % C] * c.a->embed_scale;
	for (int64_t l = 0; l < L; l++) {
		y[l].x = x;
		x = vec(N * C);
		block(&c, l, &y[l], x);
	}
	norm(&c, -1, "final.norm", x, h, st);
	if (hidden)
		memcpy(hidden, h, (size_t)(N * C) * sizeof *h);
	double loss = head(&c, h, label, dh);
	norm_back(&c, -1, "final.norm", x, st, dh, d);
	for (int64_t l = L - 1; l >= 0; l--)
		block_back(&c, l, &y[l], d);
	for (int64_t i = 0; i < N * C; i++)
		dw[emb->off + tok[i / C] * C + i % C] += (float)(d[i] * c.a->embed_scale);
	for (int64_t l = 0; l < L; l++) {
		free(y[l].x), free(y[l].h1), free(y[l].qkv), free(y[l].prob), free(y[l].o), free(y[l].mid);
		free(y[l].h2), free(y[l].up), free(y[l].act), free(y[l].st1), free(y[l].st2);
	}
	free(y), free(x), free(h), free(st), free(dh), free(d), free(c.rope);
	return loss;
}
