/*
 * tok_merges.c - the merges of tokenizer.json: read beside the vocabulary, looked up afterwards
 *
 * merges is ["a b", ...] or, since tokenizers 0.20, [["a", "b"], ...].  A merge's rank is its place in the list; its result is the
 * token spelled left+right, which must exist.  The text is read by a thread of its own while the vocabulary is; then both threads
 * look up half of the list each.  A look-up is three misses of the cache (slot, token, spelling), so a batch goes through each of
 * them together and finds it fetched.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"
#include <stdlib.h>
#include <string.h>

enum { BATCH = 24, ALONE = 1 << 16 };  /* look-ups under way; bytes of text that are not worth a thread */

/* "a b" or ["a", "b"] into *l = "ab" with *cut = length of a. */
static int read_merge(struct jbuf *l, struct jbuf *r, size_t *cut, const char **p, const char *end)
{
	if (**p != '[') {
		if (js_string(l, p, end))
			return -1;
		char *space = memchr(l->s, ' ', l->n);
		if (!space || memchr(space + 1, ' ', l->n - (size_t)(space + 1 - l->s)))
			return -1;
		*cut = (size_t)(space - l->s);
		memmove(space, space + 1, --l->n - *cut);
		return 0;
	}
	++*p;
	if (js_string(l, p, end))
		return -1;
	json_space(p, end);
	if (*p >= end || *(*p)++ != ',' || js_string(r, p, end))
		return -1;
	json_space(p, end);
	if (*p >= end || *(*p)++ != ']')
		return -1;
	*cut = l->n;
	l->s = tok_grow(l->s, &l->cap, l->n + r->n + 1, 1);
	memcpy(l->s + l->n, r->s, r->n);
	l->n += r->n;
	return 0;
}

static void read_list(struct merges *m)
{
	const char *p = m->from, *end = m->end;
	struct jbuf l = { 0 }, r = { 0 };
	size_t cut, at = 0;
	m->broken = p == end || *p++ != '[';
	m->list = xcalloc((size_t)(end - m->from) / 5 + 1, sizeof *m->list);   /* "a b": room that is not used costs nothing */
	m->text = xmalloc((size_t)(end - m->from) + 1);        /* a string is never longer than what spells it */
	for (json_space(&p, end); !m->broken && p < end && *p != ']';) {
		if (read_merge(&l, &r, &cut, &p, end)) {
			m->broken = true;
			break;
		}
		memcpy(m->text + at, l.s, l.n);
		m->list[m->n++] = (struct merge){ .at = (uint32_t)at, .cut = (uint32_t)cut, .len = (uint32_t)l.n };
		at += l.n;
		json_space(&p, end);
		if (p < end && *p == ',')
			p++;
		json_space(&p, end);
	}
	m->broken |= p >= end;
	free(l.s);
	free(r.s);
}

static void *reader(void *m)
{
	read_list(m);
	return NULL;
}

void merges_read(struct merges *m, const char *from, const char *end)
{
	*m = (struct merges){ .from = from, .end = end };
	m->started = end - from >= ALONE && !pthread_create(&m->thread, NULL, reader, m);
	if (!m->started)
		read_list(m);
}

/* The ids of merges [lo, hi) in place of their text, up to the first that has none */
struct half {
	struct merges *m;
	const struct bpe *b;
	size_t lo, hi, bad;
};

static void *look_up(void *arg)
{
	struct half *h = arg;
	struct bpe_key key[3 * BATCH];
	h->bad = h->hi;
	for (size_t i = h->lo; i < h->hi; i += BATCH) {
		size_t n = h->hi - i < BATCH ? h->hi - i : BATCH;
		for (size_t k = 0; k < n; k++) {
			const struct merge *x = &h->m->list[i + k];
			const char *s = h->m->text + x->at;
			key[3 * k] = (struct bpe_key){ .spell = s, .n = x->cut };
			key[3 * k + 1] = (struct bpe_key){ .spell = s + x->cut, .n = x->len - x->cut };
			key[3 * k + 2] = (struct bpe_key){ .spell = s, .n = x->len };
		}
		bpe_find_many(h->b, key, (int)(3 * n));
		for (size_t k = 0; k < n; k++) {
			if (key[3 * k].id == NO_ID || key[3 * k + 1].id == NO_ID || key[3 * k + 2].id == NO_ID) {
				h->bad = i + k;
				return NULL;
			}
			h->m->list[i + k] = (struct merge){ .at = key[3 * k].id, .cut = key[3 * k + 1].id, .len = key[3 * k + 2].id };
		}
	}
	return NULL;
}

int merges_add(struct merges *m, struct bpe *b, const char *path, struct err *e)
{
	pthread_t helper;
	merges_wait(m);
	size_t mid = m->started ? m->n / 2 : m->n;
	struct half one = { m, b, 0, mid, 0 }, two = { m, b, mid, m->n, 0 };
	bool helped = mid < m->n && !pthread_create(&helper, NULL, look_up, &two);
	look_up(&one);
	if (helped)
		pthread_join(helper, NULL);
	else
		look_up(&two);
	size_t bad = one.bad < one.hi ? one.bad : two.bad;
	if (bad < m->n) {
		const struct merge *x = &m->list[bad];
		return err_set(e, EXIT_DATA, "%s: merge %zu (\"%.*s\" + \"%.*s\") names a token that is not in the vocabulary", path, bad, (int)x->cut,
			       m->text + x->at, (int)(x->len - x->cut), m->text + x->at + x->cut);
	}
	if (m->broken)
		return err_set(e, EXIT_DATA, "%s: model.merges is not readable", path);
	bpe_merges_init(b, m->n);
	for (size_t i = 0; i < m->n; i++) {
		if (i + BATCH < m->n)
			bpe_merge_soon(b, m->list[i + BATCH].at, m->list[i + BATCH].cut);
		bpe_merge_add(b, m->list[i].at, m->list[i].cut, (uint32_t)i, m->list[i].len);
	}
	return 0;
}

void merges_wait(struct merges *m)
{
	if (m->started && !m->joined)
		pthread_join(m->thread, NULL);
	m->joined = true;
}

void merges_free(struct merges *m)
{
	merges_wait(m);
	free(m->list);
	free(m->text);
}
