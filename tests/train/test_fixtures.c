/*
 * test_fixtures.c - one distillation step and three AdamW steps against PyTorch autograd (tests/oracle/kd_step.py)
 *
 * Losses to 1e-5 relative, each gradient tensor to 1e-3 of its norm (in fact far better), the loss curve of three
 * optimizer steps to 1e-4.  Parameters after AdamW are compared by share: an entry whose gradient is rounding noise
 * moves by +-lr whatever its sign.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/io/safetensors.h"
#include "../../common/train/trainer.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const names[] = { "llama-tied-gqa", "llama-untied", "nemotron" };
static const struct {
	const char *word;
	double kl, ce, tau;
	int grads;
} cases[] = { { "kl", 1, 0, 1, 1 }, { "kl2", 1, 0, 2, 0 }, { "mix", 0.75, 0.25, 2, 1 }, { "ce", 0, 1, 1, 0 } };
static struct engine eng;

struct job {
	struct st_model *f;
	struct trainer t;
	int32_t ids[64], labels[64];
};

#define OK(x)                                                                                                          \
	do {                                                                                                           \
		struct err e = { 0 };                                                                                  \
		if (x)                                                                                                 \
			fail_msg("%s: %s", #x, e.msg);                                                                 \
	} while (0)

static const struct st_tensor *tensor(const struct job *j, const char *a, const char *b, const char *c)
{
	char name[256];
	snprintf(name, sizeof name, "%s%s%s", a, b, c);
	const struct st_tensor *t = st_find(j->f, name);
	if (!t)
		fail_msg("no tensor %s", name);
	return t;
}

static double f64_at(const struct st_tensor *t, int i)
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

static void open_job(struct job *j, const char *name, int c)
{
	char path[128], sdir[128], tdir[128];
	snprintf(path, sizeof path, "tests/golden/kd-%s.safetensors", name);
	snprintf(tdir, sizeof tdir, "tests/golden/models/%s", name);
	snprintf(sdir, sizeof sdir, "tests/golden/models/%s-student", name);
	struct err err = { 0 };
	j->f = st_open(path, &err);
	if (!j->f)
		fail_msg("%s", err.msg);
	const struct st_tensor *ids = tensor(j, "ids", "", "");
	struct trainer_spec o = { .seq = ids->dims[1] - 1, .micro = ids->dims[0], .batch = ids->dims[0], .dtype = DT_F32,
				  .clip = 1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1 };
	o.loss.weight[LOSS_KL] = cases[c].kl;
	o.loss.weight[LOSS_CE] = cases[c].ce;
	o.loss.tau = cases[c].tau;
	struct ptable *s = table_of(sdir), *t = table_of(tdir);
	OK(trainer_plan(&j->t, s, t, &o, &e));
	OK(trainer_alloc(&j->t, &eng, &e));
	OK(params_load(j->t.student, sdir, j->t.w, DT_F32, 0, j->t.student->arch.layers, &e));
	OK(params_load(j->t.teacher, tdir, j->t.tw, DT_F32, 0, j->t.teacher->arch.layers, &e));
	trainer_sync(&j->t);
	load_ids(j);
}

static void close_job(struct job *j)
{
	trainer_free(&j->t);
	st_close(j->f);
}

static void near(const char *what, double got, double want, double tol)
{
	if (!(fabs(got - want) <= tol * fabs(want)))
		fail_msg("%s: %.9g, PyTorch has %.9g", what, got, want);
}

/* Calls fn on every Hugging Face tensor of the student: its name, and its values in one of our arenas. */
static void each_tensor(struct job *j, const char *prefix, const float *arena,
			void (*fn)(const char *, const float *, const float *, int64_t))
{
	const struct ptable *s = j->t.student;
	for (int i = 0; i < s->n; i++) {
		int64_t at = s->p[i].off;
		for (int k = 0; k < s->p[i].row->nseg; k++) {
			char hf[160];
			int64_t n = param_seg_rows(s, &s->p[i], k) * s->p[i].cols;
			const struct st_tensor *t = tensor(j, prefix, ".", param_hf_name(s, &s->p[i], k, hf));
			assert_int_equal(t->elems, n);
			float *want = xcalloc((size_t)n, 4);
			memcpy(want, t->data, (size_t)n * 4);
			fn(t->name, arena + at, want, n);
			free(want);
			at += n;
		}
	}
}

