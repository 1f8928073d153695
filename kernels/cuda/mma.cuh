/*
 * mma.cuh - the tensor cores' own instructions (sm_80 and later): fragments, products of them, copies that run beside
 *
 * Lane l of a warp, g = l / 4, t = l % 4.  A product C [16,8] += A [16,16] B [16,8] (A, B bf16; C f32) spreads over the warp as
 *
 *   A  a[0] (g, 2t..2t+1)   a[1] (g+8, 2t..)   a[2] (g, 2t+8..)   a[3] (g+8, 2t+8..)
 *   B  b0 (2t..2t+1, g)     b1 (2t+8.., g)                         C  c[0..1] (g, 2t..)   c[2..3] (g+8, 2t..)
 *
 * load4 gives lane l of matrix i (8 x 8, its row r at the address of lane 8i + r) elements (g, 2t..2t+1), load4_t those of
 * its transpose.  The shim has its own of all these.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_MMA_CUH
#define ADZE_MMA_CUH
#include "device.cuh"

#ifndef TENSOR_OPS
static __device__ __forceinline__ void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void load4(uint32_t (&r)[4], const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"((uint32_t)__cvta_generic_to_shared(row)));
}

static __device__ __forceinline__ void load4_t(uint32_t (&r)[4], const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"((uint32_t)__cvta_generic_to_shared(row)));
}

/* 16 bytes to shared memory, there after copies_come(); zeros unless live (src is then not read) */
static __device__ __forceinline__ void copy16(void *shared, const void *src, bool live)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
		     :: "r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(src), "r"(live ? 16 : 0) : "memory");
}

/* 2^x by the hardware's unit, to two units in the last place; -inf gives 0 */
static __device__ __forceinline__ float power2(float x)
{
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

/* All of this thread's copies have come; a barrier makes them everybody's */
static __device__ __forceinline__ void copies_come()
{
	asm volatile("cp.async.wait_all;" ::: "memory");
}
#endif
#endif
