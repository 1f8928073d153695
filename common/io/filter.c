/*
 * filter.c - a child process that unpacks what we read
 *
 * A file is handed to the program from its start.  A pipe cannot be wound back, so a thread feeds the program with the
 * bytes that were read already and then with the rest.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "filter.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

struct filter {
	const char *program;
	char *name, *head;
	size_t head_n;
	int from, to, out;             /* the input; the feeder's end; what is read.  -1: closed */
	pid_t pid;                     /* 0: waited for */
	pthread_t feeder;
	bool feeding;
};

const char *filter_for(const char *head, size_t n)
{
	static const struct { const char *magic, *program; } known[] = {
		{ "\x1f\x8b", "gzip" }, { "\x28\xb5\x2f\xfd", "zstd" }, { "\xfd" "7zXZ", "xz" }, { "BZh", "bzip2" }
	};
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (n >= strlen(known[i].magic) && !memcmp(head, known[i].magic, strlen(known[i].magic)))
			return known[i].program;
	return NULL;
}

static bool write_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t k = write(fd, p, n);
		if (k < 0 && errno != EINTR)
			return false;
		p += k > 0 ? k : 0;
		n -= k > 0 ? (size_t)k : 0;
	}
	return true;
}

static void *feed(void *arg)
{
	struct filter *f = arg;
	char *buf = f->head;           /* at least 64 KiB, done with once written */
	sigset_t pipe;
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);     /* a program that ended early is no reason to die */
	pthread_sigmask(SIG_BLOCK, &pipe, NULL);
	bool ok = write_all(f->to, buf, f->head_n);
	while (ok) {
		ssize_t n = read(f->from, buf, 1 << 16);
		if (n <= 0 && !(n < 0 && errno == EINTR))
			break;
		ok = n < 0 || write_all(f->to, buf, (size_t)n);
	}
	close(f->to);
	f->to = -1;
	return NULL;
}

static int spawn(struct filter *f, int in, int out)
{
	char *argv[] = { (char *)f->program, "-dcq", NULL };
	posix_spawn_file_actions_t a;
	posix_spawn_file_actions_init(&a);
	posix_spawn_file_actions_adddup2(&a, in, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&a, out, STDOUT_FILENO);
	posix_spawn_file_actions_addopen(&a, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	int rc = posix_spawnp(&f->pid, f->program, &a, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&a);
	return rc;
}

struct filter *filter_start(const char *program, int fd, const char *head, size_t n, const char *name, struct err *e)
{
	struct filter *f = xcalloc(1, sizeof *f);
	bool file = lseek(fd, 0, SEEK_SET) == 0;
	int in[2] = { -1, -1 }, out[2] = { -1, -1 };
	*f = (struct filter){ .program = program, .name = xstrdup(name), .from = fd, .to = -1, .out = -1 };
	if (pipe2(out, O_CLOEXEC) || (!file && pipe2(in, O_CLOEXEC))) {
		err_sys(e, "%s: pipe", name);
		filter_free(f);
		return NULL;
	}
	f->out = out[0];
	f->to = in[1];
	int rc = spawn(f, file ? fd : in[0], out[1]);
	close(out[1]);
	if (in[0] >= 0)
		close(in[0]);
	if (rc) {
		f->pid = 0;
		err_set(e, EXIT_RESOURCE, "%s: is compressed, and '%s' to unpack it cannot be run (%s); install it or unpack the file", name,
			program, strerror(rc));
		filter_free(f);
		return NULL;
	}
	if (file)
		return f;
	f->head_n = n;
	f->head = xmalloc(n > 1 << 16 ? n : 1 << 16);
	memcpy(f->head, head, n);
	f->feeding = !pthread_create(&f->feeder, NULL, feed, f);
	if (!f->feeding) {
		err_set(e, EXIT_RESOURCE, "%s: no thread to feed %s", name, program);
		filter_free(f);
		return NULL;
	}
	return f;
}

int filter_fd(const struct filter *f)
{
	return f->out;
}

int filter_end(struct filter *f, struct err *e)
{
	int status = 0;
	pid_t pid = f->pid;
	f->pid = 0;
	while (pid && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	return err_set(e, EXIT_DATA, "%s: %s finds it damaged or truncated", f->name, f->program);
}

void filter_free(struct filter *f)
{
	if (!f)
		return;
	if (f->out >= 0)
		close(f->out);
	if (f->pid) {
		kill(f->pid, SIGTERM);
		filter_end(f, NULL);
	}
	if (f->feeding) {
		pthread_cancel(f->feeder);     /* it may wait for a pipe that never ends */
		pthread_join(f->feeder, NULL);
	}
	if (f->to >= 0)
		close(f->to);
	free(f->head);
	free(f->name);
	free(f);
}
