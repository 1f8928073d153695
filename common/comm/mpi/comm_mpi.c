/*
 * comm_mpi.c - exchanges by MPI, with a watch: who does not come in time is named, and nobody waits for ever
 *
 * Exchanges are MPI's own non-blocking collectives, polled.  Before each, a process tells process 0 the exchange's number in
 * a message of its own, and again while it waits; when one takes longer than the timeout, process 0 knows who has not announced
 * it, or who came but is no longer heard of, says so and aborts the job.  The others give process 0 a few seconds for that before they abort it themselves.  What has begun and
 * is not waited for yet keeps its request and its number in a table; a ticket is its place there.
 *
 * Exchanges within a group are not numbered, as not all make them: who waits in one is only heard of.  So whoever is
 * silent is named before those who wait for him elsewhere, and other processes leave process 0 the time to find out.
 *
 * Stands alone: a shared object sees nothing of the program that loads it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../comm.h"
#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TAG = 7411, PIECE = 1 << 26, GRACE = 5, UNIT = 64, TICKETS = 4096 };

struct begun {
	MPI_Request q;
	int64_t exchange;      /* its number; 0: the place is free */
	bool within;           /* a group that is not all */
	char *sum, *own;       /* of a scatter: where MPI leaves the sum, and where it belongs */
	size_t bytes;
	int done;
};

struct group {
	MPI_Comm comm;
	int rank, size;
};

static struct {
	int rank, size;
	struct group g[COMM_GROUPS]; /* the first: all */
	int groups;
	double timeout;        /* seconds */
	int64_t exchange;      /* number of the one that is under way */
	int64_t *at;           /* [size] on process 0: the last one that each announced */
	double *heard;         /* [size] on process 0: when */
	char (*host)[64];      /* [size] where each runs */
	struct begun *t;       /* [TICKETS] */
	int high;              /* places above are free */
	MPI_Datatype unit;     /* UNIT bytes: counts are int */
} w;

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What the others have announced so far. */
static void listen(void)
{
	int there;
	MPI_Status s;
	while (!MPI_Iprobe(MPI_ANY_SOURCE, TAG, MPI_COMM_WORLD, &there, &s) && there) {
		w.heard[s.MPI_SOURCE] = seconds();
		MPI_Recv(&w.at[s.MPI_SOURCE], 1, MPI_INT64_T, s.MPI_SOURCE, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	}
}

static void tell(void)
{
	if (w.rank)
		MPI_Send(&w.exchange, 1, MPI_INT64_T, 0, TAG, MPI_COMM_WORLD); /* eight bytes: buffered */
	else
		listen();
}

static struct group *announce(int group)
{
	if (!group) {
		w.exchange++;
		tell();
	}
	return &w.g[group];
}

/* On process 0: those not heard of for half the timeout that did not come to an exchange; else those not heard of; else
 * those that did not come */
static void name_late(int64_t exchange, char late[512], bool *came)
{
	double long_ago = seconds() - w.timeout / 2;
	for (int pass = 0; pass < 3 && !*late; pass++) {
		*came = pass == 1;
		for (int r = 1; r < w.size && strlen(late) < 400; r++)
			if ((pass == 2 || w.heard[r] < long_ago) && (pass == 1 || w.at[r] < exchange))
				snprintf(late + strlen(late), 512 - strlen(late), "%s%d on %s (last seen at exchange %lld)", *late ? ", " : "", r, w.host[r],
					 (long long)w.at[r]);
	}
}

static _Noreturn void give_up(int64_t exchange)
{
	char late[512] = "";
	bool came = false;
	if (!w.rank)
		name_late(exchange, late, &came);
	if (w.rank)
		snprintf(late, sizeof late, "0 on %s", w.host[0]);
	fprintf(stderr, "%s: process %s %s exchange %lld within %g s; the job ends\n", program_invocation_short_name,
		*late ? late : "(all came, the network did not)", came ? "did not get through" : "did not come to", (long long)exchange, w.timeout);
	fflush(stderr);
	MPI_Abort(MPI_COMM_WORLD, EXIT_FAIL);
	_Exit(EXIT_FAIL);
}

/* Polls: busy for a moment, then with sleeps that leave the core to others. */
static void finish_one(MPI_Request *q, int64_t exchange, bool within)
{
	double patience = w.rank ? w.timeout * (within ? 2 : 1) + GRACE : w.timeout, t0 = seconds(), said = t0, often = w.timeout < 4 ? w.timeout / 4 : 1;
	int done = 0;
	for (long n = 0;; n++) {
		if (MPI_Test(q, &done, MPI_STATUS_IGNORE) || done)
			return;
		if (n < 1000)
			continue;
		double now = seconds();
		if (!w.rank || now - said > often) {
			tell();
			said = now;
		}
		if (now - t0 > patience)
			give_up(exchange);
		struct timespec nap = { 0, n < 3000 ? 20000 : 500000 };
		nanosleep(&nap, NULL);
	}
}

static void finish(MPI_Request *q, const struct group *g)
{
	finish_one(q, w.exchange, g != w.g);
}

static int mpi_open(int *rank, int *size, double timeout, char why[256])
{
	int given, on;
	if (MPI_Initialized(&on) || on || MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given)) {
		snprintf(why, 256, "MPI_Init failed");
		return -1;
	}
	MPI_Comm_rank(MPI_COMM_WORLD, &w.rank);
	MPI_Comm_size(MPI_COMM_WORLD, &w.size);
	w.g[w.groups++] = (struct group){ MPI_COMM_WORLD, w.rank, w.size };
	w.timeout = timeout;
	w.at = calloc((size_t)w.size, sizeof *w.at);
	w.host = calloc((size_t)w.size, sizeof *w.host);
	w.heard = calloc((size_t)w.size, sizeof *w.heard);
	w.t = calloc(TICKETS, sizeof *w.t);
	MPI_Type_contiguous(UNIT, MPI_BYTE, &w.unit);
	MPI_Type_commit(&w.unit);
	if (!w.at || !w.heard || !w.host || !w.t) {
		snprintf(why, 256, "out of memory");
		return -1;
	}
	char mine[sizeof *w.host] = "";
	gethostname(mine, sizeof mine - 1);
	MPI_Allgather(mine, sizeof mine, MPI_CHAR, w.host, sizeof mine, MPI_CHAR, MPI_COMM_WORLD);
	*rank = w.rank;
	*size = w.size;
	return 0;
}

