/*
 * outfile.c - outputs that appear whole or not at all
 *
 * Each output is a hidden sibling of its final name until commit renames it.  A fixed table lists what is uncommitted,
 * written with plain stores only, so that a signal handler can remove it; fork()ed children never touch it.
 * Existing devices, pipes and /dev/fd/N are written in place: there is nothing to rename.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "outfile.h"
#include "outfile_pending.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUF ((size_t)256 << 10)

struct outfile {
	int fd, slot;          /* slot in the pending table, -1: written in place */
	bool force;
	int failed;            /* errno of the first write that failed */
	char *path, *tmp;      /* final and temporary name; tmp NULL when written in place */
	size_t n;
	char buf[BUF];
};

/* DIR/.NAME.PID.tmp */
static char *tmp_name(const char *path, int attempt)
{
	char *a = xstrdup(path), *b = xstrdup(path), *r;
	const char *dir = dirname(a), *base = basename(b);
	const char *sep = !strcmp(dir, "/") ? "" : "/";
	if (attempt)
		r = xasprintf("%s%s.%.200s.%ld-%d.tmp", dir, sep, base, (long)getpid(), attempt);
	else
		r = xasprintf("%s%s.%.200s.%ld.tmp", dir, sep, base, (long)getpid());
	free(a);
	free(b);
	return r;
}

/* A symbolic link is followed, so that the file it names is replaced and the link stays. */
static char *final_name(const char *path)
{
	char real[PATH_MAX];
	struct stat st;
	if (!lstat(path, &st) && S_ISLNK(st.st_mode) && realpath(path, real))
		return xstrdup(real);
	size_t n = strlen(path);
	char *p = xstrdup(path);
	while (n > 1 && p[n - 1] == '/')
		p[--n] = '\0';
	return p;
}

static int open_tmp(struct outfile *o, struct err *e)
{
	for (int attempt = 0; attempt < 100; attempt++) {
		o->tmp = tmp_name(o->path, attempt);
		o->fd = open(o->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		if (o->fd >= 0) {
			o->slot = pending_add(o->tmp, false);
			return 0;
		}
		int saved = errno;
		free(o->tmp);
		o->tmp = NULL;
		errno = saved;
		if (errno != EEXIST)
			break;
	}
	return err_sys(e, "%s: cannot create", o->path);
}

struct outfile *outfile_open(const char *path, bool binary, bool force, struct err *e)
{
	struct stat st;
	struct outfile *o = xmalloc(sizeof *o);
	o->fd = o->slot = -1;
	o->force = force;
	o->failed = 0;
	o->tmp = NULL;
	o->n = 0;
	if (!path || !strcmp(path, "-")) {
		o->path = xstrdup("stdout");
		if (binary && isatty(STDOUT_FILENO)) {
			err_set(e, EXIT_USAGE, "stdout is a terminal and the output is binary: name a file with -o, or pipe it on");
			goto fail;
		}
		o->fd = STDOUT_FILENO;
		return o;
	}
	o->path = final_name(path);
	if (!stat(o->path, &st)) {
		if (S_ISDIR(st.st_mode)) {
			err_set(e, EXIT_USAGE, "%s: is a directory, a file is to be written", o->path);
			goto fail;
		}
		if (!S_ISREG(st.st_mode)) {
			o->fd = open(o->path, O_WRONLY | O_CLOEXEC);
			if (o->fd < 0) {
				err_sys(e, "%s: cannot open", o->path);
				goto fail;
			}
			if (binary && isatty(o->fd)) {
				err_set(e, EXIT_USAGE, "%s is a terminal and the output is binary", o->path);
				goto fail;
			}
			return o;
		}
		if (!force) {
			err_set(e, EXIT_FAIL, "%s: exists already, -f replaces it", o->path);
			goto fail;
		}
	}
	if (open_tmp(o, e))
		goto fail;
	return o;
fail:
	outfile_abort(o);
	return NULL;
}

static int write_all(struct outfile *o, const char *p, size_t n, struct err *e)
{
	while (n) {
		ssize_t k = write(o->fd, p, n < (size_t)1 << 30 ? n : (size_t)1 << 30);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0) {
			o->failed = errno;
			return err_sys(e, "%s: cannot write", o->path);
		}
		p += k;
		n -= (size_t)k;
	}
	return 0;
}

static int flush(struct outfile *o, struct err *e)
{
	size_t n = o->n;
	o->n = 0;
	return write_all(o, o->buf, n, e);
}

static int earlier(const struct outfile *o, struct err *e)
{
	errno = o->failed;
	return err_sys(e, "%s: an earlier write failed", o->path);
}

int outfile_write(struct outfile *o, const void *p, size_t n, struct err *e)
{
	if (o->failed)
		return earlier(o, e);
	if (n > BUF - o->n && flush(o, e))
		return -1;
	if (n >= BUF)
		return write_all(o, p, n, e);
	memcpy(o->buf + o->n, p, n);
	o->n += n;
	return 0;
}

int outfile_printf(struct outfile *o, struct err *e, const char *fmt, ...)
{
	char small[512];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(small, sizeof small, fmt, ap);
	va_end(ap);
	if (n < 0)
		BUG("bad format %s", fmt);
	if ((size_t)n < sizeof small)
		return outfile_write(o, small, (size_t)n, e);
	char *s = xmalloc((size_t)n + 1);
	va_start(ap, fmt);
	vsnprintf(s, (size_t)n + 1, fmt, ap);
	va_end(ap);
	int rc = outfile_write(o, s, (size_t)n, e);
	free(s);
	return rc;
}

