/*
 * gguf-import.c - a llama.cpp model file into a Hugging Face model directory
 *
 * Weights are dequantised row by row.  llama.cpp stores the rows of q and k so that the two halves of a rotary pair are
 * neighbours; here they go back to the rotate-half order:  row h*D + t*D/2 + i  comes from  row h*D + 2*i + t.
 * Only the llama architecture; anything that would change the computation and is not understood is refused by name.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/base/outfile.h"
#include "../common/io/gguf.h"
#include "../common/model/hfdir.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct { bool no_tokenizer; } o;
static const struct opt opts[] = {
	OPT_OUT_ROW("model directory to make"),
	{ 0, "dtype", OPT_T_CHOICE, &com.dtype, "bf16|f32|f16", "type of the stored weights", 0, 0, NULL },
	OPT_FLAG(0, "no-tokenizer", &o.no_tokenizer, "weights only, whatever the vocabulary is"),
	OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"gguf-import", "Turns a GGUF file (llama architecture) into a Hugging Face model directory.", "FILE.gguf -o DIR",
	"gguf-import SmolLM2-135M-Instruct.Q4_1.gguf -o smollm2\ngguf-import model.gguf --dtype f32 -o model", opts
};

/* The shortest decimal that is the same f32: 9.999999747378752e-06 was meant as 1e-05. */
static double as_written(double v)
{
	char s[40];

	for (int digits = 1; digits <= 17; digits++) {
		snprintf(s, sizeof s, "%.*g", digits, v);
		if ((float)strtod(s, NULL) == (float)v)
			break;
	}
	return strtod(s, NULL);
}

static int need(const struct gguf *g, const char *key, int64_t def, int64_t hi, int64_t *v, struct err *e)
{
	*v = def;
	if (gguf_int(g, key, v, e) < 0)
		return -1;
	if (*v < 1 || *v > hi)
		return err_set(e, EXIT_DATA, "%s: %s is %lld, expected 1 to %lld", gguf_path(g), key, (long long)*v,
			(long long)hi);
	return 0;
}

/* Frequency factors can only be said in config.json as the Llama 3 rule; the table must agree with it. */
static int rope_factors(const struct gguf *g, struct arch *a, struct err *e)
{
	const struct gguf_tensor *t = gguf_find(g, "rope_freqs.weight");
	int64_t half = arch_rope_dims(a) / 2;

	if (!t)
		return 0;
	if (t->rows != 1 || t->cols != half || t->type != 0)
		return err_set(e, EXIT_DATA, "%s: rope_freqs.weight is not %lld f32 values", gguf_path(g), (long long)half);
	float *f = xcalloc((size_t)half, sizeof *f), *got = xcalloc((size_t)half * 2, sizeof *got),
		*plain = xcalloc((size_t)half * 2, sizeof *plain);
	gguf_row(t, 0, f);
	arch_rope_table(a, plain, 1, 1);
	a->rope_scaling = ROPE_LLAMA3;
	a->rope_factor = as_written(f[half - 1]);
	a->rope_low_freq = 1;
	a->rope_high_freq = 4;
	a->rope_orig_ctx = 8192;
	arch_rope_table(a, got, 1, 1);
	int rc = 0;
	for (int64_t i = 0; i < half && !rc; i++) {
		double angle = asin(fmin(1, fabs((double)plain[half + i]))), want = angle / (double)f[i];
		if (!(f[i] >= 1) || fabs(asin(fmin(1, fabs((double)got[half + i]))) - want) > 1e-4 * want)
			rc = err_set(e, EXIT_DATA, "%s: rope_freqs.weight is not the Llama 3 frequency scaling", gguf_path(g));
	}
	free(f);
	free(got);
	free(plain);
	return rc;
}

