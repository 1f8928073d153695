/*
 * mix.c - opening domains and held-out sets, drawing from them, reweighting
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mix.h"
#include "../base/log.h"
#include "../base/rng.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STREAM_DOMAIN UINT64_C(0x6b642d6d6978)
#define STREAM_SEED UINT64_C(0x6b642d6d6979)

/* ---- names ---- */

const char *mix_name(const char *arg, char name[MIX_NAME])
{
	size_t n = strcspn(arg, "=");
	*name = '\0';
	if (!arg[n] || !n || n >= MIX_NAME)
		return arg;
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)arg[i]) && !strchr("_-.", arg[i]))
			return arg;
	memcpy(name, arg, n);
	name[n] = '\0';
	return arg + n + 1;
}

int mix_names(struct opt_list *l, const char *option, struct err *e)
{
	char a[MIX_NAME], b[MIX_NAME];
	int named = 0;
	for (int i = 0; i < l->n; i++)
		named += mix_name(l->v[i], a) != l->v[i];
	if (!named && l->n > 1) {
		l->v[0] = l->v[l->n - 1];
		l->n = 1;
	}
	if (l->n > MIX_MAX)
		return err_set(e, EXIT_USAGE, "--%s: at most %d of them", option, MIX_MAX);
	for (int i = 0; i < l->n; i++) {
		mix_name(l->v[i], a);
		if (l->n > 1 && !*a)
			return err_set(e, EXIT_USAGE, "--%s %s: several of them need names, NAME=PATH", option, l->v[i]);
		for (int j = 0; j < i; j++)
			if (mix_name(l->v[j], b) && !strcmp(a, b))
				return err_set(e, EXIT_USAGE, "--%s: two are named %s", option, a);
	}
	return 0;
}

static int find_domain(const struct mix *m, const char *name)
{
	for (int i = 0; i < m->n; i++)
		if (!strcmp(m->d[i].name, name))
			return i;
	return -1;
}

/* ---- opening ---- */

/* All sets of a run have the same end id, as the program that trains knows only one. */
static int keep_apart(struct mix *m, struct batches *b, const char *path, struct err *e)
{
	if (batches_apart(b, path, e))
		return -1;
	if (b->apart && m->eos >= 0 && b->eos != m->eos)
		return err_set(e, EXIT_DATA, "%s: documents end with token %lld, elsewhere with %lld", path, (long long)b->eos,
			       (long long)m->eos);
	m->eos = b->apart ? b->eos : m->eos;
	return 0;
}

static int open_domain(struct mix *m, int i, const struct mix_spec *o, struct err *e)
{
	struct domain *d = &m->d[i];
	uint64_t seed = i ? rng_u64(o->seed, STREAM_SEED, (uint64_t)i) : o->seed;
	d->path = mix_name(o->data->v[i], d->name);
	d->valid = -1;
	if (batches_open(&d->data, d->path, i ? m->seq : o->seq, o->vocab, seed, e))
		return -1;
	if (i && strcmp(d->data.tokenizer, m->d[0].data.tokenizer))
		return err_set(e, EXIT_DATA, "%s: made with tokenizer %.8s, %s with %.8s", d->path, d->data.tokenizer, m->d[0].path,
			       m->d[0].data.tokenizer);
	if (o->apart && keep_apart(m, &d->data, d->path, e))
		return -1;
	m->seq = d->data.seq;
	m->windows += d->data.n;
	if (d->data.left_out)
		log_verbose("%s: %lld tokens at the ends of samples are left out", d->path, (long long)d->data.left_out);
	return 0;
}

static int open_held_out(struct mix *m, int i, const struct mix_spec *o, struct err *e)
{
	struct held_out *v = &m->v[i];
	v->path = mix_name(o->valid->v[i], v->name);
	if (batches_open(&v->data, v->path, m->seq, o->vocab, 0, e))
		return -1;
	if (o->apart && keep_apart(m, &v->data, v->path, e))
		return -1;
	v->windows = o->valid_samples && o->valid_samples < v->data.n ? o->valid_samples : v->data.n;
	for (int k = 0; k < m->n; k++)
		if (!strcmp(m->d[k].name, v->name))
			m->d[k].valid = i;
	return 0;
}

