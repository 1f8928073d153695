/*
 * tok_parts.c - the small parts of tokenizer.json: model flags, pre-tokenizer, added tokens, post-processor
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

int tok_refuse(const struct tokenizer *t, const char *part, const char *what, struct err *e)
{
	return err_set(e, EXIT_DATA, "%s: %s %s is not supported", t->path, part, what ? what : "of unknown type");
}

const char *tok_part_type(const json_t *o)
{
	return json_string_value(json_object_get(o, "type"));
}

bool tok_flag(const json_t *o, const char *key, bool absent)
{
	const json_t *v = json_object_get(o, key);
	return json_is_boolean(v) ? json_is_true(v) : absent;
}

bool tok_part_is(const json_t *o, const char *type)
{
	const char *t = tok_part_type(o);
	return t && !strcmp(t, type);
}

int tok_load_pattern(const struct tokenizer *t, struct pattern *p, const json_t *o, const char *part, struct err *e)
{
	const json_t *pat = json_object_get(o, "pattern");
	const char *re = json_string_value(json_object_get(pat, "Regex"));
	const char *lit = json_string_value(json_object_get(pat, "String"));
	if (lit && *lit) {
		p->literal = xstrdup(lit);
		p->literal_len = strlen(lit);
		return 0;
	}
	if (!re || !*re)
		return tok_refuse(t, part, "without a pattern", e);
	return pattern_compile(p, re, t->path, part, e);
}

static int unigram_flags(struct tokenizer *t, const json_t *m, struct err *e)
{
	struct bpe *b = &t->bpe;
	const json_t *unk = json_object_get(m, "unk_id");
	if (!json_is_integer(unk) || json_integer_value(unk) < 0 || json_integer_value(unk) >= b->n_ids)
		return tok_refuse(t, "model Unigram", "without an unk_id in its vocabulary", e);
	b->unk = (uint32_t)json_integer_value(unk);
	return 0;
}

static int bpe_flags(struct tokenizer *t, const json_t *m, struct err *e)
{
	struct bpe *b = &t->bpe;
	const char *unk = json_string_value(json_object_get(m, "unk_token"));
	static const char *const affix[] = { "continuing_subword_prefix", "end_of_word_suffix" };
	for (size_t i = 0; i < 2; i++) {
		const char *v = json_string_value(json_object_get(m, affix[i]));
		if (v && *v)
			return tok_refuse(t, "model BPE with", affix[i], e);
	}
	if (json_number_value(json_object_get(m, "dropout")) != 0)
		return tok_refuse(t, "model BPE with", "dropout", e);
	b->ignore_merges = tok_flag(m, "ignore_merges", false);
	b->fuse_unk = tok_flag(m, "fuse_unk", false);
	b->unk = NO_ID;
	if (unk && *unk) {
		b->unk = bpe_find(b, unk, strlen(unk));
		if (b->unk == NO_ID)
			return err_set(e, EXIT_DATA, "%s: unk_token %s is not in the vocabulary", t->path, unk);
	}
	return 0;
}

/* After the pre-tokenizer: whether the alphabet is bytes decides what the model's flags mean. */
static int model_flags(struct tokenizer *t, const json_t *m, struct err *e)
{
	struct bpe *b = &t->bpe;
	bool fallback = tok_flag(m, "byte_fallback", false), unigram = b->kind == MODEL_UNIGRAM;
	enum step_kind last = t->n_steps ? t->step[t->n_steps - 1].kind : STEP_SPLIT;
	bool bytes = last == STEP_BYTES || last == STEP_GPT2;
	if (unigram ? unigram_flags(t, m, e) : bpe_flags(t, m, e))
		return -1;
	if (unigram && bytes)
		return tok_refuse(t, "model Unigram", "after pre_tokenizer ByteLevel", e);
	for (int c = 0; c < 256 && bytes && fallback; c++)
		if (b->byte_id[c] == NO_ID)
			return tok_refuse(t, "model BPE with", "byte_fallback and bytes missing from the vocabulary", e);
	memset(b->fallback, 0xFF, sizeof b->fallback);
	if (fallback)
		bpe_fallback_init(b);
	if (bytes || unigram)
		return 0;
	b->kind = MODEL_CHARS;
	bpe_finish_chars(b);
	return 0;
}

