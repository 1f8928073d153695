/*
 * tok_impl.h - inside of the tokenizer, shared by tok_*.c and tokenizer.c only
 *
 * Text flows   added tokens -> normalizer -> pre-tokenizer steps -> byte-level BPE   piece by piece, with no list of
 * words in between: each step hands sub-pieces to the next (tok_pretok.c), the last one asks the word cache
 * (tok_bpe.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TOK_IMPL_H
#define ADZE_TOK_IMPL_H
#include "tokenizer.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* ---- Unicode classes (tok_unicode.c has the data) */
struct tok_range { uint32_t lo, hi; };
extern const struct tok_range tok_uni_letter[], tok_uni_number[], tok_uni_space[], tok_uni_numeric_more[];
extern const size_t tok_uni_letter_n, tok_uni_number_n, tok_uni_space_n, tok_uni_numeric_more_n;
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
int utf8_put(char *dst, uint32_t cp);                 /* bytes written, at most 4 */
/* Length of the valid prefix; *bad = bytes of the maximal ill-formed part after it (0: all valid). */
size_t utf8_valid(const uint8_t *p, size_t n, size_t *bad);
bool tok_is_word(uint32_t cp);                        /* \w of single_word added tokens */

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
struct bpe {
	struct tok_entry *tok;     /* [n_ids]; spell NULL: a hole */
	uint32_t n_ids;
	struct vocab_slot *vslot;  /* model vocabulary by spelling; vmask + 1 slots */
	uint64_t vmask;
	struct merge_slot *mslot;
	uint64_t mmask;
	uint32_t byte_id[256];     /* id of each byte's character, NO_ID: not in the vocabulary */
	uint32_t unk;              /* NO_ID: unknown characters vanish */
	bool fuse_unk, ignore_merges;
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

/* ---- pre-tokenizer */
enum step_kind { STEP_DIGITS, STEP_SPLIT, STEP_GPT2, STEP_LLAMA3, STEP_QWEN2, STEP_BYTES };
enum split_behaviour { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_PREVIOUS, SPLIT_NEXT, SPLIT_CONTIGUOUS };
struct step {
	enum step_kind kind;
	enum split_behaviour how;
	bool invert;
	pcre2_code *re;            /* STEP_SPLIT by regex */
	char *literal;             /* STEP_SPLIT by string */
	size_t literal_len;
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
	bool nfc, prefix_space;
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
struct tok_scratch {
	struct cache_slot *cache;
	struct sym *sym;
	size_t sym_cap;
	struct heap_item *heap;
	size_t heap_n, heap_cap;
	struct piece *piece[MAX_STEPS];  /* of a split step with a behaviour that needs its neighbours */
	size_t piece_cap[MAX_STEPS];
	pcre2_match_data *md[MAX_STEPS];
	char *clean, *work;        /* repaired text; normalised or prefixed piece */
	size_t clean_cap, work_cap;
	/* the call in progress */
	const struct tokenizer *t;
	struct tok_ids *ids;
	struct tok_spans *spans;   /* NULL: not asked for, the cache may answer */
	int64_t *at_lo, *at_hi;    /* per byte of work: place in the text; NULL: base + offset */
	size_t at_cap;
	const char *buf;           /* what piece offsets count in */
	int64_t base;              /* place of buf[0] in the text, when at_lo is NULL */
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
void bpe_merges_init(struct bpe *b, size_t n);
void bpe_merge_add(struct bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
void bpe_finish(struct bpe *b);
void bpe_word(struct tok_scratch *s, size_t lo, size_t hi);               /* bytes of s->buf -> ids */
int byte_char(char *dst, uint8_t b);                                      /* the byte's character in UTF-8 */
int char_byte(uint32_t cp);                                               /* the inverse, -1: no byte's character */

/* tok_pretok.c */
int pretok_run(struct tok_scratch *s, int step, size_t lo, size_t hi);    /* s->buf[lo, hi) */
int split_compile(struct step *st, const char *pattern, const char *path, struct err *e);

/* tok_json.c: cuts "vocab" and "merges" out of the JSON text, for they are too large for a DOM */
struct json_cut { const char *vocab, *vocab_end, *merges, *merges_end; };
int json_cut_model(const char *s, size_t n, struct json_cut *c);
struct jbuf { char *s; size_t n, cap; };
int js_string(struct jbuf *b, const char **p, const char *end);   /* NUL-terminated b->s; 0, or -1: no string here */
void json_space(const char **p, const char *end);                    /* moves over white space */

/* tok_load.c */
void tok_set_entry(struct tokenizer *t, uint32_t id, const char *spell, size_t n);
int tok_load_vocab(struct tokenizer *t, const struct json_cut *c, struct err *e);

/* tok_parts.c: everything of tokenizer.json but vocab and merges */
struct json_t;
int tok_load_parts(struct tokenizer *t, const struct json_t *root, struct err *e);

/* tok_norm.c: NFC; fills s->work and, when asked, s->at_*; returns its length */
size_t nfc_run(struct tok_scratch *s, const char *p, size_t n, int64_t base, bool places);
char *nfc_new(const char *p, size_t n, size_t *len);
#endif
