/*
 * test_parts.c - the head with its vocabulary spread over several processes, here threads, against the head in one piece
 *
 * Every loss, temperature and weighting; 1 to 4 parts, the last one shorter; f32 and bf16; rows without a label.  Losses are the
 * same in all parts, summands of dhs add up to the whole, rows of dWs are the whole's.  And an embedding whose tokens are partly
 * elsewhere.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_ops.h"
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { N = 21, V = 46, CS = 7, CT = 9, PARTS = 4 };
static const char *backend_name;
static int dtype;
static double hs[N * CS], ht[N * CT], Ws[V * CS], Wt[V * CT];
static int32_t label[N];

struct outcome {
	double sums[LOSS_KINDS];
	float dhs[N * CS], dWs[V * CS];
};
struct part {
	pthread_t thread;
	struct kd_parts q;
	struct kd_head_args a;
	int64_t first, rows;
	struct outcome r;
};

/* ---- processes are threads: a place for what each brings, and two barriers ---- */

static struct {
	pthread_barrier_t b;
	char *place;
} meeting;

static void meet(void *arg, void *x, int64_t bytes)
{
	const struct kd_parts *q = arg;
	if (!q->rank)
		meeting.place = malloc((size_t)(bytes * q->size));
	pthread_barrier_wait(&meeting.b);
	memcpy(meeting.place + bytes * q->rank, (char *)x + bytes * q->rank, (size_t)bytes);
	pthread_barrier_wait(&meeting.b);
	memcpy(x, meeting.place, (size_t)(bytes * q->size));
	pthread_barrier_wait(&meeting.b);
	if (!q->rank)
		free(meeting.place);
}

/* Device copy of rows x cols */
static mat put(const struct backend *b, const double *x, int64_t rows, int64_t cols)
{
	mat m = { b->k->mem_alloc(b->d, (size_t)(rows * cols) * 4), rows, cols, dtype, 0 };
	for (int64_t i = 0; i < rows * cols; i++)
		if (dtype == DT_BF16)
			((uint16_t *)m.p)[i] = f32_to_bf16((float)x[i]);
		else
			((float *)m.p)[i] = (float)x[i];
	return m;
}

static void head(struct outcome *r, const struct kd_head_args *a, int64_t first, int64_t rows)
{
	struct backend b = backend_open(backend_name, 1);
	mat s = put(&b, hs, N, CS), t = put(&b, ht, N, CT), W = put(&b, Ws + first * CS, rows, CS), U = put(&b, Wt + first * CT, rows, CT);
	memset(r, 0, sizeof *r);
	b.k->kd_head(b.d, (mat){ r->sums, 1, LOSS_KINDS, DT_F64, 0 }, (mat){ r->dhs, N, CS, DT_F32, 0 },
		     (mat){ r->dWs + first * CS, rows, CS, DT_F32, 0 }, s, W, t, U, (mat){ label, N, 1, DT_I32, 0 }, a);
	mat all[] = { s, t, W, U };
	for (int i = 0; i < 4; i++)
		b.k->mem_free(b.d, all[i].p, (size_t)(all[i].rows * all[i].cols) * 4);
	backend_close(&b);
}

static void *one_part(void *arg)
{
	struct part *p = arg;
	p->a.parts = &p->q;
	head(&p->r, &p->a, p->first, p->rows);
	return NULL;
}

static void near(double a, double b, double tolerance, const char *what)
{
	if (!(fabs(a - b) <= tolerance * (fabs(b) + 1)))
		fail_msg("%s, dtype %d: %s is %.9g, whole %.9g", backend_name, dtype, what, a, b);
}

