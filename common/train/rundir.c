/*
 * rundir.c - locking, settings, and the metrics file of a run
 *
 * Metrics are cut back on resuming, so that the file reads as if the run had never been interrupted; a torn last line
 * (the machine went down) is not an object and is dropped with the rest.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rundir.h"
#include "../base/outfile.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static const char *const ours[] = { "run.json", "metrics.jsonl", "ckpt", "student", "teacher", "adapter", "student-ema", "best", NULL };

static char *in(const struct rundir *d, const char *name)
{
	return xasprintf("%s/%s", d->path, name);
}

static bool leftover(const char *name)
{
	size_t n = strlen(name);
	return name[0] == '.' && ((n > 4 && !strcmp(name + n - 4, ".tmp")) || (n > 8 && !strcmp(name + n - 8, ".tmp.old")));
}

/* Removes leftovers of killed programs; counts what else is there besides our own names. */
static int sweep(const char *path, int *foreign, struct err *e)
{
	DIR *dir = opendir(path);
	int rc = 0;
	if (!dir)
		return errno == ENOENT ? 0 : err_sys(e, "%s: cannot read the directory", path);
	for (struct dirent *x; !rc && (x = readdir(dir));) {
		if (leftover(x->d_name)) {
			char *p = xasprintf("%s/%s", path, x->d_name);
			rc = remove_tree(p, e);
			free(p);
			continue;
		}
		int known = x->d_name[0] == '.';
		for (int i = 0; ours[i]; i++)
			known |= !strcmp(x->d_name, ours[i]);
		*foreign += !known;
	}
	closedir(dir);
	return rc;
}

int rundir_open(struct rundir *d, const char *path, struct err *e)
{
	int foreign = 0, ignored = 0;
	*d = (struct rundir){ .path = xstrdup(path), .lock = -1, .metrics = -1 };
	char *lock = in(d, ".lock"), *ckpt = in(d, "ckpt"), *run = in(d, "run.json");
	int rc = mkdir_p(path, e);
	if (!rc) {
		d->lock = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
		if (d->lock < 0)
			rc = err_sys(e, "%s: cannot create", lock);
		else if (flock(d->lock, LOCK_EX | LOCK_NB))
			rc = errno == EWOULDBLOCK ? err_set(e, EXIT_FAIL, "%s: another program is working there", path) :
						    err_sys(e, "%s: cannot lock", lock);
	}
	if (!rc)
		rc = sweep(path, &foreign, e) || sweep(ckpt, &ignored, e) ? -1 : 0;
	if (!rc && foreign && access(run, F_OK))
		rc = err_set(e, EXIT_USAGE, "%s: is not the directory of a run and not empty", path);
	free(lock);
	free(ckpt);
	free(run);
	if (rc)
		rundir_close(d);
	return rc;
}

void rundir_follow(struct rundir *d, const char *path)
{
	*d = (struct rundir){ .path = xstrdup(path), .lock = -1, .metrics = -1, .follows = true };
}

void rundir_close(struct rundir *d)
{
	if (d->metrics >= 0)
		close(d->metrics);
	if (d->lock >= 0)
		close(d->lock);
	free(d->path);
	*d = (struct rundir){ .lock = -1, .metrics = -1 };
}

/* ---- settings ---- */

#define TEXT (JSON_COMPACT | JSON_REAL_PRECISION(9))

static json_t *number(double v)
{
	return v >= -1e15 && v <= 1e15 && v == (double)(int64_t)v ? json_integer((int64_t)v) : json_real(v);
}

char *settings_new(const struct setting *v, size_t n)
{
	json_t *o = json_object();
	for (size_t i = 0; i < n; i++)
		json_object_set_new(o, v[i].key, v[i].text ? json_string(v[i].text) : number(v[i].number));
	char *text = json_dumps(o, TEXT);
	json_decref(o);
	if (!text)
		BUG("settings are not text");
	return text;
}

bool settings_differ(const char *a, const char *b, char why[256])
{
	json_t *x = json_loads(a, 0, NULL), *y = json_loads(b, 0, NULL), *v;
	const char *key;
	bool differ = false;
	json_object_foreach(x, key, v) {
		json_t *w = json_object_get(y, key);
		if (w && json_equal(v, w))
			continue;
		char *s = json_dumps(v, TEXT | JSON_ENCODE_ANY), *t = w ? json_dumps(w, TEXT | JSON_ENCODE_ANY) : xstrdup("nothing");
		snprintf(why, 256, "%s %.100s, now %.100s", key, s ? s : "?", t ? t : "?");
		free(s);
		free(t);
		differ = true;
		break;
	}
	json_decref(x);
	json_decref(y);
	return differ;
}

