/*
 * test_graph.c - a captured step is the step, and so is one whose states come from the host: the same bits replayed as walked, streamed
 * as resident, on the CUDA kernels (the shim's, or with ADZE_CUDA_LIB a GPU's)
 *
 * Seven steps of gradient accumulation with another rate, other tokens and another number of labels each; in the second and
 * the fifth a token whose embedding is NaN in the teacher, so that the step is skipped; before the fifth the backend's scratch
 * moves.  Losses, norms, weights and moments are compared byte by byte, and what was asked for of device memory.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../train/aux_tiny.h"
#include <libgen.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

enum { SEQ = 8, BATCH = 4, STEPS = 7, V = 23 };
static const struct tiny small = { "llama", 1, 1, 12, 20, 4, 2, 4, V, 1 }, large = { "nemotron", 0, 2, 16, 24, 4, 2, 4, V, 0.5 };
static struct kernels counted;
static const struct kernels *real;
static int captures, replays;
static size_t device;

static void *capture(struct dev *d, int on)
{
	captures += on;
	return real->capture(d, on);
}

static int replay(struct dev *d, void *captured)
{
	int rc = real->replay(d, captured);
	replays += !rc;
	return rc;
}

static void *mem_alloc(struct dev *d, size_t bytes)
{
	device += bytes;
	return real->mem_alloc(d, bytes);
}

struct outcome {
	struct step_result step[STEPS];
	char *state;               /* weights, moments, averages; owned */
	size_t bytes, weights;     /* of those; of the first */
	size_t device, piece;      /* of device memory in all; of a piece of states on the host */
};

/* Values for device memory in a table's layout */
static void fill(const struct engine *g, const struct ptable *t, void *dst, int dtype, uint64_t seed, bool bad)
{
	size_t bytes = (size_t)t->elems * dtype_size(dtype);
	char *host = xcalloc(bytes, 1);
	tiny_fill(t, host, dtype, seed);
	if (bad) {
		const struct param *p = ptable_find(t, "embed");
		memset(host + (size_t)(p->off + (V - 1) * p->cols) * dtype_size(dtype), 0xff, dtype_size(dtype));
	}
	g->k->upload(g->d, dst, host, bytes);
	free(host);
}

static void fill_student(struct trainer *t, uint64_t seed)
{
	float *host = xcalloc((size_t)t->student->elems, sizeof *host);
	tiny_fill(t->student, host, DT_F32, seed);
	for (int i = 0; i < t->student->n; i++)
		trainer_put(t, t->student->p[i].off, t->student->p[i].rows * t->student->p[i].cols, host + t->student->p[i].off);
	free(host);
}

static void keep(struct outcome *o, const struct trainer *t)
{
	for (int a = 0; a < STATES; a++) {
		size_t bytes = state_bytes(t, (enum state)a);
		struct piece all = { .n = (int64_t)(bytes / dtype_size(state_type(t, (enum state)a))) };
		o->state = xrealloc(o->state, o->bytes + bytes, 1);
		if (bytes)
			state_get(t, (enum state)a, &all, o->state + o->bytes);
		o->bytes += bytes;
	}
}

static void batch(int32_t *ids, int32_t *labels, int step)
{
	tiny_tokens(ids, labels, BATCH, SEQ, V - 1, 60 + (uint64_t)step);
	if (step == 1 || step == 4)
		ids[2 * SEQ + 3] = V - 1;
	for (int i = 0; i < 3 * step; i++)
		labels[i] = -1;
}

static struct outcome run(struct trainer_spec o)
{
	struct outcome out = { .bytes = 0 };
	struct engine g;
	struct err e = { 0 };
	struct trainer t;
	int32_t ids[SEQ * BATCH], labels[SEQ * BATCH];
	struct arch s = tiny_arch(&small), q = tiny_arch(&large);
	if (engine_open(&g, "cuda", 0, &e))
		fail_msg("%s", e.msg);
	real = g.k;
	counted = *g.k;
	counted.capture = capture;
	counted.replay = replay;
	g.k = &counted;
	counted.mem_alloc = mem_alloc;
	device = 0;
	captures = replays = 0;
	if (trainer_plan(&t, ptable_new(&s), ptable_new(&q), &o, &e) || trainer_alloc(&t, &g, &e))
		fail_msg("%s", e.msg);
	arch_free(&s);
	arch_free(&q);
	fill_student(&t, 51);
	fill(&g, t.teacher, t.tw, o.dtype, 52, true);
	trainer_projections(&t, NULL, 3);
	trainer_sync(&t);
	void *wide = real->mem_alloc(g.d, 9 << 20);
	for (int i = 0; i < STEPS; i++) {
		if (i == 4) {
			mat x = { wide, 1, 2 << 20, DT_F32, 0 }, sum = { (char *)wide + (8 << 20), 1, 1, DT_F64, 0 };
			g.k->sumsq(g.d, sum, x);
		}
		batch(ids, labels, i);
		assert_int_equal(trainer_step(&t, ids, labels, 1e-3 * (i + 1), &out.step[i]), 0);
	}
	keep(&out, &t);
	out.device = device;
	out.weights = state_bytes(&t, STATE_W);
	out.piece = t.off.bytes;
	if (o.offload)
		assert_in_range(t.off.pieces, 4, STATE_PIECES);
	assert_int_equal(t.updates, STEPS - 2);
	real->mem_free(g.d, wide, 9 << 20);
	trainer_free(&t);
	engine_close(&g);
	return out;
}

