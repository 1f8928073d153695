/*
 * streams.cc - the shim's streams, events, copies and graphs
 *
 * A stream that does not wait for the default one keeps its work until somebody waits: for the stream, for an event behind
 * the work, or in another stream for that event.  Whoever forgets to wait finds the old bytes; whoever changes the source
 * too early, the new ones.  The default stream does its work at once; while it is captured, the work goes to the graph.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda_runtime.h"
#include "streams.h"
#include <deque>
#include <stdlib.h>
#include <vector>

struct shim_stream {
	std::deque<std::function<void()>> late;
	size_t done;           /* pieces of work since it was made */
};
struct shim_event {
	shim_stream *stream;   /* NULL: the default one, or never recorded */
	size_t after;          /* pieces of work before it */
};
struct shim_graph {
	std::vector<std::function<void()>> work;
};
static shim_graph *captured;   /* what the default stream is captured into */

int shim_capturing()
{
	return captured != NULL;
}

static int keeps(cudaStream_t s)
{
	return s && s != cudaStreamLegacy;
}

void shim_do(cudaStream_t s, const std::function<void()> &f)
{
	if (keeps(s))
		s->late.push_back(f);
	else if (captured)
		captured->work.push_back(f);
	else
		f();
}

static void catch_up(shim_stream *s, size_t upto)
{
	while (s->done < upto && !s->late.empty()) {
		std::function<void()> f = s->late.front();
		s->late.pop_front();
		s->done++;
		f();
	}
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
	*s = flags == cudaStreamNonBlocking ? new shim_stream() : NULL;
	return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
	if (captured)
		return cudaErrorStreamCaptureUnsupported;
	if (keeps(s))
		catch_up(s, s->done + s->late.size());
	return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
	cudaStreamSynchronize(s);
	if (keeps(s))
		delete s;
	return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
	return cudaStreamSynchronize(s);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
	*e = new shim_event();
	return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
	delete e;
	return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
	if (!e)
		return cudaErrorInvalidValue;
	e->stream = keeps(s) ? s : NULL;
	e->after = keeps(s) ? s->done + s->late.size() : 0;
	return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
	if (!e)
		return cudaErrorInvalidValue;
	if (captured)
		return cudaErrorStreamCaptureUnsupported;
	if (e->stream)
		catch_up(e->stream, e->after);
	return cudaSuccess;
}

/* The default stream has nothing left to do, so only what is behind a stream that keeps its work can be missing. */
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
	if (!e)
		return cudaErrorInvalidValue;
	if (captured && !keeps(s))
		return cudaErrorStreamCaptureUnsupported;      /* an event of uncaptured work */
	if (!keeps(s))
		return cudaEventSynchronize(e);
	shim_event now = *e;
	if (now.stream && now.stream != s)
		shim_do(s, [now]() { catch_up(now.stream, now.after); });
	return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
	return cudaEventSynchronize(e);
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
	*p = malloc(bytes ? bytes : 1);
	return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *p)
{
	free(p);
	return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t s)
{
	if (shim_on_device(dst, bytes) != (kind != cudaMemcpyDeviceToHost) || shim_on_device(src, bytes) != (kind != cudaMemcpyHostToDevice))
		return cudaErrorInvalidValue;
	if (captured && !keeps(s) && kind != cudaMemcpyDeviceToDevice)
		return cudaErrorStreamCaptureUnsupported;
	shim_do(s, [=]() {
		shim_access(1);
		memcpy(dst, src, bytes);
		shim_access(0);
	});
	return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int c, size_t bytes, cudaStream_t s)
{
	if (!shim_on_device(p, bytes))
		return cudaErrorInvalidValue;
	shim_do(s, [=]() {
		shim_access(1);
		memset(p, c, bytes);
		shim_access(0);
	});
	return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
	if (captured || keeps(s))
		return cudaErrorInvalidValue;
	captured = new shim_graph();
	return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *g)
{
	if (!captured)
		return cudaErrorInvalidValue;
	*g = captured;
	captured = NULL;
	return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
	*x = new shim_graph(*g);
	return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
	delete g;
	return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
	delete x;
	return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
	for (const auto &f : x->work)
		shim_do(s, f);
	return cudaSuccess;
}
