/*
 * outfile_pending.c - removal of uncommitted outputs at exit and on signals; small whole-file helpers
 *
 * The table has fixed slots whose names are copied in before `used` is set, so a handler that interrupts at any
 * instruction sees a slot either complete or unused.  A directory tree cannot be walked in a handler: rm is run.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "outfile_pending.h"
#include "outfile.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLOTS 32
static struct {
	volatile sig_atomic_t used, is_dir;
	pid_t owner;             /* a forked child never removes its parent's outputs */
	char path[PATH_MAX];
} slots[SLOTS];
static bool installed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void pending_remove_all(void)
{
	for (int i = 0; i < SLOTS; i++) {
		if (!slots[i].used || slots[i].owner != getpid())
			continue;
		slots[i].used = 0;
		if (!slots[i].is_dir) {
			unlink(slots[i].path);
			continue;
		}
		pid_t pid = fork();
		if (pid == 0) {
			execl("/bin/rm", "rm", "-rf", "--", slots[i].path, (char *)NULL);
			_exit(127);
		}
		while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
}

static void on_fatal(int sig)
{
	pending_remove_all();
	signal(sig, SIG_DFL);
	raise(sig);
}

/* Signals that somebody handles already (log_start does) are left alone. */
static void install_once(void)
{
	static const int fatal[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ };
	installed = true;
	atexit(pending_remove_all);
	for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) {
		struct sigaction old, sa = { .sa_handler = on_fatal };
		if (!sigaction(fatal[i], NULL, &old) && old.sa_handler == SIG_DFL)
			sigaction(fatal[i], &sa, NULL);
	}
}

int pending_add(const char *path, bool is_dir)
{
	char real[PATH_MAX];
	int slot = -1;
	pthread_mutex_lock(&lock);
	if (!installed)
		install_once();
	/* absolute, so that a later chdir() does not matter */
	const char *name = realpath(path, real) ? real : path;
	for (int i = 0; i < SLOTS && slot < 0; i++) {
		if (slots[i].used || strlen(name) >= sizeof slots[i].path)
			continue;
		slot = i;
		strcpy(slots[i].path, name);
		slots[i].is_dir = is_dir;
		slots[i].owner = getpid();
		slots[i].used = 1;
	}
	pthread_mutex_unlock(&lock);
	return slot; /* -1: more outputs open than slots; such a file is only removed by abort */
}

void pending_remove(int slot)
{
	if (slot >= 0)
		slots[slot].used = 0;
}

/* ---- trees and small files ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)st;
	(void)type;
	(void)f;
	return remove(path);
}

int remove_tree(const char *path, struct err *e)
{
	if (nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS) && errno != ENOENT)
		return err_sys(e, "%s: cannot remove", path);
	return 0;
}

static int sync_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)st;
	(void)f;
	if (type != FTW_F && type != FTW_DP)
		return 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return type == FTW_DP ? 0 : -1;
	int rc = fsync(fd);
	if (rc && (errno == EINVAL || errno == EROFS))
		rc = 0;
	int saved = errno;
	close(fd);
	errno = saved;
	return rc;
}

int sync_tree(const char *path, struct err *e)
{
	if (nftw(path, sync_one, 32, FTW_DEPTH | FTW_PHYS))
		return err_sys(e, "%s: cannot sync", path);
	return 0;
}

int mkdir_p(const char *path, struct err *e)
{
	char *copy = xstrdup(path);
	struct stat st;
	int rc = 0;
	for (char *p = copy + (*copy == '/'); !rc; p++) {
		if (*p != '/' && *p)
			continue;
		char c = *p;
		*p = '\0';
		if (*copy && mkdir(copy, 0777) && (errno != EEXIST || stat(copy, &st) || !S_ISDIR(st.st_mode)))
			rc = err_sys(e, "%s: cannot create directory", copy);
		*p = c;
		if (!c)
			break;
	}
	free(copy);
	return rc;
}

char *file_read_new(const char *path, size_t limit, size_t *n, struct err *e)
{
	bool std = !strcmp(path, "-");
	FILE *f = std ? stdin : fopen(path, "rbe");
	struct stat st;
	char *buf = NULL;
	size_t len = 0, cap = 0, k;
	if (!f) {
		err_sys(e, "%s: cannot open", path);
		return NULL;
	}
	if (!fstat(fileno(f), &st) && S_ISREG(st.st_mode))
		cap = (uint64_t)st.st_size > limit ? limit : (size_t)st.st_size;
	cap = cap + 2 < 4096 ? 4096 : cap + 2;
	for (buf = xmalloc(cap); (k = fread(buf + len, 1, cap - 1 - len, f)) > 0;) {
		len += k;
		if (len > limit) {
			err_set(e, EXIT_DATA, "%s: is larger than %zu bytes", std ? "stdin" : path, limit);
			goto fail;
		}
		if (len + 1 == cap)
			buf = xrealloc(buf, cap *= 2, 1);
	}
	if (ferror(f)) {
		err_sys(e, "%s: cannot read", std ? "stdin" : path);
		goto fail;
	}
	buf[len] = '\0';
	if (n)
		*n = len;
	if (!std)
		fclose(f);
	return buf;
fail:
	free(buf);
	if (!std)
		fclose(f);
	return NULL;
}

int file_write(const char *path, const void *p, size_t n, struct err *e)
{
	struct outfile *o = outfile_open(path, false, true, e);
	if (!o)
		return -1;
	if (outfile_write(o, p, n, e)) {
		outfile_abort(o);
		return -1;
	}
	return outfile_commit(o, e);
}
