/*
 * test_parts.c - the head with its vocabulary spread over several processes, here threads, against the reference's in one piece
 *
 * Every loss, temperature and weighting; 1 to 4 parts, the last one shorter; f32 and bf16; rows without a label.  Losses are the
 * same in all parts, summands of dhs add up to the whole, rows of dWs are the whole's.  The reference, the CPU backend and the
 * CUDA kernels (tests/cuda/shim, whose one device the threads use by turns); logits far apart, and equal models.  And an embedding whose tokens are partly elsewhere.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_ops.h"
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { N = 21, V = 46, CS = 7, CT = 9, PARTS = 4 };
static const char *backend_name;
static int dtype;
static double hs[N * CS], ht[N * CT], Ws[V * CS], Wt[V * CT], label[N];

struct variant {
	struct kd_head_args a;
	bool untaught;             /* no teacher, CE alone */
	double tolerance;          /* of gradients in f32, by their norm; 0: 2e-5 */
};

struct outcome {
	double sums[LOSS_KINDS];
	float dhs[N * CS], dWs[V * CS];
};
struct part {
	pthread_t thread;
	struct kd_parts q;
	struct variant v;
	int64_t first, rows;
	struct backend b;
	struct outcome r;
};

/* ---- processes are threads: a place for what each brings, and barriers; only between them do they compute, one at a time ---- */

static struct {
	pthread_barrier_t b;
	pthread_mutex_t turn;
	char *place;
} meeting = { .turn = PTHREAD_MUTEX_INITIALIZER };

static void wait_for_all(void)
{
	pthread_mutex_unlock(&meeting.turn);
	pthread_barrier_wait(&meeting.b);
	pthread_mutex_lock(&meeting.turn);
}

static void meet(void *arg, void *x, int64_t bytes)
{
	const struct part *p = arg;
	int64_t own = bytes * p->q.rank;
	if (!p->q.rank)
		meeting.place = malloc((size_t)(bytes * p->q.size));
	wait_for_all();
	p->b.k->download(p->b.d, meeting.place + own, (char *)x + own, (size_t)bytes);
	wait_for_all();
	p->b.k->upload(p->b.d, x, meeting.place, (size_t)(bytes * p->q.size));
	wait_for_all();
	if (!p->q.rank)
		free(meeting.place);
}

/* Device copy of rows x cols of a dtype */
static mat put(const struct backend *b, const double *x, int64_t rows, int64_t cols, int type)
{
	mat m = { b->k->mem_alloc(b->d, (size_t)(rows * cols) * 4), rows, cols, type, 0 };
	float *host = malloc((size_t)(rows * cols) * sizeof *host);
	for (int64_t i = 0; i < rows * cols; i++)
		if (type == DT_BF16)
			((uint16_t *)host)[i] = f32_to_bf16((float)x[i]);
		else if (type == DT_I32)
			((int32_t *)host)[i] = (int32_t)x[i];
		else
			host[i] = (float)x[i];
	b->k->upload(b->d, m.p, host, (size_t)(rows * cols) * dtype_size(type));
	free(host);
	return m;
}

static mat zeros(const struct backend *b, int64_t rows, int64_t cols, int type)
{
	return (mat){ b->k->mem_alloc(b->d, (size_t)(rows * cols) * dtype_size(type)), rows, cols, type, 0 };
}

/* From the device, which forgets it */
static void take(const struct backend *b, void *host, mat m)
{
	size_t bytes = (size_t)(m.rows * m.cols) * dtype_size(m.dtype);
	b->k->download(b->d, host, m.p, bytes);
	b->k->mem_free(b->d, m.p, bytes);
}

static struct backend backend_for(const char *name)
{
	return strcmp(name, "cuda") ? backend_open(name, 1) : backend_open_cuda();
}

static void head(const struct backend *b, struct outcome *r, const struct variant *v, int64_t first, int64_t rows)
{
	mat in[] = { put(b, hs, N, CS, dtype), put(b, Ws + first * CS, rows, CS, dtype), put(b, ht, N, CT, dtype),
		     put(b, Wt + first * CT, rows, CT, dtype), put(b, label, N, 1, DT_I32) };
	mat sums = zeros(b, 1, LOSS_KINDS, DT_F64), dhs = zeros(b, N, CS, DT_F32), dWs = zeros(b, rows, CS, DT_F32);
	mat none = { 0 };
	memset(r, 0, sizeof *r);
	b->k->kd_head(b->d, sums, dhs, dWs, in[0], in[1], v->untaught ? none : in[2], v->untaught ? none : in[3], in[4], &v->a);
	take(b, r->sums, sums), take(b, r->dhs, dhs), take(b, r->dWs + first * CS, dWs);
	for (int i = 0; i < 5; i++)
		b->k->mem_free(b->d, in[i].p, (size_t)(in[i].rows * in[i].cols) * 4);
}

