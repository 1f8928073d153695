/*
 * test_sandbox.c - what generated programs can do in the sandbox: run to their end, or nothing
 *
 * Every hostile program is written so that it passes if it got its way.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "../../common/eval/sandbox.h"

static struct sandbox box;
static struct err why;
static int have;

/* Runs a list at once and compares every end; NULL at its end.  Time is short where it is meant to run out. */
static void all_end(const char *const *text, enum sandbox_end want, int or_late, double seconds)
{
	struct sandbox_prog p[32];
	struct sandbox s = box;
	struct err e;
	int64_t n = 0;
	if (!have)
		skip();
	for (; text[n]; n++)
		p[n] = (struct sandbox_prog){ text[n], strlen(text[n]), SANDBOX_PASSED, 0 };
	s.seconds = seconds;
	s.jobs = 4;
	if (sandbox_run(&s, p, n, NULL, NULL, &e))
		fail_msg("%s", e.msg);
	for (int64_t i = 0; i < n; i++)
		if (p[i].end != want && !(or_late && p[i].end == SANDBOX_TIMEOUT))
			fail_msg("ended as %d: %s", p[i].end, text[i]);
}

static void good_programs_pass(void **state)
{
	(void)state;
	static const char *const good[] = {
		"", "x = 1\r\nassert x == 1\r\n", "import math, collections, itertools, re, json, heapq, decimal, random",
		"print('x' * 1000000)", "open('/tmp/f', 'w').write('x' * 1000)", "s = 'Zoë ☃'\nassert len(s) == 5",
		"import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
		"assert __name__ == 'builtins'", "import sys\nassert sys.stdin.read() == ''", NULL
	};
	all_end(good, SANDBOX_PASSED, 0, 20);
}

static void wrong_programs_fail(void **state)
{
	(void)state;
	static const char *const wrong[] = {
		"assert 1 == 2", "syntax error here", "import sys; sys.exit(0)", "exit()", "import os; os._exit(0)",
		"raise KeyboardInterrupt", "import os; os.write(3, b'passed ' + b'0' * 32); os._exit(0)",
		"import os\nfor i in range(100): os.write(3, b'passed \\n' * 100)",
		"import os, signal; os.kill(os.getpid(), signal.SIGKILL)", NULL
	};
	all_end(wrong, SANDBOX_FAILED, 0, 20);
}

static void time_is_limited(void **state)
{
	(void)state;
	static const char *const late[] = {
		"while True: pass", "import time; time.sleep(1000)", "while True: print('x' * 10000)",
		"while True:\n  try:\n    while True: pass\n  except BaseException: pass", NULL
	};
	all_end(late, SANDBOX_TIMEOUT, 0, 0.5);
}

static void fork_bombs_end(void **state)
{
	(void)state;
	static const char *const bombs[] = {
		"import os\nwhile True: os.fork()",
		"import os\nwhile True:\n  try: os.fork()\n  except BaseException: pass",
		"import threading\nfor i in range(100): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()",
		"import os\nn = 0\nwhile n < 20:\n  if os.fork() == 0:\n    import time; time.sleep(100)\n  n += 1", NULL
	};
	all_end(bombs, SANDBOX_FAILED, 1, 1);
}

static void memory_is_limited(void **state)
{
	(void)state;
	static const char *const bombs[] = {
		"x = bytearray(4 << 30)", "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", "x = []\nwhile True: x.append(bytes(1 << 26))",
		"with open('/tmp/big', 'wb') as f:\n  for i in range(64): f.write(b'x' * (1 << 20))",
		"for i in range(64):\n  with open('/tmp/f%d' % i, 'wb') as f: f.write(b'x' * (1 << 20))", NULL
	};
	all_end(bombs, SANDBOX_FAILED, 1, 2);
}

static void files_are_safe(void **state)
{
	(void)state;
	char path[] = "/tmp/adze-sandbox-XXXXXX", rm[128], overwrite[128];
	struct stat st;
	int fd = mkstemp(path);
	assert_true(fd >= 0 && write(fd, "keep me", 7) == 7 && !fchmod(fd, 0666));
	snprintf(rm, sizeof rm, "import os\nos.remove('%s')", path);
	snprintf(overwrite, sizeof overwrite, "open('%s', 'r+').write('gone')", path);
	const char *const hostile[] = {
		rm, overwrite,
		"open('/usr/bin/adze-was-here', 'w')", "open('/adze-was-here', 'w')", "open('/dev/shm/adze', 'w')",
		"open('/etc/passwd').read()", "import os; assert os.listdir('/home') or True", "import os; os.listdir('/proc/1')",
		"import os; os.mkdir('/tmp/m'); os.chmod('/program.py', 0o777); open('/program.py', 'w')", NULL
	};
	static const char *const eager[] = {
		"import os, shutil\nshutil.rmtree('/')",
		"import os, shutil\nshutil.rmtree('/', ignore_errors=True)\nassert not os.path.exists('/usr')", NULL
	};
	all_end(hostile, SANDBOX_FAILED, 0, 20);
	all_end(eager, SANDBOX_FAILED, 1, 1);
	assert_true(!stat(path, &st) && st.st_size == 7);
	assert_true(access("/usr/bin/adze-was-here", F_OK) && access("/adze-was-here", F_OK));
	unlink(path);
	close(fd);
}

