/*
 * tokenset.c - one sample at a time; ids are checked against the vocabulary as they pass
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tokenset.h"
#include <stdlib.h>
#include <string.h>

int tokenset_open(struct tokenset *t, const char *path, int64_t vocab, struct err *e)
{
	memset(t, 0, sizeof *t);
	t->r = art_open(path, "tokens", 1, e);
	if (!t->r)
		return -1;
	const msgpack_object *m = art_meta(t->r);
	t->eos = t->pack = -1;
	if (obj_int(t->r, m, "vocab", &t->vocab, e) || obj_int(t->r, m, "seq", &t->seq, e) ||
	    (obj_get(m, "samples") && obj_int(t->r, m, "samples", &t->samples, e)) ||
	    (obj_get(m, "eos") && obj_int(t->r, m, "eos", &t->eos, e)) ||
	    (obj_get(m, "pack") && obj_int(t->r, m, "pack", &t->pack, e)) ||
	    (obj_get(m, "strings") && obj_str(t->r, m, "strings", t->strings, sizeof t->strings, e)) ||
	    obj_str(t->r, m, "tokenizer", t->tokenizer, sizeof t->tokenizer, e))
		goto bad;
	if (t->vocab < 1 || t->seq < 1 || t->seq > INT32_MAX || t->samples < 0) {
		err_set(e, EXIT_DATA, "%s: vocab %lld, seq %lld, samples %lld make no sense", art_name(t->r),
			(long long)t->vocab, (long long)t->seq, (long long)t->samples);
		goto bad;
	}
	if (vocab && t->vocab > vocab) {
		err_set(e, EXIT_DATA, "%s: made with a vocabulary of %lld, the model has %lld", art_name(t->r),
			(long long)t->vocab, (long long)vocab);
		goto bad;
	}
	if (!obj_get(m, "samples")) {          /* written as it was read: a file's index knows */
		t->samples = art_record_count(t->r, NULL);
		if (t->samples < 0)
			t->samples = INT64_MAX;
	}
	t->ids = xcalloc((size_t)t->seq, sizeof *t->ids);
	return 0;
bad:
	tokenset_close(t);
	return -1;
}

static int bad_id(const struct tokenset *t, int64_t at, int64_t id, struct err *e)
{
	return err_set(e, EXIT_DATA, "%s: sample %lld: token %lld at %lld is outside the vocabulary of %lld",
		       art_name(t->r), (long long)t->index, (long long)id, (long long)at, (long long)t->vocab);
}

void tokenset_share(struct tokenset *t, int rank, int size, int64_t chunk)
{
	t->share.rank = rank;
	t->share.size = size;
	t->share.chunk = chunk;
}

static bool mine(const struct tokenset *t, int64_t sample)
{
	return t->share.size < 2 || sample / t->share.chunk % t->share.size == t->share.rank;
}

int tokenset_next(struct tokenset *t, struct err *e)
{
	const msgpack_object *rec;
	do {
		int rc = t->limit && t->seen >= t->limit ? 0 : art_next(t->r, &rec, e);
		if (rc != 1)
			return rc;
	} while (!mine(t, t->seen++));
	const void *data;
	if (obj_int(t->r, rec, "i", &t->index, e))
		return -1;
	int wide = t->vocab > 65536;
	if (obj_array(t->r, rec, "ids", wide ? ART_U32 : ART_U16, -1, &data, &t->n, e))
		return -1;
	if (t->n < 1 || t->n > t->seq)
		return err_set(e, EXIT_DATA, "%s: sample %lld has %lld tokens, expected 1 to %lld", art_name(t->r),
			       (long long)t->index, (long long)t->n, (long long)t->seq);
	for (int64_t i = 0; i < t->n; i++) {
		uint32_t id = 0;
		uint16_t id16;
		if (wide) {
			memcpy(&id, (const char *)data + 4 * i, 4);
		} else {
			memcpy(&id16, (const char *)data + 2 * i, 2);
			id = id16;
		}
		if (id >= (uint64_t)t->vocab)
			return bad_id(t, i, id, e);
		t->ids[i] = (int32_t)id;
	}
	return 1;
}

void tokenset_close(struct tokenset *t)
{
	if (t->r)
		art_close(t->r);
	free(t->ids);
	memset(t, 0, sizeof *t);
}
