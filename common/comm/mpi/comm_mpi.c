/*
 * comm_mpi.c - exchanges by MPI, with a watch: who does not come in time is named, and nobody waits for ever
 *
 * Exchanges are MPI's own non-blocking collectives, polled.  Before each, a process tells process 0 the exchange's number in
 * a message of its own; when one takes longer than the timeout, process 0 knows who has not announced it, says so and
 * aborts the job.  The others give process 0 a few seconds for that before they abort it themselves.
 *
 * Stands alone: a shared object sees nothing of the program that loads it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../comm.h"
#include <errno.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TAG = 7411, PIECE = 1 << 26, GRACE = 5 };

static struct {
	int rank, size;
	double timeout;        /* seconds */
	int64_t exchange;      /* number of the one that is under way */
	int64_t *at;           /* [size] on process 0: the last one that each announced */
	char (*host)[64];      /* [size] where each runs */
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
	while (!MPI_Iprobe(MPI_ANY_SOURCE, TAG, MPI_COMM_WORLD, &there, &s) && there)
		MPI_Recv(&w.at[s.MPI_SOURCE], 1, MPI_INT64_T, s.MPI_SOURCE, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

static void announce(void)
{
	w.exchange++;
	if (w.rank)
		MPI_Send(&w.exchange, 1, MPI_INT64_T, 0, TAG, MPI_COMM_WORLD); /* eight bytes: buffered */
	else
		listen();
}

static _Noreturn void give_up(void)
{
	char late[512] = "";
	for (int r = 1; !w.rank && r < w.size && strlen(late) < 400; r++)
		if (w.at[r] < w.exchange)
			snprintf(late + strlen(late), sizeof late - strlen(late), "%s%d on %s (last seen at exchange %lld)", *late ? ", " : "", r,
				 w.host[r], (long long)w.at[r]);
	if (w.rank)
		fprintf(stderr, "%s: process 0 on %s did not come to exchange %lld within %g s; the job ends\n", program_invocation_short_name, w.host[0],
			(long long)w.exchange, w.timeout);
	else
		fprintf(stderr, "%s: process %s did not come to exchange %lld within %g s; the job ends\n", program_invocation_short_name,
			*late ? late : "(all came, the network did not)", (long long)w.exchange, w.timeout);
	fflush(stderr);
	MPI_Abort(MPI_COMM_WORLD, EXIT_FAIL);
	_Exit(EXIT_FAIL);
}

/* Polls: busy for a moment, then with sleeps that leave the core to others. */
static void finish(MPI_Request *q)
{
	double t0 = seconds();
	int done = 0;
	for (long n = 0;; n++) {
		if (MPI_Test(q, &done, MPI_STATUS_IGNORE) || done)
			return;
		if (n < 1000)
			continue;
		if (!w.rank)
			listen();
		if (seconds() - t0 > w.timeout + (w.rank ? GRACE : 0))
			give_up();
		struct timespec nap = { 0, n < 3000 ? 20000 : 500000 };
		nanosleep(&nap, NULL);
	}
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
	w.timeout = timeout;
	w.at = calloc((size_t)w.size, sizeof *w.at);
	w.host = calloc((size_t)w.size, sizeof *w.host);
	if (!w.at || !w.host) {
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
	announce();
	MPI_Ibarrier(MPI_COMM_WORLD, &q);
	finish(&q);
	if (!w.rank)
		listen();
	free(w.at);
	free(w.host);
	MPI_Finalize();
}

static void mpi_sum(void *x, int64_t n, int kind)
{
	static const MPI_Datatype type[] = { [COMM_F64] = MPI_DOUBLE, [COMM_F32] = MPI_FLOAT, [COMM_I64] = MPI_INT64_T };
	size_t size = kind == COMM_F32 ? 4 : 8;
	for (int64_t i = 0; i < n; i += PIECE) {
		MPI_Request q;
		announce();
		MPI_Iallreduce(MPI_IN_PLACE, (char *)x + (size_t)i * size, (int)(n - i < PIECE ? n - i : PIECE), type[kind], MPI_SUM,
			       MPI_COMM_WORLD, &q);
		finish(&q);
	}
}

static void mpi_max(int64_t *x)
{
	MPI_Request q;
	announce();
	MPI_Iallreduce(MPI_IN_PLACE, x, 1, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD, &q);
	finish(&q);
}

static void mpi_bcast(void *p, int64_t bytes, int from)
{
	for (int64_t i = 0; i < bytes; i += PIECE) {
		MPI_Request q;
		announce();
		MPI_Ibcast((char *)p + i, (int)(bytes - i < PIECE ? bytes - i : PIECE), MPI_BYTE, from, MPI_COMM_WORLD, &q);
		finish(&q);
	}
}

extern const int adze_comm_abi;
const int adze_comm_abi = COMM_ABI;
extern const struct comm_backend adze_comm;
const struct comm_backend adze_comm = { "mpi", mpi_open, mpi_close, mpi_sum, mpi_max, mpi_bcast };
