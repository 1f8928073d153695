/*
 * layout_print.c - the planner's table: every layout up to the first that fits, and that one in detail
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "layout.h"
#include <string.h>

/* First of n layouts that fits, n: none does */
static int first_fit(const struct layout *l, int n, const struct cluster *c, const struct run_shape *r)
{
	struct need q;
	for (int i = 0; i < n; i++) {
		layout_need(&l[i], c, r, &q);
		if (q.sum <= c->memory)
			return i;
	}
	return n;
}

static void print_json(FILE *f, const struct layout *l, int n, int fit, const struct cluster *c, const struct run_shape *r)
{
	char words[160];
	fprintf(f, "{\"world\":%lld,\"tp\":%lld,\"gpu_mem\":%.0f,\"fits\":%d,\"layouts\":[", (long long)c->world, (long long)(c->tp > 1 ? c->tp : 1), c->memory, fit < n ? fit : -1);
	for (int i = 0; i < n; i++) {
		struct need q;
		layout_need(&l[i], c, r, &q);
		fprintf(f, "%s{\"layout\":\"%s\",\"bytes\":{", i ? "," : "", layout_words(&l[i], c, r, words));
		for (int k = 0; k < NEED_KINDS; k++)
			fprintf(f, "\"%s\":%.0f,", need_word[k], q.bytes[k]);
		fprintf(f, "\"sum\":%.0f},\"host\":%.0f,\"sent_node\":%.0f,\"sent_net\":%.0f,\"teacher_node\":%.0f,\"teacher_net\":%.0f,\"from_host\":%.0f,\"to_host\":%.0f,\"step_flops\":%.9g,\"step_seconds\":%.6g,"
			   "\"traffic_seconds\":%.6g,\"days\":%.6g}",
			q.sum, q.host, q.sent_node, q.sent_net, q.teacher_node, q.teacher_net, q.from_host, q.to_host, q.step_flops, q.seconds, q.traffic, q.days);
	}
	fprintf(f, "]}\n");
}

static void print_row(FILE *f, const struct layout *l, const struct cluster *c, const struct run_shape *r, bool chosen)
{
	struct need q;
	char words[160];
	layout_need(l, c, r, &q);
	fprintf(f, "%c %6.1f ", chosen ? '>' : ' ', q.sum / 1e9);
	for (int k = 0; k < NEED_KINDS; k++)
		fprintf(f, " %11.1f", q.bytes[k] / 1e9);
	fprintf(f, " %6.1f  %s\n", q.host / 1e9, layout_words(l, c, r, words));
}

static void print_chosen(FILE *f, const struct layout *l, const struct cluster *c, const struct run_shape *r)
{
	struct need q;
	char a[32], b[32], d[32];
	layout_need(l, c, r, &q);
	fprintf(f, "\n%s FLOP a step and GPU: %.2f s at %s FLOP/s; it sends %s in the node", fmt_count(a, q.step_flops), q.seconds,
		fmt_count(b, c->flops), fmt_bytes(d, q.sent_node));
	fprintf(f, " and %s between nodes", fmt_bytes(d, q.sent_net));
	if (q.from_host > 0)
		fprintf(f, ", has %s from the host's memory and sends %s there", fmt_bytes(a, q.from_host), fmt_bytes(b, q.to_host));
	fprintf(f, ": %.2f s, hidden as far as it can be\n", q.traffic);
	if (q.teacher_node + q.teacher_net > 0)
		fprintf(f, "of that the teacher's weights: %s in the node, %s between nodes\n", fmt_bytes(a, q.teacher_node), fmt_bytes(b, q.teacher_net));
	fprintf(f, "%s tokens: %.1f days\n", fmt_count(a, r->tokens), q.days);
}

int layout_print(FILE *f, const struct cluster *c, const struct run_shape *r, bool json)
{
	struct layout l[LAYOUTS_MAX];
	int n = layout_list(c, r, l, LAYOUTS_MAX), fit = first_fit(l, n, c, r);
	if (json) {
		print_json(f, l, n, fit, c, r);
		return fit < n ? EXIT_DONE : EXIT_RESOURCE;
	}
	if (c->tp > 1)
		fprintf(f, "Models spread over every %lld of ", (long long)c->tp);
	fprintf(f, "%lld GPUs of %.0f GB, %lld a node; %lld sequences of %lld tokens a step, %lld at a time on a GPU\n\n", (long long)c->world,
		c->memory / 1e9, (long long)c->per_node, (long long)r->batch, (long long)r->seq, (long long)r->micro);
	fprintf(f, "GB a GPU:");
	for (int k = 0; k < NEED_KINDS; k++)
		fprintf(f, " %11s", need_word[k]);
	fprintf(f, "   host\n");
	for (int i = 0; i < n && i <= fit; i++)
		print_row(f, &l[i], c, r, i == fit);
	if (fit < n)
		print_chosen(f, &l[fit], c, r);
	else
		fprintf(f, "\nnone of them fits\n");
	return fit < n ? EXIT_DONE : EXIT_RESOURCE;
}
