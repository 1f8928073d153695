/*
 * logits.c - the logits of a model for given token ids, as raw numbers for checks against other implementations
 *
 *	logits -m DIR --ids 1,2,3 > rows.f32             rows [T, V], f32, little-endian, nothing else
 *	logits -m DIR --ids-file FILE -o rows.f32        one sequence per line; rows of all lines one after another
 *
 * Two programs run: the blocks over a whole sequence, which keep only the final norm's output [T, C], and the output
 * matrix over HEAD_ROWS of those rows at a time, so that T x V never exists.  Sequences are padded on the right to a
 * multiple of PAD, short ones of SHORT (harmless, attention is causal), so that lines of similar length share one program.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/base/outfile.h"
#include "../common/prog/prog.h"
#include <stdlib.h>
#include <string.h>

enum { PAD = 32, SHORT = 8, HEAD_ROWS = 64 };

static struct {
	const char *model, *ids, *ids_file;
} o;
static const struct opt opts[] = {
	OPT_STR('m', "model", &o.model, "DIR", "model directory"),
	OPT_STR(0, "ids", &o.ids, "LIST", "token ids of one sequence, by comma or blank"),
	OPT_STR(0, "ids-file", &o.ids_file, "FILE", "sequences, one line of ids each"),
	OPT_OUT_ROW("where the rows go (stdout)"),
	OPT_DEVICE_ROWS, OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"logits", "writes the logits of every position of given token sequences as raw f32 rows",
	"-m DIR (--ids LIST | --ids-file FILE) [-o FILE]",
	"logits -m model --ids 1,2,3 > rows.f32\n"
	"tokenize -t model text.txt | logits -m model --ids-file /dev/stdin -o rows.f32", opts
};

struct seqs {
	int32_t **ids;
	int64_t *len;
	int64_t n, total;
};

/* Appends the ids of one line; an empty line is an empty sequence and gives no rows. */
static int parse_line(struct seqs *s, char *line, int64_t vocab, const char *name, int64_t number, struct err *e)
{
	int32_t *ids = xmalloc((strlen(line) + 1) * sizeof *ids);
	int64_t n = 0;
	for (char *save = NULL, *w = strtok_r(line, ", \t\r\n", &save); w; w = strtok_r(NULL, ", \t\r\n", &save)) {
		int64_t v;
		if (parse_i64(w, &v) || v < 0 || v >= vocab) {
			free(ids);
			return err_set(e, EXIT_DATA, "%s:%lld: '%.40s' is not a token id (0 to %lld)", name,
				       (long long)number, w, (long long)vocab - 1);
		}
		ids[n++] = (int32_t)v;
	}
	s->ids = xrealloc(s->ids, (size_t)s->n + 1, sizeof *s->ids);
	s->len = xrealloc(s->len, (size_t)s->n + 1, sizeof *s->len);
	s->ids[s->n] = ids;
	s->len[s->n++] = n;
	s->total += n;
	return 0;
}

static int read_seqs(struct seqs *s, int64_t vocab, struct err *e)
{
	if (o.ids) {
		char *line = xstrdup(o.ids);
		int rc = parse_line(s, line, vocab, "--ids", 1, e);
		free(line);
		return rc;
	}
	FILE *f = fopen(o.ids_file, "r");
	if (!f)
		return err_sys(e, "%s", o.ids_file);
	char *line = NULL;
	size_t cap = 0;
	int rc = 0;
	for (int64_t number = 1; !rc && getline(&line, &cap, f) >= 0; number++)
		rc = parse_line(s, line, vocab, o.ids_file, number, e);
	if (!rc && ferror(f))
		rc = err_sys(e, "%s", o.ids_file);
	free(line);
	fclose(f);
	return rc;
}

/* A program with its frame: the blocks for one padded length, or the output matrix. */
struct part {
	struct prog *p;
	struct frame f;
	val in, out;
};

static int part_ready(struct part *q, const struct weights *m, struct err *e)
{
	p_keep(q->p, q->out);
	if (prog_plan(q->p, e) || frame_new(&q->f, m->g, q->p, e))
		return -1;
	q->f.base[SP_PARAM] = m->w;
	return 0;
}

static void part_free(struct part *q)
{
	frame_free(&q->f);
	prog_free(q->p);
	*q = (struct part){ 0 };
}

static struct build whole_model(const struct weights *m)
{
	return (struct build){ .t = m->t, .dtype = m->dtype, .wide = 1, .space = SP_PARAM, .prefix = "",
			       .blk1 = m->t->arch.layers };
}

static int blocks_new(struct part *q, const struct weights *m, int64_t T, struct err *e)
{
	struct build b = whole_model(m);
	q->p = prog_new(1, T);
	q->in = p_input(q->p, "tok", T, 1, DT_I32);
	q->out = p_forward(q->p, &b, q->in, NONE);
	return part_ready(q, m, e);
}

static int64_t padded(int64_t n)
{
	int64_t to = n < PAD ? SHORT : PAD;
	return (n + to - 1) / to * to;
}

