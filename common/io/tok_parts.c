/*
 * tok_parts.c - the small parts of tokenizer.json: model flags, normalizer, pre-tokenizer, added tokens, post-processor
 *
 * Each part is either understood or refused with its name; `truncation` and `padding` are not used (whoever asks for
 * ids decides on lengths).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define AFTER_NUMBERS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static int refuse(const struct tokenizer *t, const char *part, const char *what, struct err *e)
{
	return err_set(e, EXIT_DATA, "%s: %s %s is not supported", t->path, part, what ? what : "of unknown type");
}

static const char *type_of(const json_t *o)
{
	return json_string_value(json_object_get(o, "type"));
}

static bool flag(const json_t *o, const char *key, bool absent)
{
	const json_t *v = json_object_get(o, key);
	return json_is_boolean(v) ? json_is_true(v) : absent;
}

static bool is_type(const json_t *o, const char *type)
{
	const char *t = type_of(o);
	return t && !strcmp(t, type);
}

static int model_flags(struct tokenizer *t, const json_t *m, struct err *e)
{
	struct bpe *b = &t->bpe;
	const char *unk = json_string_value(json_object_get(m, "unk_token"));
	static const char *const affix[] = { "continuing_subword_prefix", "end_of_word_suffix" };
	const char *type = type_of(m);
	if (type && strcmp(type, "BPE"))
		return refuse(t, "model", type, e);
	for (size_t i = 0; i < 2; i++) {
		const char *v = json_string_value(json_object_get(m, affix[i]));
		if (v && *v)
			return refuse(t, "model BPE with", affix[i], e);
	}
	if (json_number_value(json_object_get(m, "dropout")) != 0)
		return refuse(t, "model BPE with", "dropout", e);
	b->ignore_merges = flag(m, "ignore_merges", false);
	b->fuse_unk = flag(m, "fuse_unk", false);
	b->unk = NO_ID;
	if (unk && *unk) {
		b->unk = bpe_find(b, unk, strlen(unk));
		if (b->unk == NO_ID)
			return err_set(e, EXIT_DATA, "%s: unk_token %s is not in the vocabulary", t->path, unk);
	}
	if (flag(m, "byte_fallback", false))
		for (int c = 0; c < 256; c++)
			if (b->byte_id[c] == NO_ID)
				return refuse(t, "model BPE with", "byte_fallback and bytes missing from the vocabulary", e);
	return 0;
}

static int normalizer(struct tokenizer *t, const json_t *o, struct err *e)
{
	size_t i;
	const json_t *x;
	if (!o || json_is_null(o))
		return 0;
	if (is_type(o, "NFC")) {
		t->nfc = true;
		return 0;
	}
	if (!is_type(o, "Sequence"))
		return refuse(t, "normalizer", type_of(o), e);
	json_array_foreach(json_object_get(o, "normalizers"), i, x)
		if (normalizer(t, x, e))
			return -1;
	return 0;
}

static int split_step(struct tokenizer *t, struct step *st, const json_t *o, struct err *e)
{
	static const char *const how[] = { "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
	const json_t *pat = json_object_get(o, "pattern");
	const char *re = json_string_value(json_object_get(pat, "Regex"));
	const char *lit = json_string_value(json_object_get(pat, "String"));
	const char *b = json_string_value(json_object_get(o, "behavior"));
	size_t k = 0;
	while (k < 5 && (!b || strcmp(b, how[k])))
		k++;
	if (k == 5)
		return refuse(t, "pre_tokenizer Split behavior", b, e);
	st->kind = STEP_SPLIT;
	st->how = (enum split_behaviour)k;
	st->invert = flag(o, "invert", false);
	if (lit && *lit) {
		st->literal = xstrdup(lit);
		st->literal_len = strlen(lit);
		return 0;
	}
	if (!re)
		return refuse(t, "pre_tokenizer Split", "without a pattern", e);
	/* their words cover the text, so that only isolation is a word list */
	if (st->how == SPLIT_ISOLATED && !strcmp(re, CONTRACTIONS "\\p{N}{1,3}" AFTER_NUMBERS)) {
		st->kind = STEP_LLAMA3;
		return 0;
	}
	if (st->how == SPLIT_ISOLATED && !strcmp(re, CONTRACTIONS "\\p{N}" AFTER_NUMBERS)) {
		st->kind = STEP_QWEN2;
		return 0;
	}
	return split_compile(st, re, t->path, e);
}

