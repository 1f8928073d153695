/*
 * tok_impl.h - inside of the tokenizer, shared by tok_*.c and tokenizer.c only
 *
 * Text flows   added tokens -> normalizers -> pre-tokenizer steps -> model   piece by piece, with no list of words in
 * between: each step hands sub-pieces to the next (tok_pretok.c, tok_steps.c), the last one asks the word cache
 * (tok_bpe.c), which asks BPE or Unigram (tok_unigram.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TOK_IMPL_H
#define ADZE_TOK_IMPL_H
#include "text.h"
#include "tokenizer.h"
#include <pthread.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* ---- Unicode classes (tok_unicode.c has the data) */
struct tok_range { uint32_t lo, hi; };
extern const struct tok_range tok_uni_letter[], tok_uni_number[], tok_uni_space[], tok_uni_numeric_more[], tok_uni_word[], tok_uni_punct[],
	tok_uni_forms[], tok_uni_lower[];
extern const size_t tok_uni_letter_n, tok_uni_number_n, tok_uni_space_n, tok_uni_numeric_more_n, tok_uni_word_n, tok_uni_punct_n,
	tok_uni_forms_n, tok_uni_lower_n;
extern const struct tok_since { char kind[3]; uint32_t lo, hi; } tok_uni_since[]; /* tok_unicode_since.c */
extern const size_t tok_uni_since_n;
enum tok_class { TC_OTHER = 0, TC_LETTER = 1, TC_NUMBER = 2, TC_SPACE = 3, TC_NUMERIC_MORE = 4 };
void tok_unicode_init(void);                          /* idempotent, thread-safe */
extern uint8_t tok_class_bmp[0x10000];                /* valid after tok_unicode_init */
enum tok_class tok_class_high(uint32_t cp);

/* Decodes one code point of valid UTF-8; *n = its bytes. */
static inline uint32_t utf8_cp(const uint8_t *p, unsigned *n)
{
	if (p[0] < 0x80) {
		*n = 1;
		return p[0];
	}
	if (p[0] < 0xE0) {
		*n = 2;
		return (uint32_t)(p[0] & 0x1F) << 6 | (p[1] & 0x3F);
	}
	if (p[0] < 0xF0) {
		*n = 3;
		return (uint32_t)(p[0] & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3F);
	}
	*n = 4;
	return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3F) << 12 | (uint32_t)(p[2] & 0x3F) << 6 | (p[3] & 0x3F);
}
static inline enum tok_class utf8_class(const uint8_t *p, unsigned *n)
{
	uint32_t cp = utf8_cp(p, n);
	return cp < 0x10000 ? (enum tok_class)tok_class_bmp[cp] : tok_class_high(cp);
}
size_t utf8_prev(const uint8_t *p, size_t i);         /* start of the code point that ends at i > 0 */
/* Length of the valid prefix; *bad = bytes of the maximal ill-formed part after it (0: all valid). */
size_t utf8_valid(const uint8_t *p, size_t n, size_t *bad);
bool tok_is_word(uint32_t cp);                        /* \w of single_word added tokens and of Whitespace */
bool tok_is_punct(uint32_t cp);                       /* of Punctuation */
uint32_t tok_lower(uint32_t cp);
bool tok_in_forms(uint32_t cp);                       /* normalization may change it */

/* ---- vocabulary and merges */
struct vocab_slot { uint64_t hash; uint32_t id, used; };
struct merge_slot { uint64_t pair; uint32_t rank, id; };  /* pair = left << 32 | right; NO_PAIR: empty */
#define NO_PAIR UINT64_MAX
#define NO_ID UINT32_MAX

struct tok_entry {             /* one id: both forms live in the text arena, NUL-terminated */
	const char *spell, *bytes;
	uint32_t spell_len, bytes_len;
	bool special;
};
enum model_kind {
	MODEL_BYTES,           /* BPE over the byte alphabet */
	MODEL_CHARS,           /* BPE over characters */
	MODEL_UNIGRAM
};
struct bpe {                   /* of any kind: Unigram keeps its trie in the merge table */
	enum model_kind kind;
	struct tok_entry *tok;     /* [n_ids]; spell NULL: a hole */
	uint32_t n_ids;
	struct vocab_slot *vslot;  /* model vocabulary by spelling; vmask + 1 slots */
	uint64_t vmask;
	struct merge_slot *mslot;
	uint64_t mmask;
	uint32_t byte_id[256];     /* id of each byte's character, NO_ID: not in the vocabulary */
	uint32_t unk;              /* NO_ID: unknown characters vanish */
	bool fuse_unk, ignore_merges;
	/* MODEL_CHARS and MODEL_UNIGRAM */
	uint32_t fallback[256];    /* id of <0xXX>; all NO_ID without byte_fallback */
	uint32_t *char_id;         /* [0x10000] id of each character as a symbol of its own */
	bool cut;                  /* a text falls into words before each U+2581 and each ASCII character ... */
	bool *joins;               /* [256 * 256] ... but not between bytes that some merge has beside each other */
	/* MODEL_UNIGRAM */
	double *score;             /* [n_ids] */
	uint32_t *leaf;            /* [nodes] id of the token that ends there, NO_ID */
	uint32_t nodes;
	double unk_score;
	bool single;               /* best sums are rounded to float, as SentencePiece does */
};

