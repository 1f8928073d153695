/*
 * stage.cu - uploads: pinned memory, a stream of their own, device memory to arrive in
 *
 * An upload is cut into pieces.  A piece goes from the caller's memory to a pinned slot of a ring, from there by the second
 * stream to the slot's twin on the device, while kernels run, and when its turn comes in the first stream from the twin to its
 * place.  So the caller's bytes are free at once, nothing waits for the GPU but the host when all slots are under way, and
 * the batch of the next micro-batch has arrived when this one is done.
 *
 *	come   the piece has left the pinned slot and is in the twin: the first stream waits for it
 *	gone   the twin has been read: the second stream waits for it before it fills the slot again
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda.h"
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 32, PIECE = 512 << 10 };

struct stage {
	char *host, *twin;         /* SLOTS pieces each, pinned and on the device */
	cudaStream_t stream;
	cudaEvent_t come[SLOTS], gone[SLOTS];
	unsigned next;
};

size_t stage_bytes(void)
{
	return (size_t)SLOTS * PIECE;
}

struct stage *stage_open(void)
{
	struct stage *s = (struct stage *)calloc(1, sizeof *s);
	if (!s)
		return NULL;
	int ok = cudaMallocHost((void **)&s->host, stage_bytes()) == cudaSuccess && cudaMalloc((void **)&s->twin, stage_bytes()) == cudaSuccess &&
		 cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking) == cudaSuccess;
	for (int i = 0; i < SLOTS && ok; i++)
		ok = cudaEventCreateWithFlags(&s->come[i], cudaEventDisableTiming) == cudaSuccess &&
		     cudaEventCreateWithFlags(&s->gone[i], cudaEventDisableTiming) == cudaSuccess;
	if (ok)
		return s;
	stage_close(s);
	return NULL;
}

void stage_close(struct stage *s)
{
	if (!s)
		return;
	if (s->stream) {
		cudaStreamSynchronize(s->stream);
		cudaStreamDestroy(s->stream);
	}
	for (int i = 0; i < SLOTS; i++) {
		if (s->come[i])
			cudaEventDestroy(s->come[i]);
		if (s->gone[i])
			cudaEventDestroy(s->gone[i]);
	}
	if (s->twin)
		cudaFree(s->twin);
	if (s->host)
		cudaFreeHost(s->host);
	free(s);
}

void cuda_upload(struct dev *d, void *dst, const void *host, size_t bytes)
{
	struct stage *s = d->stage;
	for (size_t at = 0; at < bytes; at += PIECE) {
		size_t n = bytes - at < PIECE ? bytes - at : (size_t)PIECE;
		unsigned i = s->next++ % SLOTS;
		char *pinned = s->host + (size_t)i * PIECE, *twin = s->twin + (size_t)i * PIECE;
		CUDA(cudaEventSynchronize(s->come[i]));    /* one that was never recorded has come */
		memcpy(pinned, (const char *)host + at, n);
		CUDA(cudaStreamWaitEvent(s->stream, s->gone[i], 0));
		CUDA(cudaMemcpyAsync(twin, pinned, n, cudaMemcpyHostToDevice, s->stream));
		CUDA(cudaEventRecord(s->come[i], s->stream));
		CUDA(cudaStreamWaitEvent(d->stream, s->come[i], 0));
		CUDA(cudaMemcpyAsync((char *)dst + at, twin, n, cudaMemcpyDeviceToDevice, d->stream));
		CUDA(cudaEventRecord(s->gone[i], d->stream));
	}
}
