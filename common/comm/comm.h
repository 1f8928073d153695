/*
 * comm.h - several processes that work on one job: who am I, and what all of them know together
 *
 * A process that was started alone loads nothing and pays nothing: size is 1, every exchange returns at once.  Under mpirun
 * or srun the exchanges are MPI's (lib/adze/adze-mpi.so), and what lies on GPUs is NCCL's (adze-nccl.so); started in
 * torchrun's manner (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) all are NCCL's.  All processes must make the same
 * exchanges in the same order; one that does not come within ADZE_COMM_TIMEOUT seconds (600) is named and all of them end.
 *
 * Every process reads the same inputs and does its share; process 0 alone speaks and writes.  In an exchange NULL stands for
 * a process alone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_COMM_H
#define ADZE_COMM_H
#include "../base/base.h"

struct comm {
	int rank, size;
	const struct comm_backend *b;  /* for what lies in the host's memory; NULL: alone */
	const struct comm_backend *gpu;/* for what lies on GPUs (may be b); NULL: there are none, or no NCCL */
	char why_no_gpu[256];          /* and the reason */
	int group, gpu_group;          /* which of the processes, in the words of b and of gpu; 0: all */
};

/* Call after opt_parse and before log_start: processes other than 0 are made quiet, write no events and
 * nothing to stdout, and their errors begin with "program[rank]: ".  EXIT_RESOURCE when the launcher's library cannot be had.
 * With GPUs, --device becomes that of this process: its number on its machine. */
int comm_open(struct comm *c, struct err *e);
/* All processes must come; then they may end. */
void comm_close(struct comm *c);
/* Those that name the same color, in their order, as a group that exchanges among itself; all come.  A group of one is a
 * process alone; it lasts until `all` is closed. */
void comm_split(struct comm *all, int color, struct comm *group);
/* Likewise those on one machine, whatever launcher started them; or, with each > 0, every so many neighbours. */
void comm_split_nodes(struct comm *all, int64_t each, struct comm *group);
static inline bool comm_first(const struct comm *c) { return !c || c->rank == 0; }
/* Is piece i of a job this process's? */
static inline bool comm_mine(const struct comm *c, int64_t i) { return !c || i % c->size == c->rank; }

/* x[i] of all processes added up, the result in all of them; the order of the addition does not change from run to run */
void comm_sum_f64(struct comm *c, double *x, int64_t n);
void comm_sum_f32(struct comm *c, float *x, int64_t n);
void comm_sum_i64(struct comm *c, int64_t *x, int64_t n);
int64_t comm_max(struct comm *c, int64_t x);
/* p[0..bytes) of process `from` to all */
void comm_bcast(struct comm *c, void *p, int64_t bytes, int from);
/* Begun now and done when comm_wait returns: until then nothing may touch x.  All processes begin them in the same order, and
 * other exchanges may come between.  Alone they are done at once.
 *	scatter   x [size, n]: row `rank` becomes the sum of that row over all processes; the other rows are spoilt
 *	gather    x [size pieces of bytes]: piece `rank` is this process's own, the others become theirs */
int comm_scatter_begin(struct comm *c, float *x, int64_t n);
int comm_gather_begin(struct comm *c, void *x, int64_t bytes);
void comm_wait(struct comm *c, int ticket);
/* Lets what has begun get on; call it now and then while computing. */
void comm_progress(struct comm *c);
/* The signal that some process was asked to stop by, or 0: the same answer in all of them (see stop_requested). */
int comm_stop_requested(struct comm *c);

/* What NCCL is told: who we are, and a way to give 128 bytes of process 0 to all */
struct comm_seat {
	int rank, size, gpu;           /* gpu: its number, or -1 for `local` */
	int local;                     /* which of the processes on its machine; -1: the launcher does not say */
	double timeout;
	int (*share)(void *arg, void *p, int64_t bytes, char why[256]);
	void *arg;
};

/* What a backend provides; failure inside an exchange ends the job. */
struct comm_backend {
	const char *name;
	int (*open)(int *rank, int *size, double timeout, char why[256]); /* 0 or -1; MPI */
	int (*join)(struct comm_seat *, char why[256]);                   /* 0 or -1; NCCL: says which GPU it took */
	bool (*owns)(const void *p);                   /* is it the memory of a GPU; NCCL */
	void (*close)(void);
	int (*split)(int color, int rank);             /* of all: the number of the new group, in which we are `rank` */
	int (*node)(void);                             /* of all: the first process on our machine; NULL: by the machine's name */
	void (*sum)(int group, void *x, int64_t n, int kind); /* enum comm_kind */
	void (*max)(int group, int64_t *x);
	void (*bcast)(int group, void *p, int64_t bytes, int from);
	/* as comm_scatter_begin (enum comm_kind) and comm_gather_begin; tickets are > 0 */
	int (*scatter_begin)(int group, void *x, int64_t n, int kind);
	int (*gather_begin)(int group, void *x, int64_t bytes);
	void (*wait)(int ticket);
	void (*progress)(void);
};
enum comm_kind { COMM_F64, COMM_F32, COMM_I64 };
#define COMM_SYMBOL "adze_comm"          /* const struct comm_backend, exported by the shared object */
#define COMM_ABI_SYMBOL "adze_comm_abi"  /* const int */
enum { COMM_ABI = 5, COMM_GROUPS = 8 }; /* all, and groups that a job may be split into */
#endif