static double worst_gradient;

static void compare_gradient(const char *name, const float *got, const float *want, int64_t n)
{
	double d = 0, s = 0;
	for (int64_t i = 0; i < n; i++) {
		d += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
		s += (double)want[i] * (double)want[i];
	}
	double rel = sqrt(d / s);
	if (!(rel <= 1e-3))
		fail_msg("%s: relative difference %.3g", name, rel);
	worst_gradient = rel > worst_gradient ? rel : worst_gradient;
}

static void test_one_step(void **state)
{
	(void)state;
	for (int m = 0; m < 3; m++)
		for (int c = 0; c < 4; c++) {
			struct job j;
			struct step_result r;
			char prefix[32];
			open_job(&j, names[m], c);
			assert_int_equal(trainer_gradients(&j.t, j.ids, j.labels, &r), 0);
			const struct st_tensor *l = tensor(&j, cases[c].word, ".loss", "");
			near("loss", r.loss, f64_at(l, 0), 1e-5);
			near("KL", r.mean[LOSS_KL], f64_at(l, 1), 1e-5);
			near("CE", r.mean[LOSS_CE], f64_at(l, 2), 1e-5);
			near("norm", r.grad_norm, f64_at(tensor(&j, cases[c].word, ".norm", ""), 0), 1e-4);
			snprintf(prefix, sizeof prefix, "%s.grad", cases[c].word);
			if (cases[c].grads)
				each_tensor(&j, prefix, j.t.grad, compare_gradient);
			close_job(&j);
		}
	print_message("worst relative gradient difference %.2g\n", worst_gradient);
}

static int64_t far, all;

static void count_far(const char *name, const float *got, const float *want, int64_t n)
{
	(void)name;
	for (int64_t i = 0; i < n; i++)
		far += !(fabs((double)got[i] - (double)want[i]) <= 5e-5 + 1e-4 * fabs((double)want[i]));
	all += n;
}

static void test_adamw_steps(void **state)
{
	(void)state;
	for (int m = 0; m < 3; m++) {
		struct job j;
		struct step_result r;
		open_job(&j, names[m], 2);
		const struct st_tensor *loss = tensor(&j, "adamw.loss", "", ""), *norm = tensor(&j, "adamw.norm", "", "");
		for (int s = 0; s < 3; s++) {
			assert_int_equal(trainer_step(&j.t, j.ids, j.labels, 1e-3, &r), 0);
			near("loss", r.loss, f64_at(loss, s), 1e-4);
			near("norm", r.grad_norm, f64_at(norm, s), 1e-3);
		}
		assert_int_equal(trainer_gradients(&j.t, j.ids, j.labels, &r), 0);
		near("last loss", r.loss, f64_at(loss, 3), 1e-4);
		each_tensor(&j, "adamw.param", j.t.w, count_far);
		close_job(&j);
	}
	if (far * 100 > all)
		fail_msg("%lld of %lld parameters differ", (long long)far, (long long)all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_step),
		cmocka_unit_test(test_adamw_steps),
	};
	static const char *const backend[] = { "ref", "cpu" };
	int rc = 0;
	for (int i = 0; i < 2; i++) {
		struct err e = { 0 };
		if (engine_open(&eng, backend[i], 2, &e)) {
			print_message("%s\n", e.msg);
			rc++;
			continue;
		}
		worst_gradient = 0;
		far = all = 0;
		rc += cmocka_run_group_tests_name(backend[i], tests, NULL, NULL);
		engine_close(&eng);
	}
	return rc;
}