static int pre_step(struct tokenizer *t, const json_t *o, struct err *e)
{
	size_t i;
	const json_t *x;
	if (is_type(o, "Sequence")) {
		json_array_foreach(json_object_get(o, "pretokenizers"), i, x)
			if (pre_step(t, x, e))
				return -1;
		return 0;
	}
	if (t->n_steps == MAX_STEPS)
		return refuse(t, "pre_tokenizer", "with more than 8 steps", e);
	enum step_kind last = t->n_steps ? t->step[t->n_steps - 1].kind : STEP_SPLIT;
	if (t->n_steps && (last == STEP_BYTES || last == STEP_GPT2))
		return refuse(t, "pre_tokenizer", "with a step after ByteLevel", e);
	struct step *st = &t->step[t->n_steps++];
	if (is_type(o, "Digits")) {
		st->kind = STEP_DIGITS;
		st->how = flag(o, "individual_digits", false) ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
		return 0;
	}
	if (is_type(o, "Split"))
		return split_step(t, st, o, e);
	if (!is_type(o, "ByteLevel"))
		return refuse(t, "pre_tokenizer", type_of(o), e);
	st->kind = flag(o, "use_regex", true) ? STEP_GPT2 : STEP_BYTES;
	t->prefix_space = flag(o, "add_prefix_space", true);
	if (t->prefix_space && t->n_steps > 1)
		return refuse(t, "pre_tokenizer", "ByteLevel with add_prefix_space after another step", e);
	return 0;
}

static int pre_tokenizer(struct tokenizer *t, const json_t *o, struct err *e)
{
	if (o && !json_is_null(o) && pre_step(t, o, e))
		return -1;
	if (!t->n_steps || (t->step[t->n_steps - 1].kind != STEP_BYTES && t->step[t->n_steps - 1].kind != STEP_GPT2))
		return refuse(t, "pre_tokenizer", "that does not end in ByteLevel", e);
	return 0;
}

static int by_first_then_length(const void *x, const void *y)
{
	const struct added *a = *(struct added *const *)x, *b = *(struct added *const *)y;
	int fa = (uint8_t)a->text[0], fb = (uint8_t)b->text[0];
	if (fa != fb)
		return fa < fb ? -1 : 1;
	if (a->len != b->len)
		return a->len > b->len ? -1 : 1;
	return a < b ? -1 : a > b;
}

static void index_added(struct tokenizer *t, struct added_set *set, bool normalized)
{
	set->v = xcalloc((size_t)t->n_added + 1, sizeof(struct added *));
	for (int i = 0; i < t->n_added; i++)
		if (t->added[i].normalized == normalized && t->added[i].len)
			set->v[set->n++] = &t->added[i];
	qsort(set->v, (size_t)set->n, sizeof(struct added *), by_first_then_length);
	for (int c = 0, k = 0; c < 256; c++) {
		set->first[c] = k;
		while (k < set->n && (uint8_t)set->v[k]->text[0] == c)
			k++;
		set->first[c + 1] = k;
	}
	set->only = set->n ? (uint8_t)set->v[0]->text[0] : -1;
	if (set->n && set->first[set->only + 1] != set->n)
		set->only = -1;
}

