/*
 * engine.c - choosing a backend, and a model's weights on it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "prog.h"
#include <stdlib.h>
#include <string.h>

/* N of cuda:N, 0 of cuda; -1: not a number */
static int gpu_number(const char *device)
{
	char *end;
	if (!device[4])
		return 0;
	long n = device[5] >= '0' && device[5] <= '9' ? strtol(device + 5, &end, 10) : -1;
	return n >= 0 && n < 1024 && !*end ? (int)n : -1;
}

int engine_open(struct engine *g, const char *device, int threads, struct err *e)
{
	char why[256] = "";
	int gpu = 0;
	*g = (struct engine){ 0 };
	if (!device || !strcmp(device, "auto")) {
		g->k = kernels_open("cuda", why);
		if (!g->k)
			g->k = kernels_open("cpu", why);
	} else if (!strcmp(device, "ref") || !strcmp(device, "cpu")) {
		g->k = kernels_open(device, why);
	} else if (!strncmp(device, "cuda", 4) && (!device[4] || device[4] == ':') && (gpu = gpu_number(device)) >= 0) {
		g->k = kernels_open("cuda", why);
	} else {
		return err_set(e, EXIT_USAGE, "--device %s: expected auto, cpu, cuda, cuda:N or ref", device);
	}
	if (!g->k)
		return err_set(e, EXIT_RESOURCE, "--device %s: %s", device ? device : "auto", why);
	g->threads = threads > 0 ? threads : cpu_count();
	g->d = g->k->dev_open(!strcmp(g->k->name, "cuda") ? gpu : g->threads);
	if (!g->d)
		return err_set(e, EXIT_RESOURCE, "--device %s: cannot be opened", device ? device : g->k->name);
	return 0;
}

void engine_close(struct engine *g)
{
	if (g->d)
		g->k->dev_close(g->d);
	*g = (struct engine){ 0 };
}

int engine_read(const struct engine *g, const struct ptable *t, const struct param *p, const struct st_model *m, void *dst,
		int dtype, struct err *e)
{
	void *host = g->k->host(dst);
	size_t bytes = (size_t)(p->rows * p->cols) * dtype_size(dtype);
	if (host)
		return param_read(t, p, m, host, dtype, e);
	host = xmalloc(bytes);
	int rc = param_read(t, p, m, host, dtype, e);
	if (!rc)
		g->k->upload(g->d, dst, host, bytes);
	free(host);
	return rc;
}

struct arena_load {
	const struct engine *g;
	const struct ptable *t;
	char *dst;
	int dtype;
};

static int into_arena(void *arg, const struct param *p, const struct st_model *m, struct err *e)
{
	const struct arena_load *a = arg;
	return engine_read(a->g, a->t, p, m, a->dst + (size_t)p->off * dtype_size(a->dtype), a->dtype, e);
}

int engine_load(const struct engine *g, const struct ptable *t, const char *dir, void *dst, int dtype, struct err *e)
{
	struct arena_load a = { g, t, dst, dtype };
	return params_each(t, dir, g->k->host(dst) ? g->threads : 1, into_arena, &a, e);
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
	if (engine_load(g, m->t, dir, m->w, dtype, e)) {
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
