/*
 * sysmem.c - how much memory this process has and may still take (Linux: /proc and control groups)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base.h"
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* The number after KEY at the start of a line of a file; -1: none */
static long long number_in(const char *path, const char *key)
{
	char line[256];
	long long v = -1;
	size_t n = strlen(key);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, key, n) && sscanf(line + n, "%lld", &v) == 1)
			break;
	if (f)
		fclose(f);
	return v;
}

size_t peak_rss_bytes(void)
{
	long long kib = number_in("/proc/self/status", "VmHWM:");
	struct rusage u;
	if (kib <= 0)
		kib = getrusage(RUSAGE_SELF, &u) ? 0 : u.ru_maxrss;
	return (size_t)kib * 1024;
}

size_t rss_bytes(void)
{
	long long kib = number_in("/proc/self/status", "VmRSS:");
	return kib > 0 ? (size_t)kib * 1024 : 0;
}

/* The two versions of control groups: line of /proc/self/cgroup, directory, files, the page cache in memory.stat */
static const struct version {
	const char *line, *dir, *limit, *used, *cache;
} version[] = {
	{ "0::/", "", "memory.max", "memory.current", "file " },
	{ "memory:/", "/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache " },
};

static long long group_number(const struct version *v, const char *group, const char *file, const char *key)
{
	char *path = xasprintf("/sys/fs/cgroup%s%s/%s", v->dir, group, file);
	long long n = number_in(path, key);
	free(path);
	return n;
}

/* Of one group: its limit less what it uses, where the page cache is not counted.  -1: no limit */
static long long group_free(const struct version *v, const char *group)
{
	long long limit = group_number(v, group, v->limit, ""), used = group_number(v, group, v->used, "");
	long long cache = group_number(v, group, "memory.stat", v->cache);
	if (limit < 0 || used < 0)
		return -1;
	used -= cache > 0 && cache < used ? cache : 0;
	return limit > used ? limit - used : 0;
}

size_t memory_free_bytes(void)
{
	long long kib = number_in("/proc/meminfo", "MemAvailable:"), least = kib < 0 ? 0 : kib * 1024, n;
	char line[512], *group, *slash;
	FILE *f = fopen("/proc/self/cgroup", "re");
	while (f && fgets(line, sizeof line, f)) {
		line[strcspn(line, "\n")] = '\0';
		for (int i = 0; i < 2; i++) {
			if (!(group = strstr(line, version[i].line)))
				continue;
			group = strchr(group, '/');
			do {   /* this group and those around it */
				if ((n = group_free(&version[i], group)) >= 0 && n < least)
					least = n;
				if ((slash = strrchr(group, '/')))
					*slash = '\0';
			} while (slash);
		}
	}
	if (f)
		fclose(f);
	return (size_t)least;
}
