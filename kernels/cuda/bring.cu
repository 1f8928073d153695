/*
 * bring.cu - bytes that come and go beside the kernels: between pinned memory and their place by streams of their own, one each way
 *
 * Unlike uploads (stage.cu), whose last step waits its turn among the kernels, a copy here runs while kernels do; the caller says
 * between which kernels the place is free.
 *
 *	order   recorded in one of the streams: another waits for what is before it
 *	come    one for each of the last copies that bring
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda.h"
#include <stdlib.h>

enum { LAST = 16 };

struct bring {
	cudaStream_t stream, back; /* of what is brought; of what is taken */
	cudaEvent_t order, come[LAST];
	int64_t n;                 /* copies so far */
};

/* Made when it is first needed */
static struct bring *bring_of(struct dev *d)
{
	if (d->bring)
		return d->bring;
	struct bring *b = (struct bring *)calloc(1, sizeof *b);
	if (!b)
		cuda_check(cudaErrorMemoryAllocation, "bring");
	CUDA(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking));
	CUDA(cudaStreamCreateWithFlags(&b->back, cudaStreamNonBlocking));
	CUDA(cudaEventCreateWithFlags(&b->order, cudaEventDisableTiming));
	for (int i = 0; i < LAST; i++)
		CUDA(cudaEventCreateWithFlags(&b->come[i], cudaEventDisableTiming));
	return d->bring = b;
}

void bring_close(struct dev *d)
{
	struct bring *b = d->bring;
	if (!b)
		return;
	CUDA(cudaStreamSynchronize(b->stream));
	CUDA(cudaStreamSynchronize(b->back));
	CUDA(cudaStreamDestroy(b->stream));
	CUDA(cudaStreamDestroy(b->back));
	CUDA(cudaEventDestroy(b->order));
	for (int i = 0; i < LAST; i++)
		CUDA(cudaEventDestroy(b->come[i]));
	free(b);
	d->bring = NULL;
}

void *cuda_pinned(struct dev *d, void *old, size_t bytes)
{
	void *p = NULL;
	if (old) {
		CUDA(cudaStreamSynchronize(bring_of(d)->stream));
		cuda_taken(d);
		CUDA(cudaFreeHost(old));
	} else if (cudaMallocHost(&p, bytes) != cudaSuccess) {
		(void)cudaGetLastError();
		return NULL;
	}
	return p;
}

/* `later` goes on when what is in `first` so far is done */
static void behind(struct bring *b, cudaStream_t later, cudaStream_t first)
{
	CUDA(cudaEventRecord(b->order, first));
	CUDA(cudaStreamWaitEvent(later, b->order, 0));
}

void cuda_bring_order(struct dev *d, int join)
{
	struct bring *b = bring_of(d);
	if (join) {
		behind(b, d->stream, b->stream);
		return;
	}
	behind(b, b->stream, d->stream);
	behind(b, b->stream, b->back);
}

int64_t cuda_bring(struct dev *d, void *dst, const void *pinned, size_t bytes)
{
	struct bring *b = bring_of(d);
	CUDA(cudaMemcpyAsync(dst, pinned, bytes, cudaMemcpyHostToDevice, b->stream));
	CUDA(cudaEventRecord(b->come[b->n % LAST], b->stream));
	return ++b->n;
}

/* The event of an older copy stands for a later one by now, which comes behind it. */
int cuda_brought(struct dev *d, int64_t n, int wait)
{
	cudaEvent_t come = bring_of(d)->come[(n - 1) % LAST];
	if (wait) {
		CUDA(cudaEventSynchronize(come));
		return 1;
	}
	cudaError_t s = cudaEventQuery(come);
	if (s != cudaErrorNotReady)
		CUDA(s);
	return s == cudaSuccess;
}

void cuda_take(struct dev *d, void *pinned, const void *src, size_t bytes)
{
	struct bring *b = bring_of(d);
	behind(b, b->back, d->stream);
	CUDA(cudaMemcpyAsync(pinned, src, bytes, cudaMemcpyDeviceToHost, b->back));
}

void cuda_taken(struct dev *d)
{
	CUDA(cudaStreamSynchronize(bring_of(d)->back));
}