/* ---- added tokens */
struct added {
	const char *text;          /* as matched: normalized tokens carry their normalised content */
	uint32_t len, id;
	bool lstrip, rstrip, single_word, normalized, special;
	const char *content;
};
struct added_set {             /* one pass: the tokens of one `normalized` value, longest first per first byte */
	struct added **v;
	int n;
	int first[257];            /* v[first[c] .. first[c+1]) start with byte c */
	int only;                  /* the one starting byte, or -1 */
};

/* ---- patterns: a regex or a string */
struct pattern {
	pcre2_code *re;
	char *literal;             /* when re is NULL */
	size_t literal_len;
};

/* ---- normalizers */
enum norm_kind { NORM_NFC, NORM_NFD, NORM_NFKC, NORM_NFKD, NORM_LOWER, NORM_STRIP, NORM_PREPEND, NORM_REPLACE, NORM_NMT,
		 NORM_CHARSMAP, NORM_SPM };
struct charsmap {              /* SentencePiece's table of replacements: a double array over UTF-8, and the new texts */
	uint32_t *trie;            /* [units] */
	size_t units;
	char *text;                /* NUL-terminated replacements, text_n bytes */
	size_t text_n;
	bool same[128];            /* this ASCII character stays */
};
struct norm {
	enum norm_kind kind;
	bool left, right;          /* STRIP; SPM: add_dummy_prefix, remove_extra_whitespaces */
	char *text;                /* PREPEND, REPLACE: what comes in */
	size_t text_n;
	struct pattern find;       /* REPLACE */
	struct charsmap *map;      /* CHARSMAP, SPM (NULL: none) */
};
enum { MAX_NORMS = 16 };

/* Text in work: place of byte i in the user's text is [at_lo[i], at_hi[i]), or base + i without those. */
struct tok_view {
	const char *buf;
	int64_t base;
	const int64_t *at_lo, *at_hi;
	bool first;                /* buf starts where the user's text starts */
};
struct norm_buf {              /* what a normalizer or a Metaspace step writes */
	char *p;
	size_t n, cap;
	int64_t *lo, *hi;          /* places, when asked for */
	size_t lo_cap, hi_cap;
};

/* ---- decoder */
enum deco_kind { DECO_BYTE_LEVEL, DECO_REPLACE, DECO_BYTE_FALLBACK, DECO_FUSE, DECO_STRIP, DECO_METASPACE };
struct deco {
	enum deco_kind kind;
	struct pattern find;       /* REPLACE */
	char *text;                /* REPLACE: what comes in; STRIP, METASPACE: the character */
	size_t text_n;
	int64_t start, stop;       /* STRIP; METASPACE: start 0 keeps the first space */
};
enum { MAX_DECOS = 16 };

/* ---- pre-tokenizer */
enum step_kind { STEP_DIGITS, STEP_SPLIT, STEP_PUNCT, STEP_GPT2, STEP_LLAMA3, STEP_QWEN2, STEP_BYTES, STEP_PREFIX, STEP_METASPACE,
		 STEP_WORDS, STEP_NOSPACE };
enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };
enum split_behaviour { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_PREVIOUS, SPLIT_NEXT, SPLIT_CONTIGUOUS };
struct step {
	enum step_kind kind;
	enum split_behaviour how;
	bool invert;
	struct pattern find;       /* STEP_SPLIT */
	enum prepend_scheme prepend;   /* STEP_METASPACE */
	bool split;                /* STEP_METASPACE: a word at each mark */
	char mark[5];              /* STEP_METASPACE: what a space becomes */
};
enum { MAX_STEPS = 8 };

struct tokenizer {
	char *path;
	char digest[33];
	struct arena text;         /* spellings, bytes, added tokens */
	struct bpe bpe;
	struct added *added;
	int n_added;
	struct added_set raw, norm; /* matched before and after the normalizer */
	struct norm norm_op[MAX_NORMS];
	int n_norms;
	struct deco deco[MAX_DECOS];
	int n_decos;               /* 0: tokens are joined by spaces */
	struct step step[MAX_STEPS];
	int n_steps;
	uint32_t *pre, *post;      /* ids that the post-processor puts around the text */
	int n_pre, n_post;
	int64_t bos, eos;
};

