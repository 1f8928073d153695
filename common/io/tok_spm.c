/*
 * tok_spm.c - SentencePiece's .model file: a protobuf, read by hand
 *
 * ModelProto: pieces = 1 {piece = 1, score = 2 (float), type = 3}, trainer_spec = 2, normalizer_spec = 3.  Fields that
 * matter nothing for encoding are stepped over.  BPE pieces become a merge table: every way to cut a piece in two pieces
 * is a merge whose rank is the rank of the piece's score, so that equal scores go from left to right.  Ids equal those of
 * the sentencepiece library 0.2.3, to the last bit of its sums (tok_unigram.c); versions before score user-defined pieces of
 * Unigram models otherwise, compare sums before they are rounded and do not start them over.  Where a tokenizer_config.json beside it lists
 * added tokens, these are cut out first, as transformers does.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include "../base/outfile.h"
#include <jansson.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum piece_type { PIECE_NORMAL = 1, PIECE_UNKNOWN, PIECE_CONTROL, PIECE_USER, PIECE_UNUSED, PIECE_BYTE };
enum { SPM_UNIGRAM = 1, SPM_BPE = 2 };

struct field { uint32_t number, wire; uint64_t value; const char *data; size_t n; };
struct spm_piece { const char *text; size_t n; float score; int type; };
struct spm {
	struct spm_piece *piece;
	uint32_t n, cap;
	int64_t model_type, unk, bos, eos;
	bool suffix, byte_fallback, dummy_prefix, trim_spaces, escape;
	const char *charsmap;
	size_t charsmap_n;
};

static int varint(const char **p, const char *end, uint64_t *v)
{
	*v = 0;
	for (int shift = 0; shift < 64 && *p < end; shift += 7) {
		uint8_t c = (uint8_t)*(*p)++;
		*v |= (uint64_t)(c & 0x7F) << shift;
		if (c < 0x80)
			return 0;
	}
	return -1;
}

/* Next field of a message: 1, 0 at its end, -1 broken. */
static int next_field(const char **p, const char *end, struct field *f)
{
	uint64_t tag;
	if (*p == end)
		return 0;
	if (varint(p, end, &tag))
		return -1;
	*f = (struct field){ .number = (uint32_t)(tag >> 3), .wire = (uint32_t)(tag & 7) };
	if (f->wire == 0)
		return varint(p, end, &f->value) ? -1 : 1;
	if (f->wire == 2) {
		if (varint(p, end, &f->value) || f->value > (uint64_t)(end - *p))
			return -1;
		f->n = (size_t)f->value;
	} else {
		f->n = f->wire == 1 ? 8 : 4;
		if ((f->wire != 1 && f->wire != 5) || (size_t)(end - *p) < f->n)
			return -1;
	}
	f->data = *p;
	*p += f->n;
	return 1;
}

static int read_piece(struct spm *m, const char *p, const char *end)
{
	struct spm_piece x = { .type = PIECE_NORMAL };
	struct field f;
	size_t bad;
	int rc;
	while ((rc = next_field(&p, end, &f)) == 1) {
		if (f.number == 1 && f.wire == 2) {
			x.text = f.data;
			x.n = f.n;
		} else if (f.number == 2 && f.wire == 5) {
			memcpy(&x.score, f.data, 4);
		} else if (f.number == 3 && f.wire == 0) {
			x.type = f.value > PIECE_BYTE ? 0 : (int)f.value;
		}
	}
	if (rc || !x.n || !x.type || !isfinite(x.score) || (utf8_valid((const uint8_t *)x.text, x.n, &bad), bad) || m->n >= 1 << 24)
		return -1;
	if (m->n == m->cap) {
		m->cap = m->cap * 2 + 1024;
		m->piece = xrealloc(m->piece, m->cap, sizeof *m->piece);
	}
	m->piece[m->n++] = x;
	return 0;
}

static int read_trainer(struct spm *m, const char *p, const char *end)
{
	struct field f;
	int rc;
	while ((rc = next_field(&p, end, &f)) == 1) {
		if (f.wire)
			continue;
		int64_t v = (int32_t)f.value;
		switch (f.number) {
		case 3:  m->model_type = v; break;
		case 24: m->suffix = v; break;
		case 35: m->byte_fallback = v; break;
		case 40: m->unk = v; break;
		case 41: m->bos = v; break;
		case 42: m->eos = v; break;
		}
	}
	return rc;
}

static int read_normalizer(struct spm *m, const char *p, const char *end)
{
	struct field f;
	int rc;
	while ((rc = next_field(&p, end, &f)) == 1) {
		if (f.number == 2 && f.wire == 2) {
			m->charsmap = f.data;
			m->charsmap_n = f.n;
		}
		if (f.wire)
			continue;
		if (f.number == 3)
			m->dummy_prefix = f.value;
		else if (f.number == 4)
			m->trim_spaces = f.value;
		else if (f.number == 5)
			m->escape = f.value;
	}
	return rc;
}

