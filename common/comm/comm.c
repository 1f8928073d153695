/*
 * comm.c - alone or one of many: which libraries the launcher and the device ask for, and exchanges that cost nothing alone
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "comm.h"
#include "../../kernels/kernels.h"
#include "../../kernels/plugin.h"
#include "../base/log.h"
#include "../base/opt.h"
#include "meet.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* Will this process compute on a GPU?  why[] if not */
static bool on_gpu(char why[256])
{
	snprintf(why, 256, "--device %s", com.device);
	return !strncmp(com.device, "cuda", 4) || (!strcmp(com.device, "auto") && kernels_open("cuda", why));
}

/* Which of the processes on this machine we are, or -1 */
static int local_number(void)
{
	static const char *const name[] = { "LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID" };
	for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
		int64_t n = env_int(name[i]);
		if (n >= 0 && n < 1024)
			return (int)n;
	}
	return -1;
}

static int share_by_mpi(void *arg, void *p, int64_t bytes, char why[256])
{
	(void)why;
	comm_bcast(arg, p, bytes, 0);
	return 0;
}

/* NCCL among all; 0, or -1 with *e when it is there and does not work.  Not there: c->gpu stays NULL */
static int open_nccl(struct comm *c, struct comm_seat *seat, struct err *e)
{
	char why[256];
	void *so = plugin_open("nccl", COMM_ABI_SYMBOL, COMM_ABI, c->why_no_gpu);
	const struct comm_backend *b = so ? dlsym(so, COMM_SYMBOL) : NULL;
	if (comm_max(c, !b))
		return 0;
	seat->rank = c->rank;
	seat->size = c->size;
	seat->local = local_number();
	const char *number = strchr(com.device, ':');
	seat->gpu = number && number[1] >= '0' && number[1] <= '9' ? atoi(number + 1) : -1;
	if (b->join(seat, why))
		return err_set(e, EXIT_RESOURCE, "NCCL: %s", why);
	c->gpu = b;
	if (!number)
		com.device = xasprintf("cuda:%d", seat->gpu);
	return 0;
}

/* Under mpirun or srun */
static int open_mpi(struct comm *c, double timeout, struct err *e)
{
	char why[256];
	void *so = plugin_open("mpi", COMM_ABI_SYMBOL, COMM_ABI, why);
	c->b = so ? dlsym(so, COMM_SYMBOL) : NULL;
	if (!c->b || c->b->open(&c->rank, &c->size, timeout, why)) {
		c->b = NULL;
		return err_set(e, EXIT_RESOURCE, "several processes were started, but MPI is not to be had: %s", why);
	}
	if (!comm_max(c, on_gpu(c->why_no_gpu)))
		return 0;
	return open_nccl(c, &(struct comm_seat){ .timeout = timeout, .share = share_by_mpi, .arg = c }, e);
}

/* Variables in torchrun's manner */
static int open_alike_torchrun(struct comm *c, double timeout, struct err *e)
{
	struct meet m;
	char why[256];
	if (meet_env(&m, timeout, e))
		return -1;
	if (!on_gpu(why))
		return err_set(e, EXIT_RESOURCE, "WORLD_SIZE=%d: started like torchrun, which needs NCCL and GPUs (%s); on CPUs start with mpirun or srun", m.size,
			       why);
	c->rank = m.rank;
	c->size = m.size;
	if (open_nccl(c, &(struct comm_seat){ .timeout = timeout, .share = meet_share, .arg = &m }, e))
		return -1;
	if (!c->gpu)
		return err_set(e, EXIT_RESOURCE, "WORLD_SIZE=%d: started like torchrun, which needs NCCL: %s", m.size, c->why_no_gpu);
	c->b = c->gpu;
	return 0;
}

int comm_open(struct comm *c, struct err *e)
{
	double timeout = 600;
	*c = (struct comm){ .size = 1 };
	const char *t = getenv("ADZE_COMM_TIMEOUT");
	if (t && (parse_f64(t, &timeout) || timeout <= 0))
		return err_set(e, EXIT_USAGE, "ADZE_COMM_TIMEOUT=%s: expected seconds", t);
	const char *world = getenv("WORLD_SIZE");
	bool torchrun = world && *world && env_int("WORLD_SIZE") != 1;
	if (launched_by_mpi() ? open_mpi(c, timeout, e) : torchrun ? open_alike_torchrun(c, timeout, e) : 0)
		return -1;
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
	if (c->gpu)
		c->gpu->close();
	if (c->b && c->b != c->gpu)
		c->b->close();
	c->b = c->gpu = NULL;
}