/* ---- per-thread scratch */
enum { CACHE_KEY = 30, CACHE_IDS = 8 };
struct cache_slot {            /* one cache line: a word and its ids */
	uint8_t len, n, key[CACHE_KEY];
	uint32_t id[CACHE_IDS];
};
enum { CACHE_BITS = 15 };
struct sym {                   /* a symbol of the word in work: doubly linked list in an array */
	uint32_t id, lo, hi;       /* bytes [lo, hi) of the word */
	int32_t prev, next;
	uint32_t rank, new_id;     /* of the merge with next */
};
struct heap_item { uint32_t rank; int32_t pos; uint32_t new_id; };
struct piece { size_t lo, hi; bool match; };
struct best { double score; uint32_t len, id; };  /* best way to a byte of the word: its last token */
struct tok_scratch {
	struct cache_slot *cache;
	struct sym *sym;
	size_t sym_cap;
	struct heap_item *heap;
	size_t heap_n, heap_cap;
	struct piece *piece[MAX_STEPS];  /* of a split step with a behaviour that needs its neighbours */
	size_t piece_cap[MAX_STEPS];
	pcre2_match_data *md;
	struct best *best;
	size_t best_cap;
	struct norm_buf step_buf[MAX_STEPS];  /* of steps that change the text */
	struct norm_buf norm_buf[2];
	char *clean;               /* repaired text */
	size_t clean_cap;
	/* the call in progress */
	const struct tokenizer *t;
	struct tok_ids *ids;
	struct tok_spans *spans;   /* NULL: not asked for, the cache may answer */
	struct tok_view v;         /* what piece offsets count in */
	struct err *e;
};

static inline void ids_push(struct tok_ids *a, uint32_t id)
{
	if (a->n == a->cap) {
		a->cap = a->cap ? a->cap * 2 : 256;
		a->v = xrealloc(a->v, (size_t)a->cap, sizeof *a->v);
	}
	a->v[a->n++] = id;
}
void spans_push(struct tok_spans *a, int64_t lo, int64_t hi);
/* Grows *p to hold n items of the size, contents kept up to the old capacity. */
void *tok_grow(void *p, size_t *cap, size_t n, size_t size);

