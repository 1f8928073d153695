/*
 * tok_parts_text.c - the parts of tokenizer.json that change text: normalizer and decoder
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static char *text_of(const json_t *o, const char *key, size_t *n)
{
	const json_t *v = json_object_get(o, key);
	*n = json_string_length(v);
	return json_is_string(v) ? xstrdup(json_string_value(v)) : NULL;
}

/* Base64 of precompiled_charsmap; returns its bytes. */
static size_t base64(const char *s, char *out)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32_t bits = 0;
	int have = 0;
	size_t n = 0;
	for (const char *d; *s && (d = strchr(digits, *s)); s++) {
		bits = bits << 6 | (uint32_t)(d - digits);
		have += 6;
		if (have < 8)
			continue;
		have -= 8;
		out[n++] = (char)(bits >> have);
	}
	return *s && *s != '=' ? 0 : n;
}

static int precompiled(struct tokenizer *t, struct norm *op, const json_t *o, struct err *e)
{
	const char *s = json_string_value(json_object_get(o, "precompiled_charsmap"));
	if (!s || !*s)
		return tok_refuse(t, "normalizer Precompiled", "without a precompiled_charsmap", e);
	char *blob = xmalloc(strlen(s) + 1);
	op->map = charsmap_new(blob, base64(s, blob));
	free(blob);
	return op->map ? 0 : err_set(e, EXIT_DATA, "%s: normalizer Precompiled: its precompiled_charsmap is broken", t->path);
}

int tok_load_normalizer(struct tokenizer *t, const json_t *o, struct err *e)
{
	static const struct { const char *type; enum norm_kind kind; } plain[] = {
		{ "NFC", NORM_NFC }, { "NFD", NORM_NFD }, { "NFKC", NORM_NFKC }, { "NFKD", NORM_NFKD }, { "Lowercase", NORM_LOWER },
		{ "Nmt", NORM_NMT }, { "Strip", NORM_STRIP }, { "Prepend", NORM_PREPEND }, { "Replace", NORM_REPLACE },
		{ "Precompiled", NORM_CHARSMAP }
	};
	size_t i;
	const json_t *x;
	if (!o || json_is_null(o))
		return 0;
	if (tok_part_is(o, "Sequence")) {
		json_array_foreach(json_object_get(o, "normalizers"), i, x)
			if (tok_load_normalizer(t, x, e))
				return -1;
		return 0;
	}
	for (i = 0; i < sizeof plain / sizeof *plain && !tok_part_is(o, plain[i].type); i++)
		;
	if (i == sizeof plain / sizeof *plain)
		return tok_refuse(t, "normalizer", tok_part_type(o), e);
	if (t->n_norms == MAX_NORMS)
		return tok_refuse(t, "normalizer", "with more than 16 parts", e);
	struct norm *op = &t->norm_op[t->n_norms++];
	op->kind = plain[i].kind;
	op->left = tok_flag(o, "strip_left", true);
	op->right = tok_flag(o, "strip_right", true);
	if (op->kind == NORM_CHARSMAP)
		return precompiled(t, op, o, e);
	if (op->kind != NORM_PREPEND && op->kind != NORM_REPLACE)
		return 0;
	op->text = text_of(o, op->kind == NORM_PREPEND ? "prepend" : "content", &op->text_n);
	if (!op->text)
		return tok_refuse(t, "normalizer", op->kind == NORM_PREPEND ? "Prepend without text" : "Replace without text", e);
	return op->kind == NORM_REPLACE ? tok_load_pattern(t, &op->find, o, "normalizer Replace", e) : 0;
}

static int64_t number_of(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);
	return json_is_integer(v) && json_integer_value(v) > 0 ? (int64_t)json_integer_value(v) : 0;
}

int tok_load_decoder(struct tokenizer *t, const json_t *o, struct err *e)
{
	static const struct { const char *type, *text; enum deco_kind kind; } plain[] = {
		{ "ByteLevel", NULL, DECO_BYTE_LEVEL }, { "ByteFallback", NULL, DECO_BYTE_FALLBACK }, { "Fuse", NULL, DECO_FUSE },
		{ "Replace", "content", DECO_REPLACE }, { "Strip", "content", DECO_STRIP }, { "Metaspace", "replacement", DECO_METASPACE }
	};
	size_t i;
	const json_t *x;
	if (!o || json_is_null(o))
		return 0;
	if (tok_part_is(o, "Sequence")) {
		json_array_foreach(json_object_get(o, "decoders"), i, x)
			if (tok_load_decoder(t, x, e))
				return -1;
		return 0;
	}
	for (i = 0; i < sizeof plain / sizeof *plain && !tok_part_is(o, plain[i].type); i++)
		;
	if (i == sizeof plain / sizeof *plain)
		return tok_refuse(t, "decoder", tok_part_type(o), e);
	if (t->n_decos == MAX_DECOS)
		return tok_refuse(t, "decoder", "with more than 16 parts", e);
	struct deco *d = &t->deco[t->n_decos++];
	d->kind = plain[i].kind;
	if (!plain[i].text)
		return 0;
	d->text = text_of(o, plain[i].text, &d->text_n);
	if (!d->text || (!d->text_n && d->kind != DECO_REPLACE))
		return err_set(e, EXIT_DATA, "%s: decoder %s: no %s", t->path, plain[i].type, plain[i].text);
	d->start = number_of(o, "start");
	d->stop = number_of(o, "stop");
	const char *scheme = json_string_value(json_object_get(o, "prepend_scheme"));
	if (d->kind == DECO_METASPACE)
		d->start = scheme ? strcmp(scheme, "never") != 0 : tok_flag(o, "add_prefix_space", true);
	return d->kind == DECO_REPLACE ? tok_load_pattern(t, &d->find, o, "decoder Replace", e) : 0;
}
