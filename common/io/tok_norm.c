/*
 * tok_norm.c - the normalizers: Unicode forms, Lowercase, Strip, Prepend, Replace, Nmt
 *
 * Each reads one buffer and writes the next, with the place in the user's text beside every byte when places are asked
 * for.  Unicode forms run only on the stretches that can change: code points below a limit (U+0300 for NFC), and those that
 * no form knows, are stable and join nothing before them, so a stretch starts at the last of them before the others.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static void places_reserve(struct norm_buf *o, size_t more)
{
	o->lo = tok_grow(o->lo, &o->lo_cap, o->n + more, sizeof *o->lo);
	o->hi = tok_grow(o->hi, &o->hi_cap, o->n + more, sizeof *o->hi);
}

static inline int64_t place_lo(const struct tok_view *v, size_t i)
{
	return v->at_lo ? v->at_lo[i] : v->base + (int64_t)i;
}

static inline int64_t place_hi(const struct tok_view *v, size_t i)
{
	return v->at_hi ? v->at_hi[i] : v->base + (int64_t)i + 1;
}

void norm_copy(struct norm_buf *o, const struct tok_view *v, size_t i, size_t k, bool places)
{
	o->p = tok_grow(o->p, &o->cap, o->n + k + 1, 1);
	memcpy(o->p + o->n, v->buf + i, k);
	if (places) {
		places_reserve(o, k);
		for (size_t j = 0; j < k; j++) {
			o->lo[o->n + j] = place_lo(v, i + j);
			o->hi[o->n + j] = place_hi(v, i + j);
		}
	}
	o->n += k;
}

/* An insertion (i == j) starts and ends where the text at i starts. */
void norm_put(struct norm_buf *o, const struct tok_view *v, const char *text, size_t k, size_t i, size_t j, bool places)
{
	o->p = tok_grow(o->p, &o->cap, o->n + k + 1, 1);
	memcpy(o->p + o->n, text, k);
	if (places) {
		places_reserve(o, k);
		for (size_t m = o->n; m < o->n + k; m++) {
			o->lo[m] = place_lo(v, i);
			o->hi[m] = j > i ? place_hi(v, j - 1) : o->lo[m];
		}
	}
	o->n += k;
}

void norm_buf_free(struct norm_buf *o)
{
	free(o->p);
	free(o->lo);
	free(o->hi);
}

/* What takes part in forms, from the limit on, and the one character before it, which may compose with it: [*lo, *hi).
 * Text up to *lo stays. */
static void stretch(const uint8_t *p, size_t n, size_t i, uint8_t limit, size_t *lo, size_t *hi)
{
	size_t q = i;
	unsigned k = 0;
	for (; q < n && (p[q] < limit || !tok_in_forms(utf8_cp(p + q, &k))); q += p[q] < 0x80 ? 1 : (utf8_cp(p + q, &k), k))
		;
	*lo = q < n && q > i ? utf8_prev(p, q) : q;
	for (; q < n && p[q] >= limit && tok_in_forms(utf8_cp(p + q, &k)); q += k)
		;
	*hi = q;
}

static void unicode_form(enum norm_kind kind, struct norm_buf *o, const struct tok_view *v, size_t n, bool places)
{
	const uint8_t *p = (const uint8_t *)v->buf;
	bool compose = kind == NORM_NFC || kind == NORM_NFKC, compat = kind == NORM_NFKC || kind == NORM_NFKD;
	uint8_t limit = compat ? 0xC2 : compose ? 0xCC : 0xC3;   /* lead bytes of U+0080, U+0300, U+00C0 */
	int how = UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compat ? UTF8PROC_COMPAT : 0);
	for (size_t i = 0, keep, stop; i < n; i = stop) {
		stretch(p, n, i, limit, &keep, &stop);
		norm_copy(o, v, i, keep - i, places);
		if (stop == keep)
			continue;
		unsigned k;
		uint32_t before = utf8_cp(p + keep, &k);
		/* one that only the newer Unicode of utf8proc knows to change stays */
		if (before >= 0x300 && !tok_in_forms(before)) {
			norm_copy(o, v, keep, k, places);
			keep += k;
		}
		utf8proc_uint8_t *r = NULL;
		utf8proc_ssize_t len = utf8proc_map(p + keep, (utf8proc_ssize_t)(stop - keep), &r, (utf8proc_option_t)how);
		if (len < 0 || ((size_t)len == stop - keep && !memcmp(r, p + keep, (size_t)len)))
			norm_copy(o, v, keep, stop - keep, places);   /* it fails on no valid text */
		else
			norm_put(o, v, (char *)r, (size_t)len, keep, stop, places);
		free(r);
	}
}