static int rope(const struct gguf *g, struct arch *a, struct err *e)
{
	struct gguf_str type;
	int64_t rot = a->head_dim;

	a->rope_theta = 10000;
	if (gguf_real(g, "llama.rope.freq_base", &a->rope_theta, e) < 0 ||
	    gguf_int(g, "llama.rope.dimension_count", &rot, e) < 0)
		return -1;
	a->rope_theta = as_written(a->rope_theta);
	a->rope_frac = 1;
	if (!(a->rope_theta >= 1) || rot != a->head_dim || a->head_dim % 2)
		return err_set(e, EXIT_DATA, "%s: rotary base %g over %lld of %lld dimensions is not supported", gguf_path(g),
			a->rope_theta, (long long)rot, (long long)a->head_dim);
	int rc = gguf_string(g, "llama.rope.scaling.type", &type, e);
	if (rc < 0)
		return -1;
	if (!rc && !(type.n == 4 && !memcmp(type.p, "none", 4))) {
		if (type.n != 6 || memcmp(type.p, "linear", 6))
			return err_set(e, EXIT_DATA, "%s: rope scaling '%.*s' is not supported", gguf_path(g),
				(int)(type.n < 40 ? type.n : 40), type.p);
		a->rope_scaling = ROPE_LINEAR;
		if (gguf_real(g, "llama.rope.scaling.factor", &a->rope_factor, e))
			return err_set(e, EXIT_DATA, "%s: llama.rope.scaling.factor is missing", gguf_path(g));
	}
	return rope_factors(g, a, e);
}

static int shape(const struct gguf *g, struct arch *a, struct err *e)
{
	struct gguf_str s;
	const struct gguf_tensor *emb = gguf_find(g, "token_embd.weight");
	int64_t experts = 0;

	if (gguf_string(g, "general.architecture", &s, e))
		return err_set(e, EXIT_DATA, "%s: general.architecture is missing", gguf_path(g));
	if (s.n != 5 || memcmp(s.p, "llama", 5))
		return err_set(e, EXIT_DATA, "%s: architecture '%.*s' is not supported (llama is)", gguf_path(g),
			(int)(s.n < 40 ? s.n : 40), s.p);
	if (!emb)
		return err_set(e, EXIT_DATA, "%s: tensor 'token_embd.weight' is missing", gguf_path(g));
	if (gguf_int(g, "llama.expert_count", &experts, e) < 0)
		return -1;
	if (experts)
		return err_set(e, EXIT_DATA, "%s: mixtures of experts are not supported", gguf_path(g));
	a->family = family_find("llama");
	a->norm = NORM_RMS;
	a->act = ACT_SWIGLU;
	a->embed_scale = 1;
	a->vocab = emb->rows;
	a->tied = !gguf_find(g, "output.weight");
	if (need(g, "llama.block_count", 0, 4096, &a->layers, e) ||
	    need(g, "llama.embedding_length", 0, 1 << 20, &a->hidden, e) ||
	    need(g, "llama.feed_forward_length", 0, 1 << 24, &a->ffn, e) ||
	    need(g, "llama.attention.head_count", 0, 1 << 14, &a->heads, e) ||
	    need(g, "llama.attention.head_count_kv", a->heads, 1 << 14, &a->kv_heads, e) ||
	    need(g, "llama.attention.key_length", a->hidden / a->heads, 4096, &a->head_dim, e) ||
	    need(g, "llama.context_length", 2048, 1 << 30, &a->max_positions, e))
		return -1;
	if (a->heads % a->kv_heads || emb->cols != a->hidden || a->vocab > 1 << 26)
		return err_set(e, EXIT_DATA, "%s: %lld heads, %lld kv-heads, embeddings %lld x %lld do not fit hidden %lld",
			gguf_path(g), (long long)a->heads, (long long)a->kv_heads, (long long)emb->rows, (long long)emb->cols,
			(long long)a->hidden);
	a->norm_eps = 1e-5;
	if (gguf_real(g, "llama.attention.layer_norm_rms_epsilon", &a->norm_eps, e) < 0)
		return -1;
	a->norm_eps = as_written(a->norm_eps);
	static const struct { const char *key; size_t off; } ids[] = {
		{ "tokenizer.ggml.bos_token_id", offsetof(struct arch, bos) },
		{ "tokenizer.ggml.eos_token_id", offsetof(struct arch, eos) },
		{ "tokenizer.ggml.padding_token_id", offsetof(struct arch, pad) },
	};
	for (size_t i = 0; i < 3; i++) {
		int64_t *id = (int64_t *)((char *)a + ids[i].off);
		*id = -1;
		if (gguf_int(g, ids[i].key, id, e) < 0)
			return -1;
		if (*id < -1 || *id >= a->vocab)
			return err_set(e, EXIT_DATA, "%s: %s is %lld", gguf_path(g), ids[i].key, (long long)*id);
	}
	return rope(g, a, e);
}

