/*
 * tcache_make.c - making a cached teacher: its forward pass over a token set, part by part
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tcache.h"
#include "../base/log.h"
#include "../base/outfile.h"
#include "../io/safetensors.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define PART_BYTES ((int64_t)64 << 20)

struct maker {
	struct tcache_job *j;
	struct prog *p;
	struct frame f;
	val tok, label, start, ids, logp, hidden;
	int32_t *host_tok, *host_label, *host_start, *host_ids; /* [micro*seq] each, [micro*seq, K] */
	float *host_logp;                          /* [micro*seq, K+1] */
	void *host_hidden;                         /* [micro*seq, width] of the program's dtype */
	char *out_ids, *out_logp;                  /* one window, as stored */
	float *out_rest;
	struct progress pr;
};

static int record(struct maker *m, const struct engine *g, struct err *e)
{
	const struct tcache_job *j = m->j;
	struct build b = { .t = j->teacher->t, .dtype = j->teacher->dtype, .space = SP_PARAM_T, .prefix = "",
			   .blk1 = j->teacher->t->arch.layers };
	int64_t n = j->micro * j->data->seq, K = j->head.best;
	struct prog *p = m->p = prog_new(j->micro, j->data->seq);
	p->vocab = j->head.vocab;
	m->tok = p_input(p, "tokens", n, 1, DT_I32);
	m->label = p_input(p, "labels", n, 1, DT_I32);
	if (j->head.apart >= 0)
		b.start = m->start = p_input(p, "starts", n, 1, DT_I32);
	val h = p_forward(p, &b, m->tok, NONE);
	if (j->head.width) {
		p_keep(p, m->hidden = h);
	} else {
		m->ids = p_topk(p, h, p_head_weight(p, &b), m->label, K, &m->logp);
		p_keep(p, m->ids);
		p_keep(p, m->logp);
	}
	if (prog_plan(p, e) || frame_new(&m->f, g, p, e))
		return -1;
	m->f.base[SP_PARAM_T] = j->teacher->w;
	m->host_tok = xcalloc((size_t)n, 4);
	m->host_label = xcalloc((size_t)n, 4);
	m->host_start = xcalloc((size_t)n, 4);
	if (j->head.width) {
		m->host_hidden = xcalloc((size_t)(n * j->head.width), dtype_size(b.dtype));
		m->out_ids = xcalloc((size_t)(j->data->seq * j->head.width), 2);
		return 0;
	}
	m->host_ids = xcalloc((size_t)(n * K), 4);
	m->host_logp = xcalloc((size_t)(n * (K + 1)), 4);
	m->out_ids = xcalloc((size_t)(j->data->seq * K), 4);
	m->out_logp = xcalloc((size_t)(j->data->seq * K), 4);
	m->out_rest = xcalloc((size_t)j->data->seq, 4);
	return 0;
}

static void done(struct maker *m)
{
	void *all[] = { m->host_tok, m->host_label, m->host_start, m->host_ids, m->host_logp, m->out_ids, m->out_logp, m->out_rest, m->host_hidden };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		free(all[i]);
	frame_free(&m->f);
	prog_free(m->p);
}

/* Window w, row k of the micro-batch, as a record */
static int put_window(struct maker *m, struct art_w *out, int64_t w, int64_t k, struct err *e)
{
	const struct tcache_job *j = m->j;
	int64_t K = j->head.best, seq = j->data->seq, n = 0;
	bool wide = j->head.vocab > 65536, half = !strcmp(j->head.dtype, "f16");
	for (int64_t i = 0; i < seq; i++) {
		int64_t at = k * seq + i;
		if (m->host_label[at] < 0)
			break;
		for (int64_t c = 0; c < K; c++)
			if (wide)
				((uint32_t *)m->out_ids)[n * K + c] = (uint32_t)m->host_ids[at * K + c];
			else
				((uint16_t *)m->out_ids)[n * K + c] = (uint16_t)m->host_ids[at * K + c];
		st_from_f32(m->out_logp + (size_t)(n * K) * (half ? 2 : 4), half ? ST_F16 : ST_F32, m->host_logp + at * (K + 1), K);
		m->out_rest[n++] = m->host_logp[at * (K + 1) + K];
	}
	int64_t shape[] = { n, K };
	art_map(out, 4);
	art_key(out, "i"), art_int(out, w);
	art_key(out, "ids"), art_array(out, wide ? ART_U32 : ART_U16, 2, shape, m->out_ids);
	art_key(out, "logp"), art_array(out, half ? ART_F16 : ART_F32, 2, shape, m->out_logp);
	art_key(out, "rest"), art_array(out, ART_F32, 1, shape, m->out_rest);
	return art_end_record(out, e);
}

