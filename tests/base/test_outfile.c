/*
 * test_outfile.c - outputs whole or not at all: commit, abort, exit, signals, kill -9, terminals
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/base/outfile.h"
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[] = "/tmp/adze-outfile-XXXXXX", path[128];

static int setup(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/final", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return remove_tree(dir, NULL);
}

static int entries(void)
{
	int n = 0;
	DIR *d = opendir(dir);
	for (struct dirent *x; (x = readdir(d));)
		n += strcmp(x->d_name, ".") && strcmp(x->d_name, "..");
	closedir(d);
	return n;
}

static void clean(void)
{
	remove_tree(dir, NULL);
	mkdir(dir, 0777);
}

static void commit_and_abort(void **state)
{
	struct err e = { 0 };
	size_t n;
	(void)state;
	clean();
	struct outfile *o = outfile_open(path, true, false, &e);
	assert_int_equal(outfile_printf(o, &e, "hello %d\n", 7), 0);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(outfile_commit(o, &e), 0);
	char *s = file_read_new(path, 100, &n, &e);
	assert_string_equal(s, "hello 7\n");
	free(s);
	assert_int_equal(entries(), 1);

	assert_null(outfile_open(path, true, false, &e)); /* no force */
	o = outfile_open(path, true, true, &e);
	outfile_write(o, "x", 1, &e);
	outfile_abort(o);
	assert_int_equal(entries(), 1);
	assert_null(file_read_new(path, 3, &n, &e));
	assert_int_equal(e.code, EXIT_DATA);
	assert_null(outfile_open(dir, true, true, &e));
	assert_null(outfile_open("/nonexistent/dir/x", true, true, &e));
	assert_int_equal(e.code, EXIT_IO);
}

static void large_and_links(void **state)
{
	struct err e = { 0 };
	struct stat st;
	char link_name[160];
	static char block[300000];
	(void)state;
	clean();
	struct outfile *o = outfile_open(path, true, false, &e);
	for (int i = 0; i < 10; i++)
		assert_int_equal(outfile_write(o, block, sizeof block - (size_t)i, &e), 0);
	assert_int_equal(outfile_commit(o, &e), 0);
	stat(path, &st);
	assert_int_equal(st.st_size, 3000000 - 45);
	snprintf(link_name, sizeof link_name, "%s/link", dir);
	assert_int_equal(symlink(path, link_name), 0);
	assert_int_equal(file_write(link_name, "via link", 8, &e), 0);
	lstat(link_name, &st);
	assert_true(S_ISLNK(st.st_mode));
	char *s = file_read_new(path, 100, NULL, &e);
	assert_string_equal(s, "via link");
	free(s);
	o = outfile_open("/dev/null", true, false, &e); /* a device is written in place */
	assert_int_equal(outfile_write(o, "x", 1, &e), 0);
	assert_int_equal(outfile_commit(o, &e), 0);
	o = outfile_open("/dev/full", true, false, &e);
	assert_int_equal(outfile_write(o, "x", 1, &e), 0);
	assert_int_equal(outfile_commit(o, &e), -1);
	assert_int_equal(e.code, EXIT_IO);
}

/* In a child: opens a file and a directory, writes a little, then ends in the given way (0: exit). */
static int die_writing(int sig)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		char d[160], inner[200];
		struct err e;
		struct outfile *o = outfile_open(path, true, true, &e);
		snprintf(d, sizeof d, "%s/model", dir);
		struct outdir *od = outdir_open(d, true, &e);
		outfile_write(o, "partial", 7, &e);
		outfile_fd(o);
		snprintf(inner, sizeof inner, "%s/config.json", outdir_tmp(od));
		int fd = open(inner, O_WRONLY | O_CREAT, 0666);
		close(fd);
		if (!sig)
			exit(3);
		raise(sig);
		_exit(99);
	}
	waitpid(pid, &status, 0);
	return status;
}

static void endings(void **state)
{
	char d[160];
	static const int sigs[] = { SIGINT, SIGTERM, SIGHUP };
	(void)state;
	snprintf(d, sizeof d, "%s/model", dir);
	clean();
	assert_int_equal(WEXITSTATUS(die_writing(0)), 3);
	assert_int_equal(entries(), 0);
	for (size_t i = 0; i < sizeof sigs / sizeof *sigs; i++) {
		int status = die_writing(sigs[i]);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == sigs[i]);
		assert_int_equal(entries(), 0);
	}
	die_writing(SIGKILL); /* leaves the hidden temporaries, never the final names */
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(access(d, F_OK), -1);
	assert_int_equal(entries(), 2);
}

static void directories(void **state)
{
	struct err e = { 0 };
	char d[160], name[200];
	(void)state;
	clean();
	snprintf(d, sizeof d, "%s/model/", dir);
	for (int round = 0; round < 2; round++) {
		struct outdir *o = outdir_open(d, round > 0, &e);
		assert_non_null(o);
		snprintf(name, sizeof name, "%s/file%d", outdir_tmp(o), round);
		assert_int_equal(file_write(name, "x", 1, &e), 0);
		assert_int_equal(outdir_commit(o, &e), 0);
		assert_int_equal(entries(), 1);
	}
	snprintf(name, sizeof name, "%sfile0", d);
	assert_int_equal(access(name, F_OK), -1);
	snprintf(name, sizeof name, "%sfile1", d);
	assert_int_equal(access(name, F_OK), 0);
	assert_null(outdir_open(d, false, &e));
	assert_null(outdir_open(NULL, false, &e));
	struct outdir *o = outdir_open(d, true, &e);
	outdir_abort(o);
	assert_int_equal(access(name, F_OK), 0);
	assert_int_equal(entries(), 1);
	snprintf(name, sizeof name, "%s/a/b/c", dir);
	assert_int_equal(mkdir_p(name, &e), 0);
	assert_int_equal(mkdir_p(name, &e), 0);
	assert_int_equal(access(name, F_OK), 0);
}

static void terminals(void **state)
{
	struct err e = { 0 };
	(void)state;
	int pt = posix_openpt(O_RDWR | O_NOCTTY);
	if (pt < 0)
		skip(); /* no /dev/pts here, as in a bare chroot */
	assert_true(!grantpt(pt) && !unlockpt(pt));
	const char *tty = ptsname(pt);
	int fd = open(tty, O_RDWR | O_NOCTTY), saved = dup(STDOUT_FILENO);
	fflush(stdout);
	dup2(fd, STDOUT_FILENO);
	struct outfile *o = outfile_open(NULL, true, false, &e), *text = outfile_open("-", false, false, NULL);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	assert_null(o);
	assert_int_equal(e.code, EXIT_USAGE);
	assert_non_null(text);
	outfile_abort(text);
	assert_null(outfile_open(tty, true, false, &e));
	close(fd);
	close(pt);
}

int main(void)
{
	signal(SIGHUP, SIG_DFL); /* ignored under nohup and in the background, which outfile.c respects */
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(commit_and_abort), cmocka_unit_test(large_and_links), cmocka_unit_test(endings),
		cmocka_unit_test(directories), cmocka_unit_test(terminals),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
