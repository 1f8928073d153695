/*
 * base.h - errors, memory and numbers: what every other file leans on
 *
 * Three ranks of failure.  BUG(): an invariant of ours is broken, abort with file:line.  die(): only in
 * stages/ and tools/, one line on stderr and an exit code.  Everything in common/ returns 0 or -1 and fills
 * a `struct err` where the facts are known (file, item, expected, got); callers may prefix context with
 * err_wrap() and pass it up, nobody rewrites it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_BASE_H
#define ADZE_BASE_H
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Exit codes, as every stage documents them. */
enum {
	EXIT_DONE = 0,     /* done */
	EXIT_FAIL = 1,     /* failed */
	EXIT_USAGE = 2,    /* bad command line */
	EXIT_DATA = 65,    /* bad, truncated or mismatched input */
	EXIT_RESOURCE = 69,/* a needed resource is missing (GPU, memory, sandbox) */
	EXIT_IO = 74,      /* read or write error */
	EXIT_AGAIN = 75    /* checkpointed, run me again */
};

struct err {
	int code;          /* exit code that a stage should end with */
	char msg[1024];    /* one line, no newline */
};

#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

/* Fills e (which may be NULL) and returns -1, so that `return err_set(...)` reads well. */
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Like err_set(EXIT_IO, ...) with ": strerror(errno)" appended. */
int err_sys(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Prefixes "context: " to the message; returns -1. */
int err_wrap(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

extern const char *prog_name;                  /* basename of argv[0], set by opt_parse */
_Noreturn void die(int code, const char *fmt, ...) PRINTF_LIKE(2, 3);
_Noreturn void die_err(const struct err *e);   /* "prog: message", exit e->code */
_Noreturn void bug_at(const char *file, int line, const char *fmt, ...) PRINTF_LIKE(3, 4);
#define BUG(...) bug_at(__FILE__, __LINE__, __VA_ARGS__)
void on_message(void (*fn)(void));             /* called before die() prints: the progress bar clears its line */

/* Allocation that cannot fail: out of memory ends the program with EXIT_RESOURCE and one line.
 * Sizes are products checked for overflow.  Free with free(). */
void *xmalloc(size_t n);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t n, size_t size);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* 64-byte aligned, zeroed, backed by huge pages where the kernel grants them; free with big_free(p, n). */
void *big_alloc(size_t n);
void big_free(void *p, size_t n);

/* Bump allocator: everything lives until arena_free().  Used for names and tables, never for tensors. */
struct arena {
	struct arena_chunk *head;
};
void *arena_alloc(struct arena *a, size_t n);  /* zeroed, 16-byte aligned */
char *arena_printf(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
void arena_free(struct arena *a);

/* a*b into *r; true when it does not fit a non-negative int64. */
static inline bool mul_over(int64_t a, int64_t b, int64_t *r)
{
	return a < 0 || b < 0 || __builtin_mul_overflow(a, b, r);
}

/* Numbers as users write them: 1024, 8e9, 4Ki, 1.5G.  k M G T are powers of 1000, Ki Mi Gi Ti of 1024.
 * Strict: trailing junk, overflow and fractions of a unit are refused (-1). */
int parse_i64(const char *s, int64_t *out);
int parse_f64(const char *s, double *out);
/* "1,234,567" and "4.19 B"-like forms for people; buf is returned. */
char *fmt_count(char buf[32], double n);       /* 4.19e9 -> "4.19B" */
char *fmt_bytes(char buf[32], double n);       /* 1.5 GiB */

double now_seconds(void);                      /* monotonic clock */
size_t peak_rss_bytes(void);
size_t rss_bytes(void);                        /* resident now */
size_t memory_free_bytes(void);                /* what this process may still take: the machine's, and its control groups' */
int cpu_count(void);                           /* usable by this process (affinity) */
extern const char ADZE_VERSION[];
#endif
