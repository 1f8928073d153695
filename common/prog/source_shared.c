/*
 * source_shared.c - weights of which every process keeps a part of each piece, gathered when the piece is needed
 *
 *	piece of n elements, N processes:   | part 0 | part 1 | ... | part N-1 |   n / N elements each
 *
 * A process copies its part to its place among the others' and the gathering goes on beside the computation
 * (comm_gather_begin); between GPUs it comes after all kernels that were called before, which were the last to read that place.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stream.h"
#include "../io/safetensors.h"
#include <stdlib.h>

struct shared {
	struct weight_source s;
	const struct engine *g;
	struct comm *group;
	struct pieces pieces;
	int dtype, ticket;
	size_t bytes;                  /* of own */
	char *own;                     /* device: this process's part of each piece, one after the other */
	int64_t *at;                   /* [pieces.n]: its first element */
};

static int64_t part_elems(const struct shared *h, int k)
{
	return h->pieces.p[k].n / h->pieces.parts;
}

static mat elements(const struct shared *h, void *p, int64_t n)
{
	return (mat){ p, 1, n, h->dtype, 0 };
}

static void shared_begin(struct weight_source *s, int k, void *dst)
{
	struct shared *h = (struct shared *)s;
	int64_t n = part_elems(h, k);
	size_t size = dtype_size(h->dtype), bytes = (size_t)n * size;
	h->g->k->copy(h->g->d, elements(h, (char *)dst + (size_t)h->group->rank * bytes, n), elements(h, h->own + (size_t)h->at[k] * size, n));
	h->ticket = comm_gather_begin(h->group, dst, (int64_t)bytes);
	s->busy = 1;
}

static void shared_poll(struct weight_source *s)
{
	comm_progress(((struct shared *)s)->group);
}

static void shared_end(struct weight_source *s)
{
	struct shared *h = (struct shared *)s;
	comm_wait(h->group, h->ticket);
	s->busy = 0;
}

static void shared_close(struct weight_source *s)
{
	struct shared *h = (struct shared *)s;
	if (h->own)
		h->g->k->mem_free(h->g->d, h->own, h->bytes);
	pieces_free(&h->pieces);
	free(h->at);
	free(h);
}

/* This process's parts out of the files, some at a time where they must be uploaded */
static void load(struct shared *h, const struct ptable *t, const struct st_model *m)
{
	enum { SOME = 1 << 20 };
	size_t size = dtype_size(h->dtype);
	bool direct = h->g->k->host(h->own) != NULL;
	char *some = direct ? NULL : xmalloc(SOME * size);
	for (int k = 0; k < h->pieces.n; k++) {
		int64_t n = part_elems(h, k), off = h->pieces.p[k].off + h->group->rank * n;
		for (int64_t i = 0, here; i < n; i += here) {
			char *to = h->own + (size_t)(h->at[k] + i) * size;
			here = n - i < SOME ? n - i : SOME;
			params_read_range(t, m, off + i, here, direct ? to : some, h->dtype);
			if (!direct)
				h->g->k->upload(h->g->d, to, some, (size_t)here * size);
		}
	}
	free(some);
}

size_t source_shared_bytes(const struct ptable *t, const struct comm *group, int dtype)
{
	struct pieces q;
	int64_t n = 0;
	pieces_new(&q, t, group->size);
	for (int k = 0; k < q.n; k++)
		n += q.p[k].n / q.parts;
	pieces_free(&q);
	return (size_t)n * dtype_size(dtype);
}

struct weight_source *source_shared_new(const struct engine *g, const struct ptable *t, const char *dir, int dtype, struct comm *group, struct err *e)
{
	struct shared *h = xcalloc(1, sizeof *h);
	char buf[32];
	h->s = (struct weight_source){ .begin = shared_begin, .poll = shared_poll, .end = shared_end, .close = shared_close };
	h->g = g;
	h->group = group;
	h->dtype = dtype;
	h->bytes = source_shared_bytes(t, group, dtype);
	pieces_new(&h->pieces, t, group->size);
	h->at = xcalloc((size_t)h->pieces.n + 1, sizeof *h->at);
	for (int k = 0; k < h->pieces.n; k++)
		h->at[k + 1] = h->at[k] + part_elems(h, k);
	struct st_model *m = st_open(dir, e);
	int rc = m ? params_check(t, m, e) : -1;
	if (m && rc)
		err_wrap(e, "%s", dir);
	h->own = rc ? NULL : g->k->mem_alloc(g->d, h->bytes);
	if (!rc && !h->own)
		rc = err_set(e, EXIT_RESOURCE, "%s: no memory for %s of weights", dir, fmt_bytes(buf, (double)h->bytes));
	if (!rc)
		load(h, t, m);
	if (m)
		st_close(m);
	if (!rc)
		return &h->s;
	shared_close(&h->s);
	return NULL;
}