static int open_caches(struct mix *m, const struct mix_spec *o, struct err *e)
{
	char name[MIX_NAME];
	for (int i = 0; i < o->cache->n; i++) {
		const char *path = mix_name(o->cache->v[i], name);
		int k = find_domain(m, name);
		if (k < 0)
			return err_set(e, EXIT_USAGE, "--teacher-cache %s: no --data is named %s", o->cache->v[i], *name ? name : "nothing");
		if (tcache_open(&m->d[k].cache, path, &m->d[k].data, o->vocab, e))
			return -1;
	}
	const struct tcache *first = &m->d[0].cache;
	for (int k = 0; o->cache->n && k < m->n; k++) {
		const struct tcache *c = &m->d[k].cache;
		if (!c->dir)
			return err_set(e, EXIT_USAGE, "--teacher-cache: none for --data %s", m->d[k].name);
		if (strcmp(c->head.teacher, first->head.teacher) || c->head.best != first->head.best || c->head.width != first->head.width)
			return err_set(e, EXIT_DATA, "%s: the best %lld tokens of teacher %.8s, but %s the best %lld of %.8s", c->dir,
				       (long long)c->head.best, c->head.teacher, first->dir, (long long)first->head.best, first->head.teacher);
	}
	return 0;
}

struct named {                 /* what parse_weights fills in */
	const struct mix *m;
	const char *option;
	double *v;
};

static int take_number(void *arg, const char *name, double x, struct err *e)
{
	struct named *q = arg;
	int i = find_domain(q->m, name);
	if (i < 0)
		return err_set(e, EXIT_USAGE, "--%s: no --data is named %s", q->option, name);
	if (!isfinite(x) || x < 0)
		return err_set(e, EXIT_USAGE, "--%s: %s needs a number that is not negative, %s:X", q->option, name, name);
	q->v[i] = x;
	return 0;
}

/* One number for each domain */
static int numbers(const struct mix *m, const char *option, const char *text, double *v, struct err *e)
{
	struct named q = { m, option, v };
	for (int i = 0; i < m->n; i++)
		v[i] = -1;
	if (parse_weights(text, take_number, &q, e))
		return -1;
	for (int i = 0; i < m->n; i++)
		if (v[i] < 0)
			return err_set(e, EXIT_USAGE, "--%s: nothing for %s", option, *m->d[i].name ? m->d[i].name : "a --data without a name");
	return 0;
}

static int set_weights(struct mix *m, const char *text, struct err *e)
{
	double sum = 0;
	if (text && numbers(m, "weights", text, m->w, e))
		return -1;
	for (int i = 0; i < m->n; i++) {
		if (!text)
			m->w[i] = (double)m->d[i].data.n;
		sum += m->w[i];
	}
	if (!(sum > 0))
		return err_set(e, EXIT_USAGE, "--weights: all are 0");
	for (int i = 0; i < m->n; i++)
		m->w[i] /= sum;
	return 0;
}

int mix_open(struct mix *m, const struct mix_spec *o, struct err *e)
{
	int n = o->data->n, rc = 0;
	*m = (struct mix){ .n = n, .n_valid = o->valid->n, .batch = o->batch, .eos = -1, .seed = o->seed };
	m->d = xcalloc((size_t)n, sizeof *m->d);
	m->v = xcalloc((size_t)(m->n_valid ? m->n_valid : 1), sizeof *m->v);
	m->w = xcalloc((size_t)n, sizeof *m->w);
	m->reference = xcalloc((size_t)n, sizeof *m->reference);
	m->taken = xcalloc((size_t)n, sizeof *m->taken);
	m->before = xcalloc((size_t)n, sizeof *m->before);
	m->from = xcalloc((size_t)o->batch, sizeof *m->from);
	m->at = xcalloc((size_t)o->batch, sizeof *m->at);
	for (int i = 0; i < n && !rc; i++)
		rc = open_domain(m, i, o, e);
	for (int i = 0; i < m->n_valid && !rc; i++)
		rc = open_held_out(m, i, o, e);
	if (!rc)
		rc = set_weights(m, o->weights, e) || open_caches(m, o, e) ? -1 : 0;
	if (rc)
		mix_free(m);
	return rc;
}

