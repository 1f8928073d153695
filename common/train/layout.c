/*
 * layout.c - the counts behind layout.h
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "layout.h"
#include "states.h"
#include <stdio.h>
#include <string.h>

enum { HEAD_ROWS = 512 };              /* tokens of a chunk of the head: two f32 tiles of logits */
static const double HOST_LINK = 50e9;  /* bytes a second from the host's memory, and as many to it: PCIe 5 */
static const double CONTEXT = 2.5e9;   /* CUDA context, library workspaces, fragments */

const char *const need_word[] = { "student", "teacher", "activations", "head", "context" };

/* Copies of the models: GPUs that share the batch; those that share a teacher */
static double copies(const struct cluster *c)
{
	return (double)(c->world / (c->tp > 1 ? c->tp : 1));
}

static int64_t sharers(const struct cluster *c)
{
	int64_t group = c->group ? c->group : c->per_node, n = (c->world < group ? c->world : group) / (c->tp > 1 ? c->tp : 1);
	return n > 1 ? n : 1;
}

static double block_params(const struct arch *a)
{
	return (double)arch_count_nonembedding(a) / (double)a->layers;
}

/* Bytes of a token in one block that backward needs, bf16: norm inputs and outputs, q k v, attention's output, the MLP's
 * projections and activation, log-sum-exp of the heads */
static double kept(const struct arch *a, int recompute)
{
	double h = (double)a->hidden, q = (double)(a->heads * a->head_dim), k = (double)(a->kv_heads * a->head_dim), f = (double)a->ffn;
	bool gated = act_gated(a->act);
	if (recompute == RECOMPUTE_NORMS)
		return 4 * h + 4 * q + 4 * k + (gated ? 4 : 2) * f + 4 * (double)a->heads;
	return 8 * h + 4 * q + 4 * k + (gated ? 6 : 4) * f + 4 * (double)a->heads;
}

static double activations(const struct arch *a, int recompute, double tokens)
{
	double L = (double)a->layers;
	if (recompute == RECOMPUTE_FULL)
		return tokens * (2 * (double)a->hidden * L + kept(a, RECOMPUTE_NONE));
	return tokens * L * kept(a, recompute);
}

/* Parameters whose gradients exist at the same time, whole, with ZeRO 2 */
static double unsummed(const struct arch *a)
{
	double block = block_params(a), V = (double)a->vocab * (double)a->hidden;
	return a->tied ? V + 2 * block : V > block ? V + block : 2 * block;
}

static void memory_need(const struct layout *l, const struct cluster *c, const struct run_shape *r, struct need *n)
{
	double P = (double)arch_count(r->student), d = copies(c);
	double grads = l->bf16_grads ? 2 : 4, moments = l->offload ? 0 : 12 / d;
	double student[] = { 2 + grads + (l->offload ? 0 : 12), 2 + grads + moments, 2 + grads / d + moments, (2 + grads) / d + moments };
	double passing[] = { 0, 0, grads * unsummed(r->student), 4 * block_params(r->student) };
	n->bytes[NEED_STUDENT] = student[l->zero] * P + passing[l->zero] + (l->offload ? 2 * 12.0 * STATE_PIECE : 0);
	if (r->teacher) {
		double Pt = (double)arch_count(r->teacher);
		double V = (double)r->teacher->vocab * (double)r->teacher->hidden, block = block_params(r->teacher);
		double here = 2 * (block + (V > block ? V : block)); /* two neighbouring pieces (stream.h) */
		n->bytes[NEED_TEACHER] = l->sharded_teacher ? 2 * Pt / (double)sharers(c) + here : l->host_teacher ? here : 2 * Pt;
		n->host += l->host_teacher ? 2 * Pt : 0;
	}
	n->bytes[NEED_ACTIVATIONS] = activations(r->student, l->recompute, (double)(r->micro * r->seq));
	n->bytes[NEED_HEAD] = 2.0 * HEAD_ROWS * (double)r->student->vocab * 4;
	n->bytes[NEED_CONTEXT] = CONTEXT;
	for (int i = 0; i < NEED_KINDS; i++)
		n->sum += n->bytes[i];
	n->host += l->offload ? 12 * P / d : 0;
}

/* What a GPU sends in a micro-batch to those that the models are spread over */
static double spread_traffic(const struct layout *l, const struct cluster *c, const struct run_shape *r)
{
	double t = (double)(c->tp > 1 ? c->tp : 1), tokens = (double)(r->micro * r->seq), L = (double)r->student->layers;
	double values = (double)r->student->hidden * ((l->recompute == RECOMPUTE_FULL ? 6 : 4) * L + 2);
	if (r->teacher)
		values += (double)r->teacher->hidden * (2 * (double)r->teacher->layers + 1);
	return tokens * (2 * (t - 1) / t * 4 * values + (t - 1) * 18 * 8);
}

