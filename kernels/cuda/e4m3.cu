/*
 * e4m3.cu - linears with weights in 8 bits: quantisation by the largest magnitude, the library's 8-bit product
 *
 *   y = sx sW (x/sx rounded) (W/sW)' + bias + res
 *
 * The maximum is one walk (a block each leaves its own, one block takes the largest), the rounding a second; both scales stay on
 * the device.  Sizes that the library does not take (multiples of 16) go through a bf16 product of the same numbers.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "device.cuh"
#include <cuda_fp8.h>

enum { THREADS = 256, BLOCKS = 1024 };

static __device__ __forceinline__ float block_max(float x, float *pad)
{
	x = warp_max(x);
	if (threadIdx.x % 32 == 0)
		pad[threadIdx.x / 32] = x;
	__syncthreads();
	for (int w = 0; w < THREADS / 32; w++)
		x = fmaxf(x, pad[w]);
	return x;
}

static __global__ void largest_k(float *part, view x, int64_t n, bool vec)
{
	__shared__ float pad[THREADS / 32];
	float a[8], top = 0;
	for (int64_t i = 8 * ((int64_t)blockIdx.x * THREADS + threadIdx.x); i < n; i += 8 * (int64_t)THREADS * gridDim.x) {
		ld8(a, x, i, n - i, vec && n - i >= 8);
#pragma unroll
		for (int k = 0; k < 8; k++)
			top = fmaxf(top, fabsf(a[k]));
	}
	top = block_max(top, pad);
	if (threadIdx.x == 0)
		part[blockIdx.x] = top;
}

/* by = what to multiply by before rounding and after (e4m3_factors of kernels.h) */
static __global__ void scale_k(float *by, const float *part, int n)
{
	__shared__ float pad[THREADS / 32];
	float top = 0;
	for (int i = threadIdx.x; i < n; i += THREADS)
		top = fmaxf(top, part[i]);
	top = block_max(top, pad);
	if (threadIdx.x == 0) {
		by[0] = top > 1e-30f ? (float)E4M3_TOP / top : 1.0f;
		by[1] = top > 1e-30f ? top / (float)E4M3_TOP : 1.0f;
	}
}

static __device__ __forceinline__ uint32_t code_of(float x)
{
	return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}

static __device__ __forceinline__ uint32_t code4(const float *x, float in)
{
	uint32_t u = 0;
#pragma unroll
	for (int k = 0; k < 4; k++)
		u |= code_of(x[k] * in) << 8 * k;
	return u;
}

static __global__ void codes_k(uint8_t *out, view x, const float *by, int64_t n, bool vec)
{
	int64_t i = 8 * ((int64_t)blockIdx.x * THREADS + threadIdx.x);
	float a[8];
	if (i >= n)
		return;
	ld8(a, x, i, n - i, vec && n - i >= 8);
	if (n - i >= 8) {
		*(uint2 *)(out + i) = make_uint2(code4(a, *by), code4(a + 4, *by));
		return;
	}
#pragma unroll
	for (int k = 0; k < 8; k++)
		if (i + k < n)
			out[i + k] = (uint8_t)code_of(a[k] * *by);
}

/* out (bf16) = what the codes stand for: their exponent is 120 more in f32, and the subnormal ones are counts of 2^-9 */
static __global__ void values_k(view out, const uint8_t *code, int64_t n)
{
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= n)
		return;
	uint32_t q = code[i], low = q & 127u;
	float x = low == 127u ? NAN : low < 8u ? (float)low * 0.001953125f : __uint_as_float((low + (120u << 3)) << 20);
	st1(out, i, q & 128u ? -x : x);
}

/* Codes of x, and by [2] */
static void quantise(struct dev *d, uint8_t *out, float *by, mat x)
{
	int64_t n = x.rows * x.cols;
	unsigned blocks = blocks_for(n, 8 * THREADS) < BLOCKS ? blocks_for(n, 8 * THREADS) : (unsigned)BLOCKS;
	float *part = (float *)scratch(d, S_PART, BLOCKS * sizeof *part);
	LAUNCH(d, largest_k, blocks, THREADS, 0, part, view_of(x), n, vec_ok(0, x));
	LAUNCH(d, scale_k, 1, THREADS, 0, by, part, (int)blocks);
	LAUNCH(d, codes_k, blocks_for(n, 8 * THREADS), THREADS, 0, out, view_of(x), by, n, vec_ok(0, x));
}

void cuda_quantise(struct dev *d, mat Q, mat W)
{
	size_t n = (size_t)(W.rows * W.cols);
	uint8_t *out = (uint8_t *)scratch(d, S_E4M3, n);       /* Q may lie on W */
	float *by = (float *)scratch(d, S_SCALE, 2 * sizeof *by);
	quantise(d, out, by, W);
	CUDA(cudaMemcpyAsync(Q.p, out, n, cudaMemcpyDeviceToDevice, d->stream));
	CUDA(cudaMemcpyAsync(e4m3_scale(Q), by + 1, sizeof *by, cudaMemcpyDeviceToDevice, d->stream));
}

/* Tensor cores have them since compute capability 8.9. */
int cuda_e4m3(struct dev *d)
{
	int major = 0, minor = 0;
	CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, d->gpu));
	CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, d->gpu));
	return 10 * major + minor >= 89;
}

static void *as_bf16(struct dev *d, enum slot s, const void *code, int64_t n)
{
	void *out = scratch(d, s, (size_t)n * 2);
	LAUNCH(d, values_k, blocks_for(n, THREADS), THREADS, 0, view{ out, DT_BF16 }, (const uint8_t *)code, n);
	return out;
}

void linear_e4m3(struct dev *d, mat y, mat x, mat W, mat bias, mat res)
{
	int64_t N = x.rows, I = W.cols, O = W.rows;
	bool fits = N % 16 == 0 && I % 16 == 0 && O % 16 == 0 && (uintptr_t)W.p % 16 == 0;
	bool plain = fits && (!bias.p || (bias.dtype == DT_BF16 && y.dtype == DT_BF16)) && (!res.p || res.dtype == y.dtype);
	uint8_t *q = (uint8_t *)scratch(d, S_E4M3, (size_t)(N * I));
	float *by = (float *)scratch(d, S_SCALE, 2 * sizeof *by), *tile = NULL;
	const float *sw = e4m3_scale(W);
	quantise(d, q, by, x);
	product_args p = { N, O, I, { q, DT_E4M3, 0, I }, { W.p, DT_E4M3, 1, I }, y.p, y.dtype, 0, O, bias, res, by + 1, sw };
	if (plain) {
		product_direct(d, &p);
		return;
	}
	p.C = tile = (float *)scratch(d, S_GEMM_C, (size_t)(N * O) * sizeof *tile);
	p.c_dtype = DT_F32;
	p.bias = p.res = mat{};
	if (!fits) {
		p.A = { as_bf16(d, S_GEMM_A, q, N * I), DT_BF16, 0, I };
		p.B = { as_bf16(d, S_GEMM_B, W.p, O * I), DT_BF16, 1, I };
		p.scale_a = p.scale_b = NULL;
	}
	product_direct(d, &p);
	settle(d, y, tile, bias, res, fits ? NULL : by + 1, sw);
}
