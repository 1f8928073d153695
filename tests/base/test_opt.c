/*
 * test_opt.c - the option parser: every type, every mistake, the recorded command line; progress and stop signals
 *
 * Each case runs in a child, because a usage error ends the program.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/base/log.h"
#include "../../common/base/opt.h"
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static struct { const char *model, *mode, *plan; int64_t seq; double lr; bool deep; struct opt_list more; } o = {
	.seq = 4096, .lr = 1e-4, .mode = "fast"
};
static const struct opt opts[] = {
	OPT_STR('m', "model", &o.model, "DIR", "model directory"),
	OPT_I64('s', "seq", &o.seq, "T", "tokens per sample", 1, 1 << 20),
	OPT_F64(0, "lr", &o.lr, "X", "learning rate", 0, 1),
	OPT_CHOICE(0, "mode", &o.mode, "fast|slow", "how to go"),
	OPT_FLAG('d', "deep", &o.deep, "go deep"),
	OPT_LIST('t', "task", &o.more, "NAME=FILE", "task to run"),
	OPT_OPTVAL(0, "plan", &o.plan, "json|text", "print the plan"),
	OPT_OUT_ROW("where to write"), OPT_DEVICE_ROWS, OPT_SEED_ROW, OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = { "tester", "Tests the parser.", "[-d] FILE...", "tester -d x\ntester --seq 4Ki y", opts };

static char out[8192];

/* Runs fn in a child with argv; returns its wait status, its stdout and stderr are in out. */
static int run(int (*fn)(int, char **), char **argv)
{
	int pipe_fd[2], status, argc = 0, n = 0;
	ssize_t k;
	while (argv[argc])
		argc++;
	assert_int_equal(pipe(pipe_fd), 0);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(pipe_fd[1], 1);
		dup2(pipe_fd[1], 2);
		close(pipe_fd[0]);
		close(pipe_fd[1]);
		exit(fn(argc, argv));
	}
	close(pipe_fd[1]);
	while (n < (int)sizeof out - 1 && (k = read(pipe_fd[0], out + n, sizeof out - 1 - (size_t)n)) > 0)
		n += (int)k;
	out[n] = '\0';
	close(pipe_fd[0]);
	waitpid(pid, &status, 0);
	return status;
}
#define ARGS(...) ((char *[]){ "/bin/tester", __VA_ARGS__, NULL })

static int show(int argc, char **argv)
{
	int n = opt_parse(&use, argc, argv);
	printf("%s|%s|%s|%lld|%g|%d|%d:%s|%s|%d", o.model ? o.model : "-", o.mode, o.plan ? o.plan : "-", (long long)o.seq, o.lr, o.deep,
	       o.more.n, o.more.n ? o.more.v[o.more.n - 1] : "-", com.out ? com.out : "-", n);
	for (int i = 0; i < n; i++)
		printf(" %s", argv[i]);
	printf("\n%s\n", opt_record_line());
	return 0;
}

static void accepted(void **state)
{
	(void)state;
	assert_int_equal(run(show, ARGS("a", "-m", "/big/disk/teacher/", "--seq=4Ki", "b", "-d", "--lr", "1e-3", "--mode=slow", "-")), 0);
	assert_string_equal(out, "/big/disk/teacher/|slow|-|4096|0.001|1|0:-|-|3 a b -\n"
				 "tester --model teacher/ --seq 4Ki --deep --lr 1e-3 --mode slow\n");
	assert_int_equal(run(show, ARGS("-ds8", "-t", "x=1", "--task", "y=2", "--plan", "q", "-o", "out file", "--threads", "2", "--", "-d")), 0);
	assert_string_equal(out, "-|fast||8|0.0001|1|2:y=2|out file|2 q -d\n"
				 "tester --deep --seq 8 --task x=1 --task y=2 --plan\n");
	assert_int_equal(run(show, ARGS("--plan=json", "-m", "it's")), 0);
	assert_non_null(strstr(out, "'it'\\''s'"));
}

static void refused(void **state)
{
	static const struct { char *arg, *arg2; const char *text; } t[] = {
		{ "--mdel", "x", "unknown option '--mdel', did you mean '--model'?" },
		{ "--zzzzzz", NULL, "unknown option '--zzzzzz' (see tester --help)" },
		{ "--no", NULL, "unknown option" },
		{ "-Z", NULL, "unknown option '-Z'" },
		{ "--seq", NULL, "--seq needs a value (T)" },
		{ "--seq", "1.5", "'1.5' is not a whole number" },
		{ "--seq", "0", "0 is outside 1..1048576" },
		{ "--seq", "", "'' is not a whole number" },
		{ "--lr", "fast", "'fast' is not a number" },
		{ "--lr", "2", "2 is outside 0..1" },
		{ "--lr", "nan", "'nan' is not a number" },
		{ "--mode", "fas", "'fas' is none of fast|slow" },
		{ "--mode", "", "'' is none of" },
		{ "--plan=xml", NULL, "'xml' is none of json|text" },
		{ "--deep=1", NULL, "--deep takes no value" },
		{ "--seed", "-1", "-1 is outside" },
		{ "--dtype", "f64", "'f64' is none of f32|bf16" },
		{ "-m", "", "--model: its value is empty" },
	};
	(void)state;
	for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
		int status = run(show, ARGS(t[i].arg, t[i].arg2));
		if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_USAGE || !strstr(out, t[i].text))
			fail_msg("%s: status %x, expected '%s' in: %s", t[i].arg, status, t[i].text, out);
		assert_ptr_equal(strchr(out, '\n'), out + strlen(out) - 1);
	}
}

