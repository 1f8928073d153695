/*
 * tokenizer.c - loading, and questions about a tokenizer; tok_encode.c and tok_decode.c do the work
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include "../base/outfile.h"
#include "artifact.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- loading */

/* The file without its two large members, for the DOM. */
static json_t *small_dom(const char *json, size_t n, const struct json_cut *c, json_error_t *je)
{
	struct { const char *lo, *hi, *instead; } cut[2] = {
		{ c->vocab, c->vocab_end, "{}" }, { c->merges, c->merges_end, "[]" }
	};
	if (c->vocab && c->merges && c->merges < c->vocab) {
		cut[0].lo = c->merges, cut[0].hi = c->merges_end, cut[0].instead = "[]";
		cut[1].lo = c->vocab, cut[1].hi = c->vocab_end, cut[1].instead = "{}";
	}
	char *s = xmalloc(n + 8);
	size_t k = 0;
	const char *p = json;
	for (int i = 0; i < 2; i++) {
		if (!cut[i].lo)
			continue;
		memcpy(s + k, p, (size_t)(cut[i].lo - p));
		k += (size_t)(cut[i].lo - p);
		memcpy(s + k, cut[i].instead, 2);
		k += 2;
		p = cut[i].hi;
	}
	memcpy(s + k, p, (size_t)(json + n - p));
	k += (size_t)(json + n - p);
	json_t *root = json_loadb(s, k, 0, je);
	free(s);
	return root;
}

/* bos_token / eos_token of tokenizer_config.json: a spelling or an added token object. */
static int64_t named_token(const struct tokenizer *t, const json_t *cfg, const char *key)
{
	const json_t *v = json_object_get(cfg, key);
	const char *s = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
	return s ? tok_find(t, s) : -1;
}

static int64_t numbered_token(const json_t *cfg, const char *key)
{
	const json_t *v = json_object_get(cfg, key);
	if (json_is_array(v))
		v = json_array_get(v, 0);
	return json_is_integer(v) ? (int64_t)json_integer_value(v) : -1;
}

static void ends_of_text(struct tokenizer *t)
{
	static const char *const file[] = { "tokenizer_config.json", "generation_config.json", "config.json" };
	const char *slash = strrchr(t->path, '/');
	for (int i = 0; i < 3; i++) {
		char *path = slash ? xasprintf("%.*s/%s", (int)(slash - t->path), t->path, file[i]) : xstrdup(file[i]);
		json_t *cfg = json_load_file(path, 0, NULL);   /* absent or unreadable: the next one may say */
		if (t->bos < 0)
			t->bos = i ? numbered_token(cfg, "bos_token_id") : named_token(t, cfg, "bos_token");
		if (t->eos < 0)
			t->eos = i ? numbered_token(cfg, "eos_token_id") : named_token(t, cfg, "eos_token");
		json_decref(cfg);
		free(path);
	}
	if (t->bos >= tok_vocab_size(t))
		t->bos = -1;
	if (t->eos >= tok_vocab_size(t))
		t->eos = -1;
}

static int load_json(struct tokenizer *t, const char *json, size_t n, struct err *e)
{
	struct json_cut cut;
	json_error_t je;
	json_t *root = NULL;
	if (json_cut_model(json, n, &cut) || !(root = small_dom(json, n, &cut, &je)))
		return err_set(e, EXIT_DATA, "%s: not a tokenizer.json: unreadable JSON", t->path);
	const char *type = tok_part_type(json_object_get(root, "model"));
	bool unigram = type && !strcmp(type, "Unigram");
	int rc = type && !unigram && strcmp(type, "BPE") ? tok_refuse(t, "model", type, e) : 0;
	t->bpe.kind = unigram ? MODEL_UNIGRAM : MODEL_BYTES;
	if (!rc)
		rc = unigram ? tok_load_unigram(t, &cut, e) : tok_load_vocab(t, &cut, e);
	if (!rc)
		rc = tok_load_parts(t, root, e);
	json_decref(root);
	return rc;
}

/* A directory's tokenizer.json, or without one its tokenizer.model. */
static char *find_file(const char *dir_or_file)
{
	struct stat st;
	if (stat(dir_or_file, &st) || !S_ISDIR(st.st_mode))
		return xstrdup(dir_or_file);
	char *json = xasprintf("%s/tokenizer.json", dir_or_file), *spm = xasprintf("%s/tokenizer.model", dir_or_file);
	bool use_spm = stat(json, &st) && !stat(spm, &st);
	free(use_spm ? json : spm);
	return use_spm ? spm : json;
}

