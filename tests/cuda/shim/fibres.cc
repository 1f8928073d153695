/*
 * fibres.cc - the shim's blocks: threads as fibres, barriers, meetings of a warp
 *
 * One fibre runs until it has to wait, then hands over to the next of its block that is not done; the last one hands back
 * to the launch.  A meeting of a warp keeps two sets of lane bytes in turn: nobody can reach the meeting after next before
 * all lanes have left this one.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda_runtime.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

enum { MAX_THREADS = 1024, STACK = 128 << 10, MAX_SHARED = 228 << 10, FENCE = 0x5a, FENCE_BYTES = 2048 };

struct fibre {
#ifdef __x86_64__
	void *sp;
#else
	ucontext_t ctx;
#endif
	char *stack;
	size_t stack_bytes;
	void *fake;                /* AddressSanitizer's */
	int done;
};
struct warp {
	unsigned count, generation;
	char lane[2][32][SHIM_LANE_BYTES];
};

shim_place shim_thread, shim_block, shim_block_dim, shim_grid_dim;
static fibre launcher, thread_of[MAX_THREADS];
static warp warp_of[MAX_THREADS / 32];
static int self, left, step, idle, barrier_line, barrier_any, barrier_result, made;
static unsigned barrier_count, barrier_generation, launches;
static void (*body)(void *);
static void *body_arg;
alignas(128) static char shared_bytes[MAX_SHARED + FENCE_BYTES];

static void die(const char *what)
{
	fprintf(stderr, "cuda shim: block (%u,%u,%u), thread %d of %u: %s\n", shim_block.x, shim_block.y, shim_block.z, self,
		shim_block_dim.x, what);
	abort();
}

#ifdef __x86_64__
extern "C" void shim_switch(void **save, void *load);
asm(".text\n.globl shim_switch\n.hidden shim_switch\n.type shim_switch,@function\nshim_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n.size shim_switch,.-shim_switch\n");
#endif

/* What a stack belongs to must be told to AddressSanitizer before and after each change */
static void arrived(fibre *f)
{
#ifdef __SANITIZE_ADDRESS__
	const void *bottom;
	size_t size;
	__sanitizer_finish_switch_fiber(f->fake, &bottom, &size);
	if (!launcher.stack) {         /* the first change leaves the launcher's own stack */
		launcher.stack = (char *)bottom;
		launcher.stack_bytes = size;
	}
#else
	(void)f;
#endif
}

static void change(fibre *from, fibre *to)
{
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_start_switch_fiber(&from->fake, to->stack, to->stack_bytes);
#endif
#ifdef __x86_64__
	shim_switch(&from->sp, to->sp);
#else
	swapcontext(&from->ctx, &to->ctx);
#endif
	arrived(from);
}

static void enter(int i)
{
	self = i;
	shim_thread.x = (unsigned)i;
}

/* Hands over to the next thread that is not done */
static void hand_over()
{
	int me = self, n = (int)shim_block_dim.x, to = me;
	do
		to = (to + step + n) % n;
	while (thread_of[to].done && to != me);
	if (to == me || idle++ > 4 * n)
		die("waits for threads that never come (a barrier or warp operation that not all reach)");
	enter(to);
	change(&thread_of[me], &thread_of[to]);
	enter(me);
}

/* A fibre's life: one kernel call after another */
static void live()
{
	fibre *f = &thread_of[self];
	f->fake = NULL;
	arrived(f);
	for (;;) {
		int me = self, n = (int)shim_block_dim.x, to = me;
		body(body_arg);
		if (barrier_count)
			die("ended while others wait at a barrier");
		f->done = 1;
		idle = 0;
		left--;
		while (left && thread_of[to].done)
			to = (to + step + n) % n;
		if (left)
			enter(to);
		change(f, left ? &thread_of[to] : &launcher);
		enter(me);
	}
}

static void make_fibre(fibre *f)
{
	f->stack = (char *)mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	f->stack_bytes = STACK;
	if (f->stack == MAP_FAILED)
		die("no memory for stacks");
#ifdef __x86_64__
	void **top = (void **)(f->stack + STACK) - 8;
	top[6] = (void *)live;     /* above six saved registers; the stack is then aligned as after a call */
	f->sp = top;
#else
	getcontext(&f->ctx);
	f->ctx.uc_stack.ss_sp = f->stack;
	f->ctx.uc_stack.ss_size = STACK;
	makecontext(&f->ctx, live, 0);
#endif
}

int shim_barrier_or(int line, int flag)
{
	unsigned generation = barrier_generation;
	if (barrier_count == 0)
		barrier_line = line, barrier_any = 0;
	if (barrier_line != line)
		die("is at another barrier than the others");
	if (left != (int)shim_block_dim.x)
		die("waits at a barrier after other threads have ended");
	barrier_any |= flag;
	idle = 0;
	if (++barrier_count == shim_block_dim.x) {
		barrier_count = 0;
		barrier_generation++;
		barrier_result = barrier_any;
		return barrier_result;
	}
	while (barrier_generation == generation)
		hand_over();
	return barrier_result;
}

void shim_barrier(int line)
{
	shim_barrier_or(line, 0);
}

const char *shim_meet(unsigned mask, const void *mine, size_t size)
{
	warp *w = &warp_of[self / 32];
	unsigned generation = w->generation;
	char *set = w->lane[generation & 1][0];
	if (mask != ~0u)
		die("a warp operation without all lanes");
	memcpy(set + (size_t)(self % 32) * SHIM_LANE_BYTES, mine, size);
	idle = 0;
	if (++w->count == 32) {
		w->count = 0;
		w->generation++;
		return set;
	}
	while (w->generation == generation)
		hand_over();
	return set;
}

void *shim_shared()
{
	return shared_bytes;
}

static void run_block()
{
	int n = (int)shim_block_dim.x;
	for (int i = 0; i < n; i++)
		thread_of[i].done = 0;
	left = n;
	idle = 0;
	barrier_count = 0;
	launcher.stack = NULL;         /* another thread of the program may launch each time */
	enter(step > 0 ? 0 : n - 1);
	change(&launcher, &thread_of[self]);
}

void shim_run(dim3 grid, unsigned block, size_t shared, void (*call)(void *), void *arg)
{
	if (block > MAX_THREADS || shared > MAX_SHARED)
		die("more threads or shared memory than a block can have");
	for (; made < (int)block; made++)
		make_fibre(&thread_of[made]);
	body = call;
	body_arg = arg;
	step = launches++ & 1 ? -1 : 1;
	shim_block_dim = { block, 1, 1 };
	shim_grid_dim = { grid.x, grid.y, grid.z };
	shim_access(1);
	for (unsigned z = 0; z < grid.z; z++)
		for (unsigned y = 0; y < grid.y; y++)
			for (unsigned x = 0; x < grid.x; x++) {
				shim_block = { x, y, z };
				memset(shared_bytes, 0xff, shared);
				memset(shared_bytes + shared, FENCE, FENCE_BYTES);
				run_block();
				for (int i = 0; i < FENCE_BYTES; i++)
					if (shared_bytes[shared + (size_t)i] != FENCE)
						die("wrote behind its shared memory");
			}
	shim_access(0);
}
