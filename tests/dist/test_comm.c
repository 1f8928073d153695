/*
 * test_comm.c - sums in parts and gathering, begun and waited for later
 *
 * Alone it checks that a process alone exchanges nothing; test_zero.sh starts it as several processes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/base/log.h"
#include "../../common/base/opt.h"
#include "../../common/comm/comm.h"
#include "../../kernels/kernels.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static struct comm world;

/* Element i of what process r brings: sums of these are exact in f32 */
static float brought(int r, int64_t i)
{
	return (float)((r + 1) * (int)(i % 1013));
}

static void check_scatter(const float *x, int64_t n)
{
	int all = world.size * (world.size + 1) / 2;
	for (int64_t i = 0; i < n; i++) {
		int64_t k = world.rank * n + i;
		assert_true(x[k] == (float)(all * (int)(k % 1013)));
	}
}

static float *fill(int64_t n)
{
	float *x = xcalloc((size_t)(n * world.size) + 1, sizeof *x);
	for (int64_t k = 0; k < n * world.size; k++)
		x[k] = brought(world.rank, k);
	return x;
}

static void scatter(void **state)
{
	static const int64_t sizes[] = { 1, 3, 63, 65, 1024, 300001 };
	(void)state;
	for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
		float *x = fill(sizes[s]);
		comm_wait(&world, comm_scatter_begin(&world, x, sizes[s]));
		check_scatter(x, sizes[s]);
		free(x);
	}
}

static void gather(void **state)
{
	static const int64_t sizes[] = { 1, 7, 64, 192, 1000003 };
	(void)state;
	for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
		int64_t n = sizes[s];
		uint8_t *x = xcalloc((size_t)n * (size_t)world.size, 1);
		memset(x + world.rank * n, world.rank + 1, (size_t)n);
		comm_wait(&world, comm_gather_begin(&world, x, n));
		for (int64_t i = 0; i < n * world.size; i++)
			assert_int_equal(x[i], i / n + 1);
		free(x);
	}
}

/* Several under way, others between, waited for in another order */
static void at_once(void **state)
{
	enum { N = 5 };
	float *x[N];
	int ticket[N];
	int64_t n = 10007;
	double one = 1;
	(void)state;
	for (int i = 0; i < N; i++) {
		x[i] = fill(n);
		ticket[i] = comm_scatter_begin(&world, x[i], n);
		comm_progress(&world);
	}
	comm_sum_f64(&world, &one, 1);
	assert_true(one == world.size);
	for (int i = N - 1; i >= 0; i--)
		comm_wait(&world, ticket[i]);
	for (int i = 0; i < N; i++) {
		check_scatter(x[i], n);
		free(x[i]);
	}
}

/* The same bits whenever and however the sum is cut */
static void repeatable(void **state)
{
	int64_t n = 4099;
	float *x = xcalloc((size_t)(n * world.size), sizeof *x), *y = xcalloc((size_t)(n * world.size), sizeof *y);
	(void)state;
	for (int64_t i = 0; i < n * world.size; i++)
		x[i] = y[i] = 1.0f / (float)(1 + i % 977 + 31 * world.rank);
	comm_wait(&world, comm_scatter_begin(&world, x, n));
	for (int i = 0; i < 1000; i++)
		comm_progress(&world);
	comm_wait(&world, comm_scatter_begin(&world, y, n));
	assert_memory_equal(x + world.rank * n, y + world.rank * n, (size_t)n * sizeof *x);
	free(x);
	free(y);
}