static int split_step(struct tokenizer *t, struct step *st, const json_t *o, struct err *e)
{
	static const char *const how[] = { "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
	const char *re = json_string_value(json_object_get(json_object_get(o, "pattern"), "Regex"));
	const char *b = json_string_value(json_object_get(o, "behavior"));
	bool punct = tok_part_is(o, "Punctuation");
	size_t k = punct && !b ? SPLIT_ISOLATED : 0;
	while (k < 5 && b && strcmp(b, how[k]))
		k++;
	if (k == 5 || (!b && !punct))
		return tok_refuse(t, "pre_tokenizer Split behavior", b, e);
	st->kind = punct ? STEP_PUNCT : STEP_SPLIT;
	st->how = (enum split_behaviour)k;
	st->invert = tok_flag(o, "invert", false);
	if (punct)
		return 0;
	/* their words cover the text, so that only isolation is a word list */
	if (re && st->how == SPLIT_ISOLATED && !strcmp(re, CONTRACTIONS "\\p{N}{1,3}" AFTER_NUMBERS)) {
		st->kind = STEP_LLAMA3;
		return 0;
	}
	if (re && st->how == SPLIT_ISOLATED && !strcmp(re, CONTRACTIONS "\\p{N}" AFTER_NUMBERS)) {
		st->kind = STEP_QWEN2;
		return 0;
	}
	return tok_load_pattern(t, &st->find, o, "pre_tokenizer Split", e);
}

static int metaspace_step(struct tokenizer *t, struct step *st, const json_t *o, struct err *e)
{
	static const char *const scheme[] = { "always", "first", "never" };
	const char *mark = json_string_value(json_object_get(o, "replacement"));
	const char *name = json_string_value(json_object_get(o, "prepend_scheme"));
	unsigned k, n;
	/* before 0.14 a flag said it; without either the reference takes "always" */
	if (!name)
		name = tok_flag(o, "add_prefix_space", true) ? "always" : "never";
	for (k = 0; k < 3 && strcmp(name, scheme[k]); k++)
		;
	if (k == 3)
		return tok_refuse(t, "pre_tokenizer Metaspace prepend_scheme", name, e);
	if (!mark || !*mark || (utf8_cp((const uint8_t *)mark, &n), n) != strlen(mark))
		return tok_refuse(t, "pre_tokenizer Metaspace", "without a replacement character", e);
	/* "first" asks where a word began in the raw text; a normalizer that makes several characters of one blurs that */
	for (int i = 0; k == PREPEND_FIRST && t->n_steps > 1 && i < t->n_norms; i++)
		if (t->norm_op[i].kind != NORM_NFC && t->norm_op[i].kind != NORM_LOWER && (t->norm_op[i].kind != NORM_STRIP || t->norm_op[i].left))
			return tok_refuse(t, "pre_tokenizer Metaspace", "with prepend_scheme first after another step and this normalizer", e);
	snprintf(st->mark, sizeof st->mark, "%s", mark);
	st->kind = STEP_METASPACE;
	st->prepend = (enum prepend_scheme)k;
	st->split = tok_flag(o, "split", true);
	return 0;
}

static int byte_level_step(struct tokenizer *t, struct step *st, const json_t *o, struct err *e)
{
	if (tok_flag(o, "add_prefix_space", true)) {
		if (t->n_steps == MAX_STEPS)
			return tok_refuse(t, "pre_tokenizer", "with more than 8 steps", e);
		st->kind = STEP_PREFIX;
		st = &t->step[t->n_steps++];
	}
	st->kind = tok_flag(o, "use_regex", true) ? STEP_GPT2 : STEP_BYTES;
	return 0;
}

static int pre_tokenizer(struct tokenizer *t, const json_t *o, struct err *e)
{
	size_t i;
	const json_t *x;
	if (!o || json_is_null(o))
		return 0;
	if (tok_part_is(o, "Sequence")) {
		json_array_foreach(json_object_get(o, "pretokenizers"), i, x)
			if (pre_tokenizer(t, x, e))
				return -1;
		return 0;
	}
	if (t->n_steps == MAX_STEPS)
		return tok_refuse(t, "pre_tokenizer", "with more than 8 steps", e);
	enum step_kind last = t->n_steps ? t->step[t->n_steps - 1].kind : STEP_SPLIT;
	if (t->n_steps && (last == STEP_BYTES || last == STEP_GPT2))
		return tok_refuse(t, "pre_tokenizer", "with a step after ByteLevel", e);
	struct step *st = &t->step[t->n_steps++];
	if (tok_part_is(o, "Digits")) {
		st->kind = STEP_DIGITS;
		st->how = tok_flag(o, "individual_digits", false) ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
		return 0;
	}
	if (tok_part_is(o, "Split") || tok_part_is(o, "Punctuation"))
		return split_step(t, st, o, e);
	if (tok_part_is(o, "Metaspace"))
		return metaspace_step(t, st, o, e);
	if (tok_part_is(o, "ByteLevel"))
		return byte_level_step(t, st, o, e);
	st->kind = tok_part_is(o, "Whitespace") ? STEP_WORDS : STEP_NOSPACE;
	return tok_part_is(o, "Whitespace") || tok_part_is(o, "WhitespaceSplit") ? 0 : tok_refuse(t, "pre_tokenizer", tok_part_type(o), e);
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

/* A normalized token is searched in normalised text: its own form there is what counts. */
static int normalise_added(struct tokenizer *t, struct added *a, struct err *e)
{
	struct tok_scratch *s = tok_scratch_new(t);
	struct tok_view v;
	size_t k;
	s->e = e;
	s->v = (struct tok_view){ .buf = a->content };
	int rc = norm_run(s, 0, a->len, &v, &k);
	if (!rc) {
		char *keep = arena_alloc(&t->text, k + 1);
		memcpy(keep, v.buf, k);
		a->text = keep;
		a->len = (uint32_t)k;
	}
	tok_scratch_free(s);
	return rc;
}

int tok_load_added(struct tokenizer *t, const json_t *list, struct err *e)
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
		a->lstrip = tok_flag(o, "lstrip", false);
		a->rstrip = tok_flag(o, "rstrip", false);
		a->single_word = tok_flag(o, "single_word", false);
		a->special = tok_flag(o, "special", false);
		a->normalized = tok_flag(o, "normalized", !a->special);
		/* a token of the model keeps the model's id, as in the reference */
		uint32_t known = bpe_find(&t->bpe, json_string_value(c), n);
		if (known != NO_ID)
			a->id = known;
		tok_set_entry(t, a->id, json_string_value(c), n);
		struct tok_entry *ent = &t->bpe.tok[a->id];
		ent->special = a->special;
		a->content = a->text = ent->spell;
		a->len = ent->spell_len;
		if (a->normalized && t->n_norms && normalise_added(t, a, e))
			return -1;
	}
	index_added(t, &t->raw, false);
	index_added(t, &t->norm, true);
	return 0;
}

