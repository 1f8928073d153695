/*
 * aux_ops.c - see aux_ops.h
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_ops.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

double noise(uint64_t i)
{
	double s = 0;
	for (uint64_t k = 0; k < 4; k++)
		s += (double)(mix(4 * i + k) >> 11) / 9007199254740992.0 - 0.5;
	return s * 1.7;
}

int add_operand(struct job *j, struct operand o)
{
	assert_true(j->n < MAX_OPS);
	j->op[j->n] = o;
	return j->n++;
}

struct backend backend_open(const char *name, int threads)
{
	char why[256];
	struct backend b = { kernels_open(name, why), NULL };
	if (!b.k)
		fail_msg("backend %s: %s", name, why);
	b.d = b.k->dev_open(threads);
	assert_non_null(b.d);
	return b;
}

struct backend backend_open_cuda(void)
{
	const char *real = getenv("ADZE_CUDA_LIB");
	char exe[4096];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	assert_true(n > 0);
	exe[n] = 0;
	char *slash = strrchr(exe, '/');       /* build/tests/kernels/test_ops -> build/tests/cuda */
	assert_true(slash != NULL);
	strcpy(slash - strlen("kernels"), "cuda");
	setenv("ADZE_LIB", real && *real ? real : exe, 1);
	setenv("SHIM_GUARD", "0", 1);          /* the many small launches need not close memory each time */
	struct backend b = backend_open("cuda", 0);
	unsetenv("ADZE_LIB");
	return b;
}

void backend_close(struct backend *b)
{
	b->k->dev_close(b->d);
}

static double fill_value(const struct job *j, int k, int64_t i)
{
	const struct operand *o = &j->op[k];
	uint64_t at = (uint64_t)k * 1000003u + (uint64_t)i;
	double scale = j->scale > 0 ? j->scale : 1;
	switch (o->fill) {
	case F_POSITIVE: return fabs(noise(at)) + 0.01;
	case F_TOKEN: return (double)(mix(at) % (uint64_t)o->bound);
	case F_LABEL: return i % 5 == 3 ? -1 : (double)(mix(at) % (uint64_t)o->bound);
	case F_MASK: return i % 3 == 1 ? 0 : 1;
	case F_GIVEN: return o->given[i];
	case F_ASCEND: return (double)((i % o->cols) * o->bound / o->cols);
	case F_ROPE: {
		int64_t half = o->cols / 2, c = i % o->cols, t = i / o->cols;
		double a = (double)t * pow(100.0, -(double)(c % half) / (double)half);
		return c < half ? cos(a) : sin(a);
	}
	default: return noise(at) * scale;
	}
}

static void put(void *p, int dtype, int64_t i, double x)
{
	switch (dtype) {
	case DT_F32: ((float *)p)[i] = (float)x; break;
	case DT_BF16: ((uint16_t *)p)[i] = f32_to_bf16((float)x); break;
	case DT_F64: ((double *)p)[i] = x; break;
	default: ((int32_t *)p)[i] = (int32_t)x; break;
	}
}

static double get(const void *p, int dtype, int64_t i)
{
	switch (dtype) {
	case DT_F32: return (double)((const float *)p)[i];
	case DT_BF16: return (double)bf16_to_f32(((const uint16_t *)p)[i]);
	case DT_F64: return ((const double *)p)[i];
	default: return (double)((const int32_t *)p)[i];
	}
}

struct result job_run(const struct backend *b, const struct job *j, int dtype, int bump, int64_t at, double by)
{
	mat m[MAX_OPS];
	struct result r;
	memset(m, 0, sizeof m);
	memset(&r, 0, sizeof r);
	for (int k = 0; k < j->n; k++) {
		const struct operand *o = &j->op[k];
		if (o->absent)
			continue;
		int dt = o->dtype == ANY ? dtype : dtype == DT_F64 && o->dtype != DT_I32 ? DT_F64 : o->dtype;
		int64_t n = r.len[k] = o->rows * o->cols;
		m[k] = (mat){ b->k->mem_alloc(b->d, (size_t)n * dtype_size(dt)), o->rows, o->cols, dt, 0 };
		void *host = malloc((size_t)n * dtype_size(dt));
		assert_true(m[k].p && host);
		for (int64_t i = 0; i < n; i++)
			put(host, dt, i, fill_value(j, k, i) + (k == bump && i == at ? by : 0));
		b->k->upload(b->d, m[k].p, host, (size_t)n * dtype_size(dt));
		free(host);
	}
	j->fwd(b->k, b->d, j, m);
	if (j->bwd)
		j->bwd(b->k, b->d, j, m);
	for (int k = 0; k < j->n; k++) {
		if (!m[k].p)
			continue;
		size_t bytes = (size_t)r.len[k] * dtype_size(m[k].dtype);
		void *host = malloc(bytes);
		r.x[k] = malloc((size_t)r.len[k] * sizeof(double));
		assert_true(host && r.x[k]);
		b->k->download(b->d, host, m[k].p, bytes);
		for (int64_t i = 0; i < r.len[k]; i++)
			r.x[k][i] = get(host, m[k].dtype, i);
		free(host);
		b->k->mem_free(b->d, m[k].p, bytes);
	}
	return r;
}

