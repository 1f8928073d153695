/*
 * test_ops.c - every op: reference gradient against central differences, CPU and CUDA backends against the reference
 *
 * The cases of aux_cases.c are crossed with odd sizes and dtypes.  The CPU backend is tried with every instruction set
 * that the machine has (ADZE_CPU_ISA).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_ops.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const int64_t sizes[] = { 1, 3, 17, 63, 65, 200 };
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

static void ref_gradients(void **state)
{
	(void)state;
	for (int i = 0; i < n_op_cases; i++)
		for (int v = 0; v < op_cases[i].variants; v++)
			for (int s = 0; s < 3; s++) {
				struct job j = case_job(&op_cases[i], sizes[s], v);
				if (j.bwd)
					check_differences(&j);
			}
}

static void cpu_with(const char *isa, int n_sizes, int threads)
{
	if (isa)
		setenv("ADZE_CPU_ISA", isa, 1);
	struct backend cpu = backend_open("cpu", threads);
	unsetenv("ADZE_CPU_ISA");
	for (int i = 0; i < n_op_cases; i++)
		for (int v = 0; v < op_cases[i].variants; v++)
			for (int s = 0; s < n_sizes; s++)
				for (int dt = DT_F32; dt <= DT_BF16; dt++) {
					struct job j = case_job(&op_cases[i], sizes[s], v);
					check_same(&cpu, &j, dt);
				}
	backend_close(&cpu);
}

static void cpu_best(void **state) { (void)state; cpu_with(NULL, N_SIZES, 2); }
static void cpu_one_thread(void **state) { (void)state; cpu_with(NULL, N_SIZES, 1); }
static void cpu_v1(void **state) { (void)state; cpu_with("v1", 5, 2); }
static void cpu_v3(void **state) { (void)state; cpu_with("v3", 5, 5); }
static void cpu_v4(void **state) { (void)state; cpu_with("v4", 5, 2); }

/* On the shim threads of a block run in another order every other launch. */
static void cuda_kernels(void **state)
{
	(void)state;
	struct backend b = backend_open_cuda();
	const char *only = getenv("ADZE_TEST_OP"); /* a row's name: that one alone */
	const char *most = getenv("ADZE_TEST_MOST");
	int64_t largest = most ? atoi(most) : INT64_MAX;
	for (int i = 0; i < n_op_cases; i++)
		for (int v = 0; v < op_cases[i].variants && (!only || !strcmp(only, op_cases[i].name)); v++)
			for (int s = 0; s < N_SIZES && sizes[s] <= largest; s += 1 + (s == 0 || s == 2)) /* 1, 17, 65, 200 */
				for (int dt = DT_F32; dt <= DT_BF16; dt++) {
					struct job j = case_job(&op_cases[i], sizes[s], v);
					check_same(&b, &j, dt);
					if (sizes[s] == 65)
						check_repeat(&b, &j, dt);
				}
	backend_close(&b);
}

static void cpu_repeats(void **state)
{
	(void)state;
	struct backend cpu = backend_open("cpu", 2);
	for (int i = 0; i < n_op_cases; i++)
		for (int v = 0; v < op_cases[i].variants; v++)
			for (int dt = DT_F32; dt <= DT_BF16; dt++) {
				struct job j = case_job(&op_cases[i], 200, v);
				check_repeat(&cpu, &j, dt);
			}
	backend_close(&cpu);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ref_gradients), cmocka_unit_test(cpu_best), cmocka_unit_test(cpu_one_thread), cmocka_unit_test(cpu_v1),
		cmocka_unit_test(cpu_v3), cmocka_unit_test(cpu_v4), cmocka_unit_test(cpu_repeats), cmocka_unit_test(cuda_kernels),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
