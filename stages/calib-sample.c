/*
 * calib-sample - text to samples of token ids: what every later stage measures and trains on
 *
 * Reads text or JSONL documents (files, stdin, or a weighted list of sources), tokenizes them with the model's own
 * tokenizer, joins them with the end-of-text id between, cuts the stream into samples of --seq tokens and writes a
 * "tokens" artifact.  The choice depends on the seed and the texts alone.  Ids are held in memory (two bytes each for
 * vocabularies up to 65536), text is not.
 *
 *	calib-sample -t teacher --samples 1024 --seq 4096 corpus.jsonl -o calib.tok
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/io/artifact.h"
#include "../common/io/tokpack.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct {
	const char *tok, *field, *sources, *format, *documents, *split, *eos;
	int64_t samples, seq, min_tokens;
	double valid_fraction;
	bool no_pack, no_shuffle, dedup, special;
} o = { .samples = 1024, .seq = 4096, .field = "text", .format = "auto", .documents = "file", .split = "all",
	.valid_fraction = 0.02, .min_tokens = 1 };
static const struct opt opts[] = {
	OPT_STR('t', "tokenizer", &o.tok, "DIR", "model directory whose tokenizer.json cuts the text"),
	OPT_OUT_ROW("token set to write"),
	OPT_I64(0, "samples", &o.samples, "N", "samples to write, 0: all that the text gives", 0, 1e12),
	OPT_I64(0, "seq", &o.seq, "T", "tokens per sample", 1, 1 << 24),
	OPT_STR(0, "field", &o.field, "NAME", "field of a JSONL line that holds the text"),
	OPT_STR(0, "sources", &o.sources, "FILE", "weighted sources: lines of 'weight path [field]', paths from FILE's folder"),
	OPT_CHOICE(0, "format", &o.format, "auto|text|jsonl", "of the inputs; auto goes by the name, then by the first byte"),
	OPT_CHOICE(0, "documents", &o.documents, "file|paragraph|line", "what one document is in plain text"),
	OPT_FLAG(0, "no-pack", &o.no_pack, "one document per sample, cut at --seq; shorter ones stay shorter"),
	OPT_FLAG(0, "no-shuffle", &o.no_shuffle, "documents in their order; reading stops when there are enough"),
	OPT_STR(0, "eos", &o.eos, "TOKEN", "end-of-text token or id between packed documents; 'none' for none"),
	OPT_FLAG(0, "special", &o.special, "add to each document what the post-processor adds (begin-of-text)"),
	OPT_CHOICE(0, "split", &o.split, "all|train|valid", "keep the documents of one part, by a hash of their text"),
	OPT_F64(0, "valid-fraction", &o.valid_fraction, "F", "share of documents in the valid part", 0, 1),
	OPT_FLAG(0, "dedup", &o.dedup, "drop documents that came before, byte for byte"),
	OPT_I64(0, "min-tokens", &o.min_tokens, "N", "pass over shorter documents", 1, 1 << 24),
	OPT_SEED_ROW, OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"calib-sample", "Tokenizes text into samples of equal length, chosen by seed.",
	"-t DIR [TEXT | JSONL | -]... [-o TOKENS]",
	"calib-sample -t teacher --samples 256 --seq 1024 corpus.jsonl -o calib.tok\n"
	"calib-sample -t teacher --split train --samples 0 corpus.jsonl -o train.tok", opts
};

struct input { const char *path, *field; int stream; };

struct inputs {
	struct input *v;
	int n;
	double *weight;                /* per stream */
	int streams;
	struct source_list list;
	double bytes;                  /* of the regular files */
};

static void inputs_init(struct inputs *in, char **argv, int n)
{
	struct err e;
	if (o.sources && n)
		opt_die("--sources and operands exclude each other ('%s')", argv[0]);
	if (o.sources && source_list_read(o.sources, &in->list, &e))
		die_err(&e);
	in->n = o.sources ? in->list.n : n ? n : 1;
	in->streams = o.sources ? in->n : 1;
	if (in->streams > MAX_STREAMS)
		die(EXIT_DATA, "%s: %d sources, at most %d are possible", o.sources, in->streams, MAX_STREAMS);
	in->v = xcalloc((size_t)in->n, sizeof *in->v);
	in->weight = xcalloc((size_t)in->streams, sizeof *in->weight);
	in->weight[0] = 1;
	for (int i = 0; i < in->n; i++) {
		struct input *x = &in->v[i];
		struct stat st;
		*x = (struct input){ .path = n ? argv[i] : "-", .field = o.field };
		if (o.sources) {
			const struct source *s = &in->list.v[i];
			*x = (struct input){ .path = s->path, .field = s->field ? s->field : o.field, .stream = i };
			in->weight[i] = s->weight;
		}
		if (strcmp(x->path, "-") && stat(x->path, &st))
			die(EXIT_IO, "%s: no such file", x->path);
		else if (strcmp(x->path, "-") && S_ISDIR(st.st_mode))
			die(EXIT_DATA, "%s: is a directory; name its files", x->path);
		else if (strcmp(x->path, "-"))
			in->bytes += (double)st.st_size;
	}
}

