/*
 * ref_relation.c - KL between attention relations, row by row
 *
 *   R_t = softmax_{start_t <= u <= t} x_t.x_u / sqrt(D)     L_t = KL(R_t(b) || R_t(a))
 *   dL_t / dx_t = sum_u g_u x_u / sqrt(D),  dL_t / dx_u = g_u x_t / sqrt(D),  g = R_t(a) - R_t(b)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ref.h"
#include <math.h>

/* p[from..t] = log R_t of the vectors of D columns from column c0 on */
static void log_relation(double *p, mat x, int64_t row0, int64_t from, int64_t t, int64_t c0, int64_t D)
{
	double top = -INFINITY, sum = 0;
	for (int64_t u = from; u <= t; u++) {
		p[u] = 0;
		for (int64_t k = 0; k < D; k++)
			p[u] += ld(x, (row0 + t) * x.cols + c0 + k) * ld(x, (row0 + u) * x.cols + c0 + k);
		p[u] /= sqrt((double)D);
		top = fmax(top, p[u]);
	}
	for (int64_t u = from; u <= t; u++)
		sum += exp(p[u] - top);
	for (int64_t u = from; u <= t; u++)
		p[u] -= top + log(sum);
}

void ref_relation(struct dev *d, mat sums, mat da, mat a, mat b, mat label, mat start, const struct relation *r, float coef,
		  const float *live, int acc)
{
	(void)d, (void)live;
	double *la = ref_tmp(r->T), *lb = ref_tmp(r->T), *dx = ref_tmp(a.rows * a.cols), sum = 0;
	double scale = (double)coef / (r->heads * sqrt((double)r->da));
	for (int64_t n = 0; n < a.rows; n++) {
		int64_t t = n % r->T, row0 = n - t, from = start.p ? ref_int(start, n) : 0;
		from = r->window && t - r->window >= from ? t - r->window + 1 : from;
		for (int h = 0; h < r->heads && !(label.p && ref_int(label, n) < 0); h++) {
			int64_t c = r->a0 + h * r->da;
			log_relation(la, a, row0, from, t, c, r->da);
			log_relation(lb, b, row0, from, t, r->b0 + h * r->db, r->db);
			for (int64_t u = from; u <= t; u++) {
				double g = scale * (exp(la[u]) - exp(lb[u]));
				sum += exp(lb[u]) * (lb[u] - la[u]) / r->heads;
				for (int64_t k = 0; k < r->da; k++) {
					dx[n * a.cols + c + k] += g * ld(a, (row0 + u) * a.cols + c + k);
					dx[(row0 + u) * a.cols + c + k] += g * ld(a, n * a.cols + c + k);
				}
			}
		}
	}
	for (int64_t i = 0; da.p && i < a.rows * a.cols; i++)
		st_acc(da, i, dx[i], acc);
	st_acc(sums, 0, sum, 1);
	free(la);
	free(lb);
	free(dx);
}
