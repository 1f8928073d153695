/*
 * compensate.c - b[c] = sum over removed columns j of W[c,j] E x_j
 *
 * A column of o_proj or down_proj that goes takes its input's mean along: without it the residual stream is off by a
 * constant, which a bias can hold (FLAP, arXiv 2312.11983; the mean is sum x / tokens of the statistics).  Only rows of kept
 * channels are computed.  Where the parent has the bias already the two are added when it is written (gather.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compensate.h"
#include <stdlib.h>
#include <string.h>

static const struct part {
	int axis, bit;
	const char *matrix, *site, *what;
} parts[KEEP_PARTS] = {
	{ AX_HEAD, BIAS_ATTN, "attn.o", "attn_out", "attention" }, { AX_FFN, BIAS_MLP, "mlp.down", "ffn_act", "MLP" }
};

static bool cut(const struct keep *k, int axis)
{
	int64_t n;
	bool any = false;

	for (int64_t l = 0; l < k->to.layers; l++)
		any |= keep_units(k, axis, l, &n) != NULL;
	return any;
}

/* mean[columns] of the part's input in the parent's block, 0 at what stays */
static int removed_means(const struct keep *k, const struct part *p, int64_t l, const struct stats *s, const char *name, double *mean,
		struct err *e)
{
	const struct stat_entry *x = stats_find(s, p->site, k->layer[l]);
	struct arch from = arch_at(&k->from, k->layer[l]);
	int64_t n, w = axis_width(&from, p->axis), C = axis_size(&from, p->axis);
	const int64_t *u = keep_units(k, p->axis, l, &n);

	if (!x || x->unit != 1 || x->units != C)
		return err_set(e, EXIT_DATA, "%s: no %s of layer %lld with %lld channels, which --compensate needs", name, p->site,
			(long long)k->layer[l], (long long)C);
	for (int64_t c = 0; c < C; c++)
		mean[c] = u ? x->sums[STAT_SUM_X * C + c] / (double)x->tokens : 0;
	for (int64_t i = 0; u && i < n; i++)
		memset(mean + u[i] * w, 0, (size_t)w * sizeof *mean);
	return 0;
}

static int one_block(struct keep *k, int part, int64_t l, const struct ptable *t, const struct st_model *m, const struct stats *s,
		const char *name, struct err *e)
{
	const struct part *p = &parts[part];
	char full[64], hf[160];
	snprintf(full, sizeof full, "blk.%lld.%s", (long long)k->layer[l], p->matrix);
	const struct param *q = ptable_find(t, full);
	const struct st_tensor *W = st_find(m, param_hf_name(t, q, 0, hf));
	double *mean = xcalloc((size_t)q->cols, sizeof *mean);
	float *row = xcalloc((size_t)q->cols, sizeof *row), *out = k->plus[part] + l * k->to.hidden;
	size_t bytes = (size_t)q->cols * st_dtype_size(W->dtype);
	int64_t n;
	const int64_t *h = keep_units(k, AX_HIDDEN, -1, &n);
	int rc = removed_means(k, p, l, s, name, mean, e);

	for (int64_t i = 0; i < n && !rc; i++) {
		double sum = 0;
		st_to_f32(row, (const char *)W->data + (size_t)(h ? h[i] : i) * bytes, W->dtype, q->cols);
		for (int64_t c = 0; c < q->cols; c++)
			sum += (double)row[c] * mean[c];
		out[i] = (float)sum;
	}
	st_release(m, W);
	free(mean);
	free(row);
	return rc;
}

int compensate(struct keep *k, const struct st_model *m, const struct stats *s, const char *stats_name, struct err *e)
{
	struct ptable *t = NULL;
	int rc = 0, any = 0;

	if (k->merge || k->partner)
		return err_set(e, EXIT_USAGE, "--compensate and --merge or --add-back exclude each other");
	for (int i = 0; i < KEEP_PARTS && !rc; i++) {
		if (!cut(k, parts[i].axis))
			continue;
		any = 1;
		if (!(k->from.family->biases & parts[i].bit))
			rc = err_set(e, EXIT_USAGE, "--compensate: %s models have no bias behind the %s", k->from.family->model_type,
				parts[i].what);
	}
	if (!rc && !any)
		rc = err_set(e, EXIT_USAGE, "--compensate: no heads and no neurons are cut");
	t = rc ? NULL : ptable_new(&k->from);
	for (int i = 0; i < KEEP_PARTS && !rc; i++) {
		if (!cut(k, parts[i].axis))
			continue;
		k->to.biases |= parts[i].bit;
		k->plus[i] = xcalloc((size_t)(k->to.layers * k->to.hidden), sizeof **k->plus);
		for (int64_t l = 0; l < k->to.layers && !rc; l++)
			rc = one_block(k, i, l, t, m, s, stats_name, e);
	}
	ptable_free(t);
	if (!rc && k->to.config) {
		json_t *cfg = arch_config_new(&k->to);
		json_decref(k->to.config);
		k->to.config = cfg;
	}
	return rc;
}
