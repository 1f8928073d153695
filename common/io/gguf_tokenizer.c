/*
 * gguf_tokenizer.c - tokenizer.json out of a GGUF vocabulary
 *
 * GGUF keeps tokens, merges and token types, and only names the pre-tokenizer.  The table below says what each name
 * stands for in the files that the models were published with; wrong guesses would change ids silently (a missing
 * Digits step already does), so other names are refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "gguf.h"
#include <string.h>

#define LLAMA3(digits) "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
	"| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TEKKEN "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|" \
	"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}|" \
	" ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct pre {
	const char *name, *split;      /* split NULL: GPT-2's regular expression inside ByteLevel */
	bool digits, nfc, ignore_merges, bos;
} pres[] = {
	{ "smollm", NULL, true, false, false, false },
	{ "starcoder", NULL, true, false, false, false },
	{ "refact", NULL, true, false, false, false },
	{ "gpt-2", NULL, false, false, false, false },
	{ "llama-bpe", LLAMA3("\\p{N}{1,3}"), false, false, true, true },
	{ "llama-v3", LLAMA3("\\p{N}{1,3}"), false, false, true, true },
	{ "llama3", LLAMA3("\\p{N}{1,3}"), false, false, true, true },
	{ "qwen2", LLAMA3("\\p{N}"), false, true, false, false },
	{ "tekken", TEKKEN, false, false, true, true },
};
enum { TOKEN_CONTROL = 3, TOKEN_USER = 4 };

static const struct pre *find_pre(const struct gguf *g, struct err *e)
{
	struct gguf_str model, pre;

	if (gguf_string(g, "tokenizer.ggml.model", &model, e) || gguf_string(g, "tokenizer.ggml.pre", &pre, e)) {
		err_set(e, EXIT_DATA, "%s: tokenizer.ggml.model or tokenizer.ggml.pre is missing", gguf_path(g));
		return NULL;
	}
	if (model.n != 4 || memcmp(model.p, "gpt2", 4)) {
		err_set(e, EXIT_DATA, "%s: tokenizer model '%.*s' is not supported (gpt2 is)", gguf_path(g),
			(int)(model.n < 40 ? model.n : 40), model.p);
		return NULL;
	}
	for (size_t i = 0; i < sizeof pres / sizeof *pres; i++)
		if (strlen(pres[i].name) == pre.n && !memcmp(pres[i].name, pre.p, pre.n))
			return &pres[i];
	err_set(e, EXIT_DATA, "%s: pre-tokenizer '%.*s' is not known", gguf_path(g), (int)(pre.n < 40 ? pre.n : 40), pre.p);
	return NULL;
}

static json_t *byte_level(bool use_regex)
{
	return json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex",
		use_regex ? 1 : 0);
}

static json_t *pre_tokenizer(const struct pre *p)
{
	json_t *seq = json_array();

	if (p->digits)
		json_array_append_new(seq, json_pack("{s:s,s:b}", "type", "Digits", "individual_digits", 1));
	if (p->split)
		json_array_append_new(seq, json_pack("{s:s,s:{s:s},s:s,s:b}", "type", "Split", "pattern", "Regex", p->split,
			"behavior", "Isolated", "invert", 0));
	json_array_append_new(seq, byte_level(!p->split));
	if (json_array_size(seq) == 1) {
		json_t *one = json_incref(json_array_get(seq, 0));
		json_decref(seq);
		return one;
	}
	return json_pack("{s:s,s:o}", "type", "Sequence", "pretokenizers", seq);
}

/* The begin-of-text token in front of every text, as the published files write it. */
static json_t *post_processor(const char *bos, int64_t id)
{
	json_t *single = json_pack("[{s:{s:s,s:i}},{s:{s:s,s:i}}]", "SpecialToken", "id", bos, "type_id", 0, "Sequence",
		"id", "A", "type_id", 0);
	json_t *pair = json_pack("[{s:{s:s,s:i}},{s:{s:s,s:i}},{s:{s:s,s:i}},{s:{s:s,s:i}}]", "SpecialToken", "id", bos,
		"type_id", 0, "Sequence", "id", "A", "type_id", 0, "SpecialToken", "id", bos, "type_id", 1, "Sequence", "id",
		"B", "type_id", 1);
	json_t *special = json_object();

	json_object_set_new(special, bos, json_pack("{s:s,s:[I],s:[s]}", "id", bos, "ids", (json_int_t)id, "tokens", bos));
	return json_pack("{s:s,s:o,s:o,s:o}", "type", "TemplateProcessing", "single", single, "pair", pair,
		"special_tokens", special);
}

