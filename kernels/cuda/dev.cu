/*
 * dev.cu - the CUDA backend's device: stream, memory, scratch, captured calls
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void cuda_check(cudaError_t s, const char *what)
{
	if (s == cudaSuccess)
		return;
	fprintf(stderr, "cuda kernels: %s in %s\n", cudaGetErrorString(s), what);
	abort();
}

/* 0, or -1 with why[]: this machine has no GPU that can be used */
int cuda_ready(char why[256])
{
	int n = 0;
	cudaError_t s = cudaGetDeviceCount(&n);
	if (s == cudaSuccess && n > 0)
		return 0;
	snprintf(why, 256, "no usable GPU: %s", s == cudaSuccess ? "none found" : cudaGetErrorString(s));
	return -1;
}

struct dev *cuda_dev_open(int gpu)
{
	int n = 0;
	if (cudaGetDeviceCount(&n) != cudaSuccess || gpu < 0 || gpu >= n || cudaSetDevice(gpu) != cudaSuccess)
		return NULL;
	struct dev *d = (struct dev *)calloc(1, sizeof *d);
	if (!d)
		return NULL;
	d->gpu = gpu;
	/* One that the legacy stream waits for: exchanges between GPUs are ordered by that (common/comm/nccl) */
	if (cudaStreamCreateWithFlags(&d->stream, cudaStreamDefault) != cudaSuccess) {
		free(d);
		return NULL;
	}
	d->stage = stage_open();
	d->products = d->stage ? products_open(d) : NULL;
	if (!d->products) {
		stage_close(d->stage);
		cudaStreamDestroy(d->stream);
		free(d);
		return NULL;
	}
	return d;
}

void cuda_dev_close(struct dev *d)
{
	if (!d)
		return;
	CUDA(cudaStreamSynchronize(d->stream));
	products_close(d->products);
	bring_close(d);
	stage_close(d->stage);
	for (int s = 0; s < S_COUNT; s++)
		if (d->slot[s])
			CUDA(cudaFree(d->slot[s]));
	CUDA(cudaStreamDestroy(d->stream));
	free(d);
}

void *scratch(struct dev *d, enum slot s, size_t bytes)
{
	if (d->planning) {
		d->noted[s] = d->noted[s] < bytes ? bytes : d->noted[s];
		return d->noted;
	}
	if (d->slot_bytes[s] >= bytes)
		return d->slot[s];
	if (d->capturing) {
		fprintf(stderr, "cuda kernels: a captured call needs %zu bytes of scratch, more than the same call before\n", bytes);
		abort();
	}
	if (d->slot[s]) {
		CUDA(cudaFree(d->slot[s]));    /* waits for what still uses it */
		d->moves++;
	}
	d->slot[s] = NULL;
	if (cudaMalloc(&d->slot[s], bytes) != cudaSuccess) {
		fprintf(stderr, "cuda kernels: no memory for %zu bytes of scratch\n", bytes);
		abort();
	}
	d->slot_bytes[s] = bytes;
	return d->slot[s];
}

void *cuda_mem_alloc(struct dev *d, size_t bytes)
{
	void *p = NULL;
	bytes = bytes ? bytes : 1;
	if (cudaMalloc(&p, bytes) != cudaSuccess) {
		(void)cudaGetLastError();
		return NULL;
	}
	CUDA(cudaMemsetAsync(p, 0, bytes, d->stream));
	return p;
}

void cuda_mem_free(struct dev *d, void *p, size_t bytes)
{
	(void)bytes;
	CUDA(cudaStreamSynchronize(d->stream));
	CUDA(cudaFree(p));
}

void *cuda_host(void *p)
{
	(void)p;
	return NULL;
}

void cuda_download(struct dev *d, void *host, const void *src, size_t bytes)
{
	CUDA(cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, d->stream));
	CUDA(cudaStreamSynchronize(d->stream));
}

/* Weights are read where they lie, so there is nothing to forget. */
void cuda_weights_changed(struct dev *d)
{
	(void)d;
}

/* What cudaMalloc takes: whole pieces of 512 bytes */
size_t cuda_mem_bytes(size_t bytes)
{
	return ((bytes ? bytes : 1) + 511) / 512 * 512;
}

static enum held held_part(int s)
{
	return s >= S_ATTN ? HELD_ATTENTION : s >= S_GEMM_A ? HELD_PRODUCTS : s >= S_INDEX ? HELD_HEAD : HELD_OTHER;
}

size_t cuda_held_bytes(const struct dev *d, enum held part)
{
	size_t n = part == HELD_OTHER || part == HELD_PARTS ? stage_bytes() : 0;
	for (int s = 0; s < S_COUNT; s++)
		if (part == HELD_PARTS || part == held_part(s))
			n += d->planning ? d->noted[s] : d->slot_bytes[s];
	return n;
}

void cuda_plan(struct dev *d, int on)
{
	d->planning = on;
	memset(d->noted, 0, sizeof d->noted);
}

/* ---- captured calls ---- */

struct captured {
	cudaGraphExec_t run;
	int moves;             /* d->moves when it was made */
};

void *cuda_capture(struct dev *d, int on)
{
	cudaGraph_t graph;
	d->capturing = on;
	if (on) {
		CUDA(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal));
		return NULL;
	}
	CUDA(cudaStreamEndCapture(d->stream, &graph));
	struct captured *c = (struct captured *)malloc(sizeof *c);
	if (!c)
		cuda_check(cudaErrorMemoryAllocation, "capture");
	c->moves = d->moves;
	CUDA(cudaGraphInstantiateWithFlags(&c->run, graph, 0));
	CUDA(cudaGraphDestroy(graph));
	return c;
}

int cuda_replay(struct dev *d, void *captured)
{
	const struct captured *c = (const struct captured *)captured;
	if (c->moves != d->moves)
		return -1;
	CUDA(cudaGraphLaunch(c->run, d->stream));
	return 0;
}

void cuda_drop(struct dev *d, void *captured)
{
	struct captured *c = (struct captured *)captured;
	CUDA(cudaStreamSynchronize(d->stream));
	CUDA(cudaGraphExecDestroy(c->run));
	free(c);
}
