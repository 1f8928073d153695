/*
 * journal.c - results, appended as they come, read back line by line
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

static int read_request(struct ll_set *s, const char *line)
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

static int read_text(struct gen_set *g, const char *line)
{
	long long i, n;
	double logprob;
	int how, used;
	if (sscanf(line, "t %lld %d %la %lld%n", &i, &how, &logprob, &n, &used) != 4 || i < 0 || i >= g->n || n < 0 ||
	    g->r[i].done || n > g->r[i].max_new || how < GEN_LIMIT || how > GEN_STOP)
		return -1;
	struct gen_req *r = &g->r[i];
	char *at = (char *)(uintptr_t)line + used;
	for (long long k = 0; k < n; k++) {
		char *id = at;
		long v = strtol(id, &at, 10);
		if (at == id || v < 0 || v > INT32_MAX)
			return -1;
		r->out[k] = (int32_t)v;
	}
	if (strcmp(at, " .\n"))
		return -1;
	r->n_out = n;
	r->logprob = logprob;
	r->end = (enum gen_end)how;
	r->done = 1;
	return 0;
}

static int read_verdict(const struct journal_of *w, const char *line)
{
	long long i;
	int how;
	char end;
	if (sscanf(line, "p %lld %d %c", &i, &how, &end) != 3 || end != '.' || i < 0 || i >= w->n_p || how < SANDBOX_FAILED ||
	    how > SANDBOX_TIMEOUT)
		return -1;
	w->p[i].end = (enum sandbox_end)how;
	w->p[i].done = 1;
	return 0;
}

static int read_line(const struct journal_of *w, const char *line)
{
	return *line == 't' ? read_text(w->g, line) : *line == 'p' ? read_verdict(w, line) : read_request(w->s, line);
}

/* Bytes of the file that hold: 0 when it is none of ours, or of another key */
static int64_t replay(FILE *f, const char *key, const struct journal_of *w, struct journal_found *found)
{
	char head[64], *line = NULL;
	size_t cap = 0;
	int64_t good = 0;
	snprintf(head, sizeof head, "adze-eval 2 %s\n", key);
	if (getline(&line, &cap, f) > 0 && !(found->other = strcmp(line, head) != 0))
		do {
			good = ftell(f);
		} while (getline(&line, &cap, f) > 0 && strchr(line, '\n') && !read_line(w, line));
	free(line);
	for (int64_t i = 0; i < w->s->n; i++)
		found->requests += w->s->r[i].done;
	for (int64_t i = 0; i < w->g->n; i++)
		found->texts += w->g->r[i].done;
	for (int64_t i = 0; i < w->n_p; i++)
		found->programs += w->p[i].done;
	return good;
}

struct journal *journal_open(const char *path, const char *key, const struct journal_of *w, struct journal_found *found, struct err *e)
{
	struct journal *j = xcalloc(1, sizeof *j);
	j->path = xstrdup(path);
	*found = (struct journal_found){ 0 };
	j->f = fopen(path, "r+");
	if (!j->f && errno == ENOENT)
		j->f = fopen(path, "w+");
	if (!j->f) {
		err_sys(e, "%s", path);
		journal_close(j, false);
		return NULL;
	}
	int64_t good = replay(j->f, key, w, found);
	if (fseek(j->f, good, SEEK_SET) || ftruncate(fileno(j->f), good) ||
	    (!good && fprintf(j->f, "adze-eval 2 %s\n", key) < 0) || fflush(j->f)) {
		err_sys(e, "%s", path);
		journal_close(j, false);
		return NULL;
	}
	return j;
}

static int flushed(struct journal *j, struct err *e)
{
	return fflush(j->f) || ferror(j->f) ? err_sys(e, "%s", j->path) : 0;
}

int journal_add(struct journal *j, const struct ll_set *s, const int64_t *req, int64_t n, struct err *e)
{
	for (int64_t k = 0; j && k < n; k++)
		fprintf(j->f, "%lld %a %d .\n", (long long)req[k], s->r[req[k]].sum, s->r[req[k]].greedy);
	return j ? flushed(j, e) : 0;
}

int journal_text(struct journal *j, const struct gen_set *g, int64_t i, struct err *e)
{
	if (!j)
		return 0;
	const struct gen_req *r = &g->r[i];
	fprintf(j->f, "t %lld %d %a %lld", (long long)i, (int)r->end, r->logprob, (long long)r->n_out);
	for (int64_t k = 0; k < r->n_out; k++)
		fprintf(j->f, " %d", r->out[k]);
	fprintf(j->f, " .\n");
	return flushed(j, e);
}

int journal_verdict(struct journal *j, const struct sandbox_prog *p, int64_t i, struct err *e)
{
	if (!j)
		return 0;
	fprintf(j->f, "p %lld %d .\n", (long long)i, (int)p[i].end);
	return flushed(j, e);
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
