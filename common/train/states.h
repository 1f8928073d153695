/*
 * states.h - what an optimizer keeps of every trained element, and where
 *
 *	w  master weights, f32 (f32 arithmetic computes with them: they are not apart then)
 *	m  first, v  second moments, both f32 or both bf16
 *	e  moving average of the weights, f32
 *
 * They lie on the device, an arena each, or (spec.offload) in the host's memory, cut into pieces of a fixed number of elements in
 * which w, m, v and e lie together.  Two pieces are on the device: while kernels work on one, the next one comes, and the one before
 * goes back; a step reads and writes each byte once, both ways at a time.
 *
 *	host     | w m v e of piece 0 | w m v e of piece 1 | ...                  pinned
 *	device   | piece k | piece k+1, then k+2 ... |          2 x each x (4 + 4 + 4 + 4) bytes: 24 MiB, 32 with e
 *
 * The kernels are the same and an element's update reads that element alone, so the bits are.  Where device memory is the host's
 * (CPU), everything is on the host already: nothing is cut or copied.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_STATES_H
#define ADZE_STATES_H
#include "../base/base.h"

enum state { STATE_W, STATE_M, STATE_V, STATE_E, STATES };
/* Elements of a piece, at most; of little a piece is an eighth */
enum { STATE_PIECE = 1 << 20, STATE_PIECES = 8 };

struct offload {
	char *held;            /* pinned, [pieces, bytes]; NULL: states lie on the device, as one piece */
	char *room;            /* device, [2, bytes] */
	int64_t each, pieces, here; /* elements of a piece; pieces; the one that kernels may use */
	size_t bytes, at[STATES]; /* of a piece; where in it each of the arrays begins */
};
#endif
