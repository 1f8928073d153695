/*
 * cpu_dev.c - the CPU backend's table, memory, scratch and choice of instruction set
 *
 * Instruction sets: v1 = baseline x86-64, v3 = AVX2+FMA, v4 = AVX-512, v4b = AVX-512 with bf16 dot products; the best
 * one that the machine has is taken at dev_open.  ADZE_CPU_ISA=v1|v3|v4|v4b lowers it (tests do).
 * Large blocks come from mmap with huge pages asked for: attention and the head walk long strides.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { BIG = 2 << 20 };

static size_t round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

static size_t block_bytes(size_t bytes)
{
	return bytes >= 8 * BIG ? round_up(bytes, BIG) : bytes >= BIG ? round_up(bytes, 4096) : bytes;
}

static void *block_new(size_t bytes)
{
	if (bytes > SIZE_MAX / 2)
		return NULL;
	if (bytes >= BIG) {
		void *p = mmap(NULL, block_bytes(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return NULL;
		madvise(p, block_bytes(bytes), MADV_HUGEPAGE);
		return p;
	}
	size_t n = round_up(bytes ? bytes : 1, 64);
	void *p = aligned_alloc(64, n);
	if (p)
		memset(p, 0, n);
	return p;
}

static void block_free(void *p, size_t bytes)
{
	if (bytes >= BIG)
		munmap(p, block_bytes(bytes));
	else
		free(p);
}

void *scratch(struct dev *d, enum slot s, size_t bytes)
{
	if (d->planning) {
		d->noted[s] = d->noted[s] < bytes ? bytes : d->noted[s];
		return d->noted;
	}
	if (d->slot_bytes[s] < bytes) {
		if (d->slot[s])
			block_free(d->slot[s], d->slot_bytes[s]);
		d->slot[s] = block_new(bytes);
		d->slot_bytes[s] = bytes;
		if (!d->slot[s]) { /* kernels cannot fail */
			fprintf(stderr, "cpu kernels: no memory for %zu bytes of scratch\n", bytes);
			abort();
		}
	}
	return d->slot[s];
}

static const struct simd *best_simd(void)
{
	const struct simd *all[] = { &simd_v1, &simd_v3, &simd_v4, &simd_v4b };
	int n = 1;
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		n = 2;
	if (n == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
		n = 3;
	if (n == 3 && __builtin_cpu_supports("avx512bf16"))
		n = 4;
	const char *cap = getenv("ADZE_CPU_ISA");
	for (int i = 0; cap && i < n; i++)
		if (!strcmp(cap, all[i]->name))
			n = i + 1;
	return all[n - 1];
}

static struct dev *cpu_dev_open(int threads)
{
	struct dev *d = calloc(1, sizeof *d);
	if (!d)
		return NULL;
	d->threads = threads > 0 ? threads : omp_get_num_procs();
	omp_set_num_threads(d->threads);
	d->simd = best_simd();
	d->bf16_dot = d->simd->attn_bf16 && !__builtin_cpu_is("intel"); /* vdpbf16ps runs at half the rate of f32 fma there */
	d->gemm = gemm_open(d);
	if (!d->gemm) {
		free(d);
		return NULL;
	}
	return d;
}

static void cpu_dev_close(struct dev *d)
{
	if (!d)
		return;
	gemm_close(d->gemm);
	for (int s = 0; s < S_COUNT; s++)
		if (d->slot[s])
			block_free(d->slot[s], d->slot_bytes[s]);
	free(d);
}

static void *cpu_mem_alloc(struct dev *d, size_t bytes)
{
	(void)d;
	return block_new(bytes);
}

static void cpu_mem_free(struct dev *d, void *p, size_t bytes)
{
	(void)d;
	if (p)
		block_free(p, bytes);
}

static void *cpu_host(void *p)
{
	return p;
}

static void cpu_upload(struct dev *d, void *dst, const void *host, size_t bytes)
{
	(void)d;
	memcpy(dst, host, bytes);
}

static void cpu_download(struct dev *d, void *host, const void *src, size_t bytes)
{
	(void)d;
	memcpy(host, src, bytes);
}

/* Weights are read in place (see NOTES.md), so there is nothing to forget. */
static void cpu_weights_changed(struct dev *d)
{
	(void)d;
}

static enum held held_part(int s)
{
	return s <= S_GEMM_BIAS ? HELD_PRODUCTS : s <= S_PART ? HELD_OTHER : s <= S_PARTS ? HELD_HEAD : HELD_ATTENTION;
}

static size_t cpu_held_bytes(const struct dev *d, enum held part)
{
	size_t n = 0;
	for (int s = 0; s < S_COUNT; s++)
		if (part == HELD_PARTS || part == held_part(s))
			n += block_bytes(d->planning ? d->noted[s] : d->slot_bytes[s]);
	return n;
}

static void cpu_plan(struct dev *d, int on)
{
	d->planning = on;
	memset(d->noted, 0, sizeof d->noted);
}

extern const struct kernels adze_kernels;
extern const int adze_kernels_abi;
const int adze_kernels_abi = KERNELS_ABI;
const struct kernels adze_kernels = {
	.name = "cpu",
	.dev_open = cpu_dev_open,
	.dev_close = cpu_dev_close,
	.mem_alloc = cpu_mem_alloc,
	.mem_free = cpu_mem_free,
	.mem_bytes = block_bytes,
	.host = cpu_host,
	.upload = cpu_upload,
	.download = cpu_download,
	.weights_changed = cpu_weights_changed,
	.held_bytes = cpu_held_bytes,
	.plan = cpu_plan,
	.embed = cpu_embed,
	.embed_dw = cpu_embed_dw,
	.norm = cpu_norm,
	.norm_bwd = cpu_norm_bwd,
	.qknorm = cpu_qknorm,
	.qknorm_bwd = cpu_qknorm_bwd,
	.linear = cpu_linear,
	.quantise = cpu_quantise,
	.e4m3 = cpu_e4m3,
	.linear_dx = cpu_linear_dx,
	.linear_dw = cpu_linear_dw,
	.attn = cpu_attn,
	.attn_bwd = cpu_attn_bwd,
	.attn_tree = cpu_attn_tree,
	.attn_kv = cpu_attn_kv,
	.act = cpu_act,
	.act_dx = cpu_act_dx,
	.add = cpu_add,
	.copy = cpu_copy,
	.scale = cpu_scale,
	.zero = cpu_zero,
	.add_cols = cpu_add_cols,
	.take_cols = cpu_take_cols,
	.mask = cpu_mask,
	.mask_dz = cpu_mask_dz,
	.stat_width = cpu_stat_width,
	.stat_contrib = cpu_stat_contrib,
	.stat_cos = cpu_stat_cos,
	.kd_head = cpu_kd_head,
	.logprob = cpu_logprob,
	.topk = cpu_topk,
	.mse = cpu_mse,
	.cosine = cpu_cosine,
	.relation = cpu_relation,
	.adamw = cpu_adamw,
	.sumsq = cpu_sumsq,
	.guard = cpu_guard,
};