void mix_free(struct mix *m)
{
	for (int i = 0; i < m->n; i++) {
		batches_free(&m->d[i].data);
		if (m->d[i].cache.dir)
			tcache_close(&m->d[i].cache);
	}
	for (int i = 0; i < m->n_valid; i++)
		batches_free(&m->v[i].data);
	void *own[] = { m->d, m->v, m->w, m->reference, m->taken, m->before, m->from, m->at };
	for (size_t i = 0; i < sizeof own / sizeof *own; i++)
		free(own[i]);
	*m = (struct mix){ 0 };
}

/* ---- drawing ---- */

static int draw_domain(const struct mix *m, int64_t k)
{
	double u = m->n > 1 ? rng_uniform(m->seed, STREAM_DOMAIN, (uint64_t)k) : 0, sum = 0;
	int last = 0;
	for (int i = 0; i < m->n; i++) {
		if (m->w[i] <= 0)
			continue;
		last = i;
		if (u < (sum += m->w[i]))
			break;
	}
	return last; /* rounding may leave u above the sum */
}

void mix_draw(struct mix *m, int64_t k)
{
	memcpy(m->before, m->taken, (size_t)m->n * sizeof *m->taken);
	if (m->n == 1)
		m->taken[0] = k; /* a function of the position alone: no state */
	for (int64_t j = 0; j < m->batch; j++) {
		int i = m->from[j] = draw_domain(m, k + j);
		struct domain *d = &m->d[i];
		m->at[j] = m->taken[i]++;
		if (m->n > 1 && m->at[j] && m->at[j] % d->data.n == 0)
			log_info("data %s: all %lld sequences used, starts over", d->name, (long long)d->data.n);
	}
}

void mix_undo(struct mix *m)
{
	memcpy(m->taken, m->before, (size_t)m->n * sizeof *m->taken);
}

/* ---- dynamic weights ---- */

int mix_dynamic(struct mix *m, const char *reference, double rate, double lowest, struct err *e)
{
	if (m->n < 2)
		return err_set(e, EXIT_USAGE, "--mix dynamic needs several --data NAME=TOKENS");
	for (int i = 0; i < m->n; i++)
		if (m->d[i].valid < 0)
			return err_set(e, EXIT_USAGE, "--mix dynamic needs held-out text of every domain: no --valid %s=TOKENS", m->d[i].name);
	m->dynamic = true;
	m->rate = rate;
	m->floor = lowest;
	return reference ? numbers(m, "mix-reference", reference, m->reference, e) : 0;
}

bool mix_update(struct mix *m)
{
	double a[MIX_MAX], top = -INFINITY, sum = 0;
	for (int i = 0; i < m->n; i++) {
		double ce = m->v[m->d[i].valid].ce;
		if (!isfinite(ce))
			return false;
		a[i] = log(m->w[i]) + m->rate * (ce - m->reference[i]);
		top = a[i] > top ? a[i] : top;
	}
	for (int i = 0; i < m->n; i++)
		sum += a[i] = exp(a[i] - top);
	double all = 0;
	for (int i = 0; i < m->n; i++)
		all += m->w[i] = (1 - m->floor) * a[i] / sum + m->floor / m->n;
	for (int i = 0; i < m->n; i++)
		m->w[i] /= all;
	return true;
}

char *mix_settings_new(const struct mix *m)
{
	if (m->n == 1 && !*m->d[0].name)
		return xstrdup(m->d[0].data.digest);
	char *s = xstrdup("");
	for (int i = 0; i < m->n; i++) {
		const struct domain *d = &m->d[i];
		char *old = s;
		s = xasprintf("%s%s%s:%.9g:%s", old, i ? "," : "", d->name, m->w[i], d->data.digest);
		free(old);
		if (!m->dynamic)
			continue;
		old = s;
		s = xasprintf("%s:%s:%lld", old, m->v[d->valid].data.digest, (long long)m->v[d->valid].windows);
		free(old);
	}
	return s;
}
