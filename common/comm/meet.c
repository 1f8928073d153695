/*
 * meet.c - the meeting at MASTER_ADDR:MASTER_PORT
 *
 * A guest sends 32 bytes: "adzemeet", then little-endian token (8), size, rank, bytes, 0 (4 each).  Who sends anything
 * else, or nothing for a while, is turned away without an answer and counted; the port may be found by anybody.
 * The host answers "adzegave" and the bytes once all have come.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "meet.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

enum { HELLO = 32, ANSWER = 8, WAITING = 64 };
#define SILENCE 5.0                    /* seconds that a guest may take to say who it is */

static int env_number(const char *name, int64_t lo, int64_t hi, int *out, struct err *e)
{
	const char *s = getenv(name);
	int64_t n;
	if (!s)
		return err_set(e, EXIT_USAGE, "WORLD_SIZE is set but %s is not: started in torchrun's manner, all of RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are needed", name);
	if (parse_i64(s, &n) || n < lo || n > hi)
		return err_set(e, EXIT_USAGE, "%s=%.60s: expected a number from %lld to %lld", name, s, (long long)lo, (long long)hi);
	*out = (int)n;
	return 0;
}

int meet_env(struct meet *m, double timeout, struct err *e)
{
	const char *job = getenv("TORCHELASTIC_RUN_ID"), *kept = getenv("TORCHELASTIC_USE_AGENT_STORE");
	*m = (struct meet){ .timeout = timeout, .host = getenv("MASTER_ADDR") };
	if (env_number("WORLD_SIZE", 2, 1 << 16, &m->size, e) || env_number("RANK", 0, m->size - 1, &m->rank, e) ||
	    env_number("MASTER_PORT", 1, 65534, &m->port, e))
		return -1;
	if (!m->host || !*m->host || strlen(m->host) > 255)
		return err_set(e, EXIT_USAGE, "MASTER_ADDR: expected the name or address of process 0's machine");
	m->port += kept && !strcmp(kept, "True");      /* torchrun's own store sits at MASTER_PORT then */
	char *name = xasprintf("%s %d %d", job ? job : "", m->size, m->port);
	m->token = XXH3_64bits(name, strlen(name));
	free(name);
	return 0;
}

static void put_le(unsigned char *p, uint64_t x, int n)
{
	for (int i = 0; i < n; i++)
		p[i] = (unsigned char)(x >> 8 * i);
}

static void hello(unsigned char *h, const struct meet *m, int rank, int64_t bytes)
{
	memset(h, 0, HELLO);
	memcpy(h, "adzemeet", 8);
	put_le(h + 8, m->token, 8);
	put_le(h + 16, (uint64_t)m->size, 4);
	put_le(h + 20, (uint64_t)rank, 4);
	put_le(h + 24, (uint64_t)bytes, 4);
}

/* All n bytes before the moment `end`; -1 at an error, the other's end or too late.  The socket does not block. */
static int move(int fd, void *p, size_t n, int out, double end)
{
	for (char *at = p; n;) {
		struct pollfd q = { fd, out ? POLLOUT : POLLIN, 0 };
		double left = end - now_seconds();
		if (left <= 0 || poll(&q, 1, left > 1 ? 1000 : (int)(1000 * left) + 1) < 0)
			return -1;
		if (!q.revents)
			continue;
		ssize_t k = out ? send(fd, at, n, MSG_NOSIGNAL) : recv(fd, at, n, 0);
		if (k == 0 || (k < 0 && errno != EAGAIN && errno != EINTR))
			return -1;
		if (k > 0)
			at += k, n -= (size_t)k;
	}
	return 0;
}