static void compare(const struct kd_head_args *a, int parts)
{
	static struct part p[PARTS];
	static struct outcome whole;
	double tolerance = dtype == DT_F32 ? 1e-5 : 1e-2;
	int64_t rows = (V + parts - 1) / parts;
	head(&whole, a, 0, V);
	pthread_barrier_init(&meeting.b, NULL, (unsigned)parts);
	for (int i = 0; i < parts; i++) {
		p[i] = (struct part){ .a = *a, .first = i * rows, .rows = i < parts - 1 ? rows : V - i * rows };
		p[i].q = (struct kd_parts){ i, parts, rows, V, meet, &p[i].q };
		pthread_create(&p[i].thread, NULL, one_part, &p[i]);
	}
	for (int i = 0; i < parts; i++)
		pthread_join(p[i].thread, NULL);
	pthread_barrier_destroy(&meeting.b);
	for (int i = 0; i < parts; i++)
		for (int k = 0; k < LOSS_KINDS; k++)
			near(p[i].r.sums[k], whole.sums[k], tolerance, "a loss");
	for (int j = 0; j < N * CS; j++) {
		double x = 0;
		for (int i = 0; i < parts; i++)
			x += (double)p[i].r.dhs[j];
		near(x, (double)whole.dhs[j], tolerance, "dhs");
	}
	for (int i = 0; i < parts; i++)
		for (int64_t j = p[i].first * CS; j < (p[i].first + p[i].rows) * CS; j++)
			near((double)p[i].r.dWs[j], (double)whole.dWs[j], tolerance, "dWs");
}

static void fill(double *x, int64_t n, uint64_t key)
{
	for (int64_t i = 0; i < n; i++)
		x[i] = noise((uint64_t)i + key) * 1.5;
}

static void all_losses(const char *name)
{
	static const struct kd_head_args v[] = {
		{ .coef = { 1 }, .tau = 1 }, { .coef = { 0.7f, 0.3f }, .tau = 1 }, { .coef = { 0.7f, 0, 0.3f }, .tau = 2 },
		{ .coef = { [LOSS_CE] = 1 }, .tau = 1 }, { .coef = { [LOSS_RKL] = 1 }, .tau = 1.5f },
		{ .coef = { [LOSS_JSD] = 1 }, .tau = 1.5f, .beta = 0.3f }, { .coef = { [LOSS_TVD] = 1 }, .tau = 1 },
		{ .coef = { [LOSS_MSE] = 1 }, .tau = 1 }, { .coef = { [LOSS_COS] = 1 }, .tau = 1 }, { .coef = { 1, 0.5f }, .tau = 1, .wsl = 1 },
		{ .coef = { 0.3f, 0.2f, 0.1f, 0.4f, 0.5f, 0.6f, 0.7f }, .tau = 2, .beta = 0.7f, .wsl = 1 },
	};
	backend_name = name;
	fill(hs, N * CS, 1), fill(ht, N * CT, 1000), fill(Ws, V * CS, 2000), fill(Wt, V * CT, 3000);
	for (int n = 0; n < N; n++)
		label[n] = n % 5 == 4 ? -1 : n * 11 % V;
	for (dtype = DT_F32; dtype <= DT_BF16; dtype++)
		for (size_t i = 0; i < sizeof v / sizeof *v; i++)
			for (int parts = 1; parts <= PARTS; parts++)
				compare(&v[i], parts);
}

static void on_reference(void **state)
{
	(void)state;
	all_losses("ref");
}

static void on_cpu(void **state)
{
	(void)state;
	all_losses("cpu");
}

static void tokens_elsewhere(void **state)
{
	static const char *const names[] = { "ref", "cpu" };
	static int32_t tok[4] = { 1, -1, 0, -1 };
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct backend b = backend_open(names[i], 1);
		float W[6] = { 1, 2, 3, 4, 5, 6 }, y[12], dW[6] = { 0 };
		const float want[12] = { 8, 10, 12, 0, 0, 0, 2, 4, 6, 0, 0, 0 }, dy[12] = { 1, 1, 1, 9, 9, 9, 2, 2, 2, 9, 9, 9 };
		mat m = { tok, 4, 1, DT_I32, 0 };
		b.k->embed(b.d, (mat){ y, 4, 3, DT_F32, 0 }, m, (mat){ W, 2, 3, DT_F32, 0 }, 2);
		assert_memory_equal(y, want, sizeof want);
		b.k->embed_dw(b.d, (mat){ dW, 2, 3, DT_F32, 0 }, m, (mat){ (void *)(uintptr_t)dy, 4, 3, DT_F32, 0 }, 2);
		for (int k = 0; k < 6; k++)
			assert_true(dW[k] == (k < 3 ? 4 : 2));
		backend_close(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(on_reference), cmocka_unit_test(on_cpu), cmocka_unit_test(tokens_elsewhere) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
