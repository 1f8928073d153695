/*
 * test_losses.c - what must hold of the head's losses on logits that are given as they are (W is the identity)
 *
 * A teacher equal to the student costs nothing under every loss; with K = V the three tail rules are the full KL; logits
 * of +-1e4 stay finite; weighted soft labels scale exactly the teacher's terms; the best K are the best K, ties to the
 * lower id; every loss against its definition in double.  On the reference and on every instruction set of the CPU.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_ops.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { N = 6, V = 37 };
static const mat none;
static float eye[V * V], s[N * V], t[N * V], dh[N * V], lp[N * (V + 1)];
static int32_t label[N], ids[N * V];
static double sums[LOSS_KINDS];

static mat m32(float *p, int64_t rows, int64_t cols) { return (mat){ p, rows, cols, DT_F32, 0 }; }
static mat mi(int32_t *p, int64_t rows, int64_t cols) { return (mat){ p, rows, cols, DT_I32, 0 }; }

static void fill(double scale)
{
	for (int i = 0; i < N * V; i++) {
		s[i] = (float)(noise((uint64_t)i) * scale);
		t[i] = (float)(noise((uint64_t)i + 7000) * scale);
	}
	for (int i = 0; i < V * V; i++)
		eye[i] = i % (V + 1) == 0;
	for (int n = 0; n < N; n++)
		label[n] = n * 5 % V;
}

/* Loss and gradient of kd_head on the logits s against t, or against the best K in ids and lp */
static void head(const struct backend *b, const struct kd_head_args *a, int64_t K)
{
	mat W = m32(eye, V, V);
	memset(sums, 0, sizeof sums);
	b->k->weights_changed(b->d);
	b->k->kd_head(b->d, (mat){ sums, 1, LOSS_KINDS, DT_F64, 0 }, m32(dh, N, V), none, m32(s, N, V), W, K ? mi(ids, N, K) : m32(t, N, V),
		      K ? m32(lp, N, K + 1) : W, mi(label, N, 1), a);
}

static void best(const struct backend *b, int64_t K, float tau)
{
	b->k->topk(b->d, mi(ids, N, K), m32(lp, N, K + 1), m32(t, N, V), m32(eye, V, V), mi(label, N, 1), tau);
}

static void on_all(void (*test)(const struct backend *))
{
	static const char *const isa[] = { NULL, "v1", "v3", "v4" };
	struct backend ref = backend_open("ref", 1);
	test(&ref);
	backend_close(&ref);
	for (int i = 0; i < 4; i++) {
		if (isa[i])
			setenv("ADZE_CPU_ISA", isa[i], 1);
		struct backend cpu = backend_open("cpu", 2);
		unsetenv("ADZE_CPU_ISA");
		test(&cpu);
		backend_close(&cpu);
	}
}

static struct kd_head_args only(int kind, double tau)
{
	struct kd_head_args a = { .tau = (float)tau, .beta = 0.3f };
	a.coef[kind] = 1;
	return a;
}

/* ---- */

static void no_gradient(double limit)
{
	for (int i = 0; i < N * V; i++)
		assert_true(fabs((double)dh[i]) <= limit);
}

static void same_case(const struct backend *b)
{
	fill(3);
	memcpy(t, s, sizeof t);
	for (int k = 0; k < LOSS_KINDS; k++) {
		if (k == LOSS_CE)
			continue;
		struct kd_head_args a = only(k, 1.5);
		head(b, &a, 0);
		assert_true(fabs(sums[k]) <= 2e-6);
		no_gradient(1e-6);
	}
	best(b, 9, 1.5f);
	for (int rule = TAIL_RENORM; rule <= TAIL_GHOST; rule++) {
		struct kd_head_args a = only(LOSS_KL, 1.5);
		a.tail = rule;
		head(b, &a, 9);
		if (rule == TAIL_ZERO) { /* the student's own tail is mass that the cut teacher lacks */
			assert_true(sums[LOSS_KL] > 1e-3);
			continue;
		}
		assert_true(fabs(sums[LOSS_KL]) <= 2e-6);
		no_gradient(1e-6);
	}
}
static void teacher_is_student(void **state) { (void)state; on_all(same_case); }

static void all_case(const struct backend *b)
{
	struct kd_head_args a = only(LOSS_KL, 2);
	fill(4);
	a.coef[LOSS_CE] = 0.5f;
	head(b, &a, 0);
	double kl = sums[LOSS_KL], ce = sums[LOSS_CE];
	float g[N * V];
	memcpy(g, dh, sizeof g);
	best(b, V, 2);
	for (int n = 0; n < N; n++)
		assert_true(lp[n * (V + 1) + V] == -INFINITY);
	for (a.tail = TAIL_RENORM; a.tail <= TAIL_GHOST; a.tail++) {
		head(b, &a, V);
		assert_true(fabs(sums[LOSS_KL] - kl) <= 1e-6 * kl && fabs(sums[LOSS_CE] - ce) <= 1e-6 * ce);
		for (int i = 0; i < N * V; i++)
			assert_true(fabsf(g[i] - dh[i]) <= 2e-6f);
	}
}
static void best_of_all_is_full(void **state) { (void)state; on_all(all_case); }