static void mpi_close(void)
{
	MPI_Request q;
	announce(0);
	MPI_Ibarrier(MPI_COMM_WORLD, &q);
	finish(&q, w.g);
	if (!w.rank)
		listen();
	free(w.at);
	free(w.heard);
	free(w.host);
	free(w.t);
	MPI_Type_free(&w.unit);
	while (--w.groups)
		MPI_Comm_free(&w.g[w.groups].comm);
	MPI_Finalize();
}

static int mpi_split(int color, int rank)
{
	struct group *g = &w.g[w.groups];
	if (w.groups == COMM_GROUPS) {
		fprintf(stderr, "%s: the processes were split more than %d times\n", program_invocation_short_name, COMM_GROUPS - 1);
		MPI_Abort(MPI_COMM_WORLD, EXIT_FAIL);
	}
	MPI_Comm_split(MPI_COMM_WORLD, color, rank, &g->comm);
	MPI_Comm_rank(g->comm, &g->rank);
	MPI_Comm_size(g->comm, &g->size);
	return w.groups++;
}

static int mpi_node(void)
{
	MPI_Comm node;
	MPI_Request q;
	int first = w.rank;
	announce(0);
	MPI_Ibarrier(MPI_COMM_WORLD, &q);
	finish(&q, w.g);       /* what follows does not wait for anybody */
	MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, w.rank, MPI_INFO_NULL, &node);
	MPI_Bcast(&first, 1, MPI_INT, 0, node);
	MPI_Comm_free(&node);
	return first;
}

static const MPI_Datatype type[] = { [COMM_F64] = MPI_DOUBLE, [COMM_F32] = MPI_FLOAT, [COMM_I64] = MPI_INT64_T };

