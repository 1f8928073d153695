/*
 * calib-sample - text to samples of token ids: what every later stage measures and trains on
 *
 * Reads text or JSONL documents (files, stdin, or a weighted list of sources), tokenizes them with the model's own
 * tokenizer, joins them with the end-of-text id between, cuts the stream into samples of --seq tokens and writes a
 * "tokens" artifact.  The choice depends on the seed and the texts alone.  Ids are held in memory (two bytes each for
 * vocabularies up to 65536), text is not; with --no-shuffle and one source samples are written as they come and memory
 * stays where it is.
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
	const char *tok, *field, *sources, *format, *documents, *split, *eos, *chat;
	int64_t samples, seq, min_tokens, strata;
	double valid_fraction;
	bool no_pack, no_shuffle, dedup, special;
} o = { .samples = 1024, .seq = 4096, .chat = "none", .strata = 1, .format = "auto", .documents = "file", .split = "all",
	.valid_fraction = 0.02, .min_tokens = 1 };
static const struct opt opts[] = {
	OPT_STR('t', "tokenizer", &o.tok, "DIR", "model directory whose tokenizer cuts the text"),
	OPT_OUT_ROW("token set to write"),
	OPT_I64(0, "samples", &o.samples, "N", "samples to write, 0: all that the text gives", 0, 1e12),
	OPT_I64(0, "seq", &o.seq, "T", "tokens per sample", 1, 1 << 24),
	OPT_STR(0, "field", &o.field, "NAME", "field of a JSONL line that holds the text; 'text' unless said, of conversations 'messages'"),
	OPT_CHOICE(0, "chat", &o.chat, "none|chatml|llama3|mistral", "the field holds a conversation: written with this template's marks"),
	OPT_STR(0, "sources", &o.sources, "FILE", "weighted sources: lines of 'weight path [field]', paths from FILE's folder"),
	OPT_CHOICE(0, "format", &o.format, "auto|text|jsonl", "of the inputs; auto goes by the name, then by the first byte"),
	OPT_CHOICE(0, "documents", &o.documents, "file|paragraph|line", "what one document is in plain text"),
	OPT_FLAG(0, "no-pack", &o.no_pack, "one document per sample, cut at --seq; shorter ones stay shorter"),
	OPT_FLAG(0, "no-shuffle", &o.no_shuffle, "documents in their order; reading stops when there are enough"),
	OPT_I64(0, "strata", &o.strata, "K", "K classes of documents by length, of equal count, taken in turn", 1, 1024),
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
	"calib-sample -t teacher --split train --samples 0 corpus.jsonl -o train.tok\n"
	"calib-sample -t teacher --chat chatml --strata 8 --samples 512 chats.jsonl.zst -o chat.tok", opts
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

static enum chat_kind chat_kind(void)
{
	return !strcmp(o.chat, "chatml") ? CHAT_CHATML : !strcmp(o.chat, "llama3") ? CHAT_LLAMA3 : !strcmp(o.chat, "mistral") ? CHAT_MISTRAL :
	       CHAT_NONE;
}

static void check_chat(const struct tokenizer *t)
{
	const char *mark;
	for (int i = 0; (mark = chat_mark(chat_kind(), i)); i++)
		if (tok_find(t, mark) < 0)
			die(EXIT_DATA, "%s: has no token '%s', which --chat %s needs", tok_path(t), mark, o.chat);
}

/* Samples can be written as they come: their order is that of the text. */
static bool streams_out(const struct inputs *in)
{
	return o.no_shuffle && in->streams == 1 && o.strata == 1;
}

static struct pack_how how_of(const struct tokenizer *t, const struct inputs *in)
{
	return (struct pack_how){
		.seq = o.seq, .eos = end_id(t), .pack = !o.no_pack, .special = o.special, .dedup = o.dedup,
		.shuffle = !o.no_shuffle, .valid_fraction = o.valid_fraction, .min_tokens = o.min_tokens,
		.part = !strcmp(o.split, "all") ? PART_ALL : !strcmp(o.split, "train") ? PART_TRAIN : PART_VALID,
		.threads = (int)com.threads, .seed = (uint64_t)com.seed,
		.strata = (int)o.strata, .enough = streams_out(in) ? o.samples : 0,
	};
}

