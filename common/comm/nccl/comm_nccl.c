/*
 * comm_nccl.c - exchanges between GPUs by NCCL, with a watch and a flight record: nobody waits for ever
 *
 * The communicator does not block: what was asked is polled, for the library's own errors and for the stream, and after
 * the timeout the last exchanges are printed, the communicator is aborted and the process ends.  Device memory goes
 * straight to NCCL; the host's goes piece by piece through a buffer on the GPU.
 *
 * Order against the kernels: their stream (kernels/cuda/dev.cu) is one that the legacy stream waits for, so an event of
 * that one, recorded when an exchange is asked for, stands for all that was launched before.  The host polls for the end.
 *
 * Stands alone: a shared object sees nothing of the program that loads it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../comm.h"
#include <errno.h>
#include <nccl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BOUNCE = 4 << 20, RECORDS = 16, GRACE = 10, TICKETS = 4096 };

struct record {
	int64_t exchange, bytes;
	const char *op, *state;
	double begin, end;
};

/* Begun and not waited for yet; at == 0: free */
struct begun {
	int64_t at;                    /* number of the exchange */
	double begin;
	cudaEvent_t end;               /* NULL: done when it began (the host's memory) */
};

struct group {
	ncclComm_t comm;
	int rank, size;
};

static struct {
	int rank, size;
	double timeout;                /* seconds */
	struct group g[COMM_GROUPS];   /* the first: all */
	int groups;
	cudaStream_t stream;
	cudaEvent_t before;            /* all kernels launched so far */
	void *bounce;                  /* [BOUNCE] on the GPU */
	struct begun t[TICKETS];
	int high;                      /* tickets from here on were never given */
	int64_t exchange;              /* number of the one that is under way */
	struct record last[RECORDS];   /* the one of exchange k at k % RECORDS */
} w;

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void nap(long n)
{
	struct timespec t = { 0, n < 3000 ? 20000 : 500000 };
	if (n >= 1000)
		nanosleep(&t, NULL);
}

/* The library's words for what went wrong, without its line ends */
static const char *reason(ncclResult_t r)
{
	static char line[200];
	const char *more = ncclGetLastError(NULL);
	snprintf(line, sizeof line, "%s%s%.150s", ncclGetErrorString(r), more && *more ? ": " : "", more ? more : "");
	for (char *s = line; *s; s++)
		*s = *s == '\n' ? ' ' : *s;
	return line;
}

static struct record *now_at(void)
{
	return &w.last[w.exchange % RECORDS];
}

static _Noreturn void give_up(const char *why)
{
	double t = seconds();
	fprintf(stderr, "%s[%d]: exchange %lld by NCCL (%s of %lld bytes) %s; the job ends.  The last ones:\n", program_invocation_short_name, w.rank,
		(long long)w.exchange, now_at()->op, (long long)now_at()->bytes, why);
	for (int64_t k = w.exchange < RECORDS ? 1 : w.exchange - RECORDS + 1; k <= w.exchange; k++) {
		const struct record *q = &w.last[k % RECORDS];
		fprintf(stderr, "  exchange %lld  %s  %lld bytes  %s  %.3f s\n", (long long)q->exchange, q->op, (long long)q->bytes, q->state,
			(q->end > 0 ? q->end : t) - q->begin);
	}
	fflush(stderr);
	alarm(GRACE);                  /* should the library hang even in this */
	for (int i = 0; i < w.groups; i++)
		ncclCommAbort(w.g[i].comm);
	_Exit(EXIT_FAIL);
}

static void gpu(cudaError_t s)
{
	if (s != cudaSuccess)
		give_up(cudaGetErrorString(s));
}

static void in_time(double begin)
{
	if (seconds() - begin > w.timeout) {
		char why[64];
		snprintf(why, sizeof why, "did not finish within %g s", w.timeout);
		give_up(why);
	}
}