/* Likewise its hidden states */
static int put_hidden(struct maker *m, struct art_w *out, int64_t w, int64_t k, struct err *e)
{
	int64_t C = m->j->head.width, seq = m->j->data->seq, n = 0;
	while (n < seq && m->host_label[k * seq + n] >= 0)
		n++;
	if (m->j->teacher->dtype == DT_BF16)
		memcpy(m->out_ids, (const uint16_t *)m->host_hidden + k * seq * C, (size_t)(n * C) * 2);
	else
		st_from_f32(m->out_ids, ST_BF16, (const float *)m->host_hidden + k * seq * C, n * C);
	int64_t shape[] = { n, C };
	art_map(out, 2);
	art_key(out, "i"), art_int(out, w);
	art_key(out, "h"), art_array(out, ART_BF16, 2, shape, m->out_ids);
	return art_end_record(out, e);
}

static struct art_w *create(const struct maker *m, const char *path, int64_t part, struct prov *prov, struct err *e)
{
	const struct tcache_head *h = &m->j->head;
	struct art_w *w = art_create(path, "teacher-cache", 1, prov, true, e);
	if (!w)
		return NULL;
	art_meta_str(w, "teacher", h->teacher);
	art_meta_str(w, "tokenizer", h->tokenizer);
	art_meta_str(w, "data", h->data);
	art_meta_int(w, "vocab", h->vocab);
	art_meta_int(w, "seq", h->seq);
	art_meta_int(w, h->width ? "width" : "best", h->width ? h->width : h->best);
	art_meta_str(w, "dtype", h->dtype);
	art_meta_int(w, "windows", h->windows);
	art_meta_int(w, "per_part", h->per_part);
	if (h->apart >= 0)
		art_meta_int(w, "apart", h->apart);
	art_meta_int(w, "part", part);
	return w;
}

/* Window w into row k of the micro-batch; every position up to the last labelled one is wanted */
static void take_window(struct maker *m, int64_t w, int64_t k)
{
	int64_t seq = m->j->data->seq, n = seq;
	int32_t *label = m->host_label + k * seq;
	batches_window(m->j->data, w, m->host_tok + k * seq, label);
	while (n > 0 && label[n - 1] < 0)
		n--;
	for (int64_t i = 0; i < n; i++)
		label[i] = label[i] < 0 ? 0 : label[i];
}

/* Windows [a, b) into a part that is not there yet */
static int make_part(struct maker *m, const char *path, int64_t part, int64_t a, int64_t b, struct err *e)
{
	struct tcache_job *j = m->j;
	int64_t seq = j->data->seq;
	struct prov prov = { 0 };
	prov_add_digest(&prov, "teacher", "", "model", j->head.teacher);
	prov_add_digest(&prov, "tokens", "", "tokens", j->head.data);
	struct art_w *out = create(m, path, part, &prov, e);
	int rc = out ? 0 : -1;
	for (int64_t w = a; !rc && w < b; w += j->micro) {
		if (stop_requested()) {
			rc = EXIT_AGAIN;
			break;
		}
		int64_t n = b - w < j->micro ? b - w : j->micro;
		memset(m->host_label, 0xff, (size_t)(j->micro * seq) * 4); /* -1: no label */
		for (int64_t k = 0; k < n; k++)
			take_window(m, w + k, k);
		frame_set(&m->f, m->tok, m->host_tok);
		frame_set(&m->f, m->label, m->host_label);
		if (m->start.id) {
			document_starts(m->host_start, m->host_tok, j->micro * seq, seq, j->head.apart);
			frame_set(&m->f, m->start, m->host_start);
		}
		prog_run(&m->f);
		if (j->head.width) {
			frame_get(&m->f, m->hidden, m->host_hidden);
		} else {
			frame_get(&m->f, m->ids, m->host_ids);
			frame_get(&m->f, m->logp, m->host_logp);
		}
		for (int64_t k = 0; !rc && k < n; k++)
			rc = (j->head.width ? put_hidden : put_window)(m, out, w + k, k, e);
		j->made += n;
		progress_step(&m->pr, (double)(w + n));
	}
	if (rc && out)
		art_abort(out);
	return rc ? rc : art_commit(out, e);
}

