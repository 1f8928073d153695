/*
 * outfile.h - outputs that appear whole or not at all
 *
 * A file is written under a hidden temporary name in its own directory (".NAME.PID.tmp"), fsynced, renamed over the
 * final name, and the directory fsynced.  A directory is built as ".NAME.PID.tmp/" and renamed likewise; with force an
 * existing directory is first moved aside and removed after the swap (RENAME_EXCHANGE where available).
 * Anything uncommitted is removed at exit and on SIGINT/SIGTERM; kill -9 leaves only the hidden temporary,
 * never a partial file under its final name.  Path NULL or "-" is stdout: refused on a terminal.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_OUTFILE_H
#define ADZE_OUTFILE_H
#include "base.h"

struct outfile;
/* binary: refuse stdout when it is a terminal.  Refuses to replace an existing file unless force
 * (makefiles pass -f).  NULL on error. */
struct outfile *outfile_open(const char *path, bool binary, bool force, struct err *e);
int outfile_write(struct outfile *o, const void *p, size_t n, struct err *e);
int outfile_printf(struct outfile *o, struct err *e, const char *fmt, ...) PRINTF_LIKE(3, 4);
int outfile_fd(struct outfile *o);                 /* for pwrite / fallocate; bytes written through it are ours too */
const char *outfile_name(const struct outfile *o); /* final name, "stdout" for - */
int outfile_commit(struct outfile *o, struct err *e); /* flush, fsync, rename; frees o in every case */
void outfile_abort(struct outfile *o);             /* removes and frees */

struct outdir;
struct outdir *outdir_open(const char *path, bool force, struct err *e);
const char *outdir_tmp(const struct outdir *d);    /* where to create the files now */
int outdir_commit(struct outdir *d, struct err *e);
void outdir_abort(struct outdir *d);

/* Whole small text or binary file into memory, NUL-terminated; NULL on error or when larger than limit. */
char *file_read_new(const char *path, size_t limit, size_t *n, struct err *e);
/* Atomic replacement of a small file (force implied). */
int file_write(const char *path, const void *p, size_t n, struct err *e);
int mkdir_p(const char *path, struct err *e);
int remove_tree(const char *path, struct err *e);
#endif
