/*
 * generate.c - continuations of prompts by one model, or by several side by side
 *
 *	generate -m student --prompt 'The capital of France is'
 *	generate -m teacher -m student prompts.jsonl --format md -o compare.md
 *
 * Prompts are JSON lines with a field "prompt", lines of a .txt file, or operands of --prompt.  Each model gets the same
 * prompts with its own tokenizer; models are loaded one after the other.  Output: a JSON object per continuation, the bare
 * text, or a Markdown page that puts what the models write one below the other.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/base/outfile.h"
#include "../common/eval/complete.h"
#include "../common/io/jsontext.h"
#include "../common/io/text.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static struct {
	struct opt_list model, prompt, stop;
	const char *field, *format;
	int64_t max_new, batch, samples;
	double temperature, top_p;
	bool no_eos;
} o = { .field = "prompt", .format = "jsonl", .max_new = 128, .batch = 8, .samples = 1, .top_p = 1 };
static const struct opt opts[] = {
	OPT_LIST('m', "model", &o.model, "DIR", "model directory; several: one after the other"),
	OPT_LIST('p', "prompt", &o.prompt, "TEXT", "a prompt"),
	OPT_STR(0, "field", &o.field, "NAME", "field of a JSON line that holds the prompt"),
	OPT_I64(0, "max-new", &o.max_new, "N", "tokens to write at most", 1, 1 << 20),
	OPT_LIST(0, "stop", &o.stop, "TEXT", "end where this appears; not part of the text"),
	OPT_FLAG(0, "no-eos", &o.no_eos, "write on after the end-of-text token"),
	OPT_F64(0, "temperature", &o.temperature, "T", "draw tokens from softmax(logits / T), 0: the likeliest", 0, 1e3),
	OPT_F64(0, "top-p", &o.top_p, "P", "draw from the likeliest tokens that make up P", 0, 1),
	OPT_I64(0, "samples", &o.samples, "N", "continuations of each prompt", 1, 1 << 16),
	OPT_I64(0, "batch", &o.batch, "N", "sequences written at a time; changes the speed, not the result", 1, GEN_SLOTS),
	OPT_CHOICE(0, "format", &o.format, "jsonl|text|md", "JSON lines, bare texts, or a page to read"),
	OPT_OUT_ROW("where the continuations go (stdout)"),
	OPT_DEVICE_ROWS, OPT_SEED_ROW, OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"generate", "continues prompts with one model, or with several side by side",
	"-m DIR [-m DIR]... (--prompt TEXT | FILE...) [-o OUT]",
	"generate -m student --prompt 'Once upon a time' --format text\n"
	"generate -m teacher -m student prompts.jsonl --max-new 200 --format md -o compare.md", opts
};

struct prompts {
	char **text;
	size_t *len;
	int64_t n;
};
struct output {                /* of one model */
	char *name;            /* last component of its directory */
	struct output_text {
		char *text;
		json_t *ids;
		int64_t tokens;
		double logprob;
		enum gen_end end;
	} *r;                  /* [prompts * samples] */
};
static const char *const end_word[] = { "limit", "eos", "stop" };

static void prompt_add(struct prompts *q, const char *s, size_t n)
{
	q->text = xrealloc(q->text, (size_t)q->n + 1, sizeof *q->text);
	q->len = xrealloc(q->len, (size_t)q->n + 1, sizeof *q->len);
	q->text[q->n] = xmalloc(n + 1);
	memcpy(q->text[q->n], s, n);
	q->text[q->n][n] = 0;
	q->len[q->n++] = n;
}

static int line_add(struct prompts *q, const char *line, size_t n, int plain, struct err *e)
{
	json_error_t je;
	if (plain) {
		if (utf8_check(line, n) >= 0)
			return err_set(e, EXIT_DATA, "not UTF-8");
		prompt_add(q, line, n);
		return 0;
	}
	json_t *j = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
	const json_t *text = json_object_get(j, o.field);
	int rc = 0;
	if (!j)
		rc = err_set(e, EXIT_DATA, "not JSON: %s (column %d)", je.text, je.column);
	else if (!json_is_string(text))
		rc = err_set(e, EXIT_DATA, "'%s' must be a string", o.field);
	else
		prompt_add(q, json_string_value(text), json_string_length(text));
	json_decref(j);
	return rc;
}

static int file_add(struct prompts *q, const char *path, struct err *e)
{
	enum { MAX_FILE = 1 << 30 };
	size_t n, len = strlen(path);
	int plain = len > 4 && !strcmp(path + len - 4, ".txt");
	char *text = file_read_new(path, MAX_FILE, &n, e);
	if (!text)
		return -1;
	int rc = 0;
	int64_t number = 1;
	for (const char *line = text, *eol; line < text + n && !rc; line = eol + 1, number++) {
		eol = memchr(line, '\n', (size_t)(text + n - line));
		eol = eol ? eol : text + n;
		if (text_rstrip(line, (size_t)(eol - line)))
			rc = line_add(q, line, (size_t)(eol - line), plain, e);
	}
	free(text);
	return rc ? err_wrap(e, "%s:%lld", path, (long long)number - 1) : 0;
}

