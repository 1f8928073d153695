/*
 * num.c - numbers as people write them, and back
 *
 * Integers are parsed in exact decimal arithmetic (mantissa, power of ten, unit), never through a double, so
 * "9007199254740993" and "1.5Gi" are exact and "1.0001k" is refused instead of rounded.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The unit at s, which must end the string; 0 when it is not one. */
static int64_t unit_of(const char *s)
{
	static const struct { char c; int power; } t[] = { { 'k', 1 }, { 'K', 1 }, { 'M', 2 }, { 'G', 3 }, { 'T', 4 } };
	if (!*s)
		return 1;
	for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
		if (*s != t[i].c)
			continue;
		bool binary = s[1] == 'i';
		if (s[1 + binary] || (binary && *s == 'k'))
			return 0;
		int64_t u = 1;
		for (int p = 0; p < t[i].power; p++)
			u *= binary ? 1024 : 1000;
		return u;
	}
	return 0;
}

int parse_i64(const char *s, int64_t *out)
{
	bool neg = *s == '-';
	s += neg || *s == '+';
	__int128 v = 0;
	int scale = 0, digits = 0;
	bool point = false;
	for (; isdigit((unsigned char)*s) || (*s == '.' && !point); s++) {
		if (*s == '.') {
			point = true;
			continue;
		}
		if (v > (__int128)INT64_MAX)
			return -1;
		v = v * 10 + (*s - '0');
		scale -= point;
		digits++;
	}
	if (!digits)
		return -1;
	if (*s == 'e' || *s == 'E') {
		char *end;
		if (!isdigit((unsigned char)s[1]) && !((s[1] == '+' || s[1] == '-') && isdigit((unsigned char)s[2])))
			return -1;
		long x = strtol(s + 1, &end, 10);
		if (x > 30 || x < -30)
			return -1;
		scale += (int)x;
		s = end;
	}
	int64_t u = unit_of(s);
	if (!u || v > (__int128)INT64_MAX)
		return -1;
	v *= u;
	for (; scale < 0 && v; scale++) {
		if (v % 10)
			return -1;
		v /= 10;
	}
	for (; scale > 0 && v; scale--) {
		if (v > (__int128)INT64_MAX)
			return -1;
		v *= 10;
	}
	if (v > (__int128)INT64_MAX)
		return -1;
	*out = neg ? -(int64_t)v : (int64_t)v;
	return 0;
}

int parse_f64(const char *s, double *out)
{
	const char *d = s + (*s == '-' || *s == '+');
	if (!isdigit((unsigned char)*d) && !(*d == '.' && isdigit((unsigned char)d[1])))
		return -1;
	if (d[0] == '0' && (d[1] == 'x' || d[1] == 'X'))
		return -1;
	char *end;
	double v = strtod(s, &end);
	int64_t u = unit_of(end);
	if (!u || !isfinite(v * (double)u))
		return -1;
	*out = v * (double)u;
	return 0;
}

char *fmt_count(char buf[32], double n)
{
	static const char unit[] = " KMBT";
	int i = 0;
	double a = fabs(n);
	for (; a >= 999.5 && i < 4; i++) {
		a /= 1000;
		n /= 1000;
	}
	if (i == 0)
		snprintf(buf, 32, a == floor(a) ? "%.0f" : "%.3g", n);
	else
		snprintf(buf, 32, "%.*f%c", a >= 99.95 ? 0 : a >= 9.995 ? 1 : 2, n, unit[i]);
	return buf;
}

char *fmt_bytes(char buf[32], double n)
{
	static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	int i = 0;
	for (; fabs(n) >= 1023.5 && i < 4; i++)
		n /= 1024;
	snprintf(buf, 32, "%.*f %s", i == 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2, n, unit[i]);
	return buf;
}
