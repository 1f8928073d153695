/*
 * fake_nccl.c - NCCL's part in the tests: exchanges of processes through a file that all have mapped
 *
 * Nothing blocks: a call leaves this process's bytes in its place and is in progress until ncclCommGetAsyncError finds
 * that all have come.  What differs between processes (bytes, operation) is an error, as is memory that is not the GPU's.
 * The file is in FAKE_NCCL_DIR (/tmp).
 * FAKE_NCCL_STOP=RANK:K makes that process sleep for long before its K-th call; FAKE_NCCL_FAIL=K gives an error.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "nccl.h"
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RANKS = 8, PLACE = 8 << 20, TWO = 2 };
enum { SUM_ALL = -1, SUM_PARTS = -2, GATHER = -3 };

struct seat {
	_Atomic int64_t came;          /* calls that this process has made */
	int64_t what[TWO];             /* bytes and operation of the call, to compare */
	char data[TWO][PLACE];         /* nobody is two calls ahead of anybody */
};
struct fake_comm {
	int rank, size;
	int64_t calls;
	struct seat *seat;
	char path[128];
	/* what is under way */
	void *out;
	size_t n;
	ncclDataType_t type;
	ncclRedOp_t how;
	int from, busy;                /* from: root of a broadcast, or one of these */
};

static char last_error[200];

static ncclResult_t fail(const char *what)
{
	snprintf(last_error, sizeof last_error, "fake: %s", what);
	return ncclInvalidUsage;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
	const char *dir = getenv("FAKE_NCCL_DIR");
	snprintf(id->internal, sizeof id->internal, "%.100s/fake-nccl-XXXXXX", dir ? dir : "/tmp");
	int fd = mkstemp(id->internal);
	if (fd < 0 || ftruncate(fd, (off_t)(RANKS * sizeof(struct seat))))
		return ncclSystemError;
	close(fd);
	return ncclSuccess;
}

static ncclResult_t call(struct fake_comm *c, const void *in, void *out, size_t n, ncclDataType_t type, ncclRedOp_t how, int from)
{
	size_t size = type == ncclFloat64 || type == ncclInt64 ? 8 : type == ncclFloat32 ? 4 : 1, bytes = n * size;
	const char *stop = getenv("FAKE_NCCL_STOP"), *bad = getenv("FAKE_NCCL_FAIL");
	struct cudaPointerAttributes a = { cudaMemoryTypeHost };
	int rank = -1;
	long at = -1;
	if (c->busy || bytes > PLACE)
		return fail(c->busy ? "a call while one is in progress" : "too many bytes for the test");
	if (n && (cudaPointerGetAttributes(&a, in) != cudaSuccess || a.type != cudaMemoryTypeDevice))
		return fail("not the memory of a GPU");
	c->calls++;
	if (stop && sscanf(stop, "%d:%ld", &rank, &at) == 2 && rank == c->rank && at == c->calls)
		sleep(6), _exit(1);
	if (bad && atoi(bad) == c->calls)
		return fail("an error was asked for");
	struct seat *s = &c->seat[c->rank];
	int64_t k = c->calls & 1;
	shim_access(1);
	if (bytes)
		memcpy(s->data[k], in, bytes);
	shim_access(0);
	s->what[k] = (int64_t)bytes * 1000 + (int64_t)type * 100 + how * 10 + (from < 0 ? -from : 0);
	atomic_store(&s->came, c->calls);
	c->out = out, c->n = n, c->type = type, c->how = how, c->from = from, c->busy = 1;
	return ncclInProgress;
}

#define FOLD(T)                                                                                   \
	do {                                                                                      \
		size_t n = c->from == SUM_PARTS ? c->n / (size_t)c->size : c->n;                  \
		size_t i0 = c->from == SUM_PARTS ? n * (size_t)c->rank : 0;                       \
		T *y = (T *)out - i0;                                                             \
		for (size_t i = i0; i < i0 + n; i++) {                                            \
			T s = ((const T *)c->seat[0].data[k])[i];                                 \
			for (int r = 1; r < c->size; r++) {                                       \
				T x = ((const T *)c->seat[r].data[k])[i];                         \
				s = c->how == ncclMax ? (x > s ? x : s) : s + x;                  \
			}                                                                         \
			y[i] = s;                                                                 \
		}                                                                                 \
	} while (0)

