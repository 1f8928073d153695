/*
 * metrics.c - means, errors, perplexities and the text measures under them
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "metrics.h"
#include <math.h>
#include <utf8proc.h>

double metric_mean(const double *x, int64_t n)
{
	double s = 0;
	for (int64_t i = 0; i < n; i++)
		s += x[i];
	return n ? s / (double)n : NAN;
}

double metric_stderr(const double *x, int64_t n)
{
	if (n < 2)
		return NAN;
	double m = metric_mean(x, n), s = 0;
	for (int64_t i = 0; i < n; i++)
		s += (x[i] - m) * (x[i] - m);
	return sqrt(s / (double)(n - 1)) / sqrt((double)n);
}

int64_t metric_best(const double *ll, const int64_t *len, int64_t n)
{
	int64_t best = 0;
	double top = -INFINITY;
	for (int64_t i = 0; i < n; i++) {
		double v = len && len[i] > 0 ? ll[i] / (double)len[i] : ll[i];
		if (v > top) {
			top = v;
			best = i;
		}
	}
	return best;
}

void ppl_add(struct ppl *to, const struct ppl *p)
{
	to->sum += p->sum;
	to->words += p->words;
	to->bytes += p->bytes;
	to->tokens += p->tokens;
}

double ppl_word(const struct ppl *p)
{
	return exp(-p->sum / (double)p->words);
}

double ppl_byte(const struct ppl *p)
{
	return exp(-p->sum / (double)p->bytes);
}

double ppl_bits(const struct ppl *p)
{
	return -p->sum / (double)p->bytes / log(2.0);
}

double ppl_token(const struct ppl *p)
{
	return exp(-p->sum / (double)p->tokens);
}

/* str.isspace() of Python, which is also \s of its regular expressions. */
static int is_space(int32_t c)
{
	return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
	       (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Code point at s[i] and the bytes it takes. */
static int32_t next(const char *s, size_t n, size_t i, size_t *len)
{
	utf8proc_int32_t c;
	utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &c);
	*len = k > 0 ? (size_t)k : 1;
	return k > 0 ? c : -1;
}

int64_t utf8_check(const char *s, size_t n)
{
	for (size_t i = 0, k; i < n; i += k)
		if (next(s, n, i, &k) < 0)
			return (int64_t)i;
	return -1;
}

int64_t text_codepoints(const char *s, size_t n)
{
	int64_t c = 0;
	for (size_t i = 0; i < n; i++)
		c += ((unsigned char)s[i] & 0xc0) != 0x80;
	return c;
}

int64_t text_words(const char *s, size_t n)
{
	int64_t words = 1;
	int in_space = 0;
	for (size_t i = 0, k; i < n; i += k) {
		int space = is_space(next(s, n, i, &k));
		words += space && !in_space;
		in_space = space;
	}
	return words;
}

size_t text_rstrip(const char *s, size_t n)
{
	while (n > 0) {
		size_t i = n - 1, k;
		while (i > 0 && ((unsigned char)s[i] & 0xc0) == 0x80)
			i--;
		if (!is_space(next(s, n, i, &k)) || i + k != n)
			break;
		n = i;
	}
	return n;
}