/* Listens on the machine's own loop only when that is what MASTER_ADDR says, else everywhere */
static int listen_at(const struct meet *m)
{
	bool loop = !strcmp(m->host, "localhost") || !strncmp(m->host, "127.", 4) || !strcmp(m->host, "::1");
	struct addrinfo hint = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *all = NULL;
	char port[16];
	snprintf(port, sizeof port, "%d", m->port);
	for (int family = 0; family < 2; family++) {
		hint.ai_family = loop == !family ? AF_INET : AF_INET6;     /* everywhere: v6, which takes v4 too */
		if (getaddrinfo(loop ? m->host : NULL, port, &hint, &all))
			continue;
		int one = 1, zero = 0, fd = socket(all->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (fd >= 0) {
			setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
			if (hint.ai_family == AF_INET6)
				setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
			if (!bind(fd, all->ai_addr, all->ai_addrlen) && !listen(fd, 1024)) {
				freeaddrinfo(all);
				return fd;
			}
			int why = errno;
			close(fd);
			errno = why;
		}
		freeaddrinfo(all);
	}
	return -1;
}

struct guest {
	int fd, got;           /* fd -1: free */
	double since;
	unsigned char said[HELLO];
};

struct host {
	const struct meet *m;
	int64_t bytes;
	int *fd;               /* [size] of those that came, or -1 */
	int came, refused;
	struct guest at_door[WAITING];
};

static void turn_away(struct host *h, struct guest *g)
{
	close(g->fd);
	g->fd = -1;
	h->refused++;
}

/* One who has said all: is it one of ours that has not come yet? */
static void judge(struct host *h, struct guest *g)
{
	unsigned char want[HELLO];
	uint32_t rank = g->said[20] | (uint32_t)g->said[21] << 8 | (uint32_t)g->said[22] << 16 | (uint32_t)g->said[23] << 24;
	if (rank > 0 && rank < (uint32_t)h->m->size && h->fd[rank] < 0) {
		hello(want, h->m, (int)rank, h->bytes);
		if (!memcmp(want, g->said, HELLO)) {
			h->fd[rank] = g->fd;
			g->fd = -1;
			h->came++;
			return;
		}
	}
	turn_away(h, g);
}

static void hear(struct host *h, struct guest *g)
{
	ssize_t k = recv(g->fd, g->said + g->got, (size_t)(HELLO - g->got), 0);
	if (k > 0 && (g->got += (int)k) == HELLO)
		judge(h, g);
	else if (k == 0 || (k < 0 && errno != EAGAIN && errno != EINTR))
		turn_away(h, g);
}

static void let_in(struct host *h, int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), oldest = 0;
	if (fd < 0)
		return;
	for (int i = 0; i < WAITING; i++) {
		if (h->at_door[i].fd < 0) {
			oldest = i;
			break;
		}
		if (h->at_door[i].since < h->at_door[oldest].since)
			oldest = i;
	}
	if (h->at_door[oldest].fd >= 0)
		turn_away(h, &h->at_door[oldest]);
	h->at_door[oldest] = (struct guest){ .fd = fd, .since = now_seconds() };
}

static void name_missing(const struct host *h, char why[256])
{
	int n = snprintf(why, 256, "after %g s at port %d these have not come:", h->m->timeout, h->m->port), some = 0;
	for (int r = 1; r < h->m->size && n < 200; r++)
		if (h->fd[r] < 0)
			n += snprintf(why + n, (size_t)(256 - n), "%s %d", some++ ? "," : " process", r);
	if (n >= 200)
		n += snprintf(why + n, (size_t)(256 - n), " ...");
	if (h->refused)
		snprintf(why + n, (size_t)(256 - n), " (%d strangers turned away)", h->refused);
}

static int receive_all(struct host *h, int listener, char why[256])
{
	double end = now_seconds() + h->m->timeout;
	while (h->came < h->m->size - 1) {
		struct pollfd q[WAITING + 1] = { { listener, POLLIN, 0 } };
		double now = now_seconds();
		if (now > end) {
			name_missing(h, why);
			return -1;
		}
		for (int i = 0; i < WAITING; i++) {
			struct guest *g = &h->at_door[i];
			if (g->fd >= 0 && now - g->since > SILENCE)
				turn_away(h, g);
			q[i + 1] = (struct pollfd){ g->fd, POLLIN, 0 };
		}
		if (poll(q, WAITING + 1, 200) <= 0)
			continue;
		for (int i = 0; i < WAITING; i++)
			if (q[i + 1].revents && h->at_door[i].fd >= 0)
				hear(h, &h->at_door[i]);
		if (q[0].revents)
			let_in(h, listener);
	}
	return 0;
}

