/*
 * aux_fixture.c - see aux_fixture.h
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_fixture.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define OK(x)                                                                                                          \
	do {                                                                                                           \
		struct err e = { 0 };                                                                                  \
		if (x)                                                                                                 \
			fail_msg("%s: %s", #x, e.msg);                                                                 \
	} while (0)

const struct st_tensor *tensor(const struct job *j, const char *a, const char *b, const char *c)
{
	char name[256];
	snprintf(name, sizeof name, "%s%s%s", a, b, c);
	const struct st_tensor *t = st_find(j->f, name);
	if (!t)
		fail_msg("no tensor %s", name);
	return t;
}

double f64_at(const struct st_tensor *t, int i)
{
	double x;
	memcpy(&x, (const char *)t->data + 8 * i, 8);
	return x;
}

static struct ptable *table_of(const char *dir)
{
	struct arch a;
	OK(arch_load(&a, dir, &e));
	struct ptable *t = ptable_new(&a);
	arch_free(&a);
	return t;
}

static void load_ids(struct job *j)
{
	const struct st_tensor *t = tensor(j, "ids", "", "");
	int64_t T = t->dims[1] - 1;
	assert_int_equal(t->dims[0] * T <= 64, 1);
	for (int64_t b = 0; b < t->dims[0]; b++)
		for (int64_t i = 0; i < T; i++) {
			const char *at = (const char *)t->data + 4 * (b * (T + 1) + i);
			memcpy(&j->ids[b * T + i], at, 4);
			memcpy(&j->labels[b * T + i], at + 4, 4);
		}
}

void fixture_open(struct job *j, struct engine *g, const char *prefix, const char *name, struct trainer_spec *o)
{
	char path[128], sdir[128], tdir[128];
	snprintf(path, sizeof path, "tests/golden/%s-%s.safetensors", prefix, name);
	snprintf(tdir, sizeof tdir, "tests/golden/models/%s", name);
	snprintf(sdir, sizeof sdir, "tests/golden/models/%s-student", name);
	struct err err = { 0 };
	j->f = st_open(path, &err);
	if (!j->f)
		fail_msg("%s", err.msg);
	const struct st_tensor *ids = tensor(j, "ids", "", "");
	o->seq = ids->dims[1] - 1;
	o->micro = o->batch = ids->dims[0];
	o->dtype = DT_F32;
	struct ptable *s = table_of(sdir), *t = table_of(tdir);
	OK(trainer_plan(&j->t, s, t, o, &e));
	OK(trainer_alloc(&j->t, g, &e));
	OK(params_load(j->t.student, sdir, j->t.w, DT_F32, 0, j->t.student->arch.layers, &e));
	OK(params_load(j->t.teacher, tdir, j->t.tw, DT_F32, 0, j->t.teacher->arch.layers, &e));
	trainer_sync(&j->t);
	load_ids(j);
}

double worst_gradient;

void fixture_close(struct job *j)
{
	trainer_free(&j->t);
	st_close(j->f);
}

void near(const char *what, double got, double want, double tol)
{
	if (!(fabs(got - want) <= tol * fabs(want)))
		fail_msg("%s: %.9g, PyTorch has %.9g", what, got, want);
}

int each_tensor(struct job *j, const char *prefix, const float *arena, int some,
			void (*fn)(const char *, const float *, const float *, int64_t))
{
	const struct ptable *s = j->t.student;
	int seen = 0;
	for (int i = 0; i < s->n; i++) {
		int64_t at = s->p[i].off;
		for (int k = 0; k < s->p[i].row->nseg; k++) {
			char hf[160];
			int64_t n = param_seg_rows(s, &s->p[i], k) * s->p[i].cols;
			char name[256];
			snprintf(name, sizeof name, "%s.%s", prefix, param_hf_name(s, &s->p[i], k, hf));
			const struct st_tensor *t = st_find(j->f, name);
			if (!t && some) {
				at += n;
				continue;
			}
			t = tensor(j, name, "", "");
			assert_int_equal(t->elems, n);
			float *want = xcalloc((size_t)n, 4);
			memcpy(want, t->data, (size_t)n * 4);
			fn(t->name, arena + at, want, n);
			seen++;
			free(want);
			at += n;
		}
	}
	return seen;
}

void compare_gradient(const char *name, const float *got, const float *want, int64_t n)
{
	double d = 0, s = 0;
	for (int64_t i = 0; i < n; i++) {
		d += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
		s += (double)want[i] * (double)want[i];
	}
	double rel = sqrt(d / s);
	if (!(rel <= 1e-4))
		fail_msg("%s: relative difference %.3g", name, rel);
	worst_gradient = rel > worst_gradient ? rel : worst_gradient;
}

int on_backends(struct engine *g, const struct CMUnitTest *tests, size_t n)
{
	static const char *const backend[] = { "ref", "cpu" };
	int failed = 0;
	for (int i = 0; i < 2; i++) {
		struct err e = { 0 };
		if (engine_open(g, backend[i], 2, &e)) {
			print_message("%s\n", e.msg);
			failed++;
			continue;
		}
		worst_gradient = 0;
		failed += _cmocka_run_group_tests(backend[i], tests, n, NULL, NULL);
		engine_close(g);
	}
	return failed;
}
