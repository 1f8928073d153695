/*
 * tokpack.c - documents into token streams
 *
 * The reader copies documents into a batch; threads take documents off the batch one by one, each with its own scratch and id
 * list; then the ids are appended in document order.  While the helpers work on a batch the caller reads the next one, then
 * helps; unless reading may stop early, where nothing may be read that is not needed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tokpack.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { BATCH_FIRST = 1 << 18, BATCH_BYTES = 1 << 22, BATCH_DOCS = 1 << 14, MAX_THREADS = 256 };

struct job {                   /* one document: text, then where its ids are */
	size_t lo, n;
	int worker;
	int64_t first, count;
};
struct worker {
	struct packer *p;
	struct tok_scratch *scratch;
	struct tok_ids ids;
	struct err e;
	int index;
	bool failed;
};
struct batch {
	char *text;
	size_t text_n, text_cap;
	struct job *job;
	int jobs, jobs_cap;
};
struct packer {
	const struct tokenizer *t;
	struct pack_how how;
	struct batch b[2], *fill, *run; /* being read, being tokenized */
	size_t most;               /* bytes of the batch being read: few at first, so that the helpers begin soon */
	pthread_t helper[MAX_THREADS];
	int helpers;
	atomic_int next;           /* document of run to be taken next */
	struct worker *w;
	uint64_t *seen;            /* hashes of documents, 0 empty: open addressing */
	uint64_t seen_n, seen_cap;
};

struct packer *packer_new(const struct tokenizer *t, const struct pack_how *how)
{
	struct packer *p = xcalloc(1, sizeof *p);
	p->t = t;
	p->how = *how;
	p->fill = &p->b[0];
	p->run = &p->b[1];
	p->most = BATCH_FIRST;
	if (p->how.threads < 1)
		p->how.threads = cpu_count();
	if (p->how.threads > MAX_THREADS)
		p->how.threads = MAX_THREADS;
	p->w = xcalloc((size_t)p->how.threads, sizeof *p->w);
	for (int i = 0; i < p->how.threads; i++)
		p->w[i] = (struct worker){ .p = p, .index = i };
	return p;
}

void packer_free(struct packer *p)
{
	if (!p)
		return;
	for (int i = 0; i < p->how.threads; i++) {
		tok_scratch_free(p->w[i].scratch);
		free(p->w[i].ids.v);
	}
	free(p->w);
	for (int i = 0; i < 2; i++) {
		free(p->b[i].text);
		free(p->b[i].job);
	}
	free(p->seen);
	free(p);
}

void stream_free(struct stream *s)
{
	free(s->ids);
	free(s->end);
	memset(s, 0, sizeof *s);
}

int stream_give(struct stream *s, const struct pack_how *how, int64_t most,
		int (*put)(void *arg, int64_t i, const void *ids, int64_t n, int64_t doc), void *arg)
{
	size_t size = s->wide ? 4 : 2;
	int64_t at = 0, doc = 0;       /* ids and whole documents given away in this call */
	int rc = 0;
	while (!rc && (!most || s->given < most)) {
		if (how->pack ? s->n - at < how->seq : doc == s->docs)
			break;
		int64_t n = how->pack || s->end[doc] - at > how->seq ? how->seq : s->end[doc] - at;
		rc = put(arg, s->given++, (const char *)s->ids + (size_t)at * size, n, s->given_docs + doc);
		at = how->pack ? at + n : s->end[doc];
		while (doc < s->docs && s->end[doc] <= at)
			doc++;
	}
	if (!at)
		return rc;
	memmove(s->ids, (const char *)s->ids + (size_t)at * size, (size_t)(s->n - at) * size);
	memmove(s->end, s->end + doc, (size_t)(s->docs - doc) * sizeof *s->end);
	s->n -= at;
	s->docs -= doc;
	for (int64_t i = 0; i < s->docs; i++)
		s->end[i] -= at;
	s->given_ids += at;
	s->given_docs += doc;
	return rc;
}

/* True when the hash was there already. */
static bool seen_before(struct packer *p, uint64_t h)
{
	h += !h;
	if (2 * p->seen_n >= p->seen_cap) {
		uint64_t *old = p->seen, cap = p->seen_cap;
		p->seen_cap = cap ? 2 * cap : 1 << 12;
		p->seen = xcalloc(p->seen_cap, sizeof *p->seen);
		p->seen_n = 0;
		for (uint64_t i = 0; i < cap; i++)
			if (old[i])
				seen_before(p, old[i]);
		free(old);
	}
	uint64_t i = h & (p->seen_cap - 1);
	for (; p->seen[i]; i = (i + 1) & (p->seen_cap - 1))
		if (p->seen[i] == h)
			return true;
	p->seen[i] = h;
	p->seen_n++;
	return false;
}

static bool wanted(struct packer *p, struct stream *s, const char *text, size_t n)
{
	const struct pack_how *h = &p->how;
	if (h->part == PART_ALL && !h->dedup)
		return true;
	uint64_t hash = XXH3_64bits(text, n);
	bool valid = (double)(hash >> 11) * 0x1p-53 < h->valid_fraction;
	if (h->part != PART_ALL && valid != (h->part == PART_VALID)) {
		s->held_out++;
		return false;
	}
	if (h->dedup && seen_before(p, hash)) {
		s->repeated++;
		return false;
	}
	return true;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct packer *p = w->p;
	struct batch *b = p->run;
	int i;
	if (!w->scratch)
		w->scratch = tok_scratch_new(p->t);
	while (!w->failed && (i = atomic_fetch_add(&p->next, 1)) < b->jobs) {
		struct job *j = &b->job[i];
		j->worker = w->index;
		j->first = w->ids.n;
		j->count = tok_encode(p->t, w->scratch, b->text + j->lo, j->n, p->how.special, &w->ids, &w->e);
		w->failed = j->count < 0;
	}
	return NULL;
}