/* tok_bpe.c */
void bpe_index_vocab(struct bpe *b);
uint32_t bpe_find(const struct bpe *b, const char *spell, size_t n);      /* model vocabulary only; NO_ID */
struct bpe_key {               /* a look-up: spelling in, hash between, id or NO_ID out */
	const char *spell;
	size_t n;
	uint64_t hash;
	uint32_t id;
};
void bpe_find_many(const struct bpe *b, struct bpe_key *key, int n);      /* as bpe_find for each, misses of the cache overlapped */
void bpe_merge_soon(const struct bpe *b, uint32_t left, uint32_t right);  /* fetches where bpe_merge_add will write */
void bpe_merges_init(struct bpe *b, size_t n);
void bpe_merge_add(struct bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
const struct merge_slot *bpe_merge_find(const struct bpe *b, uint32_t left, uint32_t right);  /* NULL: none */
void bpe_finish(struct bpe *b);                                           /* MODEL_BYTES */
void bpe_finish_chars(struct bpe *b);
void bpe_word(struct tok_scratch *s, size_t lo, size_t hi);               /* bytes of s->v.buf -> ids */
void bpe_text(struct tok_scratch *s, size_t lo, size_t hi);               /* the same, cut into words first where it can be */
void model_emit(struct tok_scratch *s, uint32_t id, size_t lo, size_t hi);
int byte_char(char *dst, uint8_t b);                                      /* the byte's character in UTF-8 */
int char_byte(uint32_t cp);                                               /* the inverse, -1: no byte's character */
void bpe_fallback_init(struct bpe *b);                                    /* fills b->fallback from <0x00> .. <0xFF> */

/* tok_merges.c: merges_read() may start a thread, which uses nothing but the text; then the vocabulary is read and indexed, then
 * merges_add() finds it; merges_free() in any case */
struct merge { uint32_t at, cut, len; };       /* "ab" in text, length of "a"; after the look-up ids of a, b and ab */
struct merges {
	const char *from, *end;
	char *text;
	struct merge *list;
	size_t n;
	bool broken, started, joined;
	pthread_t thread;
};
void merges_read(struct merges *m, const char *from, const char *end);
int merges_add(struct merges *m, struct bpe *b, const char *path, struct err *e);
void merges_wait(struct merges *m);
void merges_free(struct merges *m);

/* tok_unigram.c */
void unigram_start(struct bpe *b, size_t bytes);                          /* bytes: of all spellings, an upper bound of nodes */
void unigram_add(struct bpe *b, const char *spell, size_t n, uint32_t id);
void unigram_word(struct tok_scratch *s, size_t lo, size_t n);

/* tok_pretok.c, tok_steps.c */
int pretok_run(struct tok_scratch *s, int step, size_t lo, size_t hi);    /* s->v.buf[lo, hi) */
int pretok_next(struct tok_scratch *s, int next, size_t lo, size_t hi);   /* nothing for an empty piece; the model after the last step */
int step_rewrite(struct tok_scratch *s, int i, size_t lo, size_t hi);     /* PREFIX, METASPACE */
int step_words(struct tok_scratch *s, int i, size_t lo, size_t hi);
int step_nospace(struct tok_scratch *s, int i, size_t lo, size_t hi);

/* tok_pattern.c */
int pattern_compile(struct pattern *p, const char *re, const char *path, const char *part, struct err *e);
/* Next match in text[0, hi) at or after `at` (look-behind does not go before lo): 1, 0 none, -1 error. Never empty. */
int pattern_find(const struct pattern *p, pcre2_match_data **md, const char *text, size_t lo, size_t hi, size_t at, size_t *mlo,
		 size_t *mhi, struct err *e);
void pattern_free(struct pattern *p);

/* tok_json.c: cuts "vocab" and "merges" out of the JSON text, for they are too large for a DOM */
struct json_cut { const char *vocab, *vocab_end, *merges, *merges_end; };
int json_cut_model(const char *s, size_t n, struct json_cut *c);
struct jbuf { char *s; size_t n, cap; };
int js_string(struct jbuf *b, const char **p, const char *end);   /* NUL-terminated b->s; 0, or -1: no string here */
void json_space(const char **p, const char *end);                    /* moves over white space */

/* tok_load.c */
void tok_set_entry(struct tokenizer *t, uint32_t id, const char *spell, size_t n);
int tok_load_vocab(struct tokenizer *t, const struct json_cut *c, struct err *e);
int tok_load_unigram(struct tokenizer *t, const struct json_cut *c, struct err *e);
void tok_fill_bytes(struct tokenizer *t);                            /* tok_entry.bytes, when all is loaded */

/* tok_parts.c, tok_parts_text.c: everything of tokenizer.json but vocab and merges */
struct json_t;
int tok_load_parts(struct tokenizer *t, const struct json_t *root, struct err *e);
int tok_load_added(struct tokenizer *t, const struct json_t *list, struct err *e);
int tok_load_normalizer(struct tokenizer *t, const struct json_t *o, struct err *e);
int tok_load_decoder(struct tokenizer *t, const struct json_t *o, struct err *e);
int tok_refuse(const struct tokenizer *t, const char *part, const char *what, struct err *e);
bool tok_part_is(const struct json_t *o, const char *type);
const char *tok_part_type(const struct json_t *o);
bool tok_flag(const struct json_t *o, const char *key, bool absent);
int tok_load_pattern(const struct tokenizer *t, struct pattern *p, const struct json_t *o, const char *part, struct err *e);
void tok_around(struct tokenizer *t, bool after, uint32_t id);       /* one more id before or after the text */

/* tok_spm.c: SentencePiece's .model */
int tok_load_spm(struct tokenizer *t, const char *data, size_t n, struct err *e);

/* tok_norm.c: all normalizers over v->buf[lo, hi); *out shows the result (in the scratch, or in the text itself) */
int norm_run(struct tok_scratch *s, size_t lo, size_t hi, struct tok_view *out, size_t *n);
/* To write into a buffer: bytes as they are, or bytes that stand for [i, j) of the source. */
void norm_copy(struct norm_buf *o, const struct tok_view *v, size_t i, size_t k, bool places);
void norm_put(struct norm_buf *o, const struct tok_view *v, const char *text, size_t k, size_t i, size_t j, bool places);
void norm_buf_free(struct norm_buf *o);

/* tok_charsmap.c */
struct charsmap *charsmap_new(const char *blob, size_t n);               /* NULL: broken */
void charsmap_free(struct charsmap *m);
void charsmap_run(const struct charsmap *m, struct norm_buf *o, const struct tok_view *v, size_t n, bool places);
void spm_normalize(const struct tokenizer *t, const struct norm *op, struct norm_buf *o, const struct tok_view *v, size_t n, bool places);

/* tok_encode.c */
const struct added *added_at(const struct added_set *set, const char *p, size_t n, size_t i);  /* longest that starts at i; NULL */
#endif
