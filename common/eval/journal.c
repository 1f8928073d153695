/*
 * journal.c - results of requests, appended batch by batch, read back line by line
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "journal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct journal {
	FILE *f;
	char *path;
};

static int read_line(struct ll_set *s, const char *line)
{
	long long i;
	double sum;
	int greedy;
	char end;
	if (sscanf(line, "%lld %la %d %c", &i, &sum, &greedy, &end) != 4 || end != '.' || i < 0 || i >= s->n)
		return -1;
	s->r[i].sum = sum;
	s->r[i].greedy = greedy != 0;
	s->r[i].done = 1;
	return 0;
}

/* Bytes of the file that hold: 0 when it is none of ours, or of another key */
static int64_t replay(FILE *f, const char *key, struct ll_set *s, int64_t *found, int *other)
{
	char line[128], head[64];
	int64_t good = 0;
	snprintf(head, sizeof head, "adze-eval 1 %s\n", key);
	if (!fgets(line, sizeof line, f))
		return 0;
	if (strcmp(line, head)) {
		*other = 1;
		return 0;
	}
	do {
		good = ftell(f);
	} while (fgets(line, sizeof line, f) && strchr(line, '\n') && !read_line(s, line));
	for (int64_t i = 0; i < s->n; i++)
		*found += s->r[i].done;
	return good;
}

struct journal *journal_open(const char *path, const char *key, struct ll_set *s, int64_t *found, int *other, struct err *e)
{
	struct journal *j = xcalloc(1, sizeof *j);
	j->path = xstrdup(path);
	*found = *other = 0;
	j->f = fopen(path, "r+");
	if (!j->f && errno == ENOENT)
		j->f = fopen(path, "w+");
	if (!j->f) {
		err_sys(e, "%s", path);
		journal_close(j, false);
		return NULL;
	}
	int64_t good = replay(j->f, key, s, found, other);
	if (fseek(j->f, good, SEEK_SET) || ftruncate(fileno(j->f), good) ||
	    (!good && fprintf(j->f, "adze-eval 1 %s\n", key) < 0) || fflush(j->f)) {
		err_sys(e, "%s", path);
		journal_close(j, false);
		return NULL;
	}
	return j;
}

int journal_add(struct journal *j, const struct ll_set *s, const int64_t *req, int64_t n, struct err *e)
{
	for (int64_t k = 0; k < n; k++)
		fprintf(j->f, "%lld %a %d .\n", (long long)req[k], s->r[req[k]].sum, s->r[req[k]].greedy);
	return fflush(j->f) || ferror(j->f) ? err_sys(e, "%s", j->path) : 0;
}

void journal_close(struct journal *j, bool gone)
{
	if (!j)
		return;
	if (j->f)
		fclose(j->f);
	if (gone)
		unlink(j->path);
	free(j->path);
	free(j);
}
