/*
 * comm.c - alone or one of many: which library the launcher asks for, and exchanges that cost nothing alone
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "comm.h"
#include "../../kernels/plugin.h"
#include "../base/log.h"
#include "../base/opt.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static int64_t env_int(const char *name)
{
	const char *s = getenv(name);
	int64_t n;
	return s && !parse_i64(s, &n) ? n : -1;
}

/* What launchers tell their children: Open MPI's mpirun, MPICH's and Slurm's PMI, Slurm with PMIx. */
static bool launched_by_mpi(void)
{
	return env_int("OMPI_COMM_WORLD_SIZE") > 1 || env_int("PMI_SIZE") > 1 || (getenv("PMIX_RANK") && env_int("SLURM_NTASKS") > 1);
}

int comm_open(struct comm *c, struct err *e)
{
	char why[256];
	double timeout = 600;
	*c = (struct comm){ .size = 1 };
	const char *t = getenv("ADZE_COMM_TIMEOUT");
	if (t && (parse_f64(t, &timeout) || timeout <= 0))
		return err_set(e, EXIT_USAGE, "ADZE_COMM_TIMEOUT=%s: expected seconds", t);
	if (!launched_by_mpi()) {
		if (env_int("WORLD_SIZE") > 1)
			return err_set(e, EXIT_RESOURCE, "WORLD_SIZE=%s: started like torchrun, which needs NCCL and GPUs; on CPUs start with mpirun or srun",
				       getenv("WORLD_SIZE"));
		return 0;
	}
	void *so = plugin_open("mpi", COMM_ABI_SYMBOL, COMM_ABI, why);
	c->b = so ? dlsym(so, COMM_SYMBOL) : NULL;
	if (!c->b || c->b->open(&c->rank, &c->size, timeout, why))
		return err_set(e, EXIT_RESOURCE, "several processes were started, but MPI is not to be had: %s", why);
	if (c->rank > 0) {
		prog_name = xasprintf("%s[%d]", prog_name, c->rank);
		com.quiet = true;
		com.events = NULL;
		if (!freopen("/dev/null", "w", stdout))
			return err_sys(e, "/dev/null");
	}
	return 0;
}

void comm_close(struct comm *c)
{
	if (c->b)
		c->b->close();
	c->b = NULL;
}

void comm_sum_f64(struct comm *c, double *x, int64_t n)
{
	if (c && c->b)
		c->b->sum(x, n, COMM_F64);
}

void comm_sum_f32(struct comm *c, float *x, int64_t n)
{
	if (c && c->b)
		c->b->sum(x, n, COMM_F32);
}

void comm_sum_i64(struct comm *c, int64_t *x, int64_t n)
{
	if (c && c->b)
		c->b->sum(x, n, COMM_I64);
}

int64_t comm_max(struct comm *c, int64_t x)
{
	if (c && c->b)
		c->b->max(&x);
	return x;
}

void comm_bcast(struct comm *c, void *p, int64_t bytes, int from)
{
	if (c && c->b)
		c->b->bcast(p, bytes, from);
}

int comm_scatter_begin(struct comm *c, float *x, int64_t n)
{
	return c && c->b ? c->b->scatter_begin(x, n, COMM_F32) : 0;
}

int comm_gather_begin(struct comm *c, void *x, int64_t bytes)
{
	return c && c->b ? c->b->gather_begin(x, bytes) : 0;
}

void comm_wait(struct comm *c, int ticket)
{
	if (ticket)
		c->b->wait(ticket);
}

void comm_progress(struct comm *c)
{
	if (c && c->b)
		c->b->progress();
}

int comm_stop_requested(struct comm *c)
{
	return (int)comm_max(c, stop_requested());
}
