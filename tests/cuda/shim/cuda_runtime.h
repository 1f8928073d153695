/*
 * cuda_runtime.h - as much of CUDA as our kernels use, on the host, so that CI runs them where no GPU is
 *
 * The threads of a block are fibres of one OS thread: they change over at barriers and at warp operations (shuffle, ballot,
 * matrix product), round robin, upwards in one launch and downwards in the next, so that a missing barrier shows as a
 * result that differs from run to run.  A barrier that not all threads reach, or that they reach at different lines, and a
 * warp operation that some lanes skip, end the program with a message.  Dynamic shared memory starts as NaN bits.  Device memory is
 * accessible only while a kernel runs or the runtime copies, so a host access through a device pointer faults; freshly
 * allocated it holds NaN bits, and between blocks of it are guards (poisoned under AddressSanitizer).
 * Blocks run one after another.  The default stream is immediate; one that does not wait for it (cudaStreamNonBlocking) is
 * as late as can be: its copies happen when somebody waits for them.  What is captured happens at each launch of the graph,
 * with the arguments of then; waiting, allocating and copies to or from the host are refused meanwhile.  ldmatrix with a bank conflict ends the program.  What this
 * cannot show: races between blocks, timing, other bank conflicts, and rounding of the GPU's own exp and log.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SHIM_CUDA_RUNTIME_H
#define SHIM_CUDA_RUNTIME_H
#include "cuda_runtime_api.h"
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <functional>
#include <string.h>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static

struct dim3 {
	unsigned x, y, z;
	dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct shim_place {
	unsigned x, y, z;
};
struct uint2 {
	unsigned x, y;
};
struct alignas(16) uint4 {
	unsigned x, y, z, w;
};
struct alignas(16) float4 {
	float x, y, z, w;
};
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
	return { x, y, z, w };
}
static inline uint2 make_uint2(unsigned x, unsigned y)
{
	return { x, y };
}
static inline float4 make_float4(float x, float y, float z, float w)
{
	return { x, y, z, w };
}

/* ---- inside a kernel */

extern shim_place shim_thread, shim_block, shim_block_dim, shim_grid_dim;
#define threadIdx shim_thread
#define blockIdx shim_block
#define blockDim shim_block_dim
#define gridDim shim_grid_dim

void shim_barrier(int line);
int shim_barrier_or(int line, int flag);
/* All lanes of the warp meet; each leaves `size` bytes and sees what the 32 left (until the next meeting but one) */
const char *shim_meet(unsigned mask, const void *mine, size_t size);
enum { SHIM_LANE_BYTES = 64 };
void *shim_shared();

#define __syncthreads() shim_barrier(__LINE__)
#define __syncthreads_or(x) shim_barrier_or(__LINE__, (x) != 0)
static inline void __syncwarp(unsigned mask = ~0u)
{
	shim_meet(mask, &mask, sizeof mask);
}

template <class T> static inline T shim_from(unsigned mask, T x, unsigned lane)
{
	static_assert(sizeof(T) <= SHIM_LANE_BYTES, "too wide for a lane");
	T y;
	memcpy(&y, shim_meet(mask, &x, sizeof x) + (size_t)(lane % 32) * SHIM_LANE_BYTES, sizeof y);
	return y;
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T x, int m)
{
	return shim_from(mask, x, (threadIdx.x % 32) ^ (unsigned)m);
}
template <class T> static inline T __shfl_sync(unsigned mask, T x, int lane)
{
	return shim_from(mask, x, (unsigned)lane);
}
static inline unsigned __ballot_sync(unsigned mask, int flag)
{
	unsigned bits = 0;
	const char *all = shim_meet(mask, &flag, sizeof flag);
	for (int i = 0; i < 32; i++) {
		int f;
		memcpy(&f, all + i * SHIM_LANE_BYTES, sizeof f);
		bits |= (unsigned)(f != 0) << i;
	}
	return bits;
}

template <class T> static inline T atomicAdd(T *p, T x)
{
	T old = *p;
	*p += x;
	return old;
}
static inline float __uint_as_float(unsigned u)
{
	float f;
	memcpy(&f, &u, 4);
	return f;
}
static inline unsigned __float_as_uint(float f)
{
	unsigned u;
	memcpy(&u, &f, 4);
	return u;
}
static inline int __popc(unsigned x)
{
	return __builtin_popcount(x);
}
static inline int __ffs(int x)
{
	return __builtin_ffs(x);
}

#include "tensor.h"

/* ---- launches */

void shim_run(dim3 grid, unsigned block, size_t shared, void (*call)(void *), void *arg);
/* Now, or noted where the stream is captured */
void shim_do(cudaStream_t, const std::function<void()> &);
template <class... P, class... A>
static inline void shim_launch(cudaStream_t s, dim3 grid, unsigned block, size_t shared, void (*kernel)(P...), const A &... args)
{
	std::tuple<P...> values(static_cast<P>(args)...);      /* of the launch, whatever the caller's variables hold later */
	shim_do(s, [=]() {
		auto call = [&]() { std::apply(kernel, values); };
		shim_run(grid, block, shared, [](void *arg) { (*(decltype(call) *)arg)(); }, &call);
	});
}
#define LAUNCH(d, kernel, grid, block, shared, ...) \
	((d)->planning ? (void)0 : shim_launch((d)->stream, dim3(grid), (unsigned)(block), shared, kernel, __VA_ARGS__))
#define SHARED_BYTES(type, name) type *name = static_cast<type *>(shim_shared())
#define ALLOW_SHARED(kernel, bytes) ((void)(kernel), (void)(bytes))
#endif
