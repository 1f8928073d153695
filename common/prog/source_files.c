/*
 * source_files.c - weights from the mapped files of a model, read ahead of the computation by threads of their own
 *
 * A piece comes in chunks.  A thread takes the next chunk, asks the system for the one that stands a piece further on
 * (WILLNEED), converts, and lets go of the pages behind (DONTNEED): what is resident is a few chunks, and where memory is
 * short the rest is read from the disk again each time.
 *
 * Where the host can write device memory, chunks go straight to their place.  Elsewhere they go to a ring of pinned buffers, out of
 * which the main thread, which alone speaks to the device, has them copied while kernels run (bring of kernels.h).  Of the chunks
 * so far, counted over all pieces:
 *
 *	freed <= copied <= filled <= taken <= free = freed + RING
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stream.h"
#include "../io/safetensors.h"
#include <pthread.h>
#include <stdlib.h>

enum { CHUNK = 1 << 20, THREADS = 4, RING = 2 * THREADS };     /* elements; of a device with memory of its own */

struct files {
	struct weight_source s;
	const struct engine *g;
	const struct ptable *t;
	struct st_model *m;
	struct pieces pieces;
	int dtype, threads;
	pthread_t id[THREADS];
	char *ring;                    /* [RING, CHUNK], or NULL: straight to dst */
	char *dst;                     /* of the piece that comes */
	int64_t copied, freed;         /* main thread only: copies that have begun; that are done */
	int64_t copy[RING];            /* their numbers */

	pthread_mutex_t lock;          /* of what follows */
	pthread_cond_t change;
	int piece, leave;
	int64_t first, chunks, taken, free; /* of the piece; to its end; taken up by threads; chunks before this one may be filled */
	int64_t filled;                /* how many are full; of a ring: in order, without those in full[] */
	uint8_t full[RING];
};

static int64_t chunk_elems(const struct files *f, int piece, int64_t chunk)
{
	int64_t left = f->pieces.p[piece].n - chunk * CHUNK;
	return left < 0 ? 0 : left < CHUNK ? left : CHUNK;
}

static size_t chunk_bytes(int dtype)
{
	return (size_t)CHUNK * dtype_size(dtype);
}

/* Chunk c of a piece to its place; meanwhile the system reads the same chunk of the next piece */
static void fill(struct files *f, int piece, int64_t c, void *to)
{
	int next = (piece + 1) % f->pieces.n;
	params_advise_range(f->t, f->m, f->pieces.p[next].off + c * CHUNK, chunk_elems(f, next, c), true);
	params_read_range(f->t, f->m, f->pieces.p[piece].off + c * CHUNK, chunk_elems(f, piece, c), to, f->dtype);
}

static void now_full(struct files *f, int64_t c)
{
	if (!f->ring) {
		f->filled++;
		return;
	}
	f->full[c % RING] = 1;
	for (; f->full[f->filled % RING]; f->filled++)
		f->full[f->filled % RING] = 0;
}