static int64_t end_id(const struct tokenizer *t)
{
	char *stop;
	if (!o.eos && tok_eos(t) < 0 && !o.no_pack)
		die(EXIT_DATA, "%s: no end-of-text token is named beside it; choose one with --eos TOKEN or --eos none", tok_path(t));
	if (!o.eos)
		return tok_eos(t);
	if (!strcmp(o.eos, "none"))
		return -1;
	int64_t id = tok_find(t, o.eos);
	if (id < 0 && *o.eos >= '0' && *o.eos <= '9') {
		id = strtoll(o.eos, &stop, 10);
		if (*stop || id >= tok_vocab_size(t))
			id = -1;
	}
	if (id < 0)
		die(EXIT_DATA, "%s: has no token '%s' (--eos)", tok_path(t), o.eos);
	return id;
}

static struct pack_how how_of(const struct tokenizer *t, const struct inputs *in)
{
	return (struct pack_how){
		.seq = o.seq, .eos = end_id(t), .pack = !o.no_pack, .special = o.special, .dedup = o.dedup,
		.shuffle = !o.no_shuffle, .valid_fraction = o.valid_fraction, .min_tokens = o.min_tokens,
		.part = !strcmp(o.split, "all") ? PART_ALL : !strcmp(o.split, "train") ? PART_TRAIN : PART_VALID,
		.threads = (int)com.threads, .seed = (uint64_t)com.seed,
		.enough = o.no_shuffle && in->streams == 1 ? o.samples : 0,
	};
}

static void dry_run(const struct tokenizer *t, const struct inputs *in)
{
	char b[4][32];
	double tokens = in->bytes / 4, width = tok_vocab_size(t) > 65536 ? 4 : 2;   /* English: about 4 bytes a token */
	double out = o.samples ? (double)o.samples * (double)o.seq : tokens;
	double mem = tokens * width + 64e6;
	if (!strcmp(com.dry_run, "json"))
		printf("{\"inputs\": %d, \"input_bytes\": %.0f, \"vocab\": %lld, \"samples\": %lld, \"seq\": %lld, "
		       "\"tokens_about\": %.0f, \"memory_bytes\": %.0f, \"output_bytes\": %.0f, \"flops\": 0}\n",
		       in->n, in->bytes, (long long)tok_vocab_size(t), (long long)o.samples, (long long)o.seq, tokens, mem,
		       out * width);
	else
		printf("%d inputs, %s, about %s tokens\n%lld samples of %lld tokens, up to %s\nmemory about %s, no FLOPs\n",
		       in->n, fmt_bytes(b[0], in->bytes), fmt_count(b[1], tokens), (long long)o.samples, (long long)o.seq,
		       fmt_bytes(b[2], out * width), fmt_bytes(b[3], mem));
}

struct bar { struct progress p; int64_t before; };

static int on_progress(void *arg, int64_t bytes)
{
	struct bar *b = arg;
	progress_step(&b->p, (double)(b->before + bytes));
	return 0;
}

/* All inputs into their streams; digests go to the provenance (one for the lot when there are too many). */
static void read_all(struct packer *p, const struct inputs *in, struct stream *s, struct prov *prov)
{
	struct err e;
	struct bar bar = { .before = 0 };
	char *all = xcalloc((size_t)in->n + 1, 33);
	int rc = 0, i;
	const int room = (int)(sizeof prov->in / sizeof *prov->in) - 2;
	progress_start(&bar.p, "bytes", in->bytes, "B", 1);
	for (i = 0; i < in->n && rc != 1; i++) {
		struct corpus_how how = { .field = in->v[i].field };
		how.format = !strcmp(o.format, "auto") ? CORPUS_AUTO : !strcmp(o.format, "text") ? CORPUS_TEXT : CORPUS_JSONL;
		how.doc = !strcmp(o.documents, "file") ? CORPUS_FILE : !strcmp(o.documents, "line") ? CORPUS_LINE : CORPUS_PARAGRAPH;
		struct corpus *c = corpus_open(in->v[i].path, &how, &e);
		if (!c || (rc = packer_read(p, &s[in->v[i].stream], c, on_progress, &bar, &e)) < 0)
			die_err(&e);
		corpus_digest(c, all + (size_t)i * 32);
		bar.before += corpus_bytes(c);
		if (in->n <= room) {
			char one[33];
			snprintf(one, sizeof one, "%s", all + (size_t)i * 32);
			prov_add_digest(prov, "text", corpus_name(c), "text", one);
		}
		corpus_close(c);
	}
	if (in->n > room) {
		char one[33], name[64];
		digest_hex(all, (size_t)i * 32, one);
		snprintf(name, sizeof name, "%d files", i);
		prov_add_digest(prov, "text", name, "text", one);
	}
	progress_end(&bar.p);
	free(all);
}