/* vocab {token: id} and the added tokens; ids of duplicates would be lost, so they are refused. */
static int vocabulary(const struct gguf *g, int64_t vocab, json_t *map, json_t *added, struct err *e)
{
	const struct gguf_kv *tok = gguf_get(g, "tokenizer.ggml.tokens"), *type = gguf_get(g, "tokenizer.ggml.token_type");

	if (!tok || tok->type != GGUF_ARRAY || tok->elem != GGUF_STRING)
		return err_set(e, EXIT_DATA, "%s: tokenizer.ggml.tokens is missing", gguf_path(g));
	if (tok->n > vocab)
		return err_set(e, EXIT_DATA, "%s: %lld tokens, but embeddings for %lld", gguf_path(g), (long long)tok->n,
			(long long)vocab);
	if (type && (type->type != GGUF_ARRAY || type->elem != GGUF_I32 || type->n != tok->n))
		return err_set(e, EXIT_DATA, "%s: tokenizer.ggml.token_type does not match the tokens", gguf_path(g));
	for (int64_t i = 0; i < tok->n; i++) {
		const struct gguf_str *s = &tok->str[i];
		json_t *text = json_stringn(s->p, s->n);
		if (!text || strlen(json_string_value(text)) != s->n) {
			json_decref(text);
			return err_set(e, EXIT_DATA, "%s: token %lld is not valid UTF-8", gguf_path(g), (long long)i);
		}
		const json_t *old = json_object_get(map, json_string_value(text));
		if (old) {
			err_set(e, EXIT_DATA, "%s: tokens %lld and %lld are both '%.80s'", gguf_path(g),
				(long long)json_integer_value(old), (long long)i, json_string_value(text));
			json_decref(text);
			return -1;
		}
		json_object_set_new(map, json_string_value(text), json_integer(i));
		int64_t kind = type ? gguf_kv_int(type, i) : 1;
		if (kind == TOKEN_CONTROL || kind == TOKEN_USER)
			json_array_append_new(added, json_pack("{s:I,s:O,s:b,s:b,s:b,s:b,s:b}", "id", (json_int_t)i, "content",
				text, "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special",
				kind == TOKEN_CONTROL));
		json_decref(text);
	}
	return 0;
}

static json_t *merges(const struct gguf *g, struct err *e)
{
	const struct gguf_kv *m = gguf_get(g, "tokenizer.ggml.merges");
	json_t *list = json_array();

	if (!m || m->type != GGUF_ARRAY || m->elem != GGUF_STRING) {
		err_set(e, EXIT_DATA, "%s: tokenizer.ggml.merges is missing", gguf_path(g));
		json_decref(list);
		return NULL;
	}
	for (int64_t i = 0; i < m->n; i++) {
		const char *space = memchr(m->str[i].p, ' ', m->str[i].n);
		json_t *s = json_stringn(m->str[i].p, m->str[i].n);
		if (!s || !space || space == m->str[i].p || space + 1 == m->str[i].p + m->str[i].n) {
			err_set(e, EXIT_DATA, "%s: merge %lld is not two tokens", gguf_path(g), (long long)i);
			json_decref(s);
			json_decref(list);
			return NULL;
		}
		json_array_append_new(list, s);
	}
	return list;
}

/* tokenizer.ggml.NAME_token_id as a token's text in the config; absent: nothing. */
static int special(const struct gguf *g, const char *name, const char *field, json_t *config, int64_t *id, struct err *e)
{
	const struct gguf_kv *tok = gguf_get(g, "tokenizer.ggml.tokens");
	char key[64];

	*id = -1;
	snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", name);
	int rc = gguf_int(g, key, id, e);
	if (rc)
		return rc < 0 ? -1 : 0;
	if (*id < 0 || *id >= tok->n)
		return err_set(e, EXIT_DATA, "%s: %s is %lld, outside the vocabulary", gguf_path(g), key, (long long)*id);
	json_object_set_new(config, field, json_stringn(tok->str[*id].p, tok->str[*id].n));
	return 0;
}

static json_t *config_new(const struct gguf *g, int64_t context, int64_t *bos, struct err *e)
{
	json_t *c = json_pack("{s:s,s:b,s:b,s:I}", "tokenizer_class", "PreTrainedTokenizerFast", "add_prefix_space", 0,
		"clean_up_tokenization_spaces", 0, "model_max_length", (json_int_t)context);
	struct gguf_str chat;
	int64_t id;

	if (special(g, "bos", "bos_token", c, bos, e) || special(g, "eos", "eos_token", c, &id, e) ||
	    special(g, "padding", "pad_token", c, &id, e) || special(g, "unknown", "unk_token", c, &id, e)) {
		json_decref(c);
		return NULL;
	}
	if (!gguf_string(g, "tokenizer.chat_template", &chat, e)) {
		json_t *s = json_stringn(chat.p, chat.n);
		if (s)
			json_object_set_new(c, "chat_template", s);
	}
	return c;
}

int gguf_tokenizer_new(const struct gguf *g, int64_t vocab, int64_t context, json_t **tokenizer, json_t **config,
		struct err *e)
{
	const struct pre *p = find_pre(g, e);
	int64_t add_bos, bos;

	if (!p)
		return -1;
	add_bos = p->bos;
	if (gguf_int(g, "tokenizer.ggml.add_bos_token", &add_bos, e) < 0)
		return -1;
	json_t *map = json_object(), *added = json_array(), *list = NULL, *conf = NULL;
	if (vocabulary(g, vocab, map, added, e) || !(list = merges(g, e)) || !(conf = config_new(g, context, &bos, e))) {
		json_decref(map);
		json_decref(added);
		json_decref(list);
		return -1;
	}
	const char *bos_text = json_string_value(json_object_get(conf, "bos_token"));
	json_t *model = json_pack("{s:s,s:n,s:n,s:n,s:n,s:b,s:b,s:b,s:o,s:o}", "type", "BPE", "dropout", "unk_token",
		"continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges",
		p->ignore_merges ? 1 : 0, "vocab", map, "merges", list);
	*tokenizer = json_pack("{s:s,s:n,s:n,s:o,s:o,s:o,s:o,s:o,s:o}", "version", "1.0", "truncation", "padding",
		"added_tokens", added, "normalizer", p->nfc ? json_pack("{s:s}", "type", "NFC") : json_null(),
		"pre_tokenizer", pre_tokenizer(p), "post_processor",
		add_bos && bos_text ? post_processor(bos_text, bos) : json_null(), "decoder", byte_level(true), "model", model);
	*config = conf;
	return 0;
}