static void network_is_away(void **state)
{
	(void)state;
	char text[128];
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof a;
	int s = socket(AF_INET, SOCK_STREAM, 0);
	assert_true(s >= 0 && !bind(s, (struct sockaddr *)&a, sizeof a) && !listen(s, 1) && !getsockname(s, (struct sockaddr *)&a, &len));
	snprintf(text, sizeof text, "import socket\nsocket.create_connection(('127.0.0.1', %d), 1)", ntohs(a.sin_port));
	const char *const hostile[] = {
		text, "import socket\nsocket.create_connection(('192.0.2.1', 80), 1)",
		"import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", NULL
	};
	all_end(hostile, SANDBOX_FAILED, 0, 20);
	struct pollfd f = { .fd = s, .events = POLLIN };
	assert_int_equal(poll(&f, 1, 0), 0);    /* nobody knocked */
	close(s);
}

static void processes_are_safe(void **state)
{
	(void)state;
	char text[64];
	if (!have)
		skip();
	pid_t child = fork();
	if (child == 0) {
		pause();
		_exit(0);
	}
	snprintf(text, sizeof text, "import os\nos.kill(%ld, 9)", (long)child);
	const char *const hostile[] = {
		text, "import os\nos.kill(-1, 9)", "import os\nos.kill(os.getppid(), 9)\nwhile True: pass", NULL
	};
	all_end(hostile, SANDBOX_FAILED, 1, 1);
	int status;
	assert_int_equal(waitpid(child, &status, WNOHANG), 0);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(waitpid(-1, &status, WNOHANG) < 0 && errno == ECHILD);     /* nothing of ours is left */
}

static void many_at_a_time(void **state)
{
	(void)state;
	enum { N = 24 };
	struct sandbox_prog p[N] = { 0 };
	struct sandbox many = box;
	struct err e;
	if (!have)
		skip();
	many.jobs = 6;
	for (int i = 0; i < N; i++) {
		p[i].text = i % 3 == 1 ? "raise ValueError" : i == 12 ? "import os; os._exit(0)" : "x = sum(range(1000))";
		p[i].n = strlen(p[i].text);
	}
	if (sandbox_run(&many, p, N, NULL, NULL, &e))
		fail_msg("%s", e.msg);
	for (int i = 0; i < N; i++)
		assert_int_equal(p[i].end, i % 3 == 1 || i == 12 ? SANDBOX_FAILED : SANDBOX_PASSED);
}

/* Without bwrap nothing runs, and the line says what is missing */
static void refused_without_bubblewrap(void **state)
{
	(void)state;
	struct sandbox s;
	struct err e = { 0 };
	char *path = strdup(getenv("PATH"));
	setenv("PATH", "/nonexistent", 1);
	int rc = sandbox_open(&s, 0, 1, &e);
	setenv("PATH", path, 1);
	free(path);
	assert_int_equal(rc, -1);
	assert_int_equal(e.code, EXIT_RESOURCE);
	/* root of a container with one user is refused before that */
	assert_true(strstr(e.msg, "bubblewrap") || strstr(e.msg, "cannot become nobody"));
}

static int start(void **state)
{
	(void)state;
	have = !sandbox_open(&box, 20, 2, &why);
	if (!have)
		print_message("skipped, this machine has no namespaces for it: %s\n", why.msg);
	return strstr(why.msg, "not installed") ? -1 : 0;      /* that is no reason to skip */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refused_without_bubblewrap), cmocka_unit_test(good_programs_pass),
		cmocka_unit_test(wrong_programs_fail), cmocka_unit_test(time_is_limited), cmocka_unit_test(fork_bombs_end),
		cmocka_unit_test(memory_is_limited), cmocka_unit_test(files_are_safe), cmocka_unit_test(network_is_away),
		cmocka_unit_test(processes_are_safe), cmocka_unit_test(many_at_a_time),
	};
	return cmocka_run_group_tests(tests, start, NULL);
}
