/*
 * sandbox.c - bubblewrap around one Python process per program; a few at a time under one poll()
 *
 *	us --secret on fd 0--> [bwrap: python runner: program from fd 4] --"started", "passed" + secret on fd 3--> us
 *
 * The clock starts at "started", so that a loaded machine does not fail a program.  A sandbox that ends without having
 * started is an error of ours, never a verdict.  Killing bwrap ends its process namespace and everything in it.
 *
 * The number of processes is limited inside, where it counts the sandbox's own alone; the kernel exempts the real root
 * from that limit, so root becomes nobody first.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sandbox.h"
#include "../base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char runner[] =
	"import os, resource, signal, sys\n"
	"def main(key):\n"
	"    null = os.open('/dev/null', os.O_RDWR)\n"
	"    for fd in 0, 1, 2:\n"
	"        os.dup2(null, fd)\n"
	"    with open('/program.py', encoding='utf-8', newline='') as f:\n"
	"        text = f.read()\n"
	"    resource.setrlimit(resource.RLIMIT_NPROC, (int(sys.argv[2]),) * 2)\n"
	"    os.write(3, b'started\\n')\n"
	"    def late(*args):\n"
	"        os.write(3, b'late')\n"
	"        raise TimeoutError\n"
	"    signal.signal(signal.SIGALRM, late)\n"
	"    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))\n"
	"    exec(text, {})\n"
	"    signal.setitimer(signal.ITIMER_REAL, 0)\n"
	"    os.write(3, b'passed ' + key)\n"
	"    os._exit(0)\n"
	"main(os.read(0, 64))\n";

enum { SECRET = 32, NOBODY = 65534, MAX_JOBS = 64, START_SECONDS = 60 };
static const double grace = 1;         /* between the alarm inside and the kill from outside */

struct job {
	pid_t pid;             /* 0: free */
	int64_t i;             /* program */
	int out, err;          /* pipes to read */
	double deadline;
	int started;
	char secret[SECRET + 1], got[128], why[200];
	size_t n_got, n_why;
};

/* Arguments of bwrap; numbers as text live in buf */
struct command {
	char tmp[32], seconds[32], processes[32];
	const char *argv[64];
};

static void command_fill(struct command *c, const struct sandbox *s)
{
	snprintf(c->tmp, sizeof c->tmp, "%lld", (long long)s->tmp);
	snprintf(c->seconds, sizeof c->seconds, "%.3f", s->seconds);
	snprintf(c->processes, sizeof c->processes, "%d", s->processes);
	const char *const argv[] = {
		"bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv",
		"--setenv", "PATH", "/usr/bin", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8",
		"--setenv", "OPENBLAS_NUM_THREADS", "1", "--hostname", "sandbox",
		"--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
		"--symlink", "usr/lib64", "/lib64", "--ro-bind-try", "/etc/alternatives", "/etc/alternatives",
		"--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom",
		"--ro-bind-data", "4", "/program.py", "--size", c->tmp, "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp",
		s->python, "-I", "-B", "-c", runner, c->seconds, c->processes, NULL
	};
	_Static_assert(sizeof argv <= sizeof c->argv, "room for the arguments");
	memcpy(c->argv, argv, sizeof argv);
}

static void limit(int what, int64_t value)
{
	struct rlimit r = { (rlim_t)value, (rlim_t)value };
	setrlimit(what, &r);
}

