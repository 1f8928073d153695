/*
 * engine.c - choosing a backend, and a model's weights on it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "prog.h"
#include <stdlib.h>
#include <string.h>

int engine_open(struct engine *g, const char *device, int threads, struct err *e)
{
	char why[256] = "";
	*g = (struct engine){ 0 };
	if (!device || !strcmp(device, "auto")) {
		g->k = kernels_open("cuda", why);
		if (!g->k)
			g->k = kernels_open("cpu", why);
	} else if (!strcmp(device, "ref") || !strcmp(device, "cpu")) {
		g->k = kernels_open(device, why);
	} else if (!strncmp(device, "cuda", 4) && (!device[4] || device[4] == ':')) {
		g->k = kernels_open("cuda", why);
	} else {
		return err_set(e, EXIT_USAGE, "--device %s: expected auto, cpu, cuda, cuda:N or ref", device);
	}
	if (!g->k)
		return err_set(e, EXIT_RESOURCE, "--device %s: %s", device ? device : "auto", why);
	g->threads = threads > 0 ? threads : cpu_count();
	g->d = g->k->dev_open(g->threads);
	if (!g->d)
		return err_set(e, EXIT_RESOURCE, "--device %s: cannot be opened", g->k->name);
	return 0;
}

void engine_close(struct engine *g)
{
	if (g->d)
		g->k->dev_close(g->d);
	*g = (struct engine){ 0 };
}

int dtype_parse(const char *word)
{
	return !strcmp(word, "f32") ? DT_F32 : DT_BF16;
}

int weights_load(struct weights *m, const struct engine *g, const char *dir, int dtype, struct err *e)
{
	struct arch a;
	*m = (struct weights){ .dtype = dtype, .g = g };
	if (arch_load(&a, dir, e))
		return -1;
	m->t = ptable_new(&a);
	arch_free(&a);
	size_t n = (size_t)m->t->elems * dtype_size(dtype);
	m->w = g->k->mem_alloc(g->d, n);
	if (!m->w) {
		char buf[32];
		weights_free(m);
		return err_set(e, EXIT_RESOURCE, "%s: no memory for %s of weights", dir, fmt_bytes(buf, (double)n));
	}
	if (params_load(m->t, dir, m->w, dtype, 0, m->t->arch.layers, e)) {
		weights_free(m);
		return -1;
	}
	g->k->weights_changed(g->d);
	return 0;
}

void weights_free(struct weights *m)
{
	if (m->w)
		m->g->k->mem_free(m->g->d, m->w, (size_t)m->t->elems * dtype_size(m->dtype));
	ptable_free(m->t);
	*m = (struct weights){ 0 };
}