void result_free(struct result *r)
{
	for (int k = 0; k < MAX_OPS; k++)
		free(r->x[k]);
}

double rel_error(const double *a, const double *b, int64_t n)
{
	double e = 0, s = 0;
	for (int64_t i = 0; i < n; i++) {
		if (!isfinite(a[i]))
			return INFINITY;
		e += (a[i] - b[i]) * (a[i] - b[i]);
		s += b[i] * b[i];
	}
	return sqrt(e) / (sqrt(s) + 1e-6 * sqrt((double)n) + 1e-30);
}

void check_same(const struct backend *fast, const struct job *j, int dtype)
{
	struct backend ref = backend_open("ref", 1);
	struct result a = job_run(fast, j, dtype, -1, 0, 0), b = job_run(&ref, j, dtype, -1, 0, 0);
	double tol = dtype == DT_BF16 ? j->tol_bf16 : j->tol_f32;
	for (int k = 0; k < j->n; k++) {
		if (!b.x[k])
			continue;
		double e = rel_error(a.x[k], b.x[k], a.len[k]);
		if (!(e <= tol))
			fail_msg("%s, %s, operand %d [%ld,%ld]: error %.3g, allowed %.3g", j->name,
				 dtype == DT_BF16 ? "bf16" : "f32", k, (long)j->op[k].rows, (long)j->op[k].cols, e, tol);
	}
	result_free(&a);
	result_free(&b);
	backend_close(&ref);
}

void check_repeat(const struct backend *fast, const struct job *j, int dtype)
{
	struct result a = job_run(fast, j, dtype, -1, 0, 0), b = job_run(fast, j, dtype, -1, 0, 0);
	for (int k = 0; k < j->n; k++)
		if (a.x[k] && memcmp(a.x[k], b.x[k], (size_t)a.len[k] * sizeof(double)))
			fail_msg("%s: two runs differ in operand %d", j->name, k);
	result_free(&a);
	result_free(&b);
}

/* sum over SEEDs of <seed, what forward added or wrote to its OUT> */
static double functional(const struct backend *ref, const struct job *j, int bump, int64_t at, double by)
{
	struct job f = *j;
	f.bwd = NULL;
	struct result r = job_run(ref, &f, DT_F64, bump, at, by);
	double s = 0;
	for (int k = 0; k < j->n; k++)
		for (int64_t i = 0; j->op[k].role == SEED && i < r.len[k]; i++)
			s += r.x[k][i] * r.x[j->op[k].of][i];
	result_free(&r);
	return s;
}

void check_differences(const struct job *j)
{
	struct backend ref = backend_open("ref", 1);
	struct result r = job_run(&ref, j, DT_F64, -1, 0, 0);
	const double h = 1e-4;
	for (int k = 0; k < j->n; k++) {
		const struct operand *o = &j->op[k];
		if (o->role != GRAD || o->absent || o->of < 0)
			continue;
		int add = j->acc || o->dtype == DT_F32; /* weight gradients (f32) always add */
		for (int probe = 0; probe < 8; probe++) {
			int64_t at = (int64_t)(mix((uint64_t)(probe + 100 * k)) % (uint64_t)r.len[k]);
			double got = r.x[k][at] - (add ? fill_value(j, k, at) : 0);
			double want = (functional(&ref, j, o->of, at, h) - functional(&ref, j, o->of, at, -h)) / (2 * h);
			if (fabs(got - want) > 1e-5 * (1 + fabs(want)))
				fail_msg("%s: gradient in operand %d at %ld is %.9g, differences give %.9g", j->name, k, (long)at,
					 got, want);
		}
	}
	result_free(&r);
	backend_close(&ref);
}