/* "self_attn.q_proj.weight" of block N -> "blk.N.attn_q.weight" */
static const struct gguf_tensor *counterpart(const struct gguf *g, const struct param *p, int s, struct err *e)
{
	static const char *const names[][2] = {
		{ "model.embed_tokens.weight", "token_embd.weight" }, { "model.norm.weight", "output_norm.weight" },
		{ "lm_head.weight", "output.weight" }, { "input_layernorm.weight", "attn_norm.weight" },
		{ "self_attn.q_proj.weight", "attn_q.weight" }, { "self_attn.k_proj.weight", "attn_k.weight" },
		{ "self_attn.v_proj.weight", "attn_v.weight" }, { "self_attn.o_proj.weight", "attn_output.weight" },
		{ "post_attention_layernorm.weight", "ffn_norm.weight" }, { "mlp.gate_proj.weight", "ffn_gate.weight" },
		{ "mlp.up_proj.weight", "ffn_up.weight" }, { "mlp.down_proj.weight", "ffn_down.weight" },
	};
	char name[64];

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if (strcmp(p->row->seg[s].hf, names[i][0]))
			continue;
		if (p->layer < 0)
			snprintf(name, sizeof name, "%s", names[i][1]);
		else
			snprintf(name, sizeof name, "blk.%d.%s", p->layer, names[i][1]);
		const struct gguf_tensor *t = gguf_find(g, name);
		if (!t)
			err_set(e, EXIT_DATA, "%s: tensor '%s' is missing", gguf_path(g), name);
		return t;
	}
	BUG("no counterpart of %s", p->row->seg[s].hf);
}

static int copy_segment(const struct gguf *g, const struct ptable *t, const struct param *p, int s, struct st_w *w,
		int dtype, struct err *e)
{
	const struct gguf_tensor *x = counterpart(g, p, s, e);
	int64_t rows = param_seg_rows(t, p, s), D = t->arch.head_dim;
	const char *hf = p->row->seg[s].hf;
	bool paired = strstr(hf, "q_proj") || strstr(hf, "k_proj");

	if (!x)
		return -1;
	if (x->rows != rows || x->cols != p->cols)
		return err_set(e, EXIT_DATA, "%s: tensor '%s': %lld x %lld, expected %lld x %lld", gguf_path(g), x->name,
			(long long)x->rows, (long long)x->cols, (long long)rows, (long long)p->cols);
	float *f = xcalloc((size_t)p->cols, sizeof *f);
	char *out = xcalloc((size_t)p->cols, st_dtype_size(dtype));
	int rc = 0;
	for (int64_t r = 0; r < rows && !rc; r++) {
		int64_t k = r % D, from = paired ? r - k + 2 * (k % (D / 2)) + k / (D / 2) : r;
		gguf_row(x, from, f);
		st_from_f32(out, dtype, f, p->cols);
		rc = st_write(w, out, (size_t)p->cols * st_dtype_size(dtype), e);
	}
	gguf_release(x);
	free(f);
	free(out);
	return rc;
}

