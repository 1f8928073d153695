/*
 * tok_charsmap.c - SentencePiece's precompiled table of replacements, as tokenizers and as SentencePiece itself apply it
 *
 * The table is a double array over UTF-8 bytes: a node's children lie at (its offset xor byte), a unit holds the byte that
 * leads to it, and a leaf holds where its replacement starts in a list of NUL-terminated texts.  SentencePiece takes the
 * longest rule at each place.  tokenizers asks for each grapheme below six bytes, takes the *shortest* rule that starts
 * it, and puts that in place of the whole grapheme; it asks for single characters otherwise.  Both are kept here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static size_t unit_offset(uint32_t u)
{
	return (size_t)(u >> 10) << ((u & 1u << 9) >> 6);
}

/* Replacement for the longest or shortest rule that starts p[0, n); *len = bytes that the rule covers.  NULL: none. */
static const char *look(const struct charsmap *m, const char *p, size_t n, bool longest, size_t *len)
{
	const char *found = NULL;
	size_t node = 0;
	uint32_t unit = m->trie[0];
	node ^= unit_offset(unit);
	for (size_t i = 0; i < n && p[i]; i++) {
		node ^= (uint8_t)p[i];
		if (node >= m->units)
			break;
		unit = m->trie[node];
		if ((unit & (1u << 31 | 0xFF)) != (uint8_t)p[i])
			break;
		node ^= unit_offset(unit);
		if (!(unit >> 8 & 1))
			continue;
		if (node >= m->units || (m->trie[node] & INT32_MAX) >= m->text_n)
			break;
		found = m->text + (m->trie[node] & INT32_MAX);
		*len = i + 1;
		if (!longest)
			break;
	}
	return found;
}

static bool child(const struct charsmap *m, size_t node, uint8_t c)
{
	return (node ^ c) < m->units && (m->trie[node ^ c] & (1u << 31 | 0xFF)) == c;
}

/* No rule is this ASCII character, or starts with it and another one. */
static bool stays(const struct charsmap *m, uint8_t c)
{
	size_t node = unit_offset(m->trie[0]);
	if (!child(m, node, c))
		return true;
	uint32_t unit = m->trie[node ^ c];
	node ^= c ^ unit_offset(unit);
	bool more = unit >> 8 & 1;
	for (uint8_t d = 1; d < 128; d++)
		more |= child(m, node, d);
	return !more;
}

struct charsmap *charsmap_new(const char *blob, size_t n)
{
	uint32_t bytes;
	if (n < 8)
		return NULL;
	memcpy(&bytes, blob, 4);
	if (bytes < 4 || bytes % 4 || bytes > n - 4)
		return NULL;
	struct charsmap *m = xcalloc(1, sizeof *m);
	m->units = bytes / 4;
	m->trie = xmalloc(bytes);
	memcpy(m->trie, blob + 4, bytes);
	m->text_n = n - 4 - bytes;
	m->text = xmalloc(m->text_n + 1);
	memcpy(m->text, blob + 4 + bytes, m->text_n);
	m->text[m->text_n] = 0;
	size_t bad;
	utf8_valid((const uint8_t *)m->text, m->text_n, &bad);
	if (bad) {
		charsmap_free(m);
		return NULL;
	}
	for (int c = 0; c < 128; c++)
		m->same[c] = c && c != '\r' && stays(m, (uint8_t)c);
	return m;
}

void charsmap_free(struct charsmap *m)
{
	if (!m)
		return;
	free(m->trie);
	free(m->text);
	free(m);
}

/* End of the grapheme that starts at i. */
static size_t grapheme(const uint8_t *p, size_t n, size_t i)
{
	utf8proc_int32_t state = 0;
	unsigned k;
	uint32_t a = utf8_cp(p + i, &k), b;
	for (i += k; i < n; i += k, a = b) {
		b = utf8_cp(p + i, &k);
		if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)a, (utf8proc_int32_t)b, &state))
			break;
	}
	return i;
}

void charsmap_run(const struct charsmap *m, struct norm_buf *o, const struct tok_view *v, size_t n, bool places)
{
	const uint8_t *p = (const uint8_t *)v->buf;
	size_t i = 0, len;
	unsigned k;
	while (i < n) {
		size_t q = i;          /* ASCII that stays, before ASCII: a grapheme each */
		while (q + 1 < n && p[q] < 0x80 && m->same[p[q]] && p[q + 1] < 0x80)
			q++;
		norm_copy(o, v, i, q - i, places);
		i = q;
		size_t end = grapheme(p, n, i);
		const char *to = end - i < 6 ? look(m, v->buf + i, end - i, false, &len) : NULL;
		if (to) {
			norm_put(o, v, to, strlen(to), i, end, places);
			i = end;
		}
		for (; i < end; i += k) {
			utf8_cp(p + i, &k);
			if ((to = look(m, v->buf + i, k, false, &len)))
				norm_put(o, v, to, strlen(to), i, i + k, places);
			else
				norm_copy(o, v, i, k, places);
		}
	}
}

/* SentencePiece's own normalizer: rules, runs of spaces, U+2581 for each space and one in front.
 * left: add_dummy_prefix, right: remove_extra_whitespaces. */
void spm_normalize(const struct tokenizer *t, const struct norm *op, struct norm_buf *o, const struct tok_view *v, size_t n, bool places)
{
	static const char mark[] = "\xe2\x96\x81";
	const uint8_t *p = (const uint8_t *)v->buf;
	bool after_space = op->right, any = !op->right;
	size_t len;
	unsigned k;
	if (op->left && n && any)
		norm_put(o, v, mark, 3, 0, 0, places);
	for (size_t i = 0; i < n; i += len) {
		for (len = 0; any && !t->norm.n && i + len + 1 < n && p[i + len] < 0x80 && p[i + len] != ' ' && p[i + len + 1] < 0x80 &&
			      (!op->map || op->map->same[p[i + len]]); len++)
			;
		if (len) {
			norm_copy(o, v, i, len, places);
			after_space = false;
			continue;
		}
		const struct added *user = added_at(&t->norm, v->buf, n, i);
		const char *to = v->buf + i;
		size_t to_n;
		if (user) {
			to_n = len = user->len;
		} else if (op->map && (to = look(op->map, v->buf + i, n - i, true, &len))) {
			to_n = strlen(to);
		} else {
			to = v->buf + i;
			utf8_cp(p + i, &k);
			to_n = len = k;
		}
		bool space = to_n == 1 && *to == ' ';
		if (!any && !space) {          /* the first that is no space */
			any = true;
			if (op->left)
				norm_put(o, v, mark, 3, i, i, places);
		}
		for (; after_space && to_n && *to == ' '; to++)
			to_n--;
		for (size_t j = 0; j < to_n; j++) {
			if (to[j] == ' ')
				norm_put(o, v, mark, 3, i, i + len, places);
			else
				norm_put(o, v, to + j, 1, i, i + len, places);
		}
		if (to_n)
			after_space = op->right && to[to_n - 1] == ' ';
	}
	while (op->right && o->n >= 3 && !memcmp(o->p + o->n - 3, mark, 3))
		o->n -= 3;
}