static int read_model(struct spm *m, const char *p, const char *end)
{
	struct field f;
	int rc;
	*m = (struct spm){ .model_type = SPM_UNIGRAM, .bos = 1, .eos = 2, .dummy_prefix = true, .trim_spaces = true, .escape = true };
	while ((rc = next_field(&p, end, &f)) == 1) {
		if (f.wire != 2)
			continue;
		if ((f.number == 1 && read_piece(m, f.data, f.data + f.n)) || (f.number == 2 && read_trainer(m, f.data, f.data + f.n)) ||
		    (f.number == 3 && read_normalizer(m, f.data, f.data + f.n)))
			return -1;
	}
	return rc ? rc : m->n ? 0 : -1;
}

static int by_score(const void *x, const void *y)
{
	float a = *(const float *)x, b = *(const float *)y;
	return a > b ? -1 : a < b;
}

/* Rank of a score among all: the number of different higher ones, by binary search. */
static uint32_t rank_of(const float *v, uint32_t n, float score)
{
	uint32_t lo = 0, hi = n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (v[mid] > score)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool mergeable(const struct spm *m, uint32_t id)
{
	return id != NO_ID && m->piece[id].type == PIECE_NORMAL;
}

/* Runs twice: counts the merges, then adds them. */
static size_t merges(struct bpe *b, const struct spm *m, const float *scores, bool add)
{
	size_t n = 0;
	unsigned k;
	for (uint32_t id = 0; id < m->n; id++) {
		const struct spm_piece *x = &m->piece[id];
		if (x->type != PIECE_NORMAL)
			continue;
		uint32_t rank = add ? rank_of(scores, m->n, x->score) : 0;
		for (size_t i = (utf8_cp((const uint8_t *)x->text, &k), k); i < x->n; i += (utf8_cp((const uint8_t *)x->text + i, &k), k)) {
			uint32_t left = bpe_find(b, x->text, i), right = bpe_find(b, x->text + i, x->n - i);
			if (!mergeable(m, left) || !mergeable(m, right))
				continue;
			n++;
			if (add)
				bpe_merge_add(b, left, right, rank, id);
		}
	}
	return n;
}

static void bpe_model(struct tokenizer *t, const struct spm *m)
{
	struct bpe *b = &t->bpe;
	float *scores = xmalloc((size_t)m->n * sizeof *scores);
	for (uint32_t i = 0; i < m->n; i++)
		scores[i] = m->piece[i].score;
	qsort(scores, m->n, sizeof *scores, by_score);
	b->kind = MODEL_CHARS;
	b->fuse_unk = true;
	bpe_merges_init(b, merges(b, m, scores, false));
	merges(b, m, scores, true);
	free(scores);
	bpe_finish_chars(b);
	for (int c = 0; c < 0x10000; c++)        /* only normal pieces are characters of the text */
		if (!mergeable(m, b->char_id[c]))
			b->char_id[c] = NO_ID;
}

static void unigram_model(struct tokenizer *t, const struct spm *m)
{
	struct bpe *b = &t->bpe;
	size_t bytes = 0;
	float low = FLT_MAX;
	b->kind = MODEL_UNIGRAM;
	b->single = true;
	b->score = xcalloc((size_t)m->n + 1, sizeof *b->score);
	for (uint32_t i = 0; i < m->n; i++) {
		const struct spm_piece *x = &m->piece[i];
		bytes += x->n;
		b->score[i] = x->score;
		if (x->type != PIECE_NORMAL)
			continue;
		low = x->score < low ? x->score : low;
	}
	for (uint32_t i = 0; i < m->n; i++)      /* a user-defined piece is better than any way around it */
		if (m->piece[i].type == PIECE_USER)
			b->score[i] = (double)(float)(0.1 * (double)(m->piece[i].n - 1));
	b->unk_score = low - 10.0f;
	unigram_start(b, bytes);
	for (uint32_t i = 0; i < m->n; i++) {
		const struct spm_piece *x = &m->piece[i];
		if (x->type == PIECE_USER || x->type == PIECE_NORMAL)
			unigram_add(b, x->text, x->n, i);
	}
}

/* User-defined pieces as added tokens that match normalised text; control pieces have names but match nothing. */
static json_t *user_pieces(const struct spm *m)
{
	json_t *list = json_array();
	for (uint32_t i = 0; i < m->n; i++)
		if (m->piece[i].type == PIECE_USER)
			json_array_append_new(list, json_pack("{s:s%, s:I, s:b, s:b}", "content", m->piece[i].text, m->piece[i].n, "id",
							      (json_int_t)i, "normalized", 1, "special", 0));
	return list;
}

/* added_tokens_decoder of tokenizer_config.json, and what it says of begin and end ids. */
static int config(struct tokenizer *t, const struct spm *m, json_t *list, struct err *e)
{
	const char *slash = strrchr(t->path, '/'), *key;
	char *path = slash ? xasprintf("%.*s/tokenizer_config.json", (int)(slash - t->path), t->path) : xstrdup("tokenizer_config.json");
	json_t *cfg = json_load_file(path, 0, NULL), *x;
	free(path);
	json_object_foreach(json_object_get(cfg, "added_tokens_decoder"), key, x) {
		int64_t id;
		if (parse_i64(key, &id) || id < 0 || !json_is_object(x) || (id < m->n && m->piece[id].type == PIECE_USER))
			continue;
		json_object_set_new(x, "id", json_integer(id));
		json_object_set_new(x, "normalized", json_false());
		json_array_append(list, x);
	}
	if (tok_flag(cfg, "add_bos_token", true) && m->bos >= 0 && m->bos < m->n)
		tok_around(t, false, (uint32_t)m->bos);
	if (tok_flag(cfg, "add_eos_token", false) && m->eos >= 0 && m->eos < m->n)
		tok_around(t, true, (uint32_t)m->eos);
	int rc = tok_load_added(t, list, e);
	json_decref(cfg);
	return rc;
}

/* As Llama's tokenizer.json spells them. */
static void decoders(struct tokenizer *t, bool prefix)
{
	static const struct deco all[] = {
		{ .kind = DECO_REPLACE }, { .kind = DECO_BYTE_FALLBACK }, { .kind = DECO_FUSE }, { .kind = DECO_STRIP, .start = 1 }
	};
	for (t->n_decos = 0; t->n_decos < (prefix ? 4 : 3); t->n_decos++) {
		struct deco *d = &t->deco[t->n_decos];
		*d = all[t->n_decos];
		d->text = xstrdup(" ");
		d->text_n = 1;
		if (d->kind == DECO_REPLACE) {
			d->find.literal = xstrdup("\xe2\x96\x81");
			d->find.literal_len = 3;
		}
	}
}

static int fill(struct tokenizer *t, const struct spm *m, struct err *e)
{
	struct bpe *b = &t->bpe;
	const char *odd = m->model_type != SPM_BPE && m->model_type != SPM_UNIGRAM ? "model_type other than unigram and bpe" :
			  m->suffix ? "treat_whitespace_as_suffix" : !m->escape ? "escape_whitespaces off" : NULL;
	for (uint32_t i = 0; i < m->n && !odd; i++)
		if (m->piece[i].type == PIECE_UNUSED)
			odd = "unused pieces";
	if (odd)
		return tok_refuse(t, "sentencepiece model with", odd, e);
	if (m->unk < 0 || m->unk >= m->n)
		return err_set(e, EXIT_DATA, "%s: unk_id %lld is not one of its %u pieces", t->path, (long long)m->unk, m->n);
	for (uint32_t i = 0; i < m->n; i++)
		tok_set_entry(t, i, m->piece[i].text, m->piece[i].n);
	bpe_index_vocab(b);
	b->unk = (uint32_t)m->unk;
	memset(b->fallback, 0xFF, sizeof b->fallback);
	if (m->byte_fallback)
		bpe_fallback_init(b);
	if (m->model_type == SPM_BPE)
		bpe_model(t, m);
	else
		unigram_model(t, m);
	t->norm_op[0] = (struct norm){ .kind = NORM_SPM, .left = m->dummy_prefix, .right = m->trim_spaces };
	if (m->charsmap_n && !(t->norm_op[0].map = charsmap_new(m->charsmap, m->charsmap_n)))
		return err_set(e, EXIT_DATA, "%s: its precompiled_charsmap is broken", t->path);
	decoders(t, m->dummy_prefix);
	json_t *list = user_pieces(m);
	int rc = config(t, m, list, e);        /* before the normalizer counts: user-defined pieces match as they are */
	json_decref(list);
	t->n_norms = 1;
	for (uint32_t i = 0; i < m->n; i++)
		b->tok[i].special |= m->piece[i].type == PIECE_CONTROL;
	t->bos = m->bos >= 0 && m->bos < m->n ? m->bos : -1;
	t->eos = m->eos >= 0 && m->eos < m->n ? m->eos : -1;
	return rc;
}

int tok_load_spm(struct tokenizer *t, const char *data, size_t n, struct err *e)
{
	struct spm m;
	int rc = read_model(&m, data, data + n);
	rc = rc ? err_set(e, EXIT_DATA, "%s: not a sentencepiece model, or broken", t->path) : fill(t, &m, e);
	free(m.piece);
	return rc;
}