static int weights(const struct gguf *g, const struct ptable *t, const char *dir, int dtype, struct err *e)
{
	int n, rc = 0, used = 0;
	struct st_spec *spec = params_specs_new(t, &n);
	struct progress pr = { 0 };

	for (int i = 0; i < n; i++)
		spec[i].dtype = dtype;
	struct st_w *w = st_create(dir, spec, n, ST_SHARD_BYTES, e);
	free(spec);
	if (!w)
		return -1;
	progress_start(&pr, "tensors", n, "tensors", 0);
	for (int i = 0; i < t->n && !rc; i++)
		for (int s = 0; s < t->p[i].row->nseg && !rc; s++) {
			rc = copy_segment(g, t, &t->p[i], s, w, dtype, e);
			progress_step(&pr, ++used);
		}
	progress_end(&pr);
	/* a tensor that nobody asked for (a bias, an adapter) would change the model */
	int known = used + (gguf_find(g, "rope_freqs.weight") != NULL);
	for (int i = 0; i < gguf_count(g) && !rc && gguf_count(g) != known; i++) {
		const char *name = gguf_at(g, i)->name, *dot = strrchr(name, '.');
		if (dot && !strcmp(dot, ".bias"))
			rc = err_set(e, EXIT_DATA, "%s: tensor '%s': biases are not supported", gguf_path(g), name);
		else if (i == gguf_count(g) - 1)
			rc = err_set(e, EXIT_DATA, "%s: %d tensors, a llama model of this shape has %d", gguf_path(g),
				gguf_count(g), known);
	}
	if (!rc)
		return st_finish(w, e);
	st_abandon(w);
	return rc;
}

static int tokenizer(const struct gguf *g, const struct arch *a, const char *dir, struct err *e)
{
	json_t *tok, *conf;

	if (o.no_tokenizer)
		return 0;
	if (gguf_tokenizer_new(g, a->vocab, a->max_positions, &tok, &conf, e))
		return -1;
	int rc = hfdir_write_json(dir, "tokenizer.json", tok, e);
	if (!rc)
		rc = hfdir_write_json(dir, "tokenizer_config.json", conf, e);
	json_decref(tok);
	json_decref(conf);
	return rc;
}

int main(int argc, char **argv)
{
	struct arch a = { 0 };
	struct err e;

	if (opt_parse(&use, argc, argv) != 1)
		opt_die("one GGUF file is needed");
	if (!com.out || !strcmp(com.out, "-"))
		opt_die("-o DIR is needed");
	log_start();
	int dtype = st_dtype_parse(com.dtype);
	struct gguf *g = gguf_open(argv[0], &e);
	if (!g || shape(g, &a, &e))
		die_err(&e);
	snprintf(a.dtype, sizeof a.dtype, "%s", st_dtype_torch(dtype));
	struct ptable *t = ptable_new(&a);
	if (com.dry_run) {
		printf("%lld layers, hidden %lld, ffn %lld, %lld heads, %lld kv-heads, vocabulary %lld: %lld parameters\n",
			(long long)a.layers, (long long)a.hidden, (long long)a.ffn, (long long)a.heads, (long long)a.kv_heads,
			(long long)a.vocab, (long long)t->count);
		ptable_free(t);
		gguf_close(g);
		return EXIT_DONE;
	}
	struct gguf_str name = { "Model", 5 }, licence = { "unknown", 7 };
	const char *base = strrchr(argv[0], '/');
	if (gguf_string(g, "general.name", &name, &e) < 0 || gguf_string(g, "general.license", &licence, &e) < 0)
		die_err(&e);
	char *title = xasprintf("%.*s", (int)(name.n < 200 ? name.n : 200), name.p);
	char types[64] = "";
	for (int i = 0; i < gguf_count(g); i++) {
		const char *type = gguf_type_name(gguf_at(g, i)->type);
		if (!strstr(types, type))
			snprintf(types + strlen(types), sizeof types - strlen(types), "%s%s", *types ? ", " : "", type);
	}
	char *notes = xasprintf("Licence according to the file: %.*s. Stored there as %s.",
		(int)(licence.n < 200 ? licence.n : 200), licence.p, types);
	struct model_card card = { .title = title, .origin = base ? base + 1 : argv[0], .commands = opt_record_line(),
		.notes = notes };
	struct outdir *d = outdir_open(com.out, com.force, &e);
	if (!d)
		die_err(&e);
	if (weights(g, t, outdir_tmp(d), dtype, &e) || tokenizer(g, &a, outdir_tmp(d), &e) ||
	    hfdir_describe(outdir_tmp(d), &a, NULL, &card, &e) || hfdir_verify(outdir_tmp(d), &a, &e)) {
		outdir_abort(d);
		die_err(&e);
	}
	if (outdir_commit(d, &e))
		die_err(&e);
	log_summary("%lld parameters", (long long)t->count);
	free(title);
	free(notes);
	ptable_free(t);
	gguf_close(g);
	return EXIT_DONE;
}