static void texts(void **state)
{
	(void)state;
	assert_int_equal(run(show, ARGS("--seq", "5", "--help")), 0);
	assert_non_null(strstr(out, "usage: tester [-d] FILE...\n"));
	assert_non_null(strstr(out, "  -s, --seq T                   tokens per sample [4096]\n")); /* not 5 */
	assert_non_null(strstr(out, "--dtype f32|bf16"));
	assert_non_null(strstr(out, "[bf16]"));
	assert_non_null(strstr(out, "\ncommon options:\n"));
	assert_int_equal(run(show, ARGS("--version")), 0);
	assert_memory_equal(out, "tester (adze) ", 14);
}

static int clash(int argc, char **argv)
{
	static const struct opt bad[] = { OPT_FLAG('d', "deep", &o.deep, "x"), OPT_FLAG('d', "down", &o.deep, "y"), OPT_END };
	static const struct usage u = { "tester", "x", "", "", bad };
	return opt_parse(&u, argc, argv);
}

static void table_checks_itself(void **state)
{
	(void)state;
	int status = run(clash, ARGS("x"));
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	assert_non_null(strstr(out, "options --deep and --down of tester clash"));
}

static int work(int argc, char **argv)
{
	struct progress p;
	opt_parse(&use, argc, argv);
	log_start();
	progress_start(&p, "samples", 10, "tok", 100);
	p.last -= 100; /* as if the last line were long ago */
	snprintf(p.extra, sizeof p.extra, "loss 2.31");
	progress_step(&p, 5);
	progress_end(&p);
	log_warn("odd");
	log_summary("%d samples", 10);
	return 0;
}

static void speaking(void **state)
{
	char name[] = "/tmp/adze-events-XXXXXX", text[4096];
	(void)state;
	assert_int_equal(run(work, ARGS("x")), 0);
	assert_non_null(strstr(out, "tester: samples 5/10  50% "));
	assert_non_null(strstr(out, " loss 2.31\n"));
	assert_non_null(strstr(out, "tester: warning: odd\n"));
	assert_non_null(strstr(out, "tester: 10 samples, "));
	assert_non_null(strstr(out, " s, peak "));
	assert_int_equal(run(work, ARGS("-q")), 0);
	assert_string_equal(out, "");
	int fd = mkstemp(name);
	assert_int_equal(run(work, ARGS("-q", "--events", name)), 0);
	ssize_t n = read(fd, text, sizeof text - 1);
	text[n > 0 ? n : 0] = '\0';
	close(fd);
	unlink(name);
	assert_non_null(strstr(text, "\"event\":\"start\",\"program\":\"tester\""));
	assert_non_null(strstr(text, "\"event\":\"progress\",\"what\":\"samples\",\"done\":5,\"total\":10,\"unit\":\"tok\""));
	assert_non_null(strstr(text, "\"event\":\"summary\""));
}

static int patient(int argc, char **argv)
{
	opt_parse(&use, argc, argv);
	log_start();
	if (o.deep && stop_requested())
		return 9;
	raise(SIGUSR2);
	if (checkpoint_requested() != 1 || checkpoint_requested() != 0)
		return 8;
	raise(SIGTERM);
	if (stop_requested() == SIGTERM && o.seq == 2)
		raise(SIGTERM);
	return stop_requested() == SIGTERM ? EXIT_AGAIN : 1;
}

static void stopping(void **state)
{
	(void)state;
	assert_int_equal(WEXITSTATUS(run(patient, ARGS("-d"))), EXIT_AGAIN);           /* polls: told, and goes on */
	assert_int_equal(WEXITSTATUS(run(patient, ARGS("-d", "-s2"))), 128 + SIGTERM); /* a second signal ends it */
	assert_int_equal(WEXITSTATUS(run(patient, ARGS("x"))), 128 + SIGTERM);         /* never polled: ends at once */
}

static int refuse(int argc, char **argv)
{
	(void)argv;
	for (int i = 0; i < 100; i++) {
		char *volatile lost = xmalloc(1000);
		lost[0] = (char)i;
	}
	if (argc > 1)
		die(EXIT_USAGE, "refused");
	return EXIT_USAGE;
}

/* A sanitizer build calls lost memory an error (99, see run.sh) where a program ends in order, not where it refuses. */
static void leaving(void **state)
{
	(void)state;
	assert_int_equal(WEXITSTATUS(run(refuse, ARGS("x"))), EXIT_USAGE);
#ifdef __SANITIZE_ADDRESS__
	assert_int_equal(WEXITSTATUS(run(refuse, ARGS(NULL))), 99);
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepted), cmocka_unit_test(refused), cmocka_unit_test(texts), cmocka_unit_test(table_checks_itself),
		cmocka_unit_test(speaking), cmocka_unit_test(stopping), cmocka_unit_test(leaving),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