void comm_split(struct comm *all, int color, struct comm *group)
{
	int32_t *of = xcalloc((size_t)all->size, sizeof *of);
	*group = (struct comm){ .size = 0 };
	of[all->rank] = color;
	comm_wait(all, comm_gather_begin(all, of, sizeof *of));
	for (int r = 0; r < all->size; r++) {
		group->size += of[r] == color;
		group->rank += of[r] == color && r < all->rank;
	}
	free(of);
	int number = all->b ? all->b->split(color, group->rank) : 0;
	int gpu_number = !all->gpu ? 0 : all->gpu == all->b ? number : all->gpu->split(color, group->rank);
	if (group->size == 1)
		return;
	bool everybody = group->size == all->size;
	*group = (struct comm){ .rank = group->rank, .size = group->size, .b = all->b, .gpu = all->gpu,
				.group = everybody ? 0 : number, .gpu_group = everybody ? 0 : gpu_number };
	memcpy(group->why_no_gpu, all->why_no_gpu, sizeof group->why_no_gpu);
}

/* The first of the processes whose machine has the name and the moment of start that ours has */
static int first_on_host(struct comm *all)
{
	struct host { char name[64], boot[40]; } *of = xcalloc((size_t)all->size, sizeof *of);
	int r = 0;
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
	if (f && !fgets(of[all->rank].boot, sizeof of->boot, f))
		*of[all->rank].boot = '\0';
	if (f)
		fclose(f);
	gethostname(of[all->rank].name, sizeof of->name - 1);
	comm_wait(all, comm_gather_begin(all, of, sizeof *of));
	while (memcmp(&of[r], &of[all->rank], sizeof *of))
		r++;
	free(of);
	return r;
}

void comm_split_nodes(struct comm *all, int64_t each, struct comm *group)
{
	int node = each ? (int)(all->rank / each) : all->b && all->b->node ? all->b->node() : first_on_host(all);
	comm_split(all, node, group);
}

/* Whose exchange it is, by where the bytes lie; and the group in its words */
static const struct comm_backend *by_place(const struct comm *c, const void *p)
{
	return c->gpu && c->gpu != c->b && c->gpu->owns(p) ? c->gpu : c->b;
}

static int group_of(const struct comm *c, const struct comm_backend *b)
{
	return b == c->b ? c->group : c->gpu_group;
}

static void sum(const struct comm *c, void *x, int64_t n, int kind)
{
	const struct comm_backend *b = c && c->b ? by_place(c, x) : NULL;
	if (b)
		b->sum(group_of(c, b), x, n, kind);
}

void comm_sum_f64(struct comm *c, double *x, int64_t n)
{
	sum(c, x, n, COMM_F64);
}

void comm_sum_f32(struct comm *c, float *x, int64_t n)
{
	sum(c, x, n, COMM_F32);
}

void comm_sum_i64(struct comm *c, int64_t *x, int64_t n)
{
	sum(c, x, n, COMM_I64);
}

int64_t comm_max(struct comm *c, int64_t x)
{
	if (c && c->b)
		c->b->max(c->group, &x);
	return x;
}

void comm_bcast(struct comm *c, void *p, int64_t bytes, int from)
{
	const struct comm_backend *b = c && c->b ? by_place(c, p) : NULL;
	if (b)
		b->bcast(group_of(c, b), p, bytes, from);
}

/* Tickets of the GPUs' exchanges are below 0 where the host's memory has a backend of its own. */
static int ticket_for(const struct comm *c, const struct comm_backend *b, int ticket)
{
	return b == c->b ? ticket : -ticket;
}

int comm_scatter_begin(struct comm *c, float *x, int64_t n)
{
	const struct comm_backend *b = c && c->b ? by_place(c, x) : NULL;
	return b ? ticket_for(c, b, b->scatter_begin(group_of(c, b), x, n, COMM_F32)) : 0;
}

int comm_gather_begin(struct comm *c, void *x, int64_t bytes)
{
	const struct comm_backend *b = c && c->b ? by_place(c, x) : NULL;
	return b ? ticket_for(c, b, b->gather_begin(group_of(c, b), x, bytes)) : 0;
}

void comm_wait(struct comm *c, int ticket)
{
	if (ticket < 0)
		c->gpu->wait(-ticket);
	else if (ticket)
		c->b->wait(ticket);
}

void comm_progress(struct comm *c)
{
	if (c && c->b)
		c->b->progress();
	if (c && c->gpu && c->gpu != c->b)
		c->gpu->progress();
}

int comm_stop_requested(struct comm *c)
{
	return (int)comm_max(c, stop_requested());
}
