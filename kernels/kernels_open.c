/*
 * kernels_open.c - find a backend by name: "ref" is linked in, any other NAME is the shared object adze-NAME.so
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "kernels.h"
#include "plugin.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The ops of struct kernels, in its order: a backend that lacks one is refused by its name.  A `?` marks what may lack. */
static const char *const op_name[] = {
	"dev_open", "dev_close", "mem_alloc", "mem_free", "mem_bytes", "host", "upload", "download", "pinned?", "bring_order?", "bring?", "brought?", "take?", "taken?", "weights_changed", "held_bytes", "plan?", "capture?", "replay?", "drop?", "embed", "embed_dw",
	"norm", "norm_bwd", "qknorm", "qknorm_bwd", "linear", "quantise", "e4m3", "linear_dx", "linear_dw", "attn", "attn_bwd", "attn_tree?", "attn_kv", "act", "act_dx", "add",
	"copy", "scale", "zero", "add_cols", "take_cols", "mask", "mask_dz", "stat_width", "stat_contrib", "stat_cos", "kd_head", "logprob", "topk", "mse", "cosine", "relation", "adamw",
	"sumsq", "guard"
};
enum { N_OPS = sizeof op_name / sizeof op_name[0] };
_Static_assert(sizeof(struct kernels) == (1 + N_OPS) * sizeof(void (*)(void)), "one name per op");

/* The name of an op that k lacks, or NULL */
static const char *missing_op(const struct kernels *k)
{
	for (int i = 0; i < N_OPS; i++) {
		void (*f)(void);
		memcpy(&f, (const char *)&k->dev_open + (size_t)i * sizeof f, sizeof f);
		if (!f && !strchr(op_name[i], '?'))
			return op_name[i];
	}
	return NULL;
}

const struct kernels *kernels_open(const char *name, char why[256])
{
	why[0] = 0;
	if (!strcmp(name, kernels_ref.name))
		return &kernels_ref;
	/* Idle threads of a spinning runtime would take the cores of other processes; read when the runtime loads. */
	setenv("OMP_WAIT_POLICY", "passive", 0);
	void *so = plugin_open(name, KERNELS_ABI_SYMBOL, KERNELS_ABI, why);
	const struct kernels *k = so ? dlsym(so, KERNELS_SYMBOL) : NULL;
	const kernels_ready *ready = k ? dlsym(so, KERNELS_READY_SYMBOL) : NULL;
	if (so && !k)
		snprintf(why, 256, "adze-%.40s.so holds no table of kernels", name);
	else if (k && missing_op(k))
		snprintf(why, 256, "adze-%.40s.so: op '%s' is missing", name, missing_op(k));
	else if (k && (!ready || !(*ready)(why)))
		return k;
	return NULL;
}