static void *one_part(void *arg)
{
	struct part *p = arg;
	pthread_mutex_lock(&meeting.turn);
	p->b = backend_for(backend_name);
	p->v.a.parts = &p->q;
	head(&p->b, &p->r, &p->v, p->first, p->rows);
	backend_close(&p->b);
	pthread_mutex_unlock(&meeting.turn);
	return NULL;
}

static void near(double a, double b, double tolerance, const char *what)
{
	if (!(fabs(a - b) <= tolerance * (fabs(b) + 1)))
		fail_msg("%s, dtype %d: %s is %.9g, whole %.9g", backend_name, dtype, what, a, b);
}

static void close_to(const struct variant *v, const double *part, const double *all, int64_t n, const char *what)
{
	double error = rel_error(part, all, n), size = 0;
	for (int64_t i = 0; i < n; i++)
		size += all[i] * all[i] + part[i] * part[i];
	if (size < 1e-16)
		return;
	if (!(error <= (dtype != DT_F32 ? 1e-2 : v->tolerance > 0 ? v->tolerance : 2e-5)))
		fail_msg("%s, dtype %d: %s is off by %g", backend_name, dtype, what, error);
}

/* Parts beside the whole by the reference */
static void compare(const struct variant *v, const struct outcome *whole, int parts)
{
	static struct part p[PARTS];
	double tolerance = dtype == DT_F32 ? 1e-5 : 1e-2;
	int64_t rows = (V + parts - 1) / parts;
	pthread_barrier_init(&meeting.b, NULL, (unsigned)parts);
	for (int i = 0; i < parts; i++) {
		p[i] = (struct part){ .v = *v, .first = i * rows, .rows = i < parts - 1 ? rows : V - i * rows };
		p[i].q = (struct kd_parts){ i, parts, rows, V, meet, &p[i] };
		pthread_create(&p[i].thread, NULL, one_part, &p[i]);
	}
	for (int i = 0; i < parts; i++)
		pthread_join(p[i].thread, NULL);
	pthread_barrier_destroy(&meeting.b);
	for (int i = 0; i < parts; i++)
		for (int k = 0; k < LOSS_KINDS; k++)
			near(p[i].r.sums[k], whole->sums[k], tolerance, "a loss");
	static double part[V * CS], all[V * CS];
	for (int j = 0; j < N * CS; j++) {
		part[j] = 0;
		all[j] = (double)whole->dhs[j];
		for (int i = 0; i < parts; i++)
			part[j] += (double)p[i].r.dhs[j];
	}
	close_to(v, part, all, N * CS, "dhs");
	for (int i = 0; i < parts; i++)
		for (int64_t j = p[i].first * CS; j < (p[i].first + p[i].rows) * CS; j++)
			part[j] = (double)p[i].r.dWs[j];
	for (int64_t j = 0; j < V * CS; j++)
		all[j] = (double)whole->dWs[j];
	close_to(v, part, all, V * CS, "dWs");
}

static void fill(double *x, int64_t n, uint64_t key)
{
	for (int64_t i = 0; i < n; i++)
		x[i] = noise((uint64_t)i + key) * 1.5;
}

static void models(const char *name)
{
	backend_name = name;
	fill(hs, N * CS, 1), fill(ht, N * CT, 1000), fill(Ws, V * CS, 2000), fill(Wt, V * CT, 3000);
	for (int n = 0; n < N; n++)
		label[n] = n % 5 == 4 ? -1 : n * 11 % V;
}

/* Logits of hundreds, other parts likely in one model than in the other: shares of a part that are nothing in f32 */
static void far_apart(int most)
{
	static const struct variant v = { .a = { .coef = { 0.7f, 0.3f, 0.2f }, .tau = 1 }, .tolerance = 2e-4 };
	static struct outcome whole;
	struct backend ref = backend_open("ref", 1);
	dtype = DT_F32;
	for (int i = 0; i < V * CS; i++)
		Ws[i] *= 40;
	for (int i = 0; i < V * CT; i++)
		Wt[i] *= 30;
	head(&ref, &whole, &v, 0, V);
	for (int parts = 2; parts <= most; parts++)
		compare(&v, &whole, parts);
	backend_close(&ref);
}

