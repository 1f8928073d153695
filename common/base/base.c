/*
 * base.c - errors, allocation that cannot fail, and the few facts asked of the system
 *
 * Messages may carry names read from hostile files, so control characters are replaced before anything is kept
 * or printed: one error is always one line and never a terminal escape.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base.h"
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

const char ADZE_VERSION[] = ADZE_VERSION_TEXT;
const char *prog_name = "adze";
static void (*message_hook)(void);

void on_message(void (*fn)(void))
{
	message_hook = fn;
}

static void one_line(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 32 || *s == 127)
			*s = '?';
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	if (!e)
		return -1;
	char tmp[sizeof e->msg]; /* arguments may point into e->msg */
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(tmp, sizeof tmp, fmt, ap);
	va_end(ap);
	one_line(tmp);
	memcpy(e->msg, tmp, sizeof tmp);
	e->code = code;
	return -1;
}

int err_sys(struct err *e, const char *fmt, ...)
{
	int saved = errno;
	if (!e)
		return -1;
	char tmp[sizeof e->msg];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(tmp, sizeof tmp, fmt, ap);
	va_end(ap);
	err_set(e, EXIT_IO, "%.900s: %s", tmp, strerror(saved));
	errno = saved;
	return -1;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
	if (!e)
		return -1;
	char tmp[sizeof e->msg];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(tmp, sizeof tmp, fmt, ap);
	va_end(ap);
	return err_set(e, e->code, "%.500s: %s", tmp, e->msg);
}

/*
 * A refusal leaves at once with whatever it holds.  A sanitizer that looks for leaks as the process ends asks this
 * function by its name first, and whether a pointer is still in some register just then is chance.
 */
static bool refused;
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
	return refused;
}

void die(int code, const char *fmt, ...)
{
	char msg[2048];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	one_line(msg);
	if (message_hook)
		message_hook();
	fprintf(stderr, "%s: %s\n", prog_name, msg);
	refused = true;
	exit(code);
}

void die_err(const struct err *e)
{
	die(e->code ? e->code : EXIT_FAIL, "%s", e->msg);
}

void bug_at(const char *file, int line, const char *fmt, ...)
{
	va_list ap;
	fprintf(stderr, "%s: bug at %s:%d: ", prog_name, file, line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	abort();
}

static _Noreturn void no_memory(size_t n)
{
	char b[32];
	die(EXIT_RESOURCE, "out of memory (%s more needed)", fmt_bytes(b, (double)n));
}

void *xmalloc(size_t n)
{
	void *p = malloc(n ? n : 1);
	if (!p)
		no_memory(n);
	return p;
}

void *xcalloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size ? size : 1);
	if (!p)
		no_memory(n > SIZE_MAX / (size ? size : 1) ? SIZE_MAX : n * size);
	return p;
}

void *xrealloc(void *p, size_t n, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(n, size, &bytes))
		no_memory(SIZE_MAX);
	p = realloc(p, bytes ? bytes : 1);
	if (!p)
		no_memory(bytes);
	return p;
}

char *xstrdup(const char *s)
{
	size_t n = strlen(s) + 1;
	return memcpy(xmalloc(n), s, n);
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		BUG("bad format %s", fmt);
	char *s = xmalloc((size_t)n + 1);
	va_start(ap, fmt);
	vsnprintf(s, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return s;
}

/* Small blocks come from malloc; large ones are mapped on a 2 MiB boundary so that the kernel can use huge pages. */
#define BIG_MIN ((size_t)1 << 20)
#define HUGE_PAGE ((size_t)2 << 20)

static size_t page_round(size_t n)
{
	size_t pg = (size_t)sysconf(_SC_PAGESIZE);
	return (n + pg - 1) / pg * pg;
}

void *big_alloc(size_t n)
{
	if (n < BIG_MIN) {
		size_t r = (n + 63) / 64 * 64;
		void *p = aligned_alloc(64, r ? r : 64);
		if (!p)
			no_memory(n);
		return memset(p, 0, r ? r : 64);
	}
	if (n > SIZE_MAX / 4)
		no_memory(n);
	size_t len = page_round(n);
	char *p = mmap(NULL, len + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		no_memory(n);
	size_t head = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
	if (head)
		munmap(p, head);
	if (HUGE_PAGE - head)
		munmap(p + head + len, HUGE_PAGE - head);
	p += head;
	madvise(p, len, MADV_HUGEPAGE);
	return p;
}

void big_free(void *p, size_t n)
{
	if (!p)
		return;
	if (n < BIG_MIN)
		free(p);
	else
		munmap(p, page_round(n));
}

double now_seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* VmHWM, because ru_maxrss starts at what the parent had before exec. */
int cpu_count(void)
{
	cpu_set_t set;
	if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
		return CPU_COUNT(&set);
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	return n > 0 ? (int)n : 1;
}