static int added_tokens(struct tokenizer *t, const json_t *list, struct err *e)
{
	size_t i;
	const json_t *o;
	t->added = xcalloc(json_array_size(list) + 1, sizeof *t->added);
	json_array_foreach(list, i, o) {
		const json_t *c = json_object_get(o, "content"), *id = json_object_get(o, "id");
		struct added *a = &t->added[t->n_added];
		if (!json_is_string(c) || !json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > 1 << 24)
			return err_set(e, EXIT_DATA, "%s: added_tokens[%zu] has no content and id", t->path, i);
		size_t n = json_string_length(c);
		if (!n)
			continue;
		t->n_added++;
		a->id = (uint32_t)json_integer_value(id);
		a->lstrip = flag(o, "lstrip", false);
		a->rstrip = flag(o, "rstrip", false);
		a->single_word = flag(o, "single_word", false);
		a->special = flag(o, "special", false);
		a->normalized = flag(o, "normalized", !a->special);
		/* a token of the model keeps the model's id, as in the reference */
		uint32_t known = bpe_find(&t->bpe, json_string_value(c), n);
		if (known != NO_ID)
			a->id = known;
		tok_set_entry(t, a->id, json_string_value(c), n);
		struct tok_entry *ent = &t->bpe.tok[a->id];
		ent->special = a->special;
		a->content = a->text = ent->spell;
		a->len = ent->spell_len;
		if (a->normalized && t->nfc) {
			size_t k;
			char *s = nfc_new(a->content, n, &k), *keep = arena_alloc(&t->text, k + 1);
			memcpy(keep, s, k);
			a->text = keep;
			a->len = (uint32_t)k;
			free(s);
		}
	}
	index_added(t, &t->raw, false);
	index_added(t, &t->norm, true);
	return 0;
}

static void around(struct tokenizer *t, bool after, uint32_t id)
{
	uint32_t **v = after ? &t->post : &t->pre;
	int *n = after ? &t->n_post : &t->n_pre;
	*v = xrealloc(*v, (size_t)*n + 1, sizeof **v);
	(*v)[(*n)++] = id;
}

static int template(struct tokenizer *t, const json_t *o, struct err *e)
{
	const json_t *special = json_object_get(o, "special_tokens"), *item, *id;
	bool after = false;
	size_t i, k;
	json_array_foreach(json_object_get(o, "single"), i, item) {
		if (json_object_get(item, "Sequence")) {
			if (after)
				return refuse(t, "post_processor TemplateProcessing", "that repeats the text", e);
			after = true;
			continue;
		}
		const char *name = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
		const json_t *ids = name ? json_object_get(json_object_get(special, name), "ids") : NULL;
		if (!json_is_array(ids))
			return refuse(t, "post_processor TemplateProcessing", "with an unknown special token", e);
		json_array_foreach(ids, k, id)
			around(t, after, (uint32_t)json_integer_value(id));
	}
	return after ? 0 : refuse(t, "post_processor TemplateProcessing", "without the text", e);
}

static int post_processor(struct tokenizer *t, const json_t *o, struct err *e)
{
	size_t i;
	const json_t *x;
	if (!o || json_is_null(o) || is_type(o, "ByteLevel"))
		return 0;
	if (is_type(o, "Sequence")) {
		json_array_foreach(json_object_get(o, "processors"), i, x)
			if (post_processor(t, x, e))
				return -1;
		return 0;
	}
	if (is_type(o, "RobertaProcessing") || is_type(o, "BertProcessing")) {
		around(t, false, (uint32_t)json_integer_value(json_array_get(json_object_get(o, "cls"), 1)));
		around(t, true, (uint32_t)json_integer_value(json_array_get(json_object_get(o, "sep"), 1)));
		return 0;
	}
	return is_type(o, "TemplateProcessing") ? template(t, o, e) : refuse(t, "post_processor", type_of(o), e);
}

int tok_load_parts(struct tokenizer *t, const struct json_t *root, struct err *e)
{
	const json_t *d = json_object_get(root, "decoder");
	if (model_flags(t, json_object_get(root, "model"), e) || normalizer(t, json_object_get(root, "normalizer"), e) ||
	    pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), e) ||
	    added_tokens(t, json_object_get(root, "added_tokens"), e) ||
	    post_processor(t, json_object_get(root, "post_processor"), e))
		return -1;
	if (d && !json_is_null(d) && !is_type(d, "ByteLevel"))
		return refuse(t, "decoder", type_of(d), e);
	return 0;
}