/* Until the library has put on the stream what it was asked for */
static void accepted(const struct group *g, ncclResult_t r)
{
	for (long n = 0; r == ncclInProgress; n++) {
		ncclResult_t q = ncclCommGetAsyncError(g->comm, &r);
		if (q != ncclSuccess)
			r = q;
		else if (r == ncclInProgress)
			in_time(now_at()->begin), nap(n);
	}
	if (r != ncclSuccess)
		give_up(reason(r));
	now_at()->state = "on the GPU";
}

/* An error of the library, such as one of a process that is gone, ends the job. */
static void healthy(void)
{
	for (int i = 0; i < w.groups; i++) {
		ncclResult_t r = ncclSuccess, q = ncclCommGetAsyncError(w.g[i].comm, &r);
		if (q != ncclSuccess || (r != ncclSuccess && r != ncclInProgress))
			give_up(reason(q != ncclSuccess ? q : r));
	}
}

/* Has it come?  All of the stream, or an event of it */
static bool come(cudaEvent_t end)
{
	cudaError_t s = end ? cudaEventQuery(end) : cudaStreamQuery(w.stream);
	if (s != cudaErrorNotReady)
		gpu(s);
	return s == cudaSuccess;
}

static void done(cudaEvent_t end, double begin)
{
	for (long n = 0; healthy(), !come(end); n++)
		in_time(begin), nap(n);
}

static struct record *new_record(const char *op, int64_t bytes)
{
	w.exchange++;
	*now_at() = (struct record){ w.exchange, bytes, op, "asked for", seconds(), 0 };
	return now_at();
}

/* What is asked for next comes after all kernels that were launched */
static void after_kernels(void)
{
	gpu(cudaEventRecord(w.before, cudaStreamLegacy));
	gpu(cudaStreamWaitEvent(w.stream, w.before, 0));
}

static void end_record(int64_t exchange)
{
	struct record *q = &w.last[exchange % RECORDS];
	if (q->exchange == exchange) {
		q->state = "done";
		q->end = seconds();
	}
}

/* ---- */

static const ncclDataType_t type_of[] = { [COMM_F64] = ncclFloat64, [COMM_F32] = ncclFloat32, [COMM_I64] = ncclInt64 };

struct call {
	const char *op;
	ncclDataType_t type;
	size_t size;           /* of an element */
	ncclRedOp_t how;
	int from;              /* of a broadcast; -1: a reduction */
	const struct group *g;
};

static void ask(const struct call *c, void *p, int64_t n)
{
	if (c->from >= 0)
		accepted(c->g, ncclBroadcast(p, p, (size_t)n, c->type, c->from, c->g->comm, w.stream));
	else
		accepted(c->g, ncclAllReduce(p, p, (size_t)n, c->type, c->how, c->g->comm, w.stream));
}

static bool nccl_owns(const void *p)
{
	struct cudaPointerAttributes a;
	if (cudaPointerGetAttributes(&a, p) != cudaSuccess) {
		(void)cudaGetLastError();
		return false;
	}
	return a.type == cudaMemoryTypeDevice;
}

/* One exchange: p[0..n) on the GPU or, no more than BOUNCE bytes, in the host's memory */
static void exchange(const struct call *c, void *p, int64_t n, bool ours)
{
	int64_t bytes = n * (int64_t)c->size;
	double begin = new_record(c->op, bytes)->begin;
	if (ours) {
		after_kernels();
		ask(c, p, n);
	} else {
		gpu(cudaMemcpyAsync(w.bounce, p, (size_t)bytes, cudaMemcpyHostToDevice, w.stream));
		ask(c, w.bounce, n);
		done(NULL, begin);
		gpu(cudaMemcpyAsync(p, w.bounce, (size_t)bytes, cudaMemcpyDeviceToHost, w.stream));
	}
	done(NULL, begin);
	end_record(w.exchange);
}

static void in_pieces(const struct call *c, void *p, int64_t n)
{
	bool ours = nccl_owns(p);
	int64_t most = ours ? (int64_t)1 << 30 : BOUNCE / (int64_t)c->size;
	for (int64_t i = 0; i < n; i += most)
		exchange(c, (char *)p + (size_t)i * c->size, n - i < most ? n - i : most, ours);
}

