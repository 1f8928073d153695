/*
 * explain.c - the program as text: op, result[shape]@offset = operands
 *
 * What is printed is what executes; tests keep golden copies.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "internal.h"
#include <ctype.h>
#include <string.h>

const struct opinfo opinfo[OP_COUNT] = {
#define OP(name, in, out, doc) { #name, in, out, doc },
#include "ops.def"
#undef OP
};
static const char *const dtypes[DT_COUNT] = { "f32", "bf16", "i32", "f64", "e4m3" };

/* k-th word of "tok W +dW"; its marker is in the first character. */
static const char *word(const char *s, int k)
{
	for (; k > 0 && s; k--) {
		s = strchr(s, ' ');
		s = s ? s + 1 : NULL;
	}
	return s;
}

int op_adds(const struct op *o, int k)
{
	const char *w = word(opinfo[o->code].out, k);
	return w && (*w == '+' || (*w == '~' && o->acc));
}

static void print_value(FILE *f, const struct prog *p, val x, int with_place)
{
	const struct value *v = &p->v[x.id];
	fprintf(f, "%%%d:%s", x.id, v->name);
	if (!with_place)
		return;
	fprintf(f, "[%lld,%lld]%s", (long long)v->rows, (long long)v->cols, dtypes[v->dtype]);
	if (v->space == SP_ACT)
		fprintf(f, "@%lld", (long long)v->off);
}

void prog_explain(const struct prog *p, FILE *f)
{
	fprintf(f, "# batch %lld, sequence %lld, %d ops, %lld bytes of activations\n", (long long)p->B, (long long)p->T,
		p->n, (long long)p->bytes[SP_ACT]);
	for (int i = 0; i < p->n; i++) {
		const struct op *o = &p->op[i];
		char name[16] = "";
		for (int k = 0; opinfo[o->code].name[k] && k < 15; k++)
			name[k] = (char)tolower((unsigned char)opinfo[o->code].name[k]), name[k + 1] = 0;
		fprintf(f, "%4d %c %-10s ", i, i < p->n_forward ? 'f' : 'b', name);
		const char *sep = "";
		for (int k = 0; k < MAX_OUT; k++) {
			if (!o->out[k].id)
				continue;
			fputs(sep, f);
			print_value(f, p, o->out[k], 1);
			if (op_adds(o, k))
				fputs(" +", f);
			sep = ", ";
		}
		fputs(" =", f);
		for (int k = 0; k < MAX_IN; k++)
			if (o->in[k].id) {
				fputc(' ', f);
				print_value(f, p, o->in[k], 0);
			}
		fputc('\n', f);
	}
}