static void extreme_case(const struct backend *b)
{
	static const float tau[] = { 0.1f, 1, 5 };
	fill(1e4);
	for (int i = 0; i < 3; i++) {
		for (int k = 0; k < LOSS_KINDS; k++) {
			struct kd_head_args a = only(k, (double)tau[i]);
			a.wsl = i == 1;
			head(b, &a, 0);
			assert_true(isfinite(sums[k]) && sums[k] >= 0);
			no_gradient(1e5); /* false for NaN */
		}
		best(b, 5, tau[i]);
		for (int rule = TAIL_RENORM; rule <= TAIL_GHOST; rule++) {
			struct kd_head_args a = only(LOSS_KL, (double)tau[i]);
			a.tail = rule;
			head(b, &a, 5);
			assert_true(isfinite(sums[LOSS_KL]) && sums[LOSS_KL] >= 0);
			no_gradient(1e5);
		}
	}
}
static void extreme_logits(void **state) { (void)state; on_all(extreme_case); }

static double ce_of(const float *x, int64_t l)
{
	double top = -1e30, z = 0;
	for (int v = 0; v < V; v++)
		top = fmax(top, (double)x[v]);
	for (int v = 0; v < V; v++)
		z += exp((double)x[v] - top);
	return top + log(z) - (double)x[l];
}

static void wsl_case(const struct backend *b)
{
	float g[N * V];
	fill(2);
	for (int k = 0; k < LOSS_KINDS; k++) {
		struct kd_head_args a = only(k, 2);
		head(b, &a, 0);
		memcpy(g, dh, sizeof g);
		a.wsl = 1;
		head(b, &a, 0);
		for (int n = 0; n < N; n++) {
			double w = k == LOSS_CE ? 1 : 1 - exp(-ce_of(s + n * V, label[n]) / ce_of(t + n * V, label[n]));
			for (int v = 0; v < V; v++)
				assert_true(fabs(w * (double)g[n * V + v] - (double)dh[n * V + v]) <= 1e-6);
		}
	}
}
static void soft_labels_are_weighted(void **state) { (void)state; on_all(wsl_case); }

static void topk_case(const struct backend *b)
{
	enum { K = 7 };
	fill(2);
	for (int i = 0; i < N * V; i++)
		t[i] = rintf(t[i] * 2); /* many equal logits */
	label[2] = -1;
	best(b, K, 1);
	for (int n = 0; n < N; n++) {
		double rest = 0, in = 0;
		for (int v = 0, k = 0; v < V; v++) {
			int better = 0;
			for (int u = 0; u < V; u++)
				better += t[n * V + u] > t[n * V + v] || (t[n * V + u] == t[n * V + v] && u < v);
			double p = exp(-ce_of(t + n * V, v));
			if (better >= K)
				rest += p;
			else if (label[n] >= 0)
				in += fabs(exp((double)lp[n * (K + 1) + k]) - p) + (ids[n * K + k] != v), k++;
			else
				assert_true(ids[n * K + k] == 0 && lp[n * (K + 1) + k] == 0.0f);
		}
		assert_true(in < 1e-6);
		assert_true(label[n] < 0 || fabs(exp((double)lp[n * (K + 1) + K]) - rest) < 1e-6);
	}
}
static void best_are_best(void **state) { (void)state; on_all(topk_case); }

/* Each loss of one row from its definition */
static void define(double *l, const float *x, const float *y, double tau, double beta)
{
	double ps[V], pt[V], a = 0, b = 0, ss = 0, tt = 0, st = 0;
	memset(l, 0, LOSS_KINDS * sizeof *l);
	for (int v = 0; v < V; v++) {
		a += ps[v] = exp((double)x[v] / tau);
		b += pt[v] = exp((double)y[v] / tau);
	}
	for (int v = 0; v < V; v++) {
		double p = pt[v] / b, q = ps[v] / a, m = beta * p + (1 - beta) * q, d = (double)x[v] - (double)y[v];
		l[LOSS_KL] += p * log(p / q);
		l[LOSS_RKL] += q * log(q / p);
		l[LOSS_JSD] += beta * p * log(p / m) + (1 - beta) * q * log(q / m);
		l[LOSS_TVD] += fabs(p - q) / 2;
		l[LOSS_MSE] += d * d / V;
		ss += (double)x[v] * (double)x[v], tt += (double)y[v] * (double)y[v], st += (double)x[v] * (double)y[v];
	}
	l[LOSS_COS] = 1 - st / sqrt(ss * tt);
}

static void definition_case(const struct backend *b)
{
	fill(3);
	for (int k = 0; k < LOSS_KINDS; k++) {
		struct kd_head_args a = only(k, 2);
		double want = 0, l[LOSS_KINDS];
		head(b, &a, 0);
		for (int n = 0; n < N; n++) {
			define(l, s + n * V, t + n * V, 2, (double)a.beta);
			want += k == LOSS_CE ? ce_of(s + n * V, label[n]) : l[k];
		}
		assert_true(fabs(sums[k] - want) <= 1e-6 * want);
	}
}
static void losses_by_definition(void **state) { (void)state; on_all(definition_case); }

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(teacher_is_student), cmocka_unit_test(best_of_all_is_full), cmocka_unit_test(extreme_logits),
		cmocka_unit_test(soft_labels_are_weighted), cmocka_unit_test(best_are_best), cmocka_unit_test(losses_by_definition),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