static void nccl_sum(int group, void *x, int64_t n, int kind)
{
	in_pieces(&(struct call){ "sum", type_of[kind], kind == COMM_F32 ? 4 : 8, ncclSum, -1, &w.g[group] }, x, n);
}

static void nccl_max(int group, int64_t *x)
{
	in_pieces(&(struct call){ "max", ncclInt64, 8, ncclMax, -1, &w.g[group] }, x, 1);
}

static void nccl_bcast(int group, void *p, int64_t bytes, int from)
{
	in_pieces(&(struct call){ "broadcast", ncclUint8, 1, ncclSum, from, &w.g[group] }, p, bytes);
}

/* ---- begun now, waited for later ---- */

static void nccl_wait(int ticket)
{
	struct begun *b = &w.t[ticket - 1];
	if (b->end) {
		done(b->end, b->begin);
		end_record(b->at);
	}
	b->at = 0;
}

/* A ticket for what has been asked for; with `later` its end is yet to come */
static int ticket(bool later)
{
	int i = 0;
	while (i < TICKETS && w.t[i].at)
		i++;
	if (i == TICKETS)
		give_up("is one too many under way");
	struct begun *b = &w.t[i];
	w.high = i < w.high ? w.high : i + 1;
	if (later) {
		if (!b->end)
			gpu(cudaEventCreateWithFlags(&b->end, cudaEventDisableTiming));
		gpu(cudaEventRecord(b->end, w.stream));
	} else if (b->end) {
		cudaEventDestroy(b->end);
		b->end = NULL;
	}
	b->at = w.exchange;
	b->begin = seconds();
	return i + 1;
}

/* In the host's memory: the whole sum, piece by piece */
static int nccl_scatter_begin(int group, void *x, int64_t n, int kind)
{
	const struct group *g = &w.g[group];
	size_t size = kind == COMM_F32 ? 4 : 8;
	if (!nccl_owns(x)) {
		nccl_sum(group, x, n * g->size, kind);
		return ticket(false);
	}
	new_record("sum in parts", n * g->size * (int64_t)size);
	after_kernels();
	accepted(g, ncclReduceScatter(x, (char *)x + (size_t)(n * g->rank) * size, (size_t)n, type_of[kind], ncclSum, g->comm, w.stream));
	return ticket(true);
}

static int nccl_gather_begin(int group, void *x, int64_t bytes)
{
	const struct group *g = &w.g[group];
	if (!nccl_owns(x)) {
		for (int r = 0; r < g->size; r++)
			nccl_bcast(group, (char *)x + bytes * r, bytes, r);
		return ticket(false);
	}
	new_record("gathering", bytes * g->size);
	after_kernels();
	accepted(g, ncclAllGather((char *)x + bytes * g->rank, x, (size_t)bytes, ncclUint8, g->comm, w.stream));
	return ticket(true);
}

/* The GPU gets on alone; here only what would never end is looked for. */
static void nccl_progress(void)
{
	healthy();
	for (int i = 0; i < w.high; i++)
		if (w.t[i].at && w.t[i].end && !come(w.t[i].end))
			in_time(w.t[i].begin);
}

/* ---- */

/* The GPU of this process: the one that was named, or by its number on its machine; a launcher may show each only one */
static int choose_gpu(struct comm_seat *s, char why[256])
{
	int n = 0;
	cudaError_t e = cudaGetDeviceCount(&n);
	if (e != cudaSuccess || n < 1) {
		snprintf(why, 256, "process %d has no usable GPU: %s", s->rank, e == cudaSuccess ? "none found" : cudaGetErrorString(e));
		return -1;
	}
	if (s->gpu < 0)
		s->gpu = n == 1 ? 0 : s->local;
	if (s->gpu < 0)
		snprintf(why, 256, "process %d cannot tell which of %d GPUs is its own: LOCAL_RANK is not set", s->rank, n);
	else if (s->gpu >= n)
		snprintf(why, 256, "process %d is to use GPU %d, but its machine has %d", s->rank, s->gpu, n);
	else if ((e = cudaSetDevice(s->gpu)) != cudaSuccess)
		snprintf(why, 256, "GPU %d: %s", s->gpu, cudaGetErrorString(e));
	else
		return 0;
	return -1;
}