static void put_meta(struct art_w *w, const struct tokenizer *t, const struct draw *d, const struct inputs *in)
{
	char *names = xstrdup("");
	for (int i = 0; i < in->n && i < 64; i++) {
		const char *base = strrchr(in->v[i].path, '/') ? strrchr(in->v[i].path, '/') + 1 : in->v[i].path;
		char *longer = o.sources ? xasprintf("%s%s%s:%g", names, i ? "," : "", base, in->weight[i])
					 : xasprintf("%s%s%s", names, i ? "," : "", base);
		free(names);
		names = longer;
	}
	art_meta_str(w, "tokenizer", tok_digest(t));
	art_meta_int(w, "vocab", tok_vocab_size(t));
	art_meta_int(w, "seq", o.seq);
	art_meta_int(w, "samples", d->samples);
	art_meta_int(w, "eos", d->how->eos);
	art_meta_int(w, "pack", d->how->pack);
	art_meta_str(w, "sources", names);
	free(names);
}

static int64_t write_all(struct art_w *w, const struct draw *d)
{
	struct err e;
	struct draw_pos pos = { { 0 } };
	bool wide = d->s[0].wide;
	void *ids = xcalloc((size_t)d->how->seq, 4);
	int64_t doc, before[MAX_STREAMS] = { 0 }, tokens = 0;
	for (int k = 1; k < d->n; k++)
		before[k] = before[k - 1] + d->s[k - 1].docs;
	for (int64_t i = 0; i < d->samples; i++) {
		int64_t n = draw_sample(d, &pos, i, ids, &doc);
		tokens += n;
		art_map(w, 3);
		art_key(w, "i");
		art_int(w, i);
		art_key(w, "ids");
		art_array(w, wide ? ART_U32 : ART_U16, 1, &n, ids);
		art_key(w, "doc");
		art_int(w, before[d->from[i]] + doc);
		if (art_end_record(w, &e))
			die_err(&e);
	}
	free(ids);
	return tokens;
}

static void summary(const struct draw *d, int64_t tokens)
{
	struct stream sum = { 0 };
	char b[32];
	for (int k = 0; k < d->n; k++) {
		sum.docs += d->s[k].docs;
		sum.n += d->s[k].n;
		sum.held_out += d->s[k].held_out;
		sum.repeated += d->s[k].repeated;
		sum.too_short += d->s[k].too_short;
	}
	log_verbose("%lld documents passed over for --split, %lld repeated, %lld too short", (long long)sum.held_out,
		    (long long)sum.repeated, (long long)sum.too_short);
	log_summary("%lld samples (%lld tokens) from %lld documents of %s tokens, %lld skipped", (long long)d->samples,
		    (long long)tokens, (long long)sum.docs, fmt_count(b, (double)sum.n),
		    (long long)(sum.held_out + sum.repeated + sum.too_short));
}

int main(int argc, char **argv)
{
	struct err e;
	struct inputs in = { 0 };
	struct prov prov = { 0 };
	struct stream s[MAX_STREAMS];
	struct draw d;
	int n = opt_parse(&use, argc, argv);
	if (!o.tok)
		opt_die("-t DIR is needed");
	log_start();
	inputs_init(&in, argv, n);
	struct tokenizer *t = tok_load(o.tok, &e);
	if (!t)
		die_err(&e);
	struct pack_how how = how_of(t, &in);
	if (com.dry_run) {
		dry_run(t, &in);
		goto out;
	}
	prov.seed = com.seed;
	/* the header is made with the first record: digests of the texts get into it */
	struct art_w *w = art_create(com.out, "tokens", 1, &prov, com.force, &e);
	if (!w)
		die_err(&e);
	prov_add_digest(&prov, "tokenizer", tok_path(t), "tokenizer", tok_digest(t));
	memset(s, 0, sizeof s);
	struct packer *p = packer_new(t, &how);
	read_all(p, &in, s, &prov);
	packer_free(p);
	if (draw_new(&d, &how, s, in.weight, in.streams, o.samples, &e))
		die_err(&e);
	put_meta(w, t, &d, &in);
	int64_t tokens = write_all(w, &d);
	if (art_commit(w, &e))
		die_err(&e);
	summary(&d, tokens);
	draw_free(&d);
	for (int k = 0; k < in.streams; k++)
		stream_free(&s[k]);
out:
	source_list_free(&in.list);
	free(in.v);
	free(in.weight);
	tok_free(t);
	return EXIT_DONE;
}