/* 1: the part is there and of this cache, 0: it is not there, -1 */
static int have_part(const struct maker *m, const char *path, struct err *e)
{
	struct tcache_head h;
	int64_t part;
	if (m->j->force || access(path, F_OK))
		return 0;
	struct art_r *r = art_open(path, "teacher-cache", 1, e);
	int rc = r ? tcache_head_read(r, &h, &part, e) : -1;
	if (!rc) {
		const struct tcache_head *want = &m->j->head;
		const char *what = strcmp(h.teacher, want->teacher) ? "another teacher" : strcmp(h.data, want->data) ? "another token set" :
			h.width != want->width ? "another --cache-what" :
			h.best != want->best || strcmp(h.dtype, want->dtype) ? "another --top-k or --cache-dtype" :
			h.seq != want->seq || h.per_part != want->per_part ? "another --seq or --cache-part" :
			h.apart != want->apart ? "other --documents" : NULL;
		if (what)
			rc = err_set(e, EXIT_DATA, "%s: belongs to a cache of %s: --force replaces it", path, what);
	}
	if (r)
		art_close(r);
	return rc ? -1 : 1;
}

static int make_parts(struct maker *m, struct err *e)
{
	struct tcache_job *j = m->j;
	int rc = 0;
	for (int64_t p = 0, a = 0; !rc && a < j->head.windows; p++, a += j->head.per_part) {
		int64_t b = a + j->head.per_part < j->head.windows ? a + j->head.per_part : j->head.windows;
		char *path = tcache_part_new(j->dir, p);
		rc = have_part(m, path, e);
		if (rc > 0) {
			j->found += b - a;
			rc = 0;
		} else if (!rc) {
			rc = make_part(m, path, p, a, b, e);
		}
		free(path);
	}
	return rc;
}

/* Only one program at a time; what a killed one left under temporary names goes.  The lock's descriptor, -1 */
static int lock(const char *dir, struct err *e)
{
	char *path = xasprintf("%s/.lock", dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	DIR *d = NULL;
	if (fd < 0)
		err_sys(e, "%s: cannot create", path);
	else if (flock(fd, LOCK_EX | LOCK_NB))
		err_set(e, EXIT_FAIL, "%s: another program is working there", dir);
	else if (!(d = opendir(dir)))
		err_sys(e, "%s: cannot read the directory", dir);
	for (struct dirent *x; d && (x = readdir(d));)
		if (!strncmp(x->d_name, ".part-", 6))
			unlinkat(dirfd(d), x->d_name, 0);
	if (fd >= 0 && !d) {
		close(fd);
		fd = -1;
	}
	if (d)
		closedir(d);
	free(path);
	return fd;
}

int tcache_make(struct tcache_job *j, const struct engine *g, struct err *e)
{
	struct maker m = { .j = j };
	struct tcache_head *h = &j->head;
	snprintf(h->tokenizer, sizeof h->tokenizer, "%s", j->data->tokenizer);
	snprintf(h->data, sizeof h->data, "%s", j->data->digest);
	h->seq = j->data->seq;
	h->apart = j->data->apart ? j->data->eos : -1;
	h->windows = j->data->n;
	h->best = h->best < h->vocab ? h->best : h->vocab;
	if (!h->per_part) {
		int64_t bytes = h->width ? h->seq * h->width * 2 : h->seq * (h->best * (!strcmp(h->dtype, "f16") ? 4 : 6) + 4);
		h->per_part = PART_BYTES / bytes > 0 ? PART_BYTES / bytes : 1;
	}
	int held = mkdir_p(j->dir, e) ? -1 : lock(j->dir, e), rc = held < 0 || record(&m, g, e) ? -1 : 0;
	if (!rc) {
		progress_start(&m.pr, "cache", (double)h->windows, "tok", (double)h->seq);
		rc = make_parts(&m, e);
		progress_end(&m.pr);
	}
	done(&m);
	if (held >= 0)
		close(held);
	return rc;
}