static void alike(struct outcome a, struct outcome b)
{
	for (int i = 0; i < STEPS; i++) {
		assert_int_equal(a.step[i].skipped, i == 1 || i == 4);
		assert_int_equal(b.step[i].skipped, a.step[i].skipped);
		assert_memory_equal(&a.step[i].grad_norm, &b.step[i].grad_norm, sizeof(double));
		assert_memory_equal(&a.step[i].loss, &b.step[i].loss, sizeof(double));
	}
	assert_true(a.step[0].grad_norm > 0 && isfinite(a.step[6].loss));
	assert_int_equal(a.bytes, b.bytes);
	assert_memory_equal(a.state, b.state, a.bytes);
}

static void same(const struct trainer_spec *o)
{
	struct trainer_spec graph = *o;
	graph.graph = true;
	struct outcome a = run(*o);
	assert_int_equal(captures + replays, 0);
	struct outcome b = run(graph);
	/* per micro-batch and update: once as it is, captured, and again after scratch had moved */
	assert_int_equal(captures, 4);
	assert_int_equal(replays, STEPS * (BATCH / 2 + 1) - 2);
	alike(a, b);
	graph.offload = true;
	struct outcome c = run(graph);
	/* the micro-batch alone */
	assert_int_equal(captures, 2);
	assert_int_equal(replays, STEPS * (BATCH / 2) - 1);
	alike(a, c);
	size_t stay = o->dtype == DT_F32 ? a.weights : 0; /* what computes */
	assert_int_equal(c.device, b.device - (b.bytes - stay) + 2 * c.piece);
	assert_true(2 * c.piece < (b.bytes - stay) / 2);
	free(a.state);
	free(b.state);
	free(c.state);
}

static struct trainer_spec spec(int dtype)
{
	struct trainer_spec o = { .seq = SEQ, .micro = 2, .batch = BATCH, .dtype = dtype, .clip = 0.1, .beta1 = 0.9, .beta2 = 0.95,
				  .eps = 1e-8, .weight_decay = 0.1, .recompute = RECOMPUTE_NORMS };
	o.loss.weight[LOSS_KL] = 0.7;
	o.loss.weight[LOSS_CE] = 0.3;
	o.loss.tau = 2;
	return o;
}

static void plain(void **state)
{
	(void)state;
	struct trainer_spec o = spec(DT_F32);
	same(&o);
}

static void low_moments(void **state)
{
	(void)state;
	struct trainer_spec o = spec(DT_BF16);
	o.low_moments = true;
	o.seed = 9;
	o.ema = 0.9;
	same(&o);
}

static void best_tokens(void **state)
{
	(void)state;
	struct trainer_spec o = spec(DT_F32);
	o.loss.best = 5;
	same(&o);
}

static void hidden_losses(void **state)
{
	(void)state;
	struct err e = { 0 };
	struct trainer_spec o = spec(DT_F32);
	if (hidden_parse(&o.hidden, "cosine:0.5@last:last;relation@last:last;mse@in.0:0", small.layers, large.layers, &e))
		fail_msg("%s", e.msg);
	o.hidden.dynamic = false;
	same(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain), cmocka_unit_test(low_moments), cmocka_unit_test(best_tokens), cmocka_unit_test(hidden_losses)
	};
	char exe[4096];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	const char *gpu = getenv("ADZE_CUDA_LIB");
	if (n < 0)
		return 1;
	exe[n] = 0;
	setenv("SHIM_GUARD", "0", 0);           /* the many small launches need not close memory each time */
	setenv("ADZE_LIB", gpu && *gpu ? gpu : dirname(exe), 1);       /* the shim lies beside this program */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
