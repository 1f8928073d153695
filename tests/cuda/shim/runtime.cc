/*
 * runtime.cc - the shim's device memory
 *
 * Device memory is one reserved stretch of addresses, closed to the host except while a kernel or a copy runs (with
 * SHIM_GUARD=0 it stays open, which saves two system calls a launch).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda_runtime.h"
#include "streams.h"
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define __asan_poison_memory_region(p, n) ((void)(p), (void)(n))
#define __asan_unpoison_memory_region(p, n) ((void)(p), (void)(n))
#endif

static const size_t RESERVED = (size_t)8 << 30, GRAIN = 4096, GUARD = 256;

static char *memory;
static size_t used;                    /* bytes from the start that were ever handed out */
static std::map<size_t, size_t> block; /* offset -> bytes */

static size_t room(size_t bytes)
{
	return (bytes + GUARD + GRAIN - 1) / GRAIN * GRAIN;
}

static int inside(const void *p, size_t bytes)
{
	return memory && (const char *)p >= memory && (const char *)p + bytes <= memory + used;
}

void shim_access(int open)
{
	static const char *const guard = getenv("SHIM_GUARD");
	static size_t opened;
	if (guard && *guard == '0') {
		if (opened >= used)
			return;
		opened = used;
		open = 1;
	}
	if (used && mprotect(memory, used, open ? PROT_READ | PROT_WRITE : PROT_NONE)) {
		perror("cuda shim: mprotect");
		abort();
	}
}

const char *cudaGetErrorString(cudaError_t e)
{
	return e == cudaSuccess ? "no error" : e == cudaErrorMemoryAllocation ? "out of memory" :
	       e == cudaErrorStreamCaptureUnsupported ? "operation not permitted when stream is capturing" : "invalid argument";
}

/* SHIM_GPUS=0 plays a machine without one, SHIM_GPUS=4 one with four */
cudaError_t cudaGetDeviceCount(int *n)
{
	const char *s = getenv("SHIM_GPUS");
	*n = s ? atoi(s) : 1;
	return cudaSuccess;
}

cudaError_t cudaSetDevice(int i)
{
	int n;
	cudaGetDeviceCount(&n);
	return i >= 0 && i < n ? cudaSuccess : cudaErrorInvalidValue;
}

/* SHIM_CAPABILITY=80 plays an older GPU */
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int)
{
	const char *s = getenv("SHIM_CAPABILITY");
	int c = s ? atoi(s) : 90;
	*v = a == cudaDevAttrComputeCapabilityMajor ? c / 10 : c % 10;
	return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p)
{
	a->type = inside(p, 1) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
	return cudaSuccess;
}

cudaError_t cudaGetLastError()
{
	return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
	if (shim_capturing())
		return cudaErrorStreamCaptureUnsupported;
	if (!memory) {
		void *m = mmap(NULL, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (m == MAP_FAILED)
			return cudaErrorMemoryAllocation;
		memory = (char *)m;
	}
	size_t at = 0;
	for (const auto &b : block) {  /* first gap that is wide enough */
		if (b.first - at >= room(bytes))
			break;
		at = b.first + room(b.second);
	}
	if (bytes > RESERVED || RESERVED - at < room(bytes))
		return cudaErrorMemoryAllocation;
	block[at] = bytes;
	used = at + room(bytes) > used ? at + room(bytes) : used;
	*p = memory + at;
	shim_access(1);
	__asan_unpoison_memory_region(memory + at, room(bytes));
	memset(memory + at, 0xff, bytes);
	__asan_poison_memory_region(memory + at + bytes, room(bytes) - bytes);
	shim_access(0);
	return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
	if (!p)
		return cudaSuccess;
	if (shim_capturing())
		return cudaErrorStreamCaptureUnsupported;
	auto b = block.find((size_t)((char *)p - memory));
	if (b == block.end())
		return cudaErrorInvalidValue;
	size_t bytes = room(b->second);
	block.erase(b);
	mprotect(p, bytes, PROT_READ | PROT_WRITE);
	__asan_unpoison_memory_region(p, bytes);
	madvise(p, bytes, MADV_DONTNEED);
	__asan_poison_memory_region(p, bytes);
	if (block.empty())
		used = 0;
	else
		used = block.rbegin()->first + room(block.rbegin()->second);
	return cudaSuccess;
}

/* Whether [p, p + bytes) is device memory */
int shim_on_device(const void *p, size_t bytes)
{
	return inside(p, bytes);
}