static void mpi_sum(int group, void *x, int64_t n, int kind)
{
	size_t size = kind == COMM_F32 ? 4 : 8;
	for (int64_t i = 0; i < n; i += PIECE) {
		MPI_Request q;
		const struct group *g = announce(group);
		MPI_Iallreduce(MPI_IN_PLACE, (char *)x + (size_t)i * size, (int)(n - i < PIECE ? n - i : PIECE), type[kind], MPI_SUM,
			       g->comm, &q);
		finish(&q, g);
	}
}

static void mpi_max(int group, int64_t *x)
{
	MPI_Request q;
	const struct group *g = announce(group);
	MPI_Iallreduce(MPI_IN_PLACE, x, 1, MPI_INT64_T, MPI_MAX, g->comm, &q);
	finish(&q, g);
}

static void mpi_bcast(int group, void *p, int64_t bytes, int from)
{
	for (int64_t i = 0; i < bytes; i += PIECE) {
		MPI_Request q;
		const struct group *g = announce(group);
		MPI_Ibcast((char *)p + i, (int)(bytes - i < PIECE ? bytes - i : PIECE), MPI_BYTE, from, g->comm, &q);
		finish(&q, g);
	}
}

/* ---- begun now, waited for later ---- */

static struct begun *begin(int group, int64_t count, const char *what)
{
	int i = 0;
	while (i < w.high && w.t[i].exchange)
		i++;
	if (i == TICKETS || count > INT_MAX) {
		fprintf(stderr, "%s: %s of %lld elements is more than MPI takes at a time\n", program_invocation_short_name, what, (long long)count);
		MPI_Abort(MPI_COMM_WORLD, EXIT_FAIL);
	}
	w.high = i == w.high ? i + 1 : w.high;
	announce(group);
	w.t[i] = (struct begun){ .exchange = w.exchange, .within = group > 0 };
	return &w.t[i];
}

static int ticket_of(const struct begun *b)
{
	return (int)(b - w.t) + 1;
}

static int mpi_scatter_begin(int group, void *x, int64_t n, int kind)
{
	const struct group *g = &w.g[group];
	struct begun *b = begin(group, n * g->size, "a sum in parts");
	b->bytes = (size_t)n * (kind == COMM_F32 ? 4 : 8);
	b->sum = x;            /* in place MPI puts the result first */
	b->own = b->sum + (size_t)g->rank * b->bytes;
	MPI_Ireduce_scatter_block(MPI_IN_PLACE, x, (int)n, type[kind], MPI_SUM, g->comm, &b->q);
	return ticket_of(b);
}

static int mpi_gather_begin(int group, void *x, int64_t bytes)
{
	MPI_Datatype t = bytes % UNIT ? MPI_BYTE : w.unit;
	int64_t n = bytes % UNIT ? bytes : bytes / UNIT;
	const struct group *g = &w.g[group];
	struct begun *b = begin(group, n * g->size, "a gathering");
	MPI_Iallgather(MPI_IN_PLACE, 0, t, x, (int)n, t, g->comm, &b->q);
	return ticket_of(b);
}

static void settle(struct begun *b)
{
	b->done = 1;
	if (b->own != b->sum)
		memmove(b->own, b->sum, b->bytes);
}

static void mpi_wait(int ticket)
{
	struct begun *b = &w.t[ticket - 1];
	if (!b->done) {
		finish_one(&b->q, b->exchange, b->within);
		settle(b);
	}
	b->exchange = 0;
	while (w.high && !w.t[w.high - 1].exchange)
		w.high--;
}

/* One test moves all that is under way. */
static void mpi_progress(void)
{
	for (int i = 0; i < w.high; i++) {
		int done;
		if (!w.t[i].exchange || w.t[i].done)
			continue;
		if (!MPI_Test(&w.t[i].q, &done, MPI_STATUS_IGNORE) && done)
			settle(&w.t[i]);
		return;
	}
}

extern const int adze_comm_abi;
const int adze_comm_abi = COMM_ABI;
extern const struct comm_backend adze_comm;
const struct comm_backend adze_comm = {
	.name = "mpi", .open = mpi_open, .close = mpi_close, .split = mpi_split, .node = mpi_node, .sum = mpi_sum, .max = mpi_max, .bcast = mpi_bcast,
	.scatter_begin = mpi_scatter_begin, .gather_begin = mpi_gather_begin, .wait = mpi_wait, .progress = mpi_progress,
};
