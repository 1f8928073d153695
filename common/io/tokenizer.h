/*
 * tokenizer.h - text to token ids and back, from a model's own tokenizer.json or SentencePiece tokenizer.model
 *
 * Byte-level BPE as GPT-2, SmolLM2, Llama-3, Qwen2 and Mistral-NeMo use it; BPE over characters with byte fallback as
 * Llama-2, Mistral and Gemma; Unigram as T5.  Ids equal those of Hugging Face's `tokenizers`, of a tokenizer.model those of
 * `sentencepiece` 0.2.3 (with Unigram models older versions break ties of float sums in another way).  A part that
 * we do not have is refused by name, never guessed.
 *
 *	struct tokenizer *t = tok_load("teacher", &e);          (a model directory, or the file itself)
 *	struct tok_scratch *s = tok_scratch_new(t);             (one per thread; the tokenizer itself is read-only)
 *	struct tok_ids ids = {0};
 *	tok_encode(t, s, text, len, false, &ids, &e);           (appends)
 *
 * Text is UTF-8; an invalid byte counts as U+FFFD, in the way of Python's errors="replace".
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TOKENIZER_H
#define ADZE_TOKENIZER_H
#include "../base/base.h"

struct tokenizer;
struct tok_scratch;

struct tok_ids {               /* growing list; the caller frees v */
	uint32_t *v;
	int64_t n, cap;
};
struct tok_span {              /* bytes [lo, hi) of the text that a token came from; lo == hi for template tokens */
	int64_t lo, hi;
};
struct tok_spans {             /* parallel to the ids of one call; the caller frees v */
	struct tok_span *v;
	int64_t n, cap;
};

/* NULL on error. */
struct tokenizer *tok_load(const char *dir_or_file, struct err *e);
void tok_free(struct tokenizer *t);
struct tok_scratch *tok_scratch_new(const struct tokenizer *t);
void tok_scratch_free(struct tok_scratch *s);

/* Appends the ids of text[0..n); special adds what the post-processor adds (<s> and the like).
 * Returns the number of ids appended, or -1 (only a user's own regex can fail, by its match limit). */
int64_t tok_encode(const struct tokenizer *t, struct tok_scratch *s, const char *text, size_t n, bool special,
		   struct tok_ids *ids, struct err *e);
/* The same with the place in the text for each id (slower).  Where Unicode normalisation changed the text, the span is
 * the whole changed run. */
int64_t tok_encode_spans(const struct tokenizer *t, struct tok_scratch *s, const char *text, size_t n, bool special,
			 struct tok_ids *ids, struct tok_spans *spans, struct err *e);

/* Valid UTF-8, NUL-terminated, *len without the NUL; ids out of range vanish as they do in the reference. */
char *tok_decode_new(const struct tokenizer *t, const uint32_t *ids, int64_t n, bool skip_special, size_t *len);
/* The bytes that a token stands for; NULL when there is no such id. */
const char *tok_bytes(const struct tokenizer *t, uint32_t id, size_t *len);
/* The token as tokenizer.json spells it ("Ġthe"); NULL when there is no such id. */
const char *tok_spelling(const struct tokenizer *t, uint32_t id);
/* Id of a token by that spelling, -1 when there is none. */
int64_t tok_find(const struct tokenizer *t, const char *spelling);

int64_t tok_vocab_size(const struct tokenizer *t);    /* highest id + 1 */
/* From tokenizer_config.json, generation_config.json or config.json, the first that says; -1: none. */
int64_t tok_bos(const struct tokenizer *t);
int64_t tok_eos(const struct tokenizer *t);
const char *tok_digest(const struct tokenizer *t);    /* 32 hex digits: XXH3-128 of tokenizer.json */
/* 32 hex digits: XXH3-128 of all token spellings in the order of their ids: equal for two files that mean the same tokens */
void tok_strings(const struct tokenizer *t, char digest[33]);
const char *tok_path(const struct tokenizer *t);      /* of tokenizer.json */
#endif
