/*
 * passk.c - runs generated programs in the sandbox, and pass@k
 *
 *	passk [PROGRAMS.jsonl] -k 1,10 -o verdicts.jsonl
 *
 * A line has "program", the whole Python text with its checks, and perhaps "task_id"; programs with the same task_id are samples
 * of one problem.  With n samples of which c pass, pass@k of a problem is 1 - (n-c over k) / (n over k), without bias
 * (Chen et al. 2021), and the score is the mean over the problems; it is left out where a problem has fewer than k
 * samples.  Programs only ever run in the sandbox (common/eval/sandbox.h): without one this ends with 69.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/base/outfile.h"
#include "../common/eval/metrics.h"
#include "../common/eval/sandbox.h"
#include "../common/io/jsontext.h"
#include "../common/io/text.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static struct {
	const char *k;
	double seconds;
	int64_t jobs;
} o = { .k = "1", .seconds = 3 };
static const struct opt opts[] = {
	OPT_STR('k', "at", &o.k, "LIST", "which pass@k, by comma"),
	OPT_F64(0, "seconds", &o.seconds, "S", "time of one program", 0.1, 3600),
	OPT_I64('j', "jobs", &o.jobs, "N", "programs at a time, 0: one a processor", 0, 64),
	OPT_OUT_ROW("a line per program with its verdict; the scores then go to stdout (default: scores only)"),
	OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"passk", "runs generated programs in a sandbox and prints pass@k", "[PROGRAMS.jsonl] [-k LIST] [-o VERDICTS.jsonl]",
	"passk programs.jsonl -k 1,10 -o verdicts.jsonl\n"
	"head -n 100 programs.jsonl | passk --seconds 10", opts
};

struct programs {
	struct sandbox_prog *p;
	json_t **item;         /* owned; the texts point into them */
	int64_t *problem, n, n_problems;
	json_t *ids;           /* task_id -> problem */
};

static int add(struct programs *q, const char *line, size_t n, struct err *e)
{
	json_error_t je;
	json_t *j = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
	const json_t *text = json_object_get(j, "program"), *id = json_object_get(j, "task_id");
	if (!j)
		return err_set(e, EXIT_DATA, "not JSON: %s (column %d)", je.text, je.column);
	if (!json_is_string(text) || (id && !json_is_string(id) && !json_is_integer(id))) {
		json_decref(j);
		return err_set(e, EXIT_DATA, "'program' must be a string, 'task_id' a string or a number");
	}
	q->p = xrealloc(q->p, (size_t)q->n + 1, sizeof *q->p);
	q->item = xrealloc(q->item, (size_t)q->n + 1, sizeof *q->item);
	q->problem = xrealloc(q->problem, (size_t)q->n + 1, sizeof *q->problem);
	char *key = id ? json_dumps(id, JSON_ENCODE_ANY) : xasprintf("line %lld", (long long)q->n);
	const json_t *old = json_object_get(q->ids, key);
	q->problem[q->n] = old ? json_integer_value(old) : q->n_problems++;
	if (!old)
		json_object_set_new(q->ids, key, json_integer(q->problem[q->n]));
	free(key);
	q->item[q->n] = j;
	q->p[q->n++] = (struct sandbox_prog){ json_string_value(text), json_string_length(text), SANDBOX_FAILED, 0 };
	return 0;
}

static int read_all(struct programs *q, const char *path, struct err *e)
{
	enum { MAX_FILE = 1 << 30 };
	size_t n;
	char *text = file_read_new(path, MAX_FILE, &n, e);
	if (!text)
		return -1;
	int rc = 0;
	int64_t number = 0;
	for (const char *line = text, *eol; line < text + n && !rc; line = eol + 1) {
		eol = memchr(line, '\n', (size_t)(text + n - line));
		eol = eol ? eol : text + n;
		number++;
		if (text_rstrip(line, (size_t)(eol - line)) && add(q, line, (size_t)(eol - line), e))
			rc = err_wrap(e, "%s:%lld", path, (long long)number);
	}
	free(text);
	if (!rc && !q->n)
		rc = err_set(e, EXIT_DATA, "%s: no programs", path);
	return rc;
}