static void finish(struct fake_comm *c)
{
	int64_t k = c->calls & 1;
	void *out = c->out;
	shim_access(1);
	if (!c->n)
		;
	else if (c->from >= 0)
		memcpy(out, c->seat[c->from].data[k], c->n);
	else if (c->from == GATHER)
		for (int r = 0; r < c->size; r++)
			memcpy((char *)out + c->n * (size_t)r, c->seat[r].data[k], c->n);
	else if (c->type == ncclFloat64)
		FOLD(double);
	else if (c->type == ncclFloat32)
		FOLD(float);
	else
		FOLD(int64_t);
	shim_access(0);
	c->busy = 0;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *r)
{
	*r = c->busy ? ncclInProgress : ncclSuccess;
	if (!c->busy)
		return ncclSuccess;
	for (int i = 0; i < c->size; i++)
		if (atomic_load(&c->seat[i].came) < c->calls)
			return ncclSuccess;
	for (int i = 0; i < c->size; i++)
		if (c->seat[i].what[c->calls & 1] != c->seat[c->rank].what[c->calls & 1]) {
			*r = fail("the processes make different calls");
			return ncclSuccess;
		}
	finish(c);
	*r = ncclSuccess;
	return ncclSuccess;
}

static ncclResult_t join(ncclComm_t *out, int n, const char *path, int rank, const ncclConfig_t *config)
{
	struct fake_comm *c = calloc(1, sizeof *c);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (!c || fd < 0 || n > RANKS || config->blocking)
		return fail(fd < 0 ? "no such id" : "initialisation");
	c->rank = rank;
	c->size = n;
	snprintf(c->path, sizeof c->path, "%s", path);
	c->seat = mmap(NULL, RANKS * sizeof *c->seat, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (c->seat == MAP_FAILED)
		return ncclSystemError;
	*out = c;
	c->calls = 1;
	c->seat[rank].what[1] = 0;
	atomic_store(&c->seat[rank].came, 1);
	c->busy = 1, c->n = 0, c->from = 0;
	return ncclInProgress;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n, ncclUniqueId id, int rank, ncclConfig_t *config)
{
	return join(out, n, id.internal, rank, config);
}

/* Here the one call that waits: all name their colors, and whose are alike have a file of their own */
ncclResult_t ncclCommSplit(ncclComm_t c, int color, int key, ncclComm_t *out, ncclConfig_t *config)
{
	char path[160];
	int n = 0;
	int64_t k = ++c->calls & 1;
	c->seat[c->rank].what[k] = color;
	atomic_store(&c->seat[c->rank].came, c->calls);
	for (int r = 0; r < c->size; r++)
		while (atomic_load(&c->seat[r].came) < c->calls)
			usleep(50);
	for (int r = 0; r < c->size; r++)
		n += c->seat[r].what[k] == color;
	snprintf(path, sizeof path, "%s.%d.%d", c->path, (int)c->calls, color);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)(RANKS * sizeof(struct seat))))
		return fail("no file for a group");
	close(fd);
	return join(out, n, path, key, config);
}

ncclResult_t ncclCommCount(ncclComm_t c, int *n)
{
	*n = c->size;
	return ncclSuccess;
}

ncclResult_t ncclCommUserRank(ncclComm_t c, int *rank)
{
	*rank = c->rank;
	return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t c)
{
	return call(c, NULL, NULL, 0, ncclUint8, ncclSum, 0);
}

ncclResult_t ncclCommDestroy(ncclComm_t c)
{
	unlink(c->path);
	munmap(c->seat, RANKS * sizeof *c->seat);
	free(c);
	return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t c)
{
	return ncclCommDestroy(c);
}

const char *ncclGetErrorString(ncclResult_t r)
{
	return r == ncclInvalidUsage ? "invalid usage" : r == ncclSystemError ? "system error" : "no error";
}

const char *ncclGetLastError(ncclComm_t c)
{
	(void)c;
	return last_error;
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t n, ncclDataType_t type, ncclRedOp_t how, ncclComm_t c, cudaStream_t s)
{
	cudaStreamSynchronize(s);       /* what it is to work on */
	return call(c, in, out, n, type, how, SUM_ALL);
}

ncclResult_t ncclReduceScatter(const void *in, void *out, size_t n, ncclDataType_t type, ncclRedOp_t how, ncclComm_t c, cudaStream_t s)
{
	cudaStreamSynchronize(s);       /* what it is to work on */
	return call(c, in, out, n * (size_t)c->size, type, how, SUM_PARTS);
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t n, ncclDataType_t type, ncclComm_t c, cudaStream_t s)
{
	cudaStreamSynchronize(s);       /* what it is to work on */
	return type == ncclUint8 ? call(c, in, out, n, type, ncclSum, GATHER) : fail("a gathering of other than bytes");
}

ncclResult_t ncclBroadcast(const void *in, void *out, size_t n, ncclDataType_t type, int root, ncclComm_t c, cudaStream_t s)
{
	cudaStreamSynchronize(s);       /* what it is to work on */
	return call(c, in, out, n, type, ncclSum, root);
}