/* Nothing to learn: losses and gradients are 0, but for the part of the cross entropy */
static void equal_models(int most)
{
	static const struct variant v = { .a = { .coef = { [LOSS_KL] = 1, [LOSS_RKL] = 1, [LOSS_JSD] = 1, [LOSS_MSE] = 1 }, .tau = 2, .beta = 0.5f } };
	static struct outcome none;
	memset(ht, 0, sizeof ht);
	memset(Wt, 0, sizeof Wt);
	for (int n = 0; n < N; n++)
		memcpy(ht + n * CT, hs + n * CS, CS * sizeof *hs);
	for (int w = 0; w < V; w++)
		memcpy(Wt + w * CT, Ws + w * CS, CS * sizeof *Ws);
	struct backend ref = backend_open("ref", 1);
	head(&ref, &none, &v, 0, V);
	backend_close(&ref);
	for (int parts = 2; parts <= most; parts++)
		compare(&v, &none, parts);
}

static void all_losses(const char *name, int most)
{
	static const struct variant v[] = {
		{ .a = { .coef = { 1 }, .tau = 1 } }, { .a = { .coef = { 0.7f, 0.3f }, .tau = 1 } }, { .a = { .coef = { 0.7f, 0, 0.3f }, .tau = 2 } },
		{ .a = { .coef = { [LOSS_CE] = 1 }, .tau = 1 } }, { .a = { .coef = { [LOSS_CE] = 1 }, .tau = 2 }, .untaught = true },
		{ .a = { .coef = { [LOSS_RKL] = 1 }, .tau = 1.5f } }, { .a = { .coef = { [LOSS_JSD] = 1 }, .tau = 1.5f, .beta = 0.3f } },
		{ .a = { .coef = { [LOSS_TVD] = 1 }, .tau = 1 } }, { .a = { .coef = { [LOSS_MSE] = 1 }, .tau = 1 } },
		{ .a = { .coef = { [LOSS_COS] = 1 }, .tau = 1 } }, { .a = { .coef = { 1, 0.5f }, .tau = 1, .wsl = 1 } },
		{ .a = { .coef = { 0.3f, 0.2f, 0.1f, 0.4f, 0.5f, 0.6f, 0.7f }, .tau = 2, .beta = 0.7f, .wsl = 1 } },
	};
	static struct outcome whole;
	struct backend ref = backend_open("ref", 1);
	models(name);
	for (dtype = DT_F32; dtype <= DT_BF16; dtype++)
		for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
			head(&ref, &whole, &v[i], 0, V);
			for (int parts = 1; parts <= most; parts++)
				compare(&v[i], &whole, parts);
		}
	backend_close(&ref);
	far_apart(most);
	equal_models(most);
}

static void on_reference(void **state)
{
	(void)state;
	all_losses("ref", PARTS);
}

static void on_cpu(void **state)
{
	(void)state;
	all_losses("cpu", PARTS);
}

static void on_cuda(void **state)
{
	(void)state;
	all_losses("cuda", PARTS - 1);
}

static void tokens_elsewhere(void **state)
{
	static const char *const names[] = { "ref", "cpu", "cuda" };
	static const double tok[4] = { 1, -1, 0, -1 }, W[6] = { 1, 2, 3, 4, 5, 6 }, dy[12] = { 1, 1, 1, 9, 9, 9, 2, 2, 2, 9, 9, 9 };
	static const float want[12] = { 8, 10, 12, 0, 0, 0, 2, 4, 6, 0, 0, 0 };
	(void)state;
	for (int i = 0; i < 3; i++) {
		struct backend b = backend_for(names[i]);
		float y[12], dW[6];
		mat in[] = { put(&b, tok, 4, 1, DT_I32), put(&b, W, 2, 3, DT_F32), put(&b, dy, 4, 3, DT_F32) };
		mat out = zeros(&b, 4, 3, DT_F32), grad = zeros(&b, 2, 3, DT_F32);
		b.k->embed(b.d, out, in[0], in[1], 2);
		b.k->embed_dw(b.d, grad, in[0], in[2], 2);
		take(&b, y, out), take(&b, dW, grad);
		for (int k = 0; k < 3; k++)
			b.k->mem_free(b.d, in[k].p, (size_t)(in[k].rows * in[k].cols) * 4);
		assert_memory_equal(y, want, sizeof want);
		for (int k = 0; k < 6; k++)
			assert_true(dW[k] == (k < 3 ? 4 : 2));
		backend_close(&b);
	}
}

int main(int argc, char **argv)
{
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = { cmocka_unit_test(on_reference), cmocka_unit_test(on_cpu), cmocka_unit_test(on_cuda),
					   cmocka_unit_test(tokens_elsewhere) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