int outfile_fd(struct outfile *o)
{
	flush(o, NULL);        /* a failure is remembered */
	return o->fd;
}

const char *outfile_name(const struct outfile *o)
{
	return o->path;
}

static void sync_parent(const char *path)
{
	char *copy = xstrdup(path);
	int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(copy);
	if (fd < 0)
		return;
	fsync(fd); /* some file systems refuse; the rename itself is already atomic */
	close(fd);
}

static int publish(struct outfile *o, struct err *e)
{
	if (fsync(o->fd) && errno != EINVAL && errno != EROFS)
		return err_sys(e, "%s: cannot sync", o->path);
	int fd = o->fd;
	o->fd = -1;
	if (close(fd))
		return err_sys(e, "%s: cannot close", o->path);
	int rc = o->force ? rename(o->tmp, o->path) : renameat2(AT_FDCWD, o->tmp, AT_FDCWD, o->path, RENAME_NOREPLACE);
	if (rc && !o->force && (errno == EINVAL || errno == ENOSYS))
		rc = rename(o->tmp, o->path);
	if (rc && errno == EEXIST)
		return err_set(e, EXIT_FAIL, "%s: appeared while it was being made, -f replaces it", o->path);
	if (rc)
		return err_sys(e, "%s: cannot rename the finished file", o->path);
	pending_remove(o->slot);
	o->slot = -1;
	free(o->tmp);
	o->tmp = NULL;
	sync_parent(o->path);
	return 0;
}

int outfile_commit(struct outfile *o, struct err *e)
{
	int rc = o->failed ? earlier(o, e) : flush(o, e);
	if (!rc && o->tmp)
		rc = publish(o, e);
	outfile_abort(o);
	return rc;
}

void outfile_abort(struct outfile *o)
{
	if (!o)
		return;
	if (o->fd >= 0 && o->fd != STDOUT_FILENO)
		close(o->fd);
	if (o->tmp) {
		unlink(o->tmp);
		pending_remove(o->slot);
	}
	free(o->tmp);
	free(o->path);
	free(o);
}

/* ---- directories ---- */

struct outdir {
	char *path, *tmp;
	int slot;
	bool force;
};

static bool dir_empty(const char *path)
{
	DIR *d = opendir(path);
	if (!d)
		return false;
	int n = 0;
	for (struct dirent *x; (x = readdir(d));)
		n += strcmp(x->d_name, ".") && strcmp(x->d_name, "..");
	closedir(d);
	return n == 0;
}

struct outdir *outdir_open(const char *path, bool force, struct err *e)
{
	struct stat st;
	if (!path || !strcmp(path, "-")) {
		err_set(e, EXIT_USAGE, "the output is a directory: name it with -o");
		return NULL;
	}
	struct outdir *d = xcalloc(1, sizeof *d);
	d->slot = -1;
	d->force = force;
	d->path = final_name(path);
	if (!stat(d->path, &st)) {
		if (!S_ISDIR(st.st_mode)) {
			err_set(e, EXIT_USAGE, "%s: is not a directory, one is to be written", d->path);
			goto fail;
		}
		if (!force && !dir_empty(d->path)) {
			err_set(e, EXIT_FAIL, "%s: exists already, -f replaces it", d->path);
			goto fail;
		}
	}
	for (int attempt = 0; attempt < 100; attempt++) {
		d->tmp = tmp_name(d->path, attempt);
		if (!mkdir(d->tmp, 0777)) {
			d->slot = pending_add(d->tmp, true);
			return d;
		}
		int saved = errno;
		free(d->tmp);
		d->tmp = NULL;
		errno = saved;
		if (errno != EEXIST)
			break;
	}
	err_sys(e, "%s: cannot create", d->path);
fail:
	outdir_abort(d);
	return NULL;
}

const char *outdir_tmp(const struct outdir *d)
{
	return d->tmp;
}

static int swap_in(struct outdir *d, struct err *e)
{
	if (!rename(d->tmp, d->path)) /* nothing there, or an empty directory */
		return 0;
	if (errno != ENOTEMPTY && errno != EEXIST)
		return err_sys(e, "%s: cannot rename the finished directory", d->path);
	if (!d->force)
		return err_set(e, EXIT_FAIL, "%s: appeared while it was being made, -f replaces it", d->path);
	if (!renameat2(AT_FDCWD, d->tmp, AT_FDCWD, d->path, RENAME_EXCHANGE))
		return remove_tree(d->tmp, e);
	char *old = xasprintf("%s.old", d->tmp);
	int rc = 0;
	if (rename(d->path, old) || rename(d->tmp, d->path))
		rc = err_sys(e, "%s: cannot replace", d->path);
	else
		rc = remove_tree(old, e);
	free(old);
	return rc;
}

int outdir_commit(struct outdir *d, struct err *e)
{
	int rc = sync_tree(d->tmp, e);
	if (!rc)
		rc = swap_in(d, e);
	if (!rc) {
		pending_remove(d->slot);
		d->slot = -1;
		free(d->tmp);
		d->tmp = NULL;
		sync_parent(d->path);
	}
	outdir_abort(d);
	return rc;
}

void outdir_abort(struct outdir *d)
{
	if (!d)
		return;
	if (d->tmp) {
		remove_tree(d->tmp, NULL);
		pending_remove(d->slot);
	}
	free(d->tmp);
	free(d->path);
	free(d);
}
