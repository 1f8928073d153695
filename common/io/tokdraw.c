/*
 * tokdraw.c - which samples, in which order
 *
 * Random order is a pure function of (seed, stream of numbers, count): 2k shuffles the documents of stream k, 2k+1 its
 * windows, the last one the turns of the streams.  Shuffling documents first makes neighbours in a window unrelated;
 * shuffling windows too lets a few samples of one long book come from all over it.  With strata, documents are taken from
 * classes of length in turn and windows in their order.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tokpack.h"
#include "../base/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t *order_new(const struct pack_how *h, uint64_t salt, int64_t n)
{
	int64_t *v = xmalloc(((size_t)n + 1) * sizeof *v);
	if (h->shuffle)
		rng_permute(h->seed, salt, v, n);
	else
		for (int64_t i = 0; i < n; i++)
			v[i] = i;
	return v;
}

struct sized { int64_t size, doc; };

static int by_size(const void *x, const void *y)
{
	const struct sized *a = x, *b = y;
	if (a->size != b->size)
		return a->size < b->size ? -1 : 1;
	return a->doc < b->doc ? -1 : a->doc > b->doc;
}

/* Documents in classes of equal count by length; one of each class in turn, random inside a class. */
static int64_t *strata_new(const struct pack_how *h, uint64_t salt, const struct stream *s)
{
	int64_t n = s->docs, k = h->strata < n ? h->strata : n, *v = xmalloc(((size_t)n + 1) * sizeof *v);
	int64_t *order = xmalloc(((size_t)n + 1) * sizeof *order), at = 0;
	struct sized *doc = xmalloc(((size_t)n + 1) * sizeof *doc);
	for (int64_t i = 0; i < n; i++)
		doc[i] = (struct sized){ s->end[i] - (i ? s->end[i - 1] : 0), i };
	qsort(doc, (size_t)n, sizeof *doc, by_size);
	for (int64_t c = 0; c < k; c++) {      /* class c is doc[c*n/k, (c+1)*n/k) */
		int64_t lo = c * n / k, m = (c + 1) * n / k - lo;
		for (int64_t i = 0; i < m; i++)
			order[lo + i] = i;
		if (h->shuffle)
			rng_permute(h->seed, salt + ((uint64_t)c + 1) * 0x100, order + lo, m);
	}
	for (int64_t i = 0; at < n; i++)
		for (int64_t c = 0; c < k; c++) {
			int64_t lo = c * n / k;
			if (i < (c + 1) * n / k - lo)
				v[at++] = doc[lo + order[lo + i]].doc;
		}
	free(doc);
	free(order);
	return v;
}

static int64_t doc_start(const struct stream *s, int64_t doc)
{
	return doc ? s->end[doc - 1] : 0;
}

/* Samples of each stream: its share of the total, remainders to the largest fractions, earlier streams first. */
static void shares(const double *weight, int n, int64_t total, int64_t *share)
{
	double sum = 0, rest[MAX_STREAMS];
	int64_t left = total;
	for (int k = 0; k < n; k++)
		sum += weight ? weight[k] : 1;
	for (int k = 0; k < n; k++) {
		double exact = (double)total * (weight ? weight[k] : 1) / sum;
		share[k] = (int64_t)floor(exact);
		rest[k] = exact - (double)share[k];
		left -= share[k];
	}
	for (; left > 0; left--) {
		int best = 0;
		for (int k = 1; k < n; k++)
			if (rest[k] > rest[best])
				best = k;
		share[best]++;
		rest[best] = -1;
	}
}

/* Largest total whose shares all exist. */
static int64_t all_of(const double *weight, int n, const int64_t *have)
{
	int64_t share[MAX_STREAMS], lo = 0, hi = 0;
	for (int k = 0; k < n; k++)
		hi += have[k];
	while (lo < hi) {              /* shares grow with the total, but for one-off rounding, which is checked below */
		int64_t mid = lo + (hi - lo + 1) / 2;
		bool fits = true;
		shares(weight, n, mid, share);
		for (int k = 0; k < n; k++)
			fits &= share[k] <= have[k];
		if (fits)
			lo = mid;
		else
			hi = mid - 1;
	}
	return lo;
}

int too_little(struct err *e, const struct stream *s, const struct pack_how *how, int64_t need, int64_t wins, int source)
{
	char name[48] = "", have[32], want[32];
	int64_t docs = s->docs + s->given_docs;
	if (source)
		snprintf(name, sizeof name, "source %d: ", source);
	if (!how->pack)
		return err_set(e, EXIT_DATA, "%stoo little text: %lld documents, %lld samples asked for; give more text or "
			       "fewer --samples (0: all)", name, (long long)docs, (long long)need);
	return err_set(e, EXIT_DATA, "%stoo little text: %lld documents hold %s tokens, enough for %lld samples of %lld; "
		       "%lld samples need %s tokens; give more text, fewer --samples (0: all) or a shorter --seq", name,
		       (long long)docs, fmt_count(have, (double)(s->n + s->given_ids)), (long long)wins, (long long)how->seq,
		       (long long)need, fmt_count(want, (double)need * (double)how->seq));
}

