/*
 * ablate_state.c - a text file that only grows; each line is written at once and ends in a mark
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ablate_state.h"
#include "../base/outfile.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_STATE = 1 << 30 };

struct ablate_state {
	char *path, *text, *at;        /* what was on file; the next line to replay */
	int fd;
	char *line;                    /* being made */
	size_t len, cap;
};

static char *header_new(const char *key)
{
	return xasprintf("adze-ablate 1 %s\n", key);
}

/* Length of the whole lines: text after the last "\n" was torn. */
static size_t whole(const char *text, size_t n)
{
	while (n && text[n - 1] != '\n')
		n--;
	return n;
}

struct ablate_state *ablate_state_open(const char *path, const char *key, int64_t *found, int *other, struct err *e)
{
	struct ablate_state *s = xcalloc(1, sizeof *s);
	char *head = header_new(key);
	size_t n = 0, h = strlen(head);
	*found = 0;
	*other = 0;
	s->path = xstrdup(path);
	s->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND, 0666);
	if (s->fd < 0) {
		err_sys(e, "%s", path);
		goto fail;
	}
	s->text = file_read_new(path, MAX_STATE, &n, e);
	if (!s->text)
		goto fail;
	size_t keep = whole(s->text, n);
	if (keep < h || memcmp(s->text, head, h)) {
		*other = keep > 0;
		keep = 0;
	}
	s->text[keep] = 0;
	if (ftruncate(s->fd, (off_t)keep)) {
		err_sys(e, "%s", path);
		goto fail;
	}
	if (!keep && write(s->fd, head, h) != (ssize_t)h) {
		err_sys(e, "%s", path);
		goto fail;
	}
	s->at = s->text + (keep ? h : 0);
	for (const char *p = s->at; *p; p++)
		*found += *p == '\n';
	free(head);
	return s;
fail:
	free(head);
	ablate_state_close(s, false);
	return NULL;
}

static int damaged(const struct ablate_state *s, const struct ablate_unit *u, struct err *e)
{
	return err_set(e, EXIT_DATA, "%s: expected ablation %lld of round %lld, batch %lld here: remove the file to start over", s->path,
		       (long long)u->ablation, (long long)u->round, (long long)u->batch);
}

int ablate_state_next(struct ablate_state *s, struct ablate_unit *u, struct err *e)
{
	int64_t want[] = { u->round, u->ablation, u->batch, -1, u->n };
	if (!s || !*s->at)
		return 0;
	for (int i = 0; i < 5; i++) {
		char *end;
		int64_t k = strtoll(s->at, &end, 10);
		if (end == s->at || *end != ' ' || (want[i] >= 0 || i == 1 ? k != want[i] : k < 0 || k > INT32_MAX))
			return damaged(s, u, e);
		if (i == 3)
			u->blocks = k;
		s->at = end + 1;
	}
	for (int64_t i = 0; i < u->n; i++) {
		char *end;
		u->v[i] = strtod(s->at, &end);
		if (end == s->at || *end != ' ')
			return damaged(s, u, e);
		s->at = end + 1;
	}
	if (s->at[0] != '.' || s->at[1] != '\n')
		return damaged(s, u, e);
	s->at += 2;
	return 1;
}

static void put(struct ablate_state *s, const char *text)
{
	size_t n = strlen(text);
	if (s->len + n > s->cap) {
		s->cap = 2 * (s->len + n);
		s->line = xrealloc(s->line, s->cap, 1);
	}
	memcpy(s->line + s->len, text, n);
	s->len += n;
}

int ablate_state_add(struct ablate_state *s, const struct ablate_unit *u, struct err *e)
{
	char buf[160];
	if (!s)
		return 0;
	s->len = 0;
	snprintf(buf, sizeof buf, "%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " ", u->round, u->ablation, u->batch,
		 u->blocks, u->n);
	put(s, buf);
	for (int64_t i = 0; i < u->n; i++) {
		snprintf(buf, sizeof buf, "%a ", u->v[i]);
		put(s, buf);
	}
	put(s, ".\n");
	for (size_t done = 0; done < s->len;) {
		ssize_t k = write(s->fd, s->line + done, s->len - done);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return err_sys(e, "%s", s->path);
		done += (size_t)k;
	}
	return 0;
}

void ablate_state_close(struct ablate_state *s, bool remove)
{
	if (!s)
		return;
	if (s->fd >= 0)
		close(s->fd);
	if (remove)
		unlink(s->path);
	free(s->path);
	free(s->text);
	free(s->line);
	free(s);
}