static int step(void *arg, int64_t i, int64_t done, struct err *e)
{
	(void)i;
	(void)e;
	progress_step(arg, (double)done);
	return 0;
}

static int write_verdicts(struct outfile *f, const struct programs *q, struct err *e)
{
	static const char *const word[] = { "failed", "passed", "timed out" };
	int rc = 0;
	for (int64_t i = 0; i < q->n && !rc; i++) {
		json_object_set_new(q->item[i], "passed", json_boolean(q->p[i].end == SANDBOX_PASSED));
		json_object_set_new(q->item[i], "result", json_string(word[q->p[i].end]));
		char *line = json_text_new(q->item[i], 0);
		rc = outfile_write(f, line, strlen(line), e);
		free(line);
	}
	return rc;
}

static void print_scores(const struct programs *q, const int64_t *k, int64_t n_k)
{
	int64_t *n = xcalloc((size_t)q->n_problems, sizeof *n), *c = xcalloc((size_t)q->n_problems, sizeof *c);
	double *at = xcalloc((size_t)q->n_problems, sizeof *at);
	for (int64_t i = 0; i < q->n; i++) {
		n[q->problem[i]]++;
		c[q->problem[i]] += q->p[i].end == SANDBOX_PASSED;
	}
	for (int64_t j = 0; j < n_k; j++) {
		int enough = 1;
		for (int64_t i = 0; i < q->n_problems; i++) {
			enough &= n[i] >= k[j];
			at[i] = metric_pass_at_k(n[i], c[i], k[j]);
		}
		if (enough)
			printf("pass@%lld\t%.6f\t%lld problems\n", (long long)k[j], metric_mean(at, q->n_problems), (long long)q->n_problems);
	}
	free(n);
	free(c);
	free(at);
}

int main(int argc, char **argv)
{
	struct err e;
	struct programs q = { .ids = json_object() };
	struct sandbox box;
	struct progress pr;
	struct outfile *f = NULL;
	int64_t *k, n_k, passed = 0;
	int n = opt_parse(&use, argc, argv);
	if (n > 1)
		opt_die("unexpected operand '%s'", argv[1]);
	if (parse_i64_list(o.k, &k, &n_k, &e))
		opt_die("-k: %s", e.msg);
	for (int64_t i = 0; i < n_k; i++)
		if (k[i] < 1)
			opt_die("-k: %lld is not a number of samples", (long long)k[i]);
	log_start();
	if (read_all(&q, n ? argv[0] : "-", &e))
		die_err(&e);
	if (com.dry_run) {
		printf("%lld programs, %lld problems\n", (long long)q.n, (long long)q.n_problems);
	} else {
		if ((com.out && !(f = outfile_open(com.out, false, com.force, &e))) || sandbox_open(&box, o.seconds, (int)o.jobs, &e))
			die_err(&e);
		progress_start(&pr, "programs", (double)q.n, "programs", 0);
		if (sandbox_run(&box, q.p, q.n, step, &pr, &e) || (f && write_verdicts(f, &q, &e)) || (f && outfile_commit(f, &e)))
			die_err(&e);
		progress_end(&pr);
		print_scores(&q, k, n_k);
		for (int64_t i = 0; i < q.n; i++)
			passed += q.p[i].end == SANDBOX_PASSED;
		log_summary("%lld programs, %lld passed", (long long)q.n, (long long)passed);
	}
	for (int64_t i = 0; i < q.n; i++)
		json_decref(q.item[i]);
	free(q.item);
	free(q.p);
	free(q.problem);
	free(k);
	json_decref(q.ids);
	return EXIT_DONE;
}
