/*
 * account.c - memory, FLOPs and the machine's peak
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "account.h"
#include "checkpoint.h"
#include "../base/log.h"
#include <math.h>
#include <string.h>

static void add(struct memory *m, const char *word, double bytes)
{
	if (bytes <= 0)
		return;
	if (m->n == MEM_ROWS)
		BUG("more than %d kinds of memory", MEM_ROWS);
	m->row[m->n++] = (struct mem_row){ word, bytes };
	m->sum += bytes;
}

/* What `count` arenas of so many bytes take */
static double arena(const struct engine *g, int count, double bytes)
{
	return count * (double)g->k->mem_bytes((size_t)bytes);
}

static double small_bytes(const struct engine *g, const struct prog *p)
{
	static const int space[] = { SP_INPUT, SP_CONST, SP_STAT };
	double n = 0;
	for (int i = 0; i < 3; i++)
		n += arena(g, 1, (double)p->bytes[space[i]]);
	return n;
}

/* States of the optimizer on the device, each by itself or all in pieces */
static double state(const struct trainer *t, const struct engine *g, enum state a)
{
	bool streamed = states_cut(t, g).bytes && !(a == STATE_W && t->o.dtype == DT_F32);
	size_t bytes = streamed ? 0 : state_bytes(t, a);
	return bytes ? arena(g, 1, (double)bytes) : 0;
}

static double moments(const struct trainer *t, const struct engine *g)
{
	struct offload cut = states_cut(t, g);
	return state(t, g, STATE_M) + state(t, g, STATE_V) + (cut.bytes ? arena(g, 1, 2 * (double)cut.bytes) : 0);
}

/* And on the host */
static double held(const struct trainer *t, const struct engine *g)
{
	struct offload cut = states_cut(t, g);
	return (double)cut.pieces * (double)cut.bytes;
}

static double gradients(const struct trainer *t, const struct engine *g)
{
	double pool = (double)trainer_pool_bytes(t), pairs = (double)trainer_pairs_bytes(t);
	return arena(g, 1, (double)trainer_grad_bytes(t)) + (pool > 0 ? arena(g, 1, pool) : 0) + (pairs > 0 ? arena(g, 1, pairs) : 0);
}

/* Scratch of all programs, one at a time; the backend's rows stay apart */
static void add_scratch(const struct trainer *t, const struct engine *g, struct memory *m)
{
	static const char *const word[HELD_PARTS] = { "output head's chunks", "scratch of products", "scratch of attention",
						      "other scratch" };
	if (!g->k->plan)
		return;
	g->k->plan(g->d, 1);
	for (const struct trainer *q = t; q; q = q->corrected) {
		prog_note(q->train.p, g);
		prog_note(q->eval.p, g);
	}
	for (int i = 0; i < HELD_PARTS; i++)
		add(m, word[i], (double)g->k->held_bytes(g->d, (enum held)i));
	g->k->plan(g->d, 0);
}

void account_memory(const struct trainer *t, const struct engine *g, struct memory *m)
{
	double buffers = (double)checkpoint_buffer_bytes(t);
	*m = (struct memory){ .n = 0 };
	add(m, "student weights", state(t, g, STATE_W) + (t->o.dtype == DT_BF16 ? arena(g, 1, 2 * (double)t->elems) : 0));
	m->moved = held(t, g);
	if (t->corrected) {
		const struct trainer *c = t->corrected;
		buffers = fmax(buffers, (double)checkpoint_buffer_bytes(c)); /* one file after the other */
		add(m, "teacher weights", state(c, g, STATE_W) + (c->o.dtype == DT_BF16 ? arena(g, 1, 2 * (double)c->elems) : 0));
		m->moved += held(c, g);
		add(m, "teacher's training", moments(c, g) + gradients(c, g) + arena(g, 1, (double)trainer_act_bytes(c)) +
		    small_bytes(g, c->train.p) + small_bytes(g, c->eval.p));
	} else if (t->teacher)
		add(m, "teacher weights", arena(g, 1, (double)trainer_teacher_bytes(t)) + teacher_held_bytes(t, g));
	add(m, "optimizer", moments(t, g));
	add(m, "optimizer on the host", m->moved);
	add(m, "averaged weights", state(t, g, STATE_E));
	add(m, "gradients", gradients(t, g));
	add(m, "activations", arena(g, 1, (double)trainer_act_bytes(t)));
	add(m, "inputs and constants", small_bytes(g, t->train.p) + small_bytes(g, t->eval.p));
	add_scratch(t, g, m);
	add(m, "checkpoint buffers", buffers);
	double now = (double)rss_bytes(), before = (double)peak_rss_bytes();
	add(m, "program and data", now);
	m->peak = m->sum > before ? m->sum : before;
	m->room = now + (double)memory_free_bytes();
}

/* Of the adapters' forward and the student's backward pass, a token: the products that are recorded, and twice the attention
 * of the blocks that it reaches; blocks: forward without the head and adapters */