void tok_around(struct tokenizer *t, bool after, uint32_t id)
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
				return tok_refuse(t, "post_processor TemplateProcessing", "that repeats the text", e);
			after = true;
			continue;
		}
		const char *name = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
		const json_t *ids = name ? json_object_get(json_object_get(special, name), "ids") : NULL;
		if (!json_is_array(ids))
			return tok_refuse(t, "post_processor TemplateProcessing", "with an unknown special token", e);
		json_array_foreach(ids, k, id)
			tok_around(t, after, (uint32_t)json_integer_value(id));
	}
	return after ? 0 : tok_refuse(t, "post_processor TemplateProcessing", "without the text", e);
}

static int post_processor(struct tokenizer *t, const json_t *o, struct err *e)
{
	size_t i;
	const json_t *x;
	if (!o || json_is_null(o) || tok_part_is(o, "ByteLevel"))
		return 0;
	if (tok_part_is(o, "Sequence")) {
		json_array_foreach(json_object_get(o, "processors"), i, x)
			if (post_processor(t, x, e))
				return -1;
		return 0;
	}
	if (tok_part_is(o, "RobertaProcessing") || tok_part_is(o, "BertProcessing")) {
		tok_around(t, false, (uint32_t)json_integer_value(json_array_get(json_object_get(o, "cls"), 1)));
		tok_around(t, true, (uint32_t)json_integer_value(json_array_get(json_object_get(o, "sep"), 1)));
		return 0;
	}
	return tok_part_is(o, "TemplateProcessing") ? template(t, o, e) : tok_refuse(t, "post_processor", tok_part_type(o), e);
}

int tok_load_parts(struct tokenizer *t, const struct json_t *root, struct err *e)
{
	return tok_load_normalizer(t, json_object_get(root, "normalizer"), e) ||
	       pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), e) || model_flags(t, json_object_get(root, "model"), e) ||
	       tok_load_added(t, json_object_get(root, "added_tokens"), e) ||
	       post_processor(t, json_object_get(root, "post_processor"), e) ||
	       tok_load_decoder(t, json_object_get(root, "decoder"), e) ? -1 : 0;
}
