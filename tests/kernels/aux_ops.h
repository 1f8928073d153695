/*
 * aux_ops.h - one description of an op's operands drives every kind of kernel test
 *
 * A job lists operands by role and says how to call forward and backward.  From it come: the same call on two backends
 * and dtypes, central differences of the reference (run wholly in f64), and repeatability.  Everything is filled from
 * a fixed seed; outputs start with random contents, so `acc` and unwritten elements show.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_AUX_OPS_H
#define ADZE_AUX_OPS_H
#include "../../kernels/kernels.h"

enum role { IN, OUT, SEED, GRAD };  /* SEED: gradient of OUT `of`;  GRAD: gradient of IN `of`, written by bwd */
enum fill { F_NORMAL, F_POSITIVE, F_TOKEN, F_LABEL, F_MASK, F_ROPE, F_GIVEN, F_ASCEND };
enum { ANY = -1, MAX_OPS = 14 };    /* ANY: the dtype under test; F32 operands become f64 in difference tests */

struct operand {
	enum role role;
	int dtype, of;
	int64_t rows, cols;
	enum fill fill;
	int64_t bound;              /* F_TOKEN, F_LABEL, F_ASCEND (in each row): values below it */
	const double *given;
	int absent;
};

struct job {
	const char *name;
	int n;
	struct operand op[MAX_OPS];
	int kind, acc, unit;
	int64_t T;
	float f;
	struct attn_geom g;
	struct kd_head_args kd;
	struct relation rel;
	struct adamw_args adam;
	void (*fwd)(const struct kernels *, struct dev *, const struct job *, const mat *m);
	void (*bwd)(const struct kernels *, struct dev *, const struct job *, const mat *m);
	double tol_f32, tol_bf16;   /* of || a - b || / || b || per operand */
	double scale;               /* of normal fills; 0 means 1 */
};

struct result {                     /* what a run left in each operand, as doubles */
	double *x[MAX_OPS];
	int64_t len[MAX_OPS];
};

struct backend {
	const struct kernels *k;
	struct dev *d;
};

int add_operand(struct job *j, struct operand o);
struct backend backend_open(const char *name, int threads); /* fails the test when it cannot be had */
/* The CUDA kernels: on the GPU where ADZE_CUDA_LIB names the folder of the real backend (make test DEVICE=cuda), else on the
 * host (tests/cuda/shim) */
struct backend backend_open_cuda(void);
void backend_close(struct backend *b);
/* Runs the job (and bwd if any) with dtype for ANY.  bump/by: add `by` to element `at` of operand bump (-1: none). */
struct result job_run(const struct backend *b, const struct job *j, int dtype, int bump, int64_t at, double by);
void result_free(struct result *r);
double rel_error(const double *a, const double *b, int64_t n);
/* The checks; each fails the running test with the job's name and the operand */
void check_same(const struct backend *fast, const struct job *j, int dtype);
void check_repeat(const struct backend *fast, const struct job *j, int dtype);
void check_differences(const struct job *j);

struct op_case {                    /* one op of kernels.h */
	const char *name;
	void (*build)(struct job *, int64_t n, int variant);
	int variants;
	double tol_f32, tol_bf16;   /* as in struct job */
};
extern const struct op_case op_cases[];
extern const int n_op_cases;
struct job case_job(const struct op_case *c, int64_t n, int variant);
double noise(uint64_t i);           /* about normal, from a counter */
#endif