static void draw_stream(struct draw *d, int k)
{
	const struct stream *s = &d->s[k];
	const struct pack_how *h = d->how;
	bool strata = h->strata > 1 && s->docs > 0;
	d->doc[k] = strata ? strata_new(h, 2 * (uint64_t)k, s) : order_new(h, 2 * (uint64_t)k, s->docs);
	if (h->pack) {
		int64_t at = 0;
		d->at[k] = xmalloc(((size_t)s->docs + 1) * sizeof **d->at);
		for (int64_t i = 0; i < s->docs; i++) {
			int64_t doc = d->doc[k][i];
			d->at[k][i] = at;
			at += s->end[doc] - doc_start(s, doc);
		}
		d->at[k][s->docs] = at;
		d->wins[k] = s->n / h->seq;
		d->win[k] = order_new(h, 2 * (uint64_t)k + 1, d->wins[k]);
		for (int64_t i = 0; strata && i < d->wins[k]; i++)
			d->win[k][i] = i;       /* the first windows hold all lengths alike */
	} else {
		d->wins[k] = s->docs;
	}
}

int draw_new(struct draw *d, const struct pack_how *how, const struct stream *s, const double *weight, int n,
	     int64_t samples, struct err *e)
{
	int64_t share[MAX_STREAMS], k64 = 0;
	if (n < 1 || n > MAX_STREAMS)
		return err_set(e, EXIT_USAGE, "%d sources, expected 1 to %d", n, MAX_STREAMS);
	*d = (struct draw){ .how = how, .s = s, .n = n };
	d->doc = xcalloc((size_t)n, sizeof *d->doc);
	d->at = xcalloc((size_t)n, sizeof *d->at);
	d->win = xcalloc((size_t)n, sizeof *d->win);
	d->wins = xcalloc((size_t)n, sizeof *d->wins);
	for (int k = 0; k < n; k++)
		draw_stream(d, k);
	d->samples = samples ? samples : all_of(weight, n, d->wins);
	shares(weight, n, d->samples, share);
	for (int k = 0; k < n; k++)
		if (share[k] > d->wins[k] || d->samples < 1) {
			too_little(e, &s[k], how, share[k] > 0 ? share[k] : 1, d->wins[k], n > 1 ? k + 1 : 0);
			draw_free(d);
			return -1;
		}
	/* turns: each stream as often as its share, in random order or one after the other */
	int64_t *turn = order_new(how, UINT64_MAX, d->samples);
	d->from = xmalloc((size_t)d->samples * sizeof *d->from);
	for (int k = 0; k < n; k++)
		for (int64_t i = 0; i < share[k]; i++)
			d->from[turn[k64++]] = k;
	free(turn);
	return 0;
}

void draw_free(struct draw *d)
{
	for (int k = 0; k < d->n; k++) {
		free(d->doc[k]);
		free(d->at[k]);
		free(d->win[k]);
	}
	free(d->doc);
	free(d->at);
	free(d->win);
	free(d->wins);
	free(d->from);
	memset(d, 0, sizeof *d);
}

int64_t draw_sample(const struct draw *d, struct draw_pos *pos, int64_t i, void *out, int64_t *doc)
{
	int k = d->from[i];
	const struct stream *s = &d->s[k];
	size_t size = s->wide ? 4 : 2;
	int64_t seq = d->how->seq, turn = pos->next[k]++, got = 0;
	if (!d->how->pack) {
		*doc = d->doc[k][turn];
		int64_t lo = doc_start(s, *doc), n = s->end[*doc] - lo;
		n = n < seq ? n : seq;
		memcpy(out, (const char *)s->ids + (size_t)lo * size, (size_t)n * size);
		return n;
	}
	int64_t start = d->win[k][turn] * seq, a = 0, b = s->docs;
	while (b - a > 1) {            /* the document that holds position start */
		int64_t m = (a + b) / 2;
		if (d->at[k][m] <= start)
			a = m;
		else
			b = m;
	}
	*doc = d->doc[k][a];
	for (; got < seq; a++) {
		int64_t id = d->doc[k][a], skip = start + got - d->at[k][a];
		int64_t n = d->at[k][a + 1] - d->at[k][a] - skip;
		n = n < seq - got ? n : seq - got;
		memcpy((char *)out + (size_t)got * size, (const char *)s->ids + (size_t)(doc_start(s, id) + skip) * size,
		       (size_t)n * size);
		got += n;
	}
	return got;
}