static int connect_all(const ncclUniqueId *id, char why[256])
{
	struct group *g = &w.g[0];
	ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
	config.blocking = 0;
	double end = seconds() + w.timeout;
	ncclResult_t r = ncclCommInitRankConfig(&g->comm, w.size, *id, w.rank, &config);
	for (long n = 0; r == ncclInProgress; n++) {
		ncclResult_t q = ncclCommGetAsyncError(g->comm, &r);
		r = q != ncclSuccess ? q : r;
		if (seconds() > end)
			break;
		nap(n);
	}
	if (r == ncclSuccess) {
		g->rank = w.rank;
		g->size = w.size;
		w.groups = 1;
		return 0;
	}
	if (r == ncclInProgress)
		snprintf(why, 256, "the %d processes were not connected within %g s", w.size, w.timeout);
	else
		snprintf(why, 256, "initialisation failed: %s", reason(r));
	alarm(GRACE);
	if (g->comm)
		ncclCommAbort(g->comm);
	alarm(0);
	return -1;
}

static int nccl_join(struct comm_seat *s, char why[256])
{
	ncclUniqueId id;
	ncclResult_t r = ncclSuccess;
	w.rank = s->rank;
	w.size = s->size;
	w.timeout = s->timeout;
	if (choose_gpu(s, why))
		return -1;
	memset(&id, 0, sizeof id);
	if (!s->rank && (r = ncclGetUniqueId(&id)) != ncclSuccess) {
		snprintf(why, 256, "%s", reason(r));
		return -1;
	}
	if (s->share(s->arg, &id, sizeof id, why) || connect_all(&id, why))
		return -1;
	if (cudaStreamCreateWithFlags(&w.stream, cudaStreamNonBlocking) != cudaSuccess ||
	    cudaEventCreateWithFlags(&w.before, cudaEventDisableTiming) != cudaSuccess || cudaMalloc(&w.bounce, BOUNCE) != cudaSuccess) {
		snprintf(why, 256, "GPU %d has no memory for exchanges", s->gpu);
		return -1;
	}
	return 0;
}

static int nccl_split(int color, int rank)
{
	struct group *g = &w.g[w.groups];
	ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
	config.blocking = 0;
	new_record("split", 0);
	if (w.groups == COMM_GROUPS)
		give_up("is one more group than there is room for");
	accepted(&w.g[0], ncclCommSplit(w.g[0].comm, color, rank, &g->comm, &config));
	accepted(g, ncclInProgress);
	end_record(w.exchange);
	ncclCommCount(g->comm, &g->size);
	ncclCommUserRank(g->comm, &g->rank);
	return w.groups++;
}

static void nccl_close(void)
{
	new_record("end", 0);
	while (w.groups--) {
		accepted(&w.g[w.groups], ncclCommFinalize(w.g[w.groups].comm));
		ncclCommDestroy(w.g[w.groups].comm);
	}
	cudaFree(w.bounce);
	for (int i = 0; i < w.high; i++)
		if (w.t[i].end)
			cudaEventDestroy(w.t[i].end);
	cudaEventDestroy(w.before);
	cudaStreamDestroy(w.stream);
}

extern const int adze_comm_abi;
const int adze_comm_abi = COMM_ABI;
extern const struct comm_backend adze_comm;
const struct comm_backend adze_comm = {
	.name = "nccl", .join = nccl_join, .owns = nccl_owns, .close = nccl_close, .split = nccl_split, .sum = nccl_sum, .max = nccl_max, .bcast = nccl_bcast,
	.scatter_begin = nccl_scatter_begin, .gather_begin = nccl_gather_begin, .wait = nccl_wait, .progress = nccl_progress
};