static void dry_run(const struct tokenizer *t, const struct inputs *in)
{
	char b[4][32];
	double tokens = in->bytes / 4, width = tok_vocab_size(t) > 65536 ? 4 : 2;   /* English: about 4 bytes a token */
	double out = o.samples ? (double)o.samples * (double)o.seq : tokens;
	double mem = (streams_out(in) ? 0 : tokens * width) + 64e6;
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

/* Where samples go: record by record into the artifact. */
struct sink {
	struct art_w *w;
	bool wide;
	int64_t tokens;
};

static int put_sample(void *arg, int64_t i, const void *ids, int64_t n, int64_t doc)
{
	struct err e;
	struct sink *k = arg;
	k->tokens += n;
	art_map(k->w, 3);
	art_key(k->w, "i");
	art_int(k->w, i);
	art_key(k->w, "ids");
	art_array(k->w, k->wide ? ART_U32 : ART_U16, 1, &n, ids);
	art_key(k->w, "doc");
	art_int(k->w, doc);
	if (art_end_record(k->w, &e))
		die_err(&e);
	return 0;
}

struct bar {
	struct progress p;
	int64_t before;
	struct stream *s;              /* NULL: samples are drawn when all is read */
	const struct pack_how *how;
	struct sink *sink;
	const struct tokenizer *t;
	const struct inputs *in;
	bool begun;
};

/* samples 0: not known yet */
static void put_meta(struct art_w *w, const struct tokenizer *t, const struct pack_how *how, int64_t samples, const struct inputs *in)
{
	char *names = xstrdup(""), strings[33];
	for (int i = 0; i < in->n && i < 64; i++) {
		const char *base = strrchr(in->v[i].path, '/') ? strrchr(in->v[i].path, '/') + 1 : in->v[i].path;
		char *longer = o.sources ? xasprintf("%s%s%s:%g", names, i ? "," : "", base, in->weight[i])
					 : xasprintf("%s%s%s", names, i ? "," : "", base);
		free(names);
		names = longer;
	}
	art_meta_str(w, "tokenizer", tok_digest(t));
	tok_strings(t, strings);
	art_meta_str(w, "strings", strings);
	art_meta_int(w, "vocab", tok_vocab_size(t));
	art_meta_int(w, "seq", o.seq);
	if (samples)
		art_meta_int(w, "samples", samples);
	art_meta_int(w, "eos", how->eos);
	art_meta_int(w, "pack", how->pack);
	art_meta_str(w, "sources", names);
	free(names);
}

/* Writes the samples that are there; the header goes first, without the digests of texts that are not read yet. */
static int give(struct bar *b, int64_t samples)
{
	if (!b->begun)
		put_meta(b->sink->w, b->t, b->how, samples, b->in);
	b->begun = true;
	return stream_give(b->s, b->how, o.samples, put_sample, b->sink);
}

/* Small texts are read as a whole, so that the header can name all there is to name. */
static int on_progress(void *arg, int64_t bytes)
{
	enum { HOLD_IDS = 1 << 22 };
	struct bar *b = arg;
	progress_step(&b->p, (double)(b->before + bytes));
	return b->s && (b->begun || b->s->n > HOLD_IDS) ? give(b, o.samples) : 0;
}

/* All inputs into their streams; digests go to the provenance (one for the lot when there are too many). */
static void read_all(struct packer *p, const struct inputs *in, struct stream *s, struct bar *bar, struct prov *prov)
{
	struct err e;
	char *all = xcalloc((size_t)in->n + 1, 33);
	int rc = 0, i;
	const int room = (int)(sizeof prov->in / sizeof *prov->in) - 2;
	progress_start(&bar->p, "bytes", in->bytes, "B", 1);
	for (i = 0; i < in->n && rc != 1; i++) {
		struct corpus_how how = { .field = in->v[i].field, .chat = chat_kind() };
		how.format = !strcmp(o.format, "auto") ? CORPUS_AUTO : !strcmp(o.format, "text") ? CORPUS_TEXT : CORPUS_JSONL;
		how.doc = !strcmp(o.documents, "file") ? CORPUS_FILE : !strcmp(o.documents, "line") ? CORPUS_LINE : CORPUS_PARAGRAPH;
		struct corpus *c = corpus_open(in->v[i].path, &how, &e);
		if (!c || (rc = packer_read(p, &s[in->v[i].stream], c, on_progress, bar, &e)) < 0)
			die_err(&e);
		corpus_digest(c, all + (size_t)i * 32);
		on_progress(bar, corpus_bytes(c));
		bar->before += corpus_bytes(c);
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
	progress_end(&bar->p);
	free(all);
}

static void write_all(struct sink *k, const struct draw *d)
{
	struct draw_pos pos = { { 0 } };
	void *ids = xcalloc((size_t)d->how->seq, 4);
	int64_t doc, before[MAX_STREAMS] = { 0 };
	for (int i = 1; i < d->n; i++)
		before[i] = before[i - 1] + d->s[i - 1].docs;
	for (int64_t i = 0; i < d->samples; i++) {
		int64_t n = draw_sample(d, &pos, i, ids, &doc);
		put_sample(k, i, ids, n, before[d->from[i]] + doc);
	}
	free(ids);
}

static void summary(const struct stream *s, int n, int64_t samples, int64_t tokens)
{
	struct stream sum = { 0 };
	char b[32];
	for (int k = 0; k < n; k++) {
		sum.docs += s[k].docs + s[k].given_docs;
		sum.n += s[k].n + s[k].given_ids;
		sum.held_out += s[k].held_out;
		sum.repeated += s[k].repeated;
		sum.too_short += s[k].too_short;
	}
	log_verbose("%lld documents passed over for --split, %lld repeated, %lld too short", (long long)sum.held_out,
		    (long long)sum.repeated, (long long)sum.too_short);
	log_summary("%lld samples (%lld tokens) from %lld documents of %s tokens, %lld skipped", (long long)samples,
		    (long long)tokens, (long long)sum.docs, fmt_count(b, (double)sum.n),
		    (long long)(sum.held_out + sum.repeated + sum.too_short));
}

/* Samples of all streams in their drawn order; returns how many. */
static int64_t draw_all(const struct tokenizer *t, const struct pack_how *how, const struct stream *s, const struct inputs *in, struct sink *k)
{
	struct err e;
	struct draw d;
	if (draw_new(&d, how, s, in->weight, in->streams, o.samples, &e))
		die_err(&e);
	put_meta(k->w, t, how, d.samples, in);
	write_all(k, &d);
	int64_t samples = d.samples;
	draw_free(&d);
	return samples;
}

int main(int argc, char **argv)
{
	struct err e;
	struct inputs in = { 0 };
	struct prov prov = { 0 };
	struct stream s[MAX_STREAMS];
	int n = opt_parse(&use, argc, argv);
	if (!o.tok)
		opt_die("-t DIR is needed");
	log_start();
	inputs_init(&in, argv, n);
	struct tokenizer *t = tok_load(o.tok, &e);
	if (!t)
		die_err(&e);
	struct pack_how how = how_of(t, &in);
	check_chat(t);
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
	struct sink sink = { .w = w, .wide = tok_vocab_size(t) > 65536 };
	struct bar bar = { .s = streams_out(&in) ? s : NULL, .how = &how, .sink = &sink, .t = t, .in = &in };
	read_all(p, &in, s, &bar, &prov);
	packer_free(p);
	if (bar.s)
		give(&bar, o.samples ? o.samples : how.pack ? s->n / how.seq : s->docs);
	int64_t samples = bar.s ? s->given : draw_all(t, &how, s, &in, &sink);
	if (bar.s && (samples < o.samples || !samples)) {
		too_little(&e, s, &how, o.samples ? o.samples : 1, samples, 0);
		die_err(&e);
	}
	if (art_commit(w, &e))
		die_err(&e);
	summary(s, in.streams, samples, sink.tokens);
	for (int k = 0; k < in.streams; k++)
		stream_free(&s[k]);
out:
	source_list_free(&in.list);
	free(in.v);
	free(in.weight);
	tok_free(t);
	return EXIT_DONE;
}
