/*
 * preload.c - makes one call that changes a directory fail, or kills the program there: for tests, by LD_PRELOAD
 *
 * Calls of write, pwrite, fsync, rename, renameat2 and mkdir on something below $FAULT_DIR are counted from 1.  Call
 * number $FAULT_AT is the fault:
 *
 *	FAULT=error    it fails with ENOSPC, and so does every later write: the disk is full
 *	FAULT=kill     SIGKILL; a write leaves half of its bytes behind
 *	FAULT=log      none; "NUMBER CALL PATH" is appended to $FAULT_LOG
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* 0: go on; 1: fail; 2: die.  path may be relative to the working directory. */
static int fault(const char *call, const char *path)
{
	static long count;
	static int full;
	const char *dir = getenv("FAULT_DIR"), *mode = getenv("FAULT"), *at = getenv("FAULT_AT"), *log = getenv("FAULT_LOG");
	int is_write = strstr(call, "write") != NULL, what = 0;
	if (!dir || !mode || strncmp(path, dir, strlen(dir)))
		return 0;
	pthread_mutex_lock(&lock);
	count++;
	if (!strcmp(mode, "log") && log) {
		FILE *f = fopen(log, "ae");
		if (f) {
			fprintf(f, "%ld %s %s\n", count, call, path);
			fclose(f);
		}
	} else if (at && count == strtol(at, NULL, 10)) {
		full = 1;
		what = !strcmp(mode, "kill") ? 2 : 1;
	} else if (full && is_write) {
		what = 1;
	}
	pthread_mutex_unlock(&lock);
	if (what == 1)
		errno = ENOSPC;
	if (what == 2 && !is_write)
		raise(SIGKILL);
	return what;
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
	if (what == 2) {
		if (next(fd, p, n / 2) >= 0)
			raise(SIGKILL);
		return -1;
	}
	return what ? -1 : next(fd, p, n);
}

typedef ssize_t pwrite_fn(int, const void *, size_t, off_t);
ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
	int what = fault_fd("pwrite", fd);
	pwrite_fn *next = NEXT(pwrite_fn *, "pwrite");
	if (what == 2) {
		if (next(fd, p, n / 2, at) >= 0)
			raise(SIGKILL);
		return -1;
	}
	return what ? -1 : next(fd, p, n, at);
}

typedef int fsync_fn(int);
int fsync(int fd)
{
	return fault_fd("fsync", fd) ? -1 : NEXT(fsync_fn *, "fsync")(fd);
}

typedef int rename_fn(const char *, const char *);
int rename(const char *from, const char *to)
{
	return fault("rename", to) ? -1 : NEXT(rename_fn *, "rename")(from, to);
}

typedef int renameat2_fn(int, const char *, int, const char *, unsigned);
int renameat2(int fd, const char *from, int fd2, const char *to, unsigned flags)
{
	return fault("rename", to) ? -1 : NEXT(renameat2_fn *, "renameat2")(fd, from, fd2, to, flags);
}

typedef int mkdir_fn(const char *, mode_t);
int mkdir(const char *path, mode_t mode)
{
	return fault("mkdir", path) ? -1 : NEXT(mkdir_fn *, "mkdir")(path, mode);
}