int rundir_state(const struct rundir *d, const char *settings, enum run_state *state, struct err *e)
{
	char *path = in(d, "run.json"), *student = in(d, "student/config.json"), why[256];
	int rc = 0;
	*state = RUN_FRESH;
	if (!access(path, F_OK)) {
		json_t *run = json_load_file(path, 0, NULL), *set = json_object_get(run, "settings");
		char *old = set ? json_dumps(set, TEXT) : NULL;
		const char *word = json_string_value(json_object_get(run, "state"));
		if (!old || !word)
			rc = err_set(e, EXIT_DATA, "%s: is not the record of a run", path);
		else if (settings_differ(old, settings, why))
			rc = err_set(e, EXIT_DATA, "%s: holds a run with %s: --force starts over", d->path, why);
		else
			*state = !strcmp(word, "done") && !access(student, F_OK) ? RUN_DONE : RUN_STARTED;
		free(old);
		json_decref(run);
	}
	free(path);
	free(student);
	return rc;
}

int rundir_clear(const struct rundir *d, struct err *e)
{
	int rc = 0;
	for (int i = 0; ours[i] && !rc; i++) {
		char *p = in(d, ours[i]);
		rc = remove_tree(p, e);
		free(p);
	}
	return rc;
}

int rundir_mark(const struct rundir *d, const char *settings, bool done, struct err *e)
{
	json_t *run = json_object();
	json_object_set_new(run, "program", json_string(prog_name));
	json_object_set_new(run, "version", json_string(ADZE_VERSION));
	json_object_set_new(run, "state", json_string(done ? "done" : "started"));
	json_object_set_new(run, "settings", json_loads(settings, 0, NULL));
	char *text = json_dumps(run, JSON_INDENT(2) | JSON_REAL_PRECISION(9)), *path = in(d, "run.json"), *line = xasprintf("%s\n", text);
	int rc = file_write(path, line, strlen(line), e);
	json_decref(run);
	free(text);
	free(line);
	free(path);
	return rc;
}

/* ---- metrics ---- */

/* Bytes of the leading lines whose step is at most `step`. */
static size_t keep_lines(const char *text, size_t n, int64_t step, double *seconds)
{
	size_t kept = 0;
	for (const char *end; kept < n && (end = memchr(text + kept, '\n', n - kept)); kept = (size_t)(end + 1 - text)) {
		json_t *o = json_loadb(text + kept, (size_t)(end - text) - kept, 0, NULL), *s = json_object_get(o, "step");
		bool keep = json_is_integer(s) && json_integer_value(s) <= step;
		if (keep)
			*seconds = json_number_value(json_object_get(o, "seconds"));
		json_decref(o);
		if (!keep)
			break;
	}
	return kept;
}

int rundir_metrics(struct rundir *d, int64_t step, double *seconds, struct err *e)
{
	char *path = in(d, "metrics.jsonl"), *text = NULL;
	size_t n = 0, kept = 0;
	int rc = 0;
	*seconds = 0;
	if (d->follows)
		return 0;
	if (step > 0 && !access(path, F_OK)) {
		text = file_read_new(path, (size_t)1 << 40, &n, e);
		rc = text ? 0 : -1;
		kept = text ? keep_lines(text, n, step, seconds) : 0;
	}
	if (!rc)
		rc = file_write(path, text ? text : "", kept, e);
	if (!rc) {
		d->metrics = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
		if (d->metrics < 0)
			rc = err_sys(e, "%s: cannot open", path);
	}
	free(text);
	free(path);
	return rc;
}

int rundir_line(struct rundir *d, const char *line, size_t n, struct err *e)
{
	ssize_t k;
	if (d->follows)
		return 0;
	while ((k = write(d->metrics, line, n)) < 0 && errno == EINTR)
		;
	if (k < 0)
		return err_sys(e, "%s/metrics.jsonl: cannot write", d->path);
	return (size_t)k == n ? 0 : err_set(e, EXIT_IO, "%s/metrics.jsonl: no space for a whole line", d->path);
}

int rundir_sync(struct rundir *d, struct err *e)
{
	if (!d->follows && fsync(d->metrics) && errno != EINVAL && errno != EROFS)
		return err_sys(e, "%s/metrics.jsonl: cannot sync", d->path);
	return 0;
}
