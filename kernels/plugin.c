/*
 * plugin.c - finding and opening the shared objects of backends
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plugin.h"
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
/* The leak checker of gcc 12 crashes on the thread-local storage of libraries that were loaded later. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "intercept_tls_get_addr=0";
}
#endif

static int readable(char *path, size_t size, const char *dir, const char *name)
{
	int n = snprintf(path, size, "%s/adze-%s.so", dir, name);
	return n > 0 && (size_t)n < size && access(path, R_OK) == 0;
}

/* path [PATH_MAX] = the shared object; 0 or -1 */
static int find(char *path, const char *name)
{
	const char *env = getenv("ADZE_LIB");
	if (env && *env)
		return readable(path, PATH_MAX, env, name) ? 0 : -1;
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	if (n < 0)
		return -1;
	exe[n] = 0;
	for (int up = 0; up < 4; up++) {
		char *slash = strrchr(exe, '/'), dir[PATH_MAX + 16];
		if (!slash)
			return -1;
		*slash = 0;
		snprintf(dir, sizeof dir, "%s/lib/adze", exe);
		if (readable(path, PATH_MAX, dir, name))
			return 0;
	}
	return -1;
}

void *plugin_open(const char *name, const char *symbol, int version, char why[256])
{
	char path[PATH_MAX];
	why[0] = 0;
	if (strchr(name, '/') || find(path, name)) {
		snprintf(why, 256, "no shared object lib/adze/adze-%.40s.so beside the program (ADZE_LIB names its folder)",
			 name);
		return NULL;
	}
	void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!so) {
		snprintf(why, 256, "%.250s", dlerror());
		return NULL;
	}
	const int *has = dlsym(so, symbol);
	if (!has || *has != version) {
		snprintf(why, 256, "%.180s: built for interface %d, this program has %d", path, has ? *has : 0, version);
		dlclose(so);
		return NULL;
	}
	return so;
}
