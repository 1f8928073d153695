/*
 * ref_dev.c - the reference backend's table, its memory, and the element-wise ops
 *
 * Device memory is host memory; there are no threads, no packed weights and no scratch, so `struct dev` is a
 * placeholder that only has to be a distinct pointer.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ref.h"

struct dev {
	int threads;
};

static struct dev *ref_dev_open(int threads)
{
	struct dev *d = calloc(1, sizeof *d);
	if (d)
		d->threads = threads;
	return d;
}

static void ref_dev_close(struct dev *d)
{
	free(d);
}

static void *ref_mem_alloc(struct dev *d, size_t bytes)
{
	(void)d;
	if (bytes > SIZE_MAX - 64)
		return NULL;
	size_t n = (bytes + 63) / 64 * 64;
	void *p = aligned_alloc(64, n ? n : 64);
	if (p)
		memset(p, 0, n ? n : 64);
	return p;
}

static void ref_mem_free(struct dev *d, void *p, size_t bytes)
{
	(void)d;
	(void)bytes;
	free(p);
}

static size_t ref_mem_bytes(size_t bytes)
{
	return bytes;
}

static void *ref_host(void *p)
{
	return p;
}

static void ref_upload(struct dev *d, void *dst, const void *host, size_t bytes)
{
	(void)d;
	memcpy(dst, host, bytes);
}

static void ref_download(struct dev *d, void *host, const void *src, size_t bytes)
{
	(void)d;
	memcpy(host, src, bytes);
}

static void ref_weights_changed(struct dev *d)
{
	(void)d;
}

static size_t ref_held_bytes(const struct dev *d, enum held part)
{
	(void)d;
	(void)part;
	return 0;
}

/* y = a + b */
static void ref_add(struct dev *d, mat y, mat a, mat b)
{
	(void)d;
	for (int64_t i = 0; i < y.rows * y.cols; i++)
		st(y, i, ld(a, i) + ld(b, i));
}

/* y = c x */
static void ref_scale(struct dev *d, mat y, mat x, float c)
{
	(void)d;
	for (int64_t i = 0; i < y.rows * y.cols; i++)
		st(y, i, (double)c * ld(x, i));
}

static void ref_copy(struct dev *d, mat y, mat x)
{
	(void)d;
	for (int64_t i = 0; i < y.rows * y.cols; i++)
		st(y, i, ld(x, i));
}

static void ref_zero(struct dev *d, mat y)
{
	(void)d;
	memset(y.p, 0, (size_t)(y.rows * y.cols) * dtype_size(y.dtype));
}

const struct kernels kernels_ref = {
	.name = "ref",
	.dev_open = ref_dev_open,
	.dev_close = ref_dev_close,
	.mem_alloc = ref_mem_alloc,
	.mem_free = ref_mem_free,
	.mem_bytes = ref_mem_bytes,
	.host = ref_host,
	.upload = ref_upload,
	.download = ref_download,
	.weights_changed = ref_weights_changed,
	.held_bytes = ref_held_bytes,
	.embed = ref_embed,
	.embed_dw = ref_embed_dw,
	.norm = ref_norm,
	.norm_bwd = ref_norm_bwd,
	.qknorm = ref_qknorm,
	.qknorm_bwd = ref_qknorm_bwd,
	.linear = ref_linear,
	.quantise = ref_quantise,
	.e4m3 = ref_e4m3,
	.linear_dx = ref_linear_dx,
	.linear_dw = ref_linear_dw,
	.attn = ref_attn,
	.attn_bwd = ref_attn_bwd,
	.attn_tree = ref_attn_tree,
	.attn_kv = ref_attn_kv,
	.act = ref_act,
	.act_dx = ref_act_dx,
	.add = ref_add,
	.copy = ref_copy,
	.scale = ref_scale,
	.zero = ref_zero,
	.add_cols = ref_add_cols,
	.take_cols = ref_take_cols,
	.mask = ref_mask,
	.mask_dz = ref_mask_dz,
	.stat_width = ref_stat_width,
	.stat_contrib = ref_stat_contrib,
	.stat_cos = ref_stat_cos,
	.kd_head = ref_kd_head,
	.logprob = ref_logprob,
	.topk = ref_topk,
	.mse = ref_mse,
	.cosine = ref_cosine,
	.relation = ref_relation,
	.adamw = ref_adamw,
	.sumsq = ref_sumsq,
	.guard = ref_guard,
};
