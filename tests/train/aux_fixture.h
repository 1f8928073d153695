/*
 * aux_fixture.h - a fixture of tests/golden with its pair of models inside a trainer
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_AUX_FIXTURE_H
#define ADZE_AUX_FIXTURE_H
#include "../../common/io/safetensors.h"
#include "../../common/train/trainer.h"

struct job {
	struct st_model *f;
	struct trainer t;
	int32_t ids[64], labels[64];
};
/* tests/golden/PREFIX-NAME.safetensors, teacher models/NAME, student models/NAME-student; o: all but the sizes and dtype */
void fixture_open(struct job *j, struct engine *g, const char *prefix, const char *name, struct trainer_spec *o);
void fixture_close(struct job *j);
/* The tensor of that name in three parts; its element i when it is F64 */
const struct st_tensor *tensor(const struct job *j, const char *a, const char *b, const char *c);
double f64_at(const struct st_tensor *t, int i);
void near(const char *what, double got, double want, double tol);
/* Calls fn on every tensor PREFIX.HF-NAME of the student: its name, and its values in one of our arenas and in the file.
 * some: not all are in the file.  Returns how many were. */
int each_tensor(struct job *j, const char *prefix, const float *arena, int some,
		void (*fn)(const char *, const float *got, const float *want, int64_t n));
/* For each_tensor: relative difference at most 1e-4; keeps the largest */
extern double worst_gradient;
void compare_gradient(const char *name, const float *got, const float *want, int64_t n);
/* Runs the n tests on the ref and on the cpu backend, each open in *g; the number that failed, for main */
struct CMUnitTest;
int on_backends(struct engine *g, const struct CMUnitTest *tests, size_t n);
#endif