/* In the child: nothing here may allocate, the parent has threads.  fds: secret, result, error, program */
_Noreturn static void become(const struct sandbox *s, const struct command *c, const int fds[4])
{
	static const int to[4] = { 0, 3, 2, 4 };
	int high[4];
	for (int i = 0; i < 4; i++)
		high[i] = fcntl(fds[i], F_DUPFD, 16);
	for (int i = 0; i < 4; i++)
		dup2(high[i], to[i]);
	int null = open("/dev/null", O_WRONLY);
	dup2(null, 1);
	close_range(5, ~0u, 0);
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NOFILE, 64);
	limit(RLIMIT_AS, s->memory);
	limit(RLIMIT_FSIZE, s->file);
	limit(RLIMIT_CPU, (int64_t)(s->seconds + grace) + 2);
	if (geteuid() == 0 && (syscall(SYS_setgroups, 0, NULL) || syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) ||
			       syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY))) {
		static const char no[] = "root cannot become nobody here\n";
		(void)!write(2, no, sizeof no - 1);
		_exit(127);
	}
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execvp("bwrap", (char *const *)(uintptr_t)c->argv);
	static const char no[] = "bwrap (package bubblewrap) is not installed\n";
	(void)!write(2, no, sizeof no - 1);
	_exit(127);
}

static void secret_new(char out[SECRET + 1])
{
	unsigned char r[SECRET / 2];
	if (getrandom(r, sizeof r, 0) != sizeof r)
		BUG("no random bytes");
	for (int i = 0; i < SECRET / 2; i++)
		snprintf(out + 2 * i, 3, "%02x", r[i]);
}

static int program_fd(const struct sandbox_prog *p)
{
	int fd = memfd_create("program", MFD_CLOEXEC);
	for (size_t at = 0; fd >= 0 && at < p->n;) {
		ssize_t k = write(fd, p->text + at, p->n - at);
		if (k < 0) {
			close(fd);
			return -1;
		}
		at += (size_t)k;
	}
	if (fd >= 0)
		lseek(fd, 0, SEEK_SET);
	return fd;
}

static int job_start(struct job *j, const struct sandbox *s, const struct sandbox_prog *p, int64_t i, struct err *e)
{
	int in[2] = { -1, -1 }, out[2] = { -1, -1 }, err[2] = { -1, -1 }, prog = program_fd(&p[i]);
	struct command c;
	*j = (struct job){ .i = i, .deadline = now_seconds() + START_SECONDS };
	secret_new(j->secret);
	command_fill(&c, s);
	if (prog < 0 || pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) ||
	    write(in[1], j->secret, SECRET) != SECRET || (j->pid = fork()) < 0) {
		j->pid = 0;
		err_sys(e, "sandbox");
	} else if (j->pid == 0) {
		become(s, &c, (const int[]){ in[0], out[1], err[1], prog });
	}
	int unused[] = { prog, in[0], in[1], out[1], err[1], j->pid ? -1 : out[0], j->pid ? -1 : err[0] };
	for (size_t k = 0; k < sizeof unused / sizeof *unused; k++)
		if (unused[k] >= 0)
			close(unused[k]);
	j->out = out[0];
	j->err = err[0];
	if (!j->pid)
		return -1;
	fcntl(j->out, F_SETFL, O_NONBLOCK);
	fcntl(j->err, F_SETFL, O_NONBLOCK);
	return 0;
}

/* What there is to read, as much as fits; 1 at its end */
static int drain(int fd, char *buf, size_t size, size_t *n)
{
	char rest[4096];
	for (int round = 0; round < 16; round++) {
		size_t room = size - 1 - *n;
		ssize_t k = room ? read(fd, buf + *n, room) : read(fd, rest, sizeof rest);
		if (k == 0)
			return 1;
		if (k < 0)
			return errno != EAGAIN && errno != EINTR;
		*n += room ? (size_t)k : 0;
		buf[*n] = 0;
	}
	return 0;
}

static void job_stop(struct job *j)
{
	if (!j->pid)
		return;
	kill(j->pid, SIGKILL);
	while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR)
		;
	close(j->out);
	close(j->err);
	j->pid = 0;
}