static void lowercase(struct norm_buf *o, const struct tok_view *v, size_t n, bool places)
{
	const uint8_t *p = (const uint8_t *)v->buf;
	unsigned k;
	char u[4];
	for (size_t i = 0; i < n; i += k) {
		uint32_t cp = utf8_cp(p + i, &k), low = tok_lower(cp);
		if (cp == 0x130)               /* the only one that becomes two */
			norm_put(o, v, "i\xcc\x87", 3, i, i + k, places);
		else
			norm_put(o, v, u, (size_t)utf8_put(u, low), i, i + k, places);
	}
}

static void strip(const struct norm *op, struct norm_buf *o, const struct tok_view *v, size_t n, bool places)
{
	const uint8_t *p = (const uint8_t *)v->buf;
	size_t lo = 0;
	unsigned k;
	while (op->left && lo < n && utf8_class(p + lo, &k) == TC_SPACE)
		lo += k;
	while (op->right && n > lo && utf8_class(p + utf8_prev(p, n), &k) == TC_SPACE)
		n = utf8_prev(p, n);
	norm_copy(o, v, lo, n - lo, places);
}

static int replace(struct tok_scratch *s, const struct norm *op, struct norm_buf *o, const struct tok_view *v, size_t n)
{
	size_t at = 0, lo, hi;
	bool places = s->spans != NULL;
	int rc;
	while ((rc = pattern_find(&op->find, &s->md, v->buf, 0, n, at, &lo, &hi, s->e)) == 1) {
		norm_copy(o, v, at, lo - at, places);
		norm_put(o, v, op->text, op->text_n, lo, hi, places);
		at = hi;
	}
	norm_copy(o, v, at, n - at, places);
	return rc;
}

/* SentencePiece's Nmt rule: control characters go, odd white space becomes a space. */
static void nmt(struct norm_buf *o, const struct tok_view *v, size_t n, bool places)
{
	const uint8_t *p = (const uint8_t *)v->buf;
	unsigned k;
	for (size_t i = 0; i < n; i += k) {
		uint32_t c = utf8_cp(p + i, &k);
		if ((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F)
			continue;
		if (c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 ||
		    c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD)
			norm_put(o, v, " ", 1, i, i + k, places);
		else
			norm_copy(o, v, i, k, places);
	}
}

static int run_one(struct tok_scratch *s, const struct norm *op, struct norm_buf *o, const struct tok_view *v, size_t n)
{
	bool places = s->spans != NULL;
	switch (op->kind) {
	case NORM_NFC:
	case NORM_NFD:
	case NORM_NFKC:
	case NORM_NFKD:
		unicode_form(op->kind, o, v, n, places);
		return 0;
	case NORM_LOWER:
		lowercase(o, v, n, places);
		return 0;
	case NORM_STRIP:
		strip(op, o, v, n, places);
		return 0;
	case NORM_PREPEND:
		if (n)
			norm_put(o, v, op->text, op->text_n, 0, 0, places);
		norm_copy(o, v, 0, n, places);
		return 0;
	case NORM_REPLACE:
		return replace(s, op, o, v, n);
	case NORM_NMT:
		nmt(o, v, n, places);
		return 0;
	case NORM_CHARSMAP:
		charsmap_run(op->map, o, v, n, places);
		return 0;
	case NORM_SPM:
		spm_normalize(s->t, op, o, v, n, places);
		return 0;
	}
	BUG("normalizer %d", (int)op->kind);
}

int norm_run(struct tok_scratch *s, size_t lo, size_t hi, struct tok_view *out, size_t *n)
{
	*out = s->v;
	out->buf += lo;
	out->base += (int64_t)lo;
	out->first = s->v.first && !lo;
	if (out->at_lo) {
		out->at_lo += lo;
		out->at_hi += lo;
	}
	*n = hi - lo;
	for (int i = 0; i < s->t->n_norms; i++) {
		struct norm_buf *o = &s->norm_buf[i & 1];
		o->n = 0;
		if (run_one(s, &s->t->norm_op[i], o, out, *n))
			return -1;
		out->buf = o->p;
		out->at_lo = s->spans ? o->lo : NULL;
		out->at_hi = s->spans ? o->hi : NULL;
		*n = o->n;
	}
	return 0;
}
