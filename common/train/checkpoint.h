/*
 * checkpoint.h - the state of a run on disk: everything that the next step depends on
 *
 * RUNDIR/ckpt/step-N/state, and teacher beside it where that is trained too, is a "checkpoint" artifact (formats/checkpoint.md): the settings, the counters, and per
 * parameter the f32 master weights and both moments; with several domains their weights and how far each was read.  All
 * randomness is a function of seed and step, so nothing else is needed and a resumed run repeats the uninterrupted one bit
 * for bit, with any number of processes, however they share it out.  No wall-clock value
 * is stored: equal runs leave equal checkpoints.  The directory is written under a hidden name, synced and renamed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_CHECKPOINT_H
#define ADZE_CHECKPOINT_H
#include "mix.h"
#include "rundir.h"
#include "trainer.h"

struct progress_state {
	int64_t step, tokens;          /* done so far */
	int64_t seed;
	struct trainer *teacher;       /* a teacher that is trained too, or NULL: the file teacher beside state */
	int64_t best_step;             /* 0: none */
	double best_loss;              /* held out, the lowest so far: saved where there is one */
	int64_t read;                  /* bytes of its files that this process read to load it */
	struct mix *mix;               /* saved and restored where it has several domains */
};
/* Writes step-N, each process what it keeps into a file of its own (all of them come; where all keep everything, the first alone), and removes all but the `keep` newest. */
int checkpoint_save(const struct rundir *d, const struct trainer *t, const struct progress_state *s, const char *settings,
		    int64_t keep, struct err *e);
/* Loads the newest that is whole (a damaged one is passed over with a warning); s->step is 0 when there is none.
 * Refuses one that was made with other settings or another shape (EXIT_DATA). */
int checkpoint_load(const struct rundir *d, struct trainer *t, struct progress_state *s, const char *settings,
		    struct err *e);
/* Bytes of memory that saving takes for a while */
size_t checkpoint_buffer_bytes(const struct trainer *t);
#endif