static int give(const struct meet *m, void *p, int64_t bytes, char why[256])
{
	int listener = listen_at(m), rc = -1;
	if (listener < 0) {
		snprintf(why, 256, "process 0 cannot listen at port %d (MASTER_PORT): %s", m->port, strerror(errno));
		return -1;
	}
	struct host h = { .m = m, .bytes = bytes, .fd = xmalloc((size_t)m->size * sizeof *h.fd) };
	for (int i = 0; i < m->size; i++)
		h.fd[i] = -1;
	for (int i = 0; i < WAITING; i++)
		h.at_door[i].fd = -1;
	rc = receive_all(&h, listener, why);
	for (int r = 1; r < m->size && !rc; r++)
		if (move(h.fd[r], "adzegave", ANSWER, 1, now_seconds() + SILENCE) || move(h.fd[r], p, (size_t)bytes, 1, now_seconds() + SILENCE)) {
			snprintf(why, 256, "process %d came and left again", r);
			rc = -1;
		}
	for (int r = 1; r < m->size; r++)
		if (h.fd[r] >= 0)
			close(h.fd[r]);
	for (int i = 0; i < WAITING; i++)
		if (h.at_door[i].fd >= 0)
			close(h.at_door[i].fd);
	free(h.fd);
	close(listener);
	return rc;
}

/* A connection, or -1 with *why; none of the addresses may take longer than the time that is left */
static int connect_to(const struct meet *m, double end, const char **why)
{
	struct addrinfo hint = { .ai_socktype = SOCK_STREAM }, *all = NULL;
	char port[16];
	snprintf(port, sizeof port, "%d", m->port);
	int rc = getaddrinfo(m->host, port, &hint, &all);
	*why = rc ? gai_strerror(rc) : "no address";
	for (struct addrinfo *a = all; a; a = a->ai_next) {
		int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), bad = 0;
		socklen_t n = sizeof bad;
		if (fd < 0)
			continue;
		if (connect(fd, a->ai_addr, a->ai_addrlen))
			bad = errno;
		if (bad == EINPROGRESS) {
			struct pollfd q = { fd, POLLOUT, 0 };
			double left = end - now_seconds();
			if (poll(&q, 1, left < 0 ? 0 : left > 10 ? 10000 : (int)(1000 * left)) <= 0 ||
			    getsockopt(fd, SOL_SOCKET, SO_ERROR, &bad, &n))
				bad = ETIMEDOUT;
		}
		if (!bad) {
			freeaddrinfo(all);
			return fd;
		}
		*why = strerror(bad);
		close(fd);
	}
	if (all)
		freeaddrinfo(all);
	return -1;
}

static int take(const struct meet *m, void *p, int64_t bytes, char why[256])
{
	double end = now_seconds() + m->timeout + SILENCE;         /* process 0 first, which can name who is missing */
	unsigned char said[HELLO];
	char answer[ANSWER];
	const char *reason = "";
	int fd;
	while ((fd = connect_to(m, end, &reason)) < 0) {
		if (now_seconds() > end) {
			snprintf(why, 256, "process 0 cannot be reached at %.100s port %d: %s", m->host, m->port, reason);
			return -1;
		}
		struct timespec nap = { 0, 100 * 1000 * 1000 };
		nanosleep(&nap, NULL);
	}
	hello(said, m, m->rank, bytes);
	int rc = move(fd, said, HELLO, 1, end) || move(fd, answer, ANSWER, 0, end) || memcmp(answer, "adzegave", ANSWER) ||
		 move(fd, p, (size_t)bytes, 0, end) ? -1 : 0;
	if (rc)
		snprintf(why, 256, "who listens at %.100s port %d ended, or did not take us for process %d of %d of its job", m->host, m->port,
			 m->rank, m->size);
	close(fd);
	return rc;
}

int meet_share(void *arg, void *p, int64_t bytes, char why[256])
{
	const struct meet *m = arg;
	return m->rank ? take(m, p, bytes, why) : give(m, p, bytes, why);
}