static void *worker(void *arg)
{
	struct files *f = arg;
	pthread_mutex_lock(&f->lock);
	while (!f->leave) {
		if (f->taken == f->chunks || f->taken >= f->free) {
			pthread_cond_wait(&f->change, &f->lock);
			continue;
		}
		int64_t c = f->taken++, of_piece = c - f->first;
		int piece = f->piece;
		char *to = f->ring ? f->ring + (size_t)(c % RING) * chunk_bytes(f->dtype) : f->dst + (size_t)of_piece * chunk_bytes(f->dtype);
		pthread_mutex_unlock(&f->lock);
		fill(f, piece, of_piece, to);
		pthread_mutex_lock(&f->lock);
		now_full(f, c);
		pthread_cond_broadcast(&f->change);
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

static void files_begin(struct weight_source *s, int k, void *dst)
{
	struct files *f = (struct files *)s;
	if (f->ring)
		f->g->k->bring_order(f->g->d, 0);
	pthread_mutex_lock(&f->lock);
	f->piece = k;
	f->dst = dst;
	f->first = f->chunks;
	f->chunks += (f->pieces.p[k].n + CHUNK - 1) / CHUNK;
	f->free = f->ring ? f->freed + RING : f->chunks;
	s->busy = 1;
	pthread_cond_broadcast(&f->change);
	pthread_mutex_unlock(&f->lock);
}

/* How many chunks are full; `wait`: more than have left the ring, or all */
static int64_t filled(struct files *f, bool wait)
{
	pthread_mutex_lock(&f->lock);
	while (wait && f->filled < f->chunks && (!f->ring || f->filled == f->copied))
		pthread_cond_wait(&f->change, &f->lock);
	int64_t n = f->filled;
	pthread_mutex_unlock(&f->lock);
	return n;
}

/* What is full begins to leave the ring, what has left it is free again; `wait`: at least one buffer of a ring without any */
static void empty(struct files *f, int64_t full, bool wait)
{
	const struct kernels *k = f->g->k;
	size_t bytes = chunk_bytes(f->dtype);
	for (; f->copied < full; f->copied++) {
		int64_t c = f->copied - f->first;
		f->copy[f->copied % RING] = k->bring(f->g->d, f->dst + (size_t)c * bytes, f->ring + (size_t)(f->copied % RING) * bytes,
						     (size_t)chunk_elems(f, f->piece, c) * dtype_size(f->dtype));
	}
	wait &= f->copied == f->freed + RING;
	while (f->freed < f->copied && k->brought(f->g->d, f->copy[f->freed % RING], wait)) {
		f->freed++;
		wait = false;
	}
	pthread_mutex_lock(&f->lock);
	f->free = f->freed + RING;
	pthread_cond_broadcast(&f->change);
	pthread_mutex_unlock(&f->lock);
}

static void files_poll(struct weight_source *s)
{
	struct files *f = (struct files *)s;
	if (f->ring)
		empty(f, filled(f, false), false);
}

static void files_end(struct weight_source *s)
{
	struct files *f = (struct files *)s;
	if (!f->ring)
		filled(f, true);
	for (int64_t full = filled(f, false); f->ring && f->copied < f->chunks; full = filled(f, true))
		empty(f, full, true);
	if (f->ring)
		f->g->k->bring_order(f->g->d, 1);
	params_advise_range(f->t, f->m, f->pieces.p[f->piece].off, f->pieces.p[f->piece].n, false);
	s->busy = 0;
}

static void files_close(struct weight_source *s)
{
	struct files *f = (struct files *)s;
	if (s->busy)                   /* the device's memory is still ours to write: a program was given up */
		files_end(s);
	pthread_mutex_lock(&f->lock);
	f->leave = 1;
	pthread_cond_broadcast(&f->change);
	pthread_mutex_unlock(&f->lock);
	while (f->threads)
		pthread_join(f->id[--f->threads], NULL);
	pthread_mutex_destroy(&f->lock);
	pthread_cond_destroy(&f->change);
	if (f->m)
		st_close(f->m);
	if (f->ring)
		f->g->k->pinned(f->g->d, f->ring, RING * chunk_bytes(f->dtype));
	pieces_free(&f->pieces);
	free(f);
}

size_t source_files_bytes(const struct engine *g, int dtype)
{
	return (size_t)(g->k->bring ? RING + 2 * THREADS : 2) * chunk_bytes(dtype);
}

struct weight_source *source_files_new(const struct engine *g, const struct ptable *t, const char *dir, int dtype, struct err *e)
{
	struct files *f = xcalloc(1, sizeof *f);
	bool ring = g->k->bring != NULL;
	int want = ring ? THREADS : 1; /* the CPU backend's own threads have enough to do */
	f->s = (struct weight_source){ .begin = files_begin, .poll = files_poll, .end = files_end, .close = files_close };
	f->g = g;
	f->t = t;
	f->dtype = dtype;
	pieces_new(&f->pieces, t, 1);
	f->ring = ring ? g->k->pinned(g->d, NULL, RING * chunk_bytes(dtype)) : NULL;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->change, NULL);
	if (ring && !f->ring) {
		err_set(e, EXIT_RESOURCE, "%s: no pinned memory to bring its weights by", dir);
		files_close(&f->s);
		return NULL;
	}
	f->m = st_open(dir, e);
	if (!f->m || params_check(t, f->m, e)) {
		if (f->m)
			err_wrap(e, "%s", dir);
		files_close(&f->s);
		return NULL;
	}
	while (f->threads < want && !pthread_create(&f->id[f->threads], NULL, worker, f))
		f->threads++;
	if (!f->threads) {
		err_set(e, EXIT_RESOURCE, "%s: no thread to read it ahead", dir);
		files_close(&f->s);
		return NULL;
	}
	return &f->s;
}