static void stream_reserve(struct stream *s, int64_t more)
{
	if (s->n + more <= s->cap)
		return;
	s->cap = s->n + more + (s->n + more) / 2 + 4096;
	s->ids = xrealloc(s->ids, (size_t)s->cap, s->wide ? 4 : 2);
}

static void stream_put(struct stream *s, const uint32_t *ids, int64_t n)
{
	if (s->wide) {
		memcpy((uint32_t *)s->ids + s->n, ids, (size_t)n * 4);
	} else {
		uint16_t *d = (uint16_t *)s->ids + s->n;
		for (int64_t i = 0; i < n; i++)
			d[i] = (uint16_t)ids[i];
	}
	s->n += n;
}

static void append(struct packer *p, struct stream *s, const struct job *j)
{
	const struct pack_how *h = &p->how;
	if (j->count < h->min_tokens || j->count < 1) {
		s->too_short++;
		return;
	}
	stream_reserve(s, j->count + 1);
	stream_put(s, p->w[j->worker].ids.v + j->first, j->count);
	if (h->pack && h->eos >= 0) {
		uint32_t eos = (uint32_t)h->eos;
		stream_put(s, &eos, 1);
	}
	if (s->docs == s->docs_cap) {
		s->docs_cap = s->docs_cap * 2 + 256;
		s->end = xrealloc(s->end, (size_t)s->docs_cap, sizeof *s->end);
	}
	s->end[s->docs++] = s->n;
}

/* The batch that was read goes to the helpers, its place is read into next. */
static void start(struct packer *p)
{
	struct batch *b = p->fill;
	int n = p->how.threads < b->jobs ? p->how.threads : b->jobs;
	p->fill = p->run;
	p->run = b;
	atomic_store(&p->next, 0);
	for (int i = 0; i < p->how.threads; i++)
		p->w[i].ids.n = 0;
	while (p->helpers + 1 < n && !pthread_create(&p->helper[p->helpers], NULL, work, &p->w[p->helpers + 1]))
		p->helpers++;
}

/* The caller helps with what is left; then all of it is appended. */
static int finish(struct packer *p, struct stream *s, struct err *e)
{
	struct batch *b = p->run;
	if (b->jobs)
		work(&p->w[0]);
	while (p->helpers)
		pthread_join(p->helper[--p->helpers], NULL);
	for (int i = 0; i < p->how.threads; i++)
		if (p->w[i].failed) {
			*e = p->w[i].e;
			return -1;
		}
	for (int i = 0; i < b->jobs; i++)
		append(p, s, &b->job[i]);
	b->jobs = 0;
	b->text_n = 0;
	return 0;
}

static void batch_add(struct batch *b, const char *text, size_t n)
{
	if (b->text_n + n > b->text_cap) {
		b->text_cap = 2 * b->text_cap + n + BATCH_FIRST;
		b->text = xrealloc(b->text, b->text_cap, 1);
	}
	if (b->jobs == b->jobs_cap) {
		b->jobs_cap = b->jobs_cap * 2 + 256;
		b->job = xrealloc(b->job, (size_t)b->jobs_cap, sizeof *b->job);
	}
	memcpy(b->text + b->text_n, text, n);
	b->job[b->jobs++] = (struct job){ .lo = b->text_n, .n = n };
	b->text_n += n;
}

static bool have_enough(const struct packer *p, const struct stream *s)
{
	const struct pack_how *h = &p->how;
	return h->enough && s->given + (h->pack ? s->n / h->seq : s->docs) >= h->enough;
}

/* One batch of wanted documents.  1: there may be more, 0: the corpus has ended */
static int read_batch(struct packer *p, struct stream *s, struct corpus *c, struct err *e)
{
	size_t n;
	const char *text;
	int rc;
	while ((rc = corpus_next(c, &text, &n, e)) == 1) {
		if (!wanted(p, s, text, n))
			continue;
		batch_add(p->fill, text, n);
		if (p->fill->text_n >= p->most || p->fill->jobs >= BATCH_DOCS)
			break;
	}
	/* A reader that may stop early looks often.  To all else the size of a batch is speed alone: threads wait for each other at
	 * its end, one thread has it in its cache. */
	if (!p->how.enough && p->how.threads > 1 && p->most < BATCH_BYTES)
		p->most *= 2;
	return rc;
}

int packer_read(struct packer *p, struct stream *s, struct corpus *c, int (*progress)(void *, int64_t), void *arg,
		struct err *e)
{
	int more;
	s->wide = tok_vocab_size(p->t) > 65536;
	do {
		more = read_batch(p, s, c, e);
		if (finish(p, s, e) || more < 0)
			return -1;
		start(p);
		if ((!more || p->how.enough) && finish(p, s, e))
			return -1;
		if (more && (have_enough(p, s) || (progress && progress(arg, corpus_bytes(c)))))
			return finish(p, s, e) ? -1 : 1;
	} while (more);
	if (progress)
		progress(arg, corpus_bytes(c));
	return have_enough(p, s);
}