/* What a GPU sends in a step of k micro-batches: gradients in, weights out, the teacher gathered block by block; what it has from
 * the host: the teacher in each, states once, which go back as well (both ways at a time) */
static void traffic_need(const struct layout *l, const struct cluster *c, const struct run_shape *r, double k, struct need *n)
{
	double P = (double)arch_count(r->student), d = copies(c), share = (d - 1) / d, grads = (l->bf16_grads ? 2 : 4) * P;
	double sent = l->zero == 3 ? k * (4 * P + grads) : l->zero == 2 ? k * grads + 2 * P : l->zero == 1 ? grads + 2 * P : 2 * grads;
	double sharing = (double)sharers(c);
	if (r->teacher && l->sharded_teacher)
		*(c->group > c->per_node ? &n->teacher_net : &n->teacher_node) = k * 2 * (double)arch_count(r->teacher) * (sharing - 1) / sharing;
	n->sent_node = n->teacher_node;
	n->sent_net = n->teacher_net;
	*(c->world > c->per_node ? &n->sent_net : &n->sent_node) += sent * share;
	n->to_host = l->offload ? 12 * P / d : 0;
	n->from_host = n->to_host + (r->teacher && l->host_teacher ? k * 2 * (double)arch_count(r->teacher) : 0);
	n->traffic += n->from_host / HOST_LINK;
	*(c->tp > c->per_node ? &n->sent_net : &n->sent_node) += k * spread_traffic(l, c, r);
	n->traffic += n->sent_node / c->link_node + n->sent_net / c->link_net;
}

void layout_need(const struct layout *l, const struct cluster *c, const struct run_shape *r, struct need *n)
{
	double tokens = (double)(r->batch * r->seq), k = (double)r->batch / ((double)r->micro * copies(c));
	double token = (l->recompute == RECOMPUTE_FULL ? 8.0 : 6.0) * (double)arch_count(r->student);
	memset(n, 0, sizeof *n);
	if (r->teacher)
		token += 2 * (double)arch_count(r->teacher);
	memory_need(l, c, r, n);
	traffic_need(l, c, r, k, n);
	n->step_flops = token * tokens / copies(c);
	n->seconds = n->step_flops / c->flops;
	n->days = r->tokens / tokens * (n->seconds + n->to_host / HOST_LINK) / 86400;
}

int layout_list(const struct cluster *c, const struct run_shape *r, struct layout out[], int room)
{
	/* The ladder of sharding; bf16 gradients come with the first rung that needs them */
	static const struct layout rung[] = {
		{ .zero = 1 }, { .zero = 1, .sharded_teacher = true }, { .zero = 1, .sharded_teacher = true, .bf16_grads = true },
		{ .zero = 2, .sharded_teacher = true }, { .zero = 3, .sharded_teacher = true },
	};
	int n = 0;
	/* On one GPU a teacher that comes from the host stands for one that is sharded. */
	for (int host = 0; host < (c->world == 1 && r->teacher ? 4 : 2); host++)
		for (int recompute = 0; recompute < 3; recompute++)
			for (size_t i = 0; i < sizeof rung / sizeof *rung && n < room; i++) {
				struct layout l = rung[i];
				l.recompute = recompute;
				l.host_teacher = c->world == 1 && r->teacher && host % 2;
				l.offload = c->world == 1 && r->teacher ? host / 2 : host;
				if (copies(c) <= 1)
					l.zero = 0;
				if ((l.sharded_teacher && !r->teacher && !l.bf16_grads && l.zero == 1) || (sharers(c) == 1 && l.sharded_teacher))
					continue;
				l.sharded_teacher &= r->teacher != NULL;
				out[n++] = l;
			}
	return n;
}

char *layout_words(const struct layout *l, const struct cluster *c, const struct run_shape *r, char buf[160])
{
	static const char *const again[] = { "", ", norms and activations recomputed", ", full recomputation" };
	char over[48] = ", teacher sharded in the node";
	if (c->group)
		snprintf(over, sizeof over, ", teacher sharded over %lld", (long long)sharers(c));
	snprintf(buf, 160, "ZeRO %d%s%s%s%s", l->zero, !r->teacher ? "" : l->sharded_teacher ? over : l->host_teacher ? ", teacher on the host" : ", teacher whole",
		 l->bf16_grads ? ", bf16 gradients" : "", again[l->recompute], l->offload ? ", optimizer on the host" : "");
	return buf;
}
