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

const struct kernels *kernels_open(const char *name, char why[256])
{
	why[0] = 0;
	if (!strcmp(name, kernels_ref.name))
		return &kernels_ref;
	/* Idle threads of a spinning runtime would take the cores of other processes; read when the runtime loads. */
	setenv("OMP_WAIT_POLICY", "passive", 0);
	void *so = plugin_open(name, KERNELS_ABI_SYMBOL, KERNELS_ABI, why);
	const struct kernels *k = so ? dlsym(so, KERNELS_SYMBOL) : NULL;
	if (so && !k)
		snprintf(why, 256, "adze-%.40s.so holds no table of kernels", name);
	return k;
}