/* JSON starts with a brace, a SentencePiece model with the tag of its first piece. */
static bool is_spm(const char *data, size_t n)
{
	return n > 1 && data[0] == 0x0A && data[1] != '{' && data[1] != '\n' && data[1] != ' ' && data[1] != '\t' && data[1] != '\r';
}

struct tokenizer *tok_load(const char *dir_or_file, struct err *e)
{
	size_t n;
	char *path = find_file(dir_or_file), *data = file_read_new(path, (size_t)1 << 30, &n, e);
	if (!data) {
		free(path);
		return NULL;
	}
	struct tokenizer *t = xcalloc(1, sizeof *t);
	t->path = path;
	t->bos = t->eos = -1;
	digest_hex(data, n, t->digest);
	tok_unicode_init();
	int rc = is_spm(data, n) ? tok_load_spm(t, data, n, e) : load_json(t, data, n, e);
	free(data);
	if (rc) {
		tok_free(t);
		return NULL;
	}
	tok_fill_bytes(t);
	ends_of_text(t);
	return t;
}

void tok_free(struct tokenizer *t)
{
	if (!t)
		return;
	for (int i = 0; i < t->n_steps; i++)
		pattern_free(&t->step[i].find);
	for (int i = 0; i < t->n_norms; i++) {
		pattern_free(&t->norm_op[i].find);
		charsmap_free(t->norm_op[i].map);
		free(t->norm_op[i].text);
	}
	for (int i = 0; i < t->n_decos; i++) {
		pattern_free(&t->deco[i].find);
		free(t->deco[i].text);
	}
	free(t->bpe.char_id);
	free(t->bpe.joins);
	free(t->bpe.score);
	free(t->bpe.leaf);
	free(t->bpe.tok);
	free(t->bpe.vslot);
	free(t->bpe.mslot);
	free(t->added);
	free(t->raw.v);
	free(t->norm.v);
	free(t->pre);
	free(t->post);
	arena_free(&t->text);
	free(t->path);
	free(t);
}

struct tok_scratch *tok_scratch_new(const struct tokenizer *t)
{
	struct tok_scratch *s = xcalloc(1, sizeof *s);
	s->t = t;
	s->cache = big_alloc(sizeof *s->cache << CACHE_BITS);
	return s;
}

void tok_scratch_free(struct tok_scratch *s)
{
	if (!s)
		return;
	big_free(s->cache, sizeof *s->cache << CACHE_BITS);
	for (int i = 0; i < MAX_STEPS; i++) {
		free(s->piece[i]);
		norm_buf_free(&s->step_buf[i]);
	}
	pcre2_match_data_free(s->md);
	norm_buf_free(&s->norm_buf[0]);
	norm_buf_free(&s->norm_buf[1]);
	free(s->sym);
	free(s->heap);
	free(s->best);
	free(s->clean);
	free(s);
}

/* ---- questions */

const char *tok_bytes(const struct tokenizer *t, uint32_t id, size_t *len)
{
	if (id >= t->bpe.n_ids || !t->bpe.tok[id].spell)
		return NULL;
	*len = t->bpe.tok[id].bytes_len;
	return t->bpe.tok[id].bytes;
}

const char *tok_spelling(const struct tokenizer *t, uint32_t id)
{
	return id < t->bpe.n_ids ? t->bpe.tok[id].spell : NULL;
}

void tok_strings(const struct tokenizer *t, char digest[33])
{
	size_t n = 0, cap = 1 << 16;
	char *all = xmalloc(cap);
	for (int64_t id = 0; id < tok_vocab_size(t); id++) {
		const char *s = tok_spelling(t, (uint32_t)id);
		size_t k = s ? strlen(s) + 1 : 2; /* an id without a token: NUL and a byte that UTF-8 never has */
		if (n + k > cap)
			all = xrealloc(all, cap = 2 * (n + k), 1);
		memcpy(all + n, s ? s : "\0\xff", k);
		n += k;
	}
	digest_hex(all, n, digest);
	free(all);
}

int64_t tok_find(const struct tokenizer *t, const char *spelling)
{
	for (int i = 0; i < t->n_added; i++)
		if (!strcmp(t->added[i].content, spelling))
			return t->added[i].id;
	uint32_t id = bpe_find(&t->bpe, spelling, strlen(spelling));
	return id == NO_ID ? -1 : (int64_t)id;
}

int64_t tok_vocab_size(const struct tokenizer *t)
{
	return t->bpe.n_ids;
}

int64_t tok_bos(const struct tokenizer *t)
{
	return t->bos;
}

int64_t tok_eos(const struct tokenizer *t)
{
	return t->eos;
}

const char *tok_digest(const struct tokenizer *t)
{
	return t->digest;
}

const char *tok_path(const struct tokenizer *t)
{
	return t->path;
}