static char *last_component_new(const char *path)
{
	size_t n = strlen(path), i;
	while (n > 1 && path[n - 1] == '/')
		n--;
	for (i = n; i > 0 && path[i - 1] != '/';)
		i--;
	return xasprintf("%.*s", (int)(n - i), path + i);
}

static void step(void *arg, int64_t tokens)
{
	progress_step(arg, (double)tokens);
}

static int add_all(struct complete_set *s, const struct prompts *q, struct err *e)
{
	struct complete_how how = { o.max_new, o.temperature, o.top_p, o.stop.v, o.stop.n };
	for (int64_t i = 0; i < q->n * o.samples; i++)
		if (complete_add(s, q->text[i / o.samples], q->len[i / o.samples], &how, e))
			return err_wrap(e, "prompt %lld", (long long)(i / o.samples));
	return 0;
}

static void keep_results(struct output *out, struct complete_set *s)
{
	out->r = xcalloc((size_t)s->g.n, sizeof *out->r);
	for (int64_t i = 0; i < s->g.n; i++) {
		const struct gen_req *r = &s->g.r[i];
		out->r[i] = (struct output_text){ xstrdup(s->r[i].text), json_array(), r->n_out, r->logprob, r->end };
		for (int64_t k = 0; k < r->n_out; k++)
			json_array_append_new(out->r[i].ids, json_integer(r->out[k]));
	}
}

static void say_plan(const struct complete_set *s, const struct ptable *t, const char *name)
{
	struct gen_cost c;
	char b1[32], b2[32], b3[32];
	int dtype = dtype_parse(com.dtype);
	double w = (double)t->elems * (double)dtype_size(dtype);
	gen_cost(&s->g, &t->arch, dtype, o.batch, &c);
	if (!strcmp(com.dry_run, "json"))
		printf("{\"model\": \"%s\", \"continuations\": %lld, \"tokens\": %lld, \"weights_bytes\": %.0f, \"cache_bytes\": "
		       "%lld, \"flops\": %.6g}\n", name, (long long)s->g.n, (long long)c.tokens, w, (long long)c.kv_bytes, c.flops);
	else
		printf("%s: %lld continuations, at most %lld tokens; weights %s, cache %s, %s FLOP\n", name, (long long)s->g.n,
		       (long long)c.tokens, fmt_bytes(b1, w), fmt_bytes(b2, (double)c.kv_bytes), fmt_count(b3, c.flops));
}

static int run_model(const struct prompts *q, const char *dir, struct engine *g, struct output *out, struct err *e)
{
	struct arch a;
	struct encoder enc = { 0 };
	struct complete_set s = { 0 };
	struct weights m = { 0 };
	struct progress pr;
	struct gen_cost c;
	struct gen_opts how = { .slots = o.batch, .seed = (uint64_t)com.seed, .step = step, .step_arg = &pr };
	out->name = last_component_new(dir);
	if (arch_load(&a, dir, e))
		return -1;
	struct ptable *t = ptable_new(&a);
	int64_t max = a.max_positions > 0 ? a.max_positions : 2048, vocab = a.vocab;
	arch_free(&a);
	struct tokenizer *tok = tok_load(dir, e);
	int rc = !tok || encoder_open(&enc, tok, max, vocab, e) || complete_open(&s, &enc, dir, e) || add_all(&s, q, e) ? -1 : 0;
	if (!rc && com.dry_run) {
		say_plan(&s, t, out->name);
	} else if (!rc) {
		if (o.no_eos) {
			s.n_eos = 0;
			*s.eos_text = 0;
		}
		gen_cost(&s.g, &t->arch, DT_F32, o.batch, &c);
		progress_start(&pr, out->name, (double)c.tokens, "tok", 0);
		rc = weights_load(&m, g, dir, dtype_parse(com.dtype), e) ||
		     complete_run(&s, &m, &how, e) ? -1 : 0;
		progress_end(&pr);
		weights_free(&m);
		if (!rc)
			keep_results(out, &s);
	}
	complete_close(&s);
	encoder_close(&enc);
	tok_free(tok);
	ptable_free(t);
	return rc;
}

static int put_json(struct outfile *f, const struct prompts *q, const struct output *m, int64_t i, struct err *e)
{
	const struct output_text *r = &m->r[i];
	json_t *j = json_pack("{s:s,s:I,s:I,s:s,s:s,s:O,s:f,s:s}", "model", m->name, "prompt_id", (json_int_t)(i / o.samples),
			      "sample", (json_int_t)(i % o.samples), "prompt", q->text[i / o.samples], "text", r->text, "ids",
			      r->ids, "logprob", r->logprob, "end", end_word[r->end]);
	char *text = json_text_new(j, 0);
	int rc = outfile_write(f, text, strlen(text), e);
	free(text);
	json_decref(j);
	return rc;
}

