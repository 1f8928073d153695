/*
 * preload.c - makes one call that changes a file fail, or has the program struck by a signal there: for tests, by LD_PRELOAD
 *
 * The moment is chosen by what the program does, never by the clock, so that it is the same on machines of any speed.
 * Counted from 1 are the calls of write (also pwrite and fflush), fsync, rename (also renameat2) and mkdir of a path that begins
 * with $FAULT_DIR and ends with $FAULT_NAME (whole parts of a path), where these are set; where $FAULT_CALL is set, only calls
 * of that name, which may be open as well; where $FAULT_RANK is, only those of that process of an MPI job.  Call
 * number $FAULT_AT is the fault:
 *
 *	FAULT=error    it fails with ENOSPC, and so does every later write: the disk is full
 *	FAULT=kill     SIGKILL in its place; a write leaves half of its bytes behind
 *	FAULT=log      none; "NUMBER CALL PATH" is appended to $FAULT_LOG
 *	FAULT=SIGNAL   KILL, TERM, USR1, USR2 or STOP as soon as it is done; -KILL and so on: to the whole process group
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int signal_of(const char *mode)
{
	static const struct { const char *name; int number; } known[] = { { "KILL", SIGKILL }, { "TERM", SIGTERM },
		{ "USR1", SIGUSR1 }, { "USR2", SIGUSR2 }, { "STOP", SIGSTOP } };
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (!strcmp(mode + (*mode == '-'), known[i].name))
			return known[i].number;
	return 0;
}

/* Whoever starts the tests may ignore the signal, which programs would respect */
__attribute__((constructor)) static void heeded(void)
{
	const char *mode = getenv("FAULT");
	int number = mode ? signal_of(mode) : 0;
	if (number)
		signal(number, SIG_DFL);
}

/* Whether a call is among those that are counted */
static int counts(const char *call, const char *path)
{
	const char *only = getenv("FAULT_CALL"), *dir = getenv("FAULT_DIR"), *name = getenv("FAULT_NAME");
	const char *rank = getenv("FAULT_RANK"), *mine = getenv("OMPI_COMM_WORLD_RANK");
	size_t n = strlen(path), k = name ? strlen(name) : 0;
	if (only ? strcmp(call, only) : !strcmp(call, "open"))
		return 0;
	if ((!dir && !name) || (rank && (!mine || strcmp(rank, mine))))
		return 0;
	return (!dir || !strncmp(path, dir, strlen(dir))) && (!name || (n >= k && !strcmp(path + n - k, name) && (n == k || path[n - k - 1] == '/')));
}

enum { GO_ON, FAIL, DIE, STRIKE };

/* What is to happen at this call.  path may be relative to the working directory. */
static int fault(const char *call, const char *path)
{
	static long count;
	static int full;
	const char *mode = getenv("FAULT"), *at = getenv("FAULT_AT"), *log = getenv("FAULT_LOG");
	int is_write = !strcmp(call, "write"), what = GO_ON;
	if (!mode || !counts(call, path))
		return GO_ON;
	pthread_mutex_lock(&lock);
	count++;
	if (!strcmp(mode, "log") && log) {
		FILE *f = fopen(log, "ae");
		if (f) {
			fprintf(f, "%ld %s %s\n", count, call, path);
			fclose(f);
		}
	} else if (at && count == strtol(at, NULL, 10)) {
		what = signal_of(mode) ? STRIKE : !strcmp(mode, "kill") ? DIE : FAIL;
		full = what == FAIL;
	} else if (full && is_write) {
		what = FAIL;
	}
	pthread_mutex_unlock(&lock);
	if (what == FAIL)
		errno = ENOSPC;
	if (what == DIE && !is_write)
		raise(SIGKILL);
	return what;
}

/* After the call, whose result is returned */
static long struck(int what, long result)
{
	const char *mode = getenv("FAULT");
	int saved = errno;
	if (what != STRIKE || !mode)
		return result;
	if (*mode == '-')
		kill(0, signal_of(mode));
	else
		raise(signal_of(mode));
	errno = saved;
	return result;
}

static int fault_fd(const char *call, int fd)
{
	char link[64], path[PATH_MAX];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	if (n < 0)
		return 0;
	path[n] = '\0';
	return fault(call, path);
}

/* The next definition of NAME, as a function pointer of TYPE */
#define NEXT(type, name) ((type)(uintptr_t)dlsym(RTLD_NEXT, name))

typedef ssize_t write_fn(int, const void *, size_t);
ssize_t write(int fd, const void *p, size_t n)
{
	int what = fault_fd("write", fd);
	write_fn *next = NEXT(write_fn *, "write");
	if (what == DIE) {
		if (next(fd, p, n / 2) >= 0)
			raise(SIGKILL);
		return -1;
	}
	return what == FAIL ? -1 : struck(what, next(fd, p, n));
}

typedef ssize_t pwrite_fn(int, const void *, size_t, off_t);
ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
	int what = fault_fd("write", fd);
	pwrite_fn *next = NEXT(pwrite_fn *, "pwrite");
	if (what == DIE) {
		if (next(fd, p, n / 2, at) >= 0)
			raise(SIGKILL);
		return -1;
	}
	return what == FAIL ? -1 : struck(what, next(fd, p, n, at));
}

typedef int fflush_fn(FILE *);
int fflush(FILE *f)
{
	int what = f ? fault_fd("write", fileno(f)) : GO_ON;
	if (what == DIE)
		raise(SIGKILL);
	return what == FAIL ? EOF : (int)struck(what, NEXT(fflush_fn *, "fflush")(f));
}

typedef int fsync_fn(int);
int fsync(int fd)
{
	int what = fault_fd("fsync", fd);
	return what == FAIL ? -1 : (int)struck(what, NEXT(fsync_fn *, "fsync")(fd));
}

typedef int rename_fn(const char *, const char *);
int rename(const char *from, const char *to)
{
	int what = fault("rename", to);
	return what == FAIL ? -1 : (int)struck(what, NEXT(rename_fn *, "rename")(from, to));
}

typedef int renameat2_fn(int, const char *, int, const char *, unsigned);
int renameat2(int fd, const char *from, int fd2, const char *to, unsigned flags)
{
	int what = fault("rename", to);
	return what == FAIL ? -1 : (int)struck(what, NEXT(renameat2_fn *, "renameat2")(fd, from, fd2, to, flags));
}

typedef int mkdir_fn(const char *, mode_t);
int mkdir(const char *path, mode_t mode)
{
	int what = fault("mkdir", path);
	return what == FAIL ? -1 : (int)struck(what, NEXT(mkdir_fn *, "mkdir")(path, mode));
}

typedef int open_fn(const char *, int, mode_t);
int open(const char *path, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	int what = fault("open", path);
	return what == FAIL ? -1 : (int)struck(what, NEXT(open_fn *, "open")(path, flags, mode));
}
