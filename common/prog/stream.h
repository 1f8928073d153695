/*
 * stream.h - weights that lie elsewhere and come to the device piece by piece, each just before it is read
 *
 * A model's arena is cut into pieces: the embedding, each block, what follows.  In the program every run of ops that read
 * the same piece begins with a wait for it and with the fetching of the next one, which comes while the run computes:
 *
 *	fetch 0 · wait 0 · fetch 1 · ops of piece 0 · wait 1 · fetch 2 · ops of piece 1 · ...
 *
 * Two pieces exist at a time: even runs lie at the beginning of the space, odd ones at its end, and the space has
 *	max over neighbouring runs of (this one's bytes + the next one's)
 *
 * Where pieces come from is a struct weight_source: the files of the model (source_files.c), or processes that each keep a part of
 * every piece (source_shared.c).  Their bytes are the same, so results are.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_STREAM_H
#define ADZE_STREAM_H
#include "prog.h"

struct weight_piece {
	int64_t off, n;        /* elements of the arena; n is padded to a multiple of 32 for each process, behind what is there */
};
struct pieces {
	struct weight_piece *p;        /* owned */
	int n, parts;                  /* parts: processes that keep a part of each */
};
void pieces_new(struct pieces *q, const struct ptable *t, int parts);
void pieces_free(struct pieces *q);

/* After all passes that add ops, before prog_plan: weights in `space` are fetched.  frame.source must be set. */
void prog_stream(struct prog *p, int space, const struct pieces *q);

struct weight_source {
	int busy;              /* something is on its way */
	/* piece k begins to come to dst in device memory, where kernels that were called so far are the last to read what was
	 * there; between begin and end poll() helps it along; kernels called after end() find it */
	void (*begin)(struct weight_source *, int k, void *dst);
	void (*poll)(struct weight_source *);
	void (*end)(struct weight_source *);
	void (*close)(struct weight_source *);        /* and frees */
};
/* From the files of a model directory, as `dtype`; the table must stay. */
struct weight_source *source_files_new(const struct engine *g, const struct ptable *t, const char *dir, int dtype, struct err *e);
/* Bytes of the host's memory that such a source takes with that engine: its buffers, and of the files what is being read */
size_t source_files_bytes(const struct engine *g, int dtype);
/* From the processes of a group, each of which keeps a part in device memory; all of them open it, and run the same programs. */
struct weight_source *source_shared_new(const struct engine *g, const struct ptable *t, const char *dir, int dtype, struct comm *group,
					struct err *e);
/* Bytes of device memory for one's own part */
size_t source_shared_bytes(const struct ptable *t, const struct comm *group, int dtype);
static inline void source_close(struct weight_source *s)
{
	if (s)
		s->close(s);
}
#endif