/* Text between fences that are longer than any run of backquotes in it */
static int put_fenced(struct outfile *f, const char *s, struct err *e)
{
	int run = 0, longest = 2;
	for (const char *c = s; *c; c++) {
		run = *c == '`' ? run + 1 : 0;
		longest = run > longest ? run : longest;
	}
	char *fence = xmalloc((size_t)longest + 2);
	memset(fence, '`', (size_t)longest + 1);
	fence[longest + 1] = 0;
	size_t n = strlen(s);
	int rc = outfile_printf(f, e, "%stext\n%s%s%s\n\n", fence, s, n && s[n - 1] == '\n' ? "" : "\n", fence);
	free(fence);
	return rc;
}

static int put_page(struct outfile *f, const struct prompts *q, const struct output *m, struct err *e)
{
	int rc = outfile_printf(f, e, "# Side by side\n\n%lld prompts, at most %lld new tokens, ", (long long)q->n,
				(long long)o.max_new);
	if (!rc && o.temperature > 0)
		rc = outfile_printf(f, e, "temperature %g, top-p %g, seed %lld, ", o.temperature, o.top_p, (long long)com.seed);
	if (!rc)
		rc = outfile_printf(f, e, "%s, %s.\n\n| | model |\n|---|---|\n", o.temperature > 0 ? "drawn" : "greedy", com.dtype);
	for (int k = 0; k < o.model.n && !rc; k++)
		rc = outfile_printf(f, e, "| %c | %s |\n", 'A' + k, m[k].name);
	for (int64_t i = 0; i < q->n && !rc; i++) {
		rc = outfile_printf(f, e, "\n## Prompt %lld\n\n", (long long)i + 1) || put_fenced(f, q->text[i], e);
		for (int64_t k = 0; k < o.model.n * o.samples && !rc; k++) {
			const struct output *x = &m[k / o.samples];
			const struct output_text *r = &x->r[i * o.samples + k % o.samples];
			rc = outfile_printf(f, e, "**%c: %s** - %lld tokens, ended by %s, %.3f nats a token\n\n",
					    'A' + (int)(k / o.samples), x->name, (long long)r->tokens, end_word[r->end],
					    r->tokens ? -r->logprob / (double)r->tokens : 0.0) || put_fenced(f, r->text, e);
		}
	}
	return rc;
}

static int write_all(struct outfile *f, const struct prompts *q, const struct output *m, struct err *e)
{
	if (*o.format == 'm')
		return put_page(f, q, m, e);
	for (int k = 0; k < o.model.n; k++)
		for (int64_t i = 0; i < q->n * o.samples; i++)
			if (*o.format == 'j' ? put_json(f, q, &m[k], i, e) : outfile_printf(f, e, "%s\n", m[k].r[i].text))
				return -1;
	return 0;
}

static void free_all(struct prompts *q, struct output *m)
{
	for (int k = 0; k < o.model.n; k++) {
		for (int64_t i = 0; m[k].r && i < q->n * o.samples; i++) {
			free(m[k].r[i].text);
			json_decref(m[k].r[i].ids);
		}
		free(m[k].r);
		free(m[k].name);
	}
	for (int64_t i = 0; i < q->n; i++)
		free(q->text[i]);
	free(q->text);
	free(q->len);
	free(m);
}

int main(int argc, char **argv)
{
	struct err e;
	struct prompts q = { 0 };
	struct engine g = { 0 };
	struct outfile *f = NULL;
	int n = opt_parse(&use, argc, argv), rc = 0;
	if (!o.model.n)
		opt_die("-m is needed");
	if (!n && !o.prompt.n)
		opt_die("nothing to continue: --prompt or a file is needed");
	if (o.model.n > 26)
		opt_die("at most 26 models");
	for (int i = 0; i < o.stop.n; i++)
		if (!*o.stop.v[i])
			opt_die("--stop must not be empty");
	log_start();
	for (int i = 0; i < o.prompt.n; i++)
		prompt_add(&q, o.prompt.v[i], strlen(o.prompt.v[i]));
	for (int i = 0; i < n; i++)
		if (file_add(&q, argv[i], &e))
			die_err(&e);
	if (!q.n)
		die(EXIT_DATA, "%s: no prompts", argv[0]);
	struct output *m = xcalloc((size_t)o.model.n, sizeof *m);
	if (!com.dry_run && (!(f = outfile_open(com.out, false, com.force, &e)) ||
			     engine_open(&g, com.device, (int)com.threads, &e)))
		die_err(&e);
	int64_t tokens = 0;
	for (int k = 0; k < o.model.n && !rc; k++) {
		rc = run_model(&q, o.model.v[k], &g, &m[k], &e);
		for (int64_t i = 0; m[k].r && i < q.n * o.samples; i++)
			tokens += m[k].r[i].tokens;
	}
	if (f && (rc || write_all(f, &q, m, &e))) {
		outfile_abort(f);
		die_err(&e);
	}
	if (rc || (f && outfile_commit(f, &e)))
		die_err(&e);
	if (f)
		log_summary("%d models, %lld prompts, %lld tokens written", o.model.n, (long long)q.n, (long long)tokens);
	if (g.k)
		engine_close(&g);
	free_all(&q, m);
	return EXIT_DONE;
}
