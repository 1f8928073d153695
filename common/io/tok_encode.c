/*
 * tok_encode.c - text to ids
 *
 * Encoding cuts the added tokens out of the raw text, normalises what lies between, cuts the added tokens that match
 * normalised text, and sends the rest through the pre-tokenizer.  The post-processor's ids go around the whole.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <stdlib.h>
#include <string.h>

void *tok_grow(void *p, size_t *cap, size_t n, size_t size)
{
	if (n <= *cap)
		return p;
	*cap = n < 64 ? 64 : n + n / 2;
	return xrealloc(p, *cap, size);
}

void spans_push(struct tok_spans *a, int64_t lo, int64_t hi)
{
	if (a->n == a->cap) {
		a->cap = a->cap ? a->cap * 2 : 256;
		a->v = xrealloc(a->v, (size_t)a->cap, sizeof *a->v);
	}
	a->v[a->n++] = (struct tok_span){ .lo = lo, .hi = hi };
}

static bool word_at(const char *p, const char *end)
{
	unsigned k;
	return p < end && tok_is_word(utf8_cp((const uint8_t *)p, &k));
}

static bool space_at(const uint8_t *p, unsigned *k)
{
	return utf8_class(p, k) == TC_SPACE;
}

struct hit { size_t lo, hi; uint32_t id; };

const struct added *added_at(const struct added_set *set, const char *p, size_t n, size_t i)
{
	int c = (uint8_t)p[i];
	for (int k = set->first[c]; k < set->first[c + 1]; k++)
		if (set->v[k]->len <= n - i && !memcmp(set->v[k]->text, p + i, set->v[k]->len))
			return set->v[k];
	return NULL;
}

/* First added token of the set in p[from, n), leftmost then longest; single_word ones that touch a word do not count. */
static const struct added *find_added(const struct added_set *set, const char *p, size_t n, size_t *from)
{
	for (size_t i = *from; i < n; i++) {
		if (set->only >= 0) {
			const char *f = memchr(p + i, set->only, n - i);
			if (!f)
				return NULL;
			i = (size_t)(f - p);
		}
		const struct added *a = added_at(set, p, n, i);
		if (a && a->single_word && ((i && word_at(p + utf8_prev((const uint8_t *)p, i), p + n)) ||
					    word_at(p + i + a->len, p + n))) {
			i += a->len - 1;       /* the reference goes on after what matched */
		} else if (a) {
			*from = i;
			return a;
		}
	}
	return NULL;
}

/* The match widened by its lstrip and rstrip, not to before `floor`. */
static struct hit widen(const struct added *a, const char *text, size_t n, size_t at, size_t floor)
{
	const uint8_t *p = (const uint8_t *)text;
	struct hit h = { .lo = at, .hi = at + a->len, .id = a->id };
	unsigned k;
	while (a->lstrip && h.lo > floor && space_at(p + utf8_prev(p, h.lo), &k))
		h.lo = utf8_prev(p, h.lo);
	while (a->rstrip && h.hi < n && space_at(p + h.hi, &k))
		h.hi += k;
	return h;
}

/* Text without added tokens goes to the pre-tokenizer. */
static int plain(struct tok_scratch *s, size_t lo, size_t hi)
{
	return pretok_next(s, 0, lo, hi);
}

/* One pass over s->v.buf[0, n): added tokens of the set become ids, what is between goes to `rest`. */
static int cut_added(struct tok_scratch *s, const struct added_set *set, size_t n,
		     int (*rest)(struct tok_scratch *, size_t, size_t))
{
	size_t done = 0, at = 0;
	const struct added *a;
	while (set->n && (a = find_added(set, s->v.buf, n, &at))) {
		struct hit h = widen(a, s->v.buf, n, at, done);
		if (h.lo > done && rest(s, done, h.lo))
			return -1;
		model_emit(s, h.id, h.lo, h.hi);
		done = at = h.hi;
	}
	return done < n ? rest(s, done, n) : 0;
}

static int normalised(struct tok_scratch *s, size_t lo, size_t hi)
{
	struct tok_view was = s->v, v;
	size_t n;
	if (norm_run(s, lo, hi, &v, &n))
		return -1;
	s->v = v;
	/* SentencePiece's Unigram has its user-defined pieces in the model, where others may win */
	int rc = s->t->bpe.single ? plain(s, 0, n) : cut_added(s, &s->t->norm, n, plain);
	s->v = was;
	return rc;
}

/* Copy of the text with each ill-formed part as U+FFFD; returns its length. */
static size_t repair(struct tok_scratch *s, const char *text, size_t n)
{
	size_t o = 0, bad = 0;
	for (size_t i = 0; i < n; i += bad) {
		size_t k = utf8_valid((const uint8_t *)text + i, n - i, &bad);
		s->clean = tok_grow(s->clean, &s->clean_cap, o + k + 4, 1);
		memcpy(s->clean + o, text + i, k);
		o += k;
		if (bad)
			o += (size_t)utf8_put(s->clean + o, 0xFFFD);
		i += k;
		if (!bad)
			break;
	}
	return o;
}

/* Spans counted in the repaired text become spans of the text. */
static void unrepair(const char *text, size_t n, struct tok_span *v, int64_t count)
{
	size_t i = 0, o = 0, bad = 0, k = 0;   /* text[i, i+k) valid lies at [o, o+k) */
	for (int64_t j = 0; j < count; j++)
		for (int side = 0; side < 2; side++) {
			int64_t *at = side ? &v[j].hi : &v[j].lo;
			if (*at < (int64_t)o)
				i = o = k = bad = 0;
			for (;;) {
				if (!k && !bad)
					k = utf8_valid((const uint8_t *)text + i, n - i, &bad);
				if (*at <= (int64_t)(o + k) || (!bad && i + k >= n))
					break;
				if (*at < (int64_t)(o + k + 3)) {      /* inside U+FFFD */
					*at = (int64_t)(i + k + (side ? bad : 0));
					goto next;
				}
				i += k + bad;
				o += k + 3;
				k = bad = 0;
			}
			*at = (int64_t)(i + ((size_t)*at - o));
next:			;
		}
}

int64_t tok_encode_spans(const struct tokenizer *t, struct tok_scratch *s, const char *text, size_t n, bool special,
			 struct tok_ids *ids, struct tok_spans *spans, struct err *e)
{
	int64_t first = ids->n, first_span = spans ? spans->n : 0;
	size_t bad, len = n;
	if (s->t != t)
		BUG("scratch belongs to another tokenizer");
	s->ids = ids;
	s->spans = spans;
	s->e = e;
	s->v = (struct tok_view){ .buf = text, .first = true };
	utf8_valid((const uint8_t *)text, n, &bad);
	if (bad) {
		len = repair(s, text, n);
		s->v.buf = s->clean;
	}
	for (int i = 0; special && i < t->n_pre; i++) {
		ids_push(ids, t->pre[i]);
		if (spans)
			spans_push(spans, 0, 0);
	}
	if (len && cut_added(s, &t->raw, len, normalised))
		return -1;
	if (bad && spans)
		unrepair(text, n, spans->v + first_span, spans->n - first_span);
	for (int i = 0; special && i < t->n_post; i++) {
		ids_push(ids, t->post[i]);
		if (spans)
			spans_push(spans, (int64_t)n, (int64_t)n);
	}
	return ids->n - first;
}

int64_t tok_encode(const struct tokenizer *t, struct tok_scratch *s, const char *text, size_t n, bool special,
		   struct tok_ids *ids, struct err *e)
{
	return tok_encode_spans(t, s, text, n, special, ids, NULL, e);
}