/* Looks at one job; 1 when it is over and p->end is set, -1 when it never started. */
static int job_look(struct job *j, const struct sandbox *s, struct sandbox_prog *p, struct err *e)
{
	static const char start[] = "started\n", alarm_rang[] = "started\nlate";
	char want[sizeof start + SECRET + 8];
	snprintf(want, sizeof want, "%spassed %s", start, j->secret);
	drain(j->err, j->why, sizeof j->why, &j->n_why);
	int over = drain(j->out, j->got, sizeof j->got, &j->n_got);
	if (!j->started && !strncmp(j->got, start, sizeof start - 1)) {
		j->started = 1;
		j->deadline = now_seconds() + s->seconds + grace;
	}
	int passed = !strcmp(j->got, want), late = now_seconds() > j->deadline || !strcmp(j->got, alarm_rang);
	if (!over && !passed && !late && j->n_got < sizeof want)
		return 0;
	job_stop(j);
	if (!j->started) {
		j->why[strcspn(j->why, "\n")] = 0;
		return err_set(e, EXIT_RESOURCE, "no sandbox for generated programs: %s",
			       late ? "it does not start" : *j->why ? j->why : "bwrap ended at once");
	}
	p[j->i].end = passed ? SANDBOX_PASSED : late ? SANDBOX_TIMEOUT : SANDBOX_FAILED;
	p[j->i].done = 1;
	return 1;
}

static void wait_for_news(struct job *j, int jobs)
{
	struct pollfd f[MAX_JOBS];
	nfds_t n = 0;
	double now = now_seconds(), first = now + 1;
	for (int k = 0; k < jobs; k++)
		if (j[k].pid) {
			f[n++] = (struct pollfd){ .fd = j[k].out, .events = POLLIN };
			first = j[k].deadline < first ? j[k].deadline : first;
		}
	poll(f, n, first > now ? (int)((first - now) * 1000) + 1 : 1);
}

int sandbox_run(const struct sandbox *s, struct sandbox_prog *p, int64_t n,
		int (*step)(void *arg, int64_t i, int64_t done, struct err *e), void *arg, struct err *e)
{
	struct job *j = xcalloc((size_t)s->jobs, sizeof *j);
	int64_t next = 0, done = 0;
	int rc = 0;
	for (int64_t i = 0; i < n; i++)
		done += p[i].done;
	while (done < n && rc >= 0) {
		if (stop_requested()) {
			rc = err_set(e, 128 + stop_requested(), "stopped by a signal, nothing written");
			break;
		}
		for (int k = 0; k < s->jobs && rc >= 0; k++) {
			while (next < n && p[next].done)
				next++;
			if (!j[k].pid && next < n)
				rc = job_start(&j[k], s, p, next++, e);
		}
		if (rc >= 0)
			wait_for_news(j, s->jobs);
		for (int k = 0; k < s->jobs && rc >= 0; k++) {
			if (!j[k].pid || !(rc = job_look(&j[k], s, p, e)))
				continue;
			done++;
			if (step && rc > 0)
				rc = step(arg, j[k].i, done, e);
		}
	}
	for (int k = 0; k < s->jobs; k++)
		job_stop(&j[k]);
	free(j);
	return rc < 0 ? -1 : 0;
}

int sandbox_open(struct sandbox *s, double seconds, int jobs, struct err *e)
{
	static const char *const pythons[] = { "/usr/bin/python3", "/usr/local/bin/python3" };
	*s = (struct sandbox){ .seconds = seconds > 0 ? seconds : 3, .memory = 1 << 30, .file = 16 << 20, .tmp = 32 << 20,
			       .processes = 8, .jobs = jobs > 0 ? jobs : cpu_count() };
	s->jobs = s->jobs < MAX_JOBS ? s->jobs : MAX_JOBS;
	for (int i = 0; i < 2 && !s->python; i++)
		if (!access(pythons[i], X_OK))
			s->python = pythons[i];
	if (!s->python)
		return err_set(e, EXIT_RESOURCE, "no sandbox for generated programs: neither %s nor %s", pythons[0], pythons[1]);
	struct sandbox_prog try = { "x = 1\n", 6, SANDBOX_FAILED, 0 };
	if (sandbox_run(s, &try, 1, NULL, NULL, e))
		return -1;
	if (try.end != SANDBOX_PASSED)
		return err_set(e, EXIT_RESOURCE, "no sandbox for generated programs: it does not run the simplest of them");
	return 0;
}