static int head_new(struct part *q, const struct weights *m, int64_t rows, struct err *e)
{
	struct build b = whole_model(m);
	q->p = prog_new(1, rows);
	q->in = p_input(q->p, "h", rows, m->t->arch.hidden, m->dtype);
	q->out = p_linear(q->p, q->in, p_head_weight(q->p, &b), NONE, NONE, DT_F32);
	return part_ready(q, m, e);
}

static int write_rows(struct outfile *out, struct part *head, const char *h, int64_t n, size_t row_bytes, int64_t V,
		      struct err *e)
{
	int64_t most = head->p->T;
	float *y = xcalloc((size_t)(most * V), sizeof *y);
	char *x = xcalloc((size_t)most, row_bytes);
	int rc = 0;
	for (int64_t r = 0; r < n && !rc; r += most) {
		int64_t k = n - r < most ? n - r : most;
		memcpy(x, h + (size_t)r * row_bytes, (size_t)k * row_bytes);
		frame_set(&head->f, head->in, x);
		prog_run(&head->f);
		frame_get(&head->f, head->out, y);
		rc = outfile_write(out, y, (size_t)(k * V) * sizeof *y, e);
	}
	free(x);
	free(y);
	return rc;
}

static int run(const struct seqs *s, const struct weights *m, struct outfile *out, struct err *e)
{
	struct part blocks = { 0 }, head = { 0 };
	const size_t row = (size_t)m->t->arch.hidden * dtype_size(m->dtype);
	struct progress pr;
	int64_t done = 0, longest = 1;
	for (int64_t i = 0; i < s->n; i++)
		longest = s->len[i] > longest ? s->len[i] : longest;
	int rc = head_new(&head, m, longest < PAD ? padded(longest) : HEAD_ROWS, e);
	progress_start(&pr, "tokens", (double)s->total, "tok", 0);
	for (int64_t i = 0; i < s->n && !rc; i++) {
		int64_t n = s->len[i], T = padded(n);
		if (stop_requested())
			rc = err_set(e, 128 + stop_requested(), "stopped by a signal");
		if (!n || rc)
			continue;
		if (!blocks.p || blocks.p->T != T) {
			part_free(&blocks);
			if ((rc = blocks_new(&blocks, m, T, e)))
				break;
		}
		int32_t *tok = xcalloc((size_t)T, sizeof *tok);
		char *h = xmalloc((size_t)T * row);
		memcpy(tok, s->ids[i], (size_t)n * sizeof *tok);
		frame_set(&blocks.f, blocks.in, tok);
		prog_run(&blocks.f);
		frame_get(&blocks.f, blocks.out, h);
		rc = write_rows(out, &head, h, n, row, m->t->arch.vocab, e);
		free(h);
		free(tok);
		progress_step(&pr, (double)(done += n));
	}
	progress_end(&pr);
	part_free(&blocks);
	part_free(&head);
	return rc;
}

static void dry_run(const struct seqs *s, const struct arch *a)
{
	double flops = 0, bytes = (double)s->total * (double)a->vocab * 4;
	for (int64_t i = 0; i < s->n; i++)
		flops += (double)s->len[i] * arch_forward_flops(a, s->len[i] ? s->len[i] : 1, 1);
	if (!strcmp(com.dry_run, "json")) {
		printf("{\"sequences\": %lld, \"tokens\": %lld, \"flops\": %.6g, \"output_bytes\": %.0f}\n", (long long)s->n,
		       (long long)s->total, flops, bytes);
	} else {
		char b1[32], b2[32];
		printf("%lld sequences, %lld tokens, %s FLOP, output %s\n", (long long)s->n, (long long)s->total,
		       fmt_count(b1, flops), fmt_bytes(b2, bytes));
	}
}

int main(int argc, char **argv)
{
	struct err e;
	com.dtype = "f32";
	if (opt_parse(&use, argc, argv))
		opt_die("unexpected operand '%s'", argv[0]);
	if (!o.model)
		opt_die("-m is needed");
	if (!o.ids == !o.ids_file)
		opt_die("one of --ids and --ids-file is needed");
	log_start();
	struct arch a;
	struct seqs s = { 0 };
	struct engine g;
	struct weights m;
	if (arch_load(&a, o.model, &e) || read_seqs(&s, a.vocab, &e))
		die_err(&e);
	if (com.dry_run) {
		dry_run(&s, &a);
	} else {
		struct outfile *out = outfile_open(com.out, true, com.force, &e);
		if (!out || engine_open(&g, com.device, (int)com.threads, &e) ||
		    weights_load(&m, &g, o.model, dtype_parse(com.dtype), &e))
			die_err(&e);
		if (run(&s, &m, out, &e)) {
			outfile_abort(out);
			die_err(&e);
		}
		if (outfile_commit(out, &e))
			die_err(&e);
		log_summary("%lld sequences, %lld tokens", (long long)s.n, (long long)s.total);
		weights_free(&m);
		engine_close(&g);
	}
	for (int64_t i = 0; i < s.n; i++)
		free(s.ids[i]);
	free(s.ids);
	free(s.len);
	arch_free(&a);
	return EXIT_DONE;
}