/* The same with memory of a GPU, where there are several */
static void on_gpus(void **state)
{
	char why[256];
	int64_t n = 10007, all = n * world.size, bytes = all * (int64_t)sizeof(float);
	(void)state;
	if (!world.gpu)
		return;
	const struct kernels *k = kernels_open("cuda", why);
	struct dev *d = k->dev_open(atoi(com.device + 5));
	float *x = fill(n), *y = k->mem_alloc(d, (size_t)bytes), *z = k->mem_alloc(d, (size_t)bytes);
	k->upload(d, y, x, (size_t)bytes);
	k->upload(d, z, x, (size_t)bytes);
	int first = comm_scatter_begin(&world, y, n), second = comm_scatter_begin(&world, z, n);
	comm_progress(&world);
	comm_wait(&world, second);
	comm_wait(&world, comm_gather_begin(&world, z, n * (int64_t)sizeof *z));
	comm_wait(&world, first);
	k->download(d, x, y, (size_t)bytes);
	check_scatter(x, n);
	k->download(d, x, z, (size_t)bytes);
	for (int64_t i = 0; i < all; i++)
		assert_true(x[i] == (float)(world.size * (world.size + 1) / 2 * (int)(i % 1013)));
	k->mem_free(d, y, (size_t)bytes);
	k->mem_free(d, z, (size_t)bytes);
	k->dev_close(d);
	free(x);
}

/* Pairs of neighbours, and those of equal parity: sums, gathering and broadcasts of theirs alone, between exchanges of all */
static void groups(void **state)
{
	struct comm pair, parity;
	(void)state;
	comm_split(&world, world.rank / 2, &pair);
	comm_split(&world, world.rank % 2, &parity);
	assert_int_equal(pair.rank, world.rank % 2);
	assert_int_equal(parity.rank, world.rank / 2);
	int last = world.size % 2 && world.rank == world.size - 1;
	assert_int_equal(pair.size, last || world.size == 1 ? 1 : 2);
	assert_int_equal(parity.size, (world.size + 1 - world.rank % 2) / 2);
	for (int i = 0; i < 3; i++) {
		double mine = world.rank, theirs = world.rank;
		float three[3] = { 1, 2, (float)world.rank };
		int64_t all = 1, of[8] = { 0 };
		comm_sum_f64(&pair, &mine, 1);
		comm_sum_i64(&world, &all, 1);
		comm_sum_f64(&parity, &theirs, 1);
		comm_sum_f32(&parity, three, 3);
		assert_true(all == world.size && mine == (last ? world.rank : 4 * (world.rank / 2) + 1));
		assert_true(theirs == parity.size * (parity.size - 1) + world.rank % 2 * parity.size);
		assert_true(three[1] == 2 * (float)parity.size && three[2] == (float)theirs);
		assert_int_equal(comm_max(&pair, world.rank), last ? world.rank : world.rank | 1);
		of[parity.rank] = world.rank;
		comm_wait(&parity, comm_gather_begin(&parity, of, sizeof *of));
		for (int r = 0; r < parity.size; r++)
			assert_int_equal(of[r], 2 * r + world.rank % 2);
		comm_bcast(&parity, of, sizeof of, parity.size - 1);
		float *x = xcalloc((size_t)parity.size * 5, sizeof *x);
		for (int k = 0; k < parity.size * 5; k++)
			x[k] = (float)k;
		comm_wait(&parity, comm_scatter_begin(&parity, x, 5));
		for (int k = 0; k < 5; k++)
			assert_true(x[5 * parity.rank + k] == (float)(parity.size * (5 * parity.rank + k)));
		free(x);
	}
}

/* These processes are all on one machine */
static void nodes(void **state)
{
	struct comm node, three;
	(void)state;
	comm_split_nodes(&world, 0, &node);
	assert_int_equal(node.size, world.size);
	assert_int_equal(node.rank, world.rank);
	comm_split_nodes(&world, 3, &three);
	int left = world.size - world.rank / 3 * 3;
	assert_int_equal(three.size, left < 3 ? left : 3);
	assert_int_equal(three.rank, world.rank % 3);
}

int main(void)
{
	struct err e = { 0 };
	const struct CMUnitTest tests[] = { cmocka_unit_test(scatter), cmocka_unit_test(gather), cmocka_unit_test(at_once),
					    cmocka_unit_test(repeatable), cmocka_unit_test(on_gpus), cmocka_unit_test(groups), cmocka_unit_test(nodes) };
	prog_name = "test_comm";
	if (comm_open(&world, &e))
		die_err(&e);
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	comm_close(&world);
	return rc;
}
