/*
 * hidden.c - memory, or pread and pwrite on a file without a name
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hidden.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int hidden_open(struct hidden *h, int64_t bytes, int64_t budget, struct err *e)
{
	const char *dir = getenv("TMPDIR");
	*h = (struct hidden){ .fd = -1, .bytes = bytes };
	if (bytes <= budget) {
		h->mem = big_alloc((size_t)bytes);
		return 0;
	}
	char *name = xasprintf("%s/adze-hidden-XXXXXX", dir && *dir ? dir : "/tmp");
	h->fd = mkostemp(name, O_CLOEXEC);
	if (h->fd < 0)
		err_sys(e, "%s", name);
	else
		unlink(name);
	free(name);
	if (h->fd < 0)
		return -1;
	int rc = posix_fallocate(h->fd, 0, bytes);
	if (rc) {
		char buf[32];
		hidden_close(h);
		return err_set(e, EXIT_IO, "%s of hidden states do not fit in %s: %s", fmt_bytes(buf, (double)bytes),
			       dir && *dir ? dir : "/tmp", strerror(rc));
	}
	return 0;
}

static int move_bytes(const struct hidden *h, int64_t off, char *p, int64_t n, int write, struct err *e)
{
	if (off < 0 || n < 0 || off > h->bytes - n)
		BUG("hidden states at %lld + %lld of %lld", (long long)off, (long long)n, (long long)h->bytes);
	if (h->mem) {
		if (write)
			memcpy(h->mem + off, p, (size_t)n);
		else
			memcpy(p, h->mem + off, (size_t)n);
		return 0;
	}
	while (n > 0) {
		ssize_t k = write ? pwrite(h->fd, p, (size_t)n, off) : pread(h->fd, p, (size_t)n, off);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return err_sys(e, "file of hidden states");
		p += k, off += k, n -= k;
	}
	return 0;
}

int hidden_get(const struct hidden *h, int64_t off, void *p, int64_t n, struct err *e)
{
	return move_bytes(h, off, p, n, 0, e);
}

int hidden_put(struct hidden *h, int64_t off, const void *p, int64_t n, struct err *e)
{
	return move_bytes(h, off, (char *)p, n, 1, e);
}

void hidden_close(struct hidden *h)
{
	if (h->mem)
		big_free(h->mem, (size_t)h->bytes);
	if (h->fd >= 0)
		close(h->fd);
	*h = (struct hidden){ .fd = -1 };
}
