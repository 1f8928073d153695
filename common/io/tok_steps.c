/*
 * tok_steps.c - pre-tokenizer steps that change the text, and those that drop white space
 *
 * Metaspace writes U+2581 for every space and may put one in front; ByteLevel's add_prefix_space puts a space in front.
 * Both work on a copy of their piece, which the next steps see instead.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <string.h>

/* The piece with its spaces replaced and its prefix, in the step's own buffer. */
static void rewrite(struct tok_scratch *s, const struct step *st, struct norm_buf *o, size_t lo, size_t hi)
{
	const struct tok_view *v = &s->v;
	const char *p = v->buf, *mark = st->kind == STEP_PREFIX ? " " : st->mark;
	size_t k = strlen(mark);
	bool places = s->spans != NULL, space = p[lo] == ' ';
	o->n = 0;
	bool there = (space && st->kind == STEP_METASPACE) || (hi - lo >= k && !memcmp(p + lo, mark, k));
	if (!there && (st->prepend == PREPEND_ALWAYS || (st->prepend == PREPEND_FIRST && v->first && !lo)))
		norm_put(o, v, mark, k, lo, lo, places);
	if (st->kind == STEP_PREFIX) {
		norm_copy(o, v, lo, hi - lo, places);
		return;
	}
	for (size_t i = lo; i < hi;) {
		const char *f = memchr(p + i, ' ', hi - i);
		size_t to = f ? (size_t)(f - p) : hi;
		norm_copy(o, v, i, to - i, places);
		if (f)
			norm_put(o, v, mark, k, to, to + 1, places);
		i = to + (f != NULL);
	}
}

int step_rewrite(struct tok_scratch *s, int i, size_t lo, size_t hi)
{
	const struct step *st = &s->t->step[i];
	struct norm_buf *o = &s->step_buf[i];
	struct tok_view was = s->v;
	size_t k = strlen(st->mark), at = 0;
	int rc = 0;
	rewrite(s, st, o, lo, hi);
	s->v = (struct tok_view){ .buf = o->p, .base = was.base + (int64_t)lo, .first = was.first && !lo };
	if (s->spans) {
		s->v.at_lo = o->lo;
		s->v.at_hi = o->hi;
	}
	while (st->kind == STEP_METASPACE && st->split && o->n - at > 1) {
		const char *f = memmem(o->p + at + 1, o->n - at - 1, st->mark, k);
		if (!f)
			break;
		size_t to = (size_t)(f - o->p);
		if ((rc = pretok_next(s, i + 1, at, to)))
			break;
		at = to;
	}
	if (!rc)
		rc = pretok_next(s, i + 1, at, o->n);
	s->v = was;
	return rc;
}

/* Whitespace: \w+|[^\w\s]+ */
int step_words(struct tok_scratch *s, int i, size_t lo, size_t hi)
{
	const uint8_t *p = (const uint8_t *)s->v.buf;
	unsigned k;
	while (lo < hi) {
		if (utf8_class(p + lo, &k) == TC_SPACE) {
			lo += k;
			continue;
		}
		bool word = tok_is_word(utf8_cp(p + lo, &k));
		size_t to = lo + k;
		while (to < hi && utf8_class(p + to, &k) != TC_SPACE && tok_is_word(utf8_cp(p + to, &k)) == word)
			to += k;
		if (pretok_next(s, i + 1, lo, to))
			return -1;
		lo = to;
	}
	return 0;
}

/* WhitespaceSplit */
int step_nospace(struct tok_scratch *s, int i, size_t lo, size_t hi)
{
	const uint8_t *p = (const uint8_t *)s->v.buf;
	unsigned k;
	while (lo < hi) {
		size_t to = lo;
		while (to < hi && utf8_class(p + to, &k) != TC_SPACE)
			to += k;
		if (pretok_next(s, i + 1, lo, to))
			return -1;
		for (lo = to; lo < hi && utf8_class(p + lo, &k) == TC_SPACE; lo += k)
			;
	}
	return 0;
}