static double backward_flops(const struct trainer *t, double blocks)
{
	const struct prog *p = t->train.p;
	const struct ptable *s = t->split.whole;
	double back = 0, linear = 0, attn = 0;
	for (int i = 0; i < s->n; i++)
		linear += s->p[i].layer >= 0 && !row_is_vector(s->p[i].row) ? 2 * (double)(s->p[i].rows * s->p[i].cols) : 0;
	for (int i = 0; i < t->n_adapter; i++)
		back += 2 * (double)(t->adapter[i].a.rows * t->adapter[i].a.cols + t->adapter[i].b.rows * t->adapter[i].b.cols);
	for (int i = 0; i < p->n; i++) {
		const struct op *o = &p->op[i];
		int32_t w = o->code == OP_LINEAR_DW ? o->out[0].id : o->in[1].id;
		double n = w ? 2 * (double)p->v[w].rows * (double)p->v[w].cols * t->split.size : 0;
		if (o->code == OP_KD_HEAD)
			back += n * ((o->out[1].id > 0) + (o->out[2].id > 0));
		if (o->block < 0)
			continue;
		back += o->code == OP_LINEAR_DX || o->code == OP_LINEAR_DW ? n : 0;
		attn += o->code == OP_ATTN_BWD;
	}
	return back + 2 * (blocks - linear) * attn / (double)s->arch.layers;
}

struct token_flops account_flops(const struct trainer *t)
{
	const struct arch *student = &t->split.whole->arch, *teacher = t->teacher ? &t->taught.whole->arch : NULL;
	double blocks = arch_forward_flops(student, t->o.seq, 0);
	struct token_flops f = { .student = arch_forward_flops(student, t->o.seq, 1) + backward_flops(t, blocks) };
	if (teacher)
		f.teacher = arch_forward_flops(teacher, t->o.seq, 1) - (t->o.cached_width ? arch_forward_flops(teacher, t->o.seq, 0) : 0);
	if (t->corrected)
		f.teacher += account_flops(t->corrected).student;
	return f;
}

double account_peak(const struct engine *g, int dtype)
{
	enum { N = 512, RUNS = 6 };
	const struct kernels *k = g->k;
	size_t bytes = (size_t)N * N * dtype_size(dtype);
	mat m[3] = { { 0 } };
	double best = 0;
	struct dev *d = k->plan ? k->dev_open(g->threads) : NULL;
	if (!d)
		return 0;
	int have = 1;
	for (int i = 0; i < 3; i++) {
		m[i] = (mat){ k->mem_alloc(d, bytes), N, N, dtype, 0 };
		have &= m[i].p != NULL;
	}
	for (int i = 0; have && i < RUNS; i++) {
		double t0 = now_seconds();
		k->linear(d, m[0], m[1], m[2], (mat){ 0 }, (mat){ 0 });
		double rate = 2.0 * N * N * N / (now_seconds() - t0);
		best = i && rate > best ? rate : best;
	}
	for (int i = 0; i < 3; i++)
		if (m[i].p)
			k->mem_free(d, m[i].p, bytes);
	k->dev_close(d);
	return best;
}

/* ---- the plan in words ---- */

static void print_json(FILE *f, const struct trainer *t, const struct memory *m, int64_t steps, double peak)
{
	double tokens = (double)(steps * t->o.batch * t->o.seq);
	struct token_flops per = account_flops(t);
	fprintf(f, "{\"steps\":%lld,\"batch\":%lld,\"micro\":%lld,\"seq\":%lld,\"memory\":{", (long long)steps,
		(long long)t->o.batch, (long long)t->o.micro, (long long)t->o.seq);
	for (int i = 0; i < m->n; i++)
		fprintf(f, "\"%s\":%.0f,", m->row[i].word, m->row[i].bytes);
	fprintf(f, "\"sum\":%.0f},\"peak_bytes\":%.0f,\"room_bytes\":%.0f,\"fits\":%s,", m->sum, m->peak, m->room,
		m->peak <= m->room ? "true" : "false");
	if (m->moved > 0)
		fprintf(f, "\"update_moves_bytes\":%.0f,", m->moved);
	fprintf(f, "\"flops_per_token\":%.9g,\"teacher_flops_per_token\":%.9g,\"tokens\":%.0f,\"flops\":%.9g,\"peak_flop_per_s\":%.4g}\n",
		per.teacher + per.student, per.teacher, tokens, (per.teacher + per.student) * tokens, peak);
}

void account_print(FILE *f, const struct trainer *t, const struct memory *m, int64_t steps, double peak, bool json)
{
	double tokens = (double)(steps * t->o.batch * t->o.seq);
	struct token_flops per = account_flops(t);
	char a[32], b[32], c[32];
	if (json) {
		print_json(f, t, m, steps, peak);
		return;
	}
	fprintf(f, "%lld steps of %lld sequences (%lld at a time) of %lld tokens\n", (long long)steps, (long long)t->o.batch,
		(long long)t->o.micro, (long long)t->o.seq);
	for (int i = 0; i < m->n; i++)
		fprintf(f, "%-22s %s\n", m->row[i].word, fmt_bytes(a, m->row[i].bytes));
	if (m->moved > 0)
		fprintf(f, "%-22s %s to the device and back in every step\n", "update", fmt_bytes(a, m->moved));
	fprintf(f, "%-22s %s: %s in %s\n", "peak", fmt_bytes(a, m->peak), m->peak <= m->room ? "fits" : "does not fit",
		fmt_bytes(b, m->room));
	fprintf(f, "%-22s %s FLOP a token (%s of them the teacher's), %s in all for %.0f tokens\n", "compute",
		fmt_count(a, per.teacher + per.student), fmt_count(b, per.teacher),
		fmt_count(c, (per.teacher + per.student) * tokens), tokens);
	if (peak > 0)
		fprintf(f, "%-22s %.3g FLOP/s at best: at least %.3g hours\n", "this machine", peak,
			(per.teacher + per.student) * tokens / peak / 3600);
}
