/*
 * arch_load.c - config.json into struct arch, refusing by name what the family does not compute
 *
 * Two spellings are in the world: transformers 4 (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, dtype).
 * A field that is absent takes the default of the family's transformers class; a field that is present but wrong is
 * an error, never a guess.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "params.h"
#include "../base/outfile.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Key from `o` as an integer in [lo, hi]; absent or null: def (def < lo means that it is required). */
int cfg_int(const json_t *o, const char *key, int64_t def, int64_t lo, int64_t hi, int64_t *v, struct err *e)
{
	const json_t *j = json_object_get(o, key);

	if (!j || json_is_null(j)) {
		if (def < lo)
			return err_set(e, EXIT_DATA, "field '%s' is missing", key);
		*v = def;
		return 0;
	}
	if (!json_is_integer(j))
		return err_set(e, EXIT_DATA, "field '%s' is not an integer", key);
	*v = json_integer_value(j);
	if (*v < lo || *v > hi)
		return err_set(e, EXIT_DATA, "field '%s' is %lld, expected %lld to %lld", key, (long long)*v,
			(long long)lo, (long long)hi);
	return 0;
}

int cfg_real(const json_t *o, const char *key, double def, double *v, struct err *e)
{
	const json_t *j = json_object_get(o, key);

	*v = def;
	if (!j || json_is_null(j))
		return 0;
	if (!json_is_number(j))
		return err_set(e, EXIT_DATA, "field '%s' is not a number", key);
	*v = json_number_value(j);
	if (!isfinite(*v) || *v <= 0)
		return err_set(e, EXIT_DATA, "field '%s' is %g, expected a positive number", key, *v);
	return 0;
}

int cfg_refuse_true(const json_t *o, const char *key, struct err *e)
{
	const json_t *j = json_object_get(o, key);

	if (j && json_is_true(j))
		return err_set(e, EXIT_DATA, "'%s' is true: not supported", key);
	return 0;
}

static const struct { const char *key; int bit; } bias_keys[] = { { "attention_bias", BIAS_ATTN }, { "mlp_bias", BIAS_MLP } };

int cfg_biases(struct arch *a, const json_t *cfg, struct err *e)
{
	for (int i = 0; i < 2; i++)
		if (!(a->family->biases & bias_keys[i].bit) ? cfg_refuse_true(cfg, bias_keys[i].key, e) : 0)
			return -1;
		else if (json_is_true(json_object_get(cfg, bias_keys[i].key)))
			a->biases |= bias_keys[i].bit;
	return 0;
}

int cfg_expect_act(const json_t *o, const char *key, const char *want, struct err *e)
{
	const json_t *j = json_object_get(o, key);

	if (!j || json_is_null(j))
		return 0;
	if (!json_is_string(j) || strcmp(json_string_value(j), want))
		return err_set(e, EXIT_DATA, "%s is '%s', expected '%s'", key,
			json_is_string(j) ? json_string_value(j) : "not a string", want);
	return 0;
}

/* First of a list of ids, or the id itself; absent: -1. */
static int get_id(const json_t *o, const char *key, int64_t vocab, int64_t *v, struct err *e)
{
	const json_t *j = json_object_get(o, key);

	if (json_is_array(j))
		j = json_array_get(j, 0);
	*v = -1;
	if (!j || json_is_null(j))
		return 0;
	if (!json_is_integer(j))
		return err_set(e, EXIT_DATA, "field '%s' is not a token id", key);
	*v = json_integer_value(j);
	if (*v < -1 || *v >= vocab)
		return err_set(e, EXIT_DATA, "field '%s' is %lld, outside the vocabulary of %lld", key, (long long)*v,
			(long long)vocab);
	return 0;
}

static int load_rope_kind(struct arch *a, const json_t *s, struct err *e)
{
	const json_t *t = json_object_get(s, "rope_type");
	const char *type;

	if (!t)
		t = json_object_get(s, "type");
	type = t ? json_string_value(t) : "default";
	if (!type)
		return err_set(e, EXIT_DATA, "rope type is not a string");
	if (!strcmp(type, "default"))
		return 0;
	a->rope_scaling = !strcmp(type, "linear") ? ROPE_LINEAR : !strcmp(type, "llama3") ? ROPE_LLAMA3 : -1;
	if (a->rope_scaling < 0)
		return err_set(e, EXIT_DATA, "rope type '%s' is not supported (default, linear, llama3 are)", type);
	if (!json_object_get(s, "factor"))
		return err_set(e, EXIT_DATA, "rope type '%s' without a factor", type);
	if (cfg_real(s, "factor", 1, &a->rope_factor, e))
		return -1;
	if (a->rope_scaling != ROPE_LLAMA3)
		return 0;
	if (cfg_real(s, "low_freq_factor", 1, &a->rope_low_freq, e) ||
	    cfg_real(s, "high_freq_factor", 4, &a->rope_high_freq, e) ||
	    cfg_int(s, "original_max_position_embeddings", 8192, 1, INT32_MAX, &a->rope_orig_ctx, e))
		return -1;
	if (a->rope_high_freq <= a->rope_low_freq)
		return err_set(e, EXIT_DATA, "rope high_freq_factor %g is not above low_freq_factor %g",
			a->rope_high_freq, a->rope_low_freq);
	return 0;
}

static int load_rope(struct arch *a, const json_t *cfg, struct err *e)
{
	const json_t *par = json_object_get(cfg, "rope_parameters"), *sc = json_object_get(cfg, "rope_scaling");

	if (par && !json_is_object(par) && !json_is_null(par))
		return err_set(e, EXIT_DATA, "rope_parameters is not an object");
	if (sc && !json_is_object(sc) && !json_is_null(sc))
		return err_set(e, EXIT_DATA, "rope_scaling is not an object");
	const json_t *s = json_is_object(par) ? par : sc, *local = json_object_get(s, "sliding_attention");
	const struct family *f = a->family;

	if (json_is_object(json_object_get(s, "full_attention")))   /* one set for each kind of block */
		s = json_object_get(s, "full_attention");
	if (cfg_real(cfg, "rope_theta", f->rope_theta > 0 ? f->rope_theta : 10000, &a->rope_theta, e))
		return -1;
	if (f->rope_local > 0 && (cfg_real(cfg, "rope_local_base_freq", f->rope_local, &a->rope_local, e) ||
				  cfg_real(local, "rope_theta", a->rope_local, &a->rope_local, e)))
		return -1;
	const json_t *kind = json_object_get(local, "rope_type");
	if (json_is_string(kind) && strcmp(json_string_value(kind), "default"))
		return err_set(e, EXIT_DATA, "rope type '%s' of sliding blocks is not supported", json_string_value(kind));
	if (json_is_object(s) && cfg_real(s, "rope_theta", a->rope_theta, &a->rope_theta, e))
		return -1;
	return json_is_object(s) ? load_rope_kind(a, s, e) : 0;
}

/* Sizes of each block, where they differ; `most` is the largest and each is a multiple of `step`. */
static int load_list(const json_t *cfg, const char *key, int64_t layers, int64_t most, int64_t step, int64_t **out,
		struct err *e)
{
	const json_t *list = json_object_get(cfg, key);
	int64_t seen = 0;

	if (!list)
		return 0;
	if (!json_is_array(list) || (int64_t)json_array_size(list) != layers)
		return err_set(e, EXIT_DATA, "field '%s' is not a list of %lld sizes", key, (long long)layers);
	*out = xcalloc((size_t)layers, sizeof **out);
	for (int64_t l = 0; l < layers; l++) {
		const json_t *v = json_array_get(list, (size_t)l);
		int64_t n = json_is_integer(v) ? json_integer_value(v) : 0;
		if (n < 1 || n > most || n % step)
			return err_set(e, EXIT_DATA, "field '%s': block %lld: expected a multiple of %lld up to %lld", key,
				(long long)l, (long long)step, (long long)most);
		seen = n > seen ? n : seen;
		(*out)[l] = n;
	}
	return seen == most ? 0 : err_set(e, EXIT_DATA, "field '%s': the largest is %lld, expected %lld", key, (long long)seen,
		(long long)most);
}

static int load_sizes(struct arch *a, const json_t *cfg, struct err *e)
{
	if (cfg_int(cfg, "num_hidden_layers", -1, 1, ARCH_LAYERS, &a->layers, e) ||
	    cfg_int(cfg, "hidden_size", -1, 1, 1 << 20, &a->hidden, e) ||
	    cfg_int(cfg, "intermediate_size", -1, 1, 1 << 24, &a->ffn, e) ||
	    cfg_int(cfg, "num_attention_heads", -1, 1, 1 << 14, &a->heads, e) ||
	    cfg_int(cfg, "num_key_value_heads", a->heads, 1, 1 << 14, &a->kv_heads, e) ||
	    cfg_int(cfg, "vocab_size", -1, 1, 1 << 26, &a->vocab, e))
		return -1;
	const json_t *d = json_object_get(cfg, "head_dim");
	int64_t D = a->family->head_dim;
	if ((!d || json_is_null(d)) && !D && a->hidden % a->heads)
		return err_set(e, EXIT_DATA, "no head_dim, and hidden_size %lld is not a multiple of %lld heads",
			(long long)a->hidden, (long long)a->heads);
	if (cfg_int(cfg, "head_dim", D ? D : a->hidden / a->heads, 1, 4096, &a->head_dim, e))
		return -1;
	if (a->heads % a->kv_heads)
		return err_set(e, EXIT_DATA, "num_attention_heads %lld is not a multiple of num_key_value_heads %lld",
			(long long)a->heads, (long long)a->kv_heads);
	return load_list(cfg, "adze_intermediate_sizes", a->layers, a->ffn, 1, &a->layer_ffn, e) ||
		load_list(cfg, "adze_num_attention_heads", a->layers, a->heads, a->kv_heads == a->heads ? 1 : a->kv_heads,
		&a->layer_heads, e) ? -1 : 0;
}

static int load_fields(struct arch *a, const json_t *cfg, struct err *e)
{
	const json_t *type = json_object_get(cfg, "model_type"), *dt = json_object_get(cfg, "dtype");

	if (!json_is_string(type))
		return err_set(e, EXIT_DATA, "field 'model_type' is missing");
	a->family = family_find(json_string_value(type));
	if (!a->family)
		return err_set(e, EXIT_DATA, "model_type '%s' is not supported (%s are)", json_string_value(type),
			family_list());
	if (json_is_object(json_object_get(cfg, "quantization_config")))
		return err_set(e, EXIT_DATA, "'quantization_config': quantized weights are not supported");
	if (load_sizes(a, cfg, e) || cfg_int(cfg, "max_position_embeddings", 2048, 1, INT32_MAX, &a->max_positions, e))
		return -1;
	if (get_id(cfg, "bos_token_id", a->vocab, &a->bos, e) || get_id(cfg, "eos_token_id", a->vocab, &a->eos, e) ||
	    get_id(cfg, "pad_token_id", a->vocab, &a->pad, e))
		return -1;
	const json_t *tied = json_object_get(cfg, "tie_word_embeddings");
	if (tied && !json_is_boolean(tied) && !json_is_null(tied))
		return err_set(e, EXIT_DATA, "field 'tie_word_embeddings' is not true or false");
	a->tied = json_is_true(tied);
	a->embed_scale = arch_embed_scale(a);
	a->rope_frac = 1;
	if (!json_is_string(dt))
		dt = json_object_get(cfg, "torch_dtype");
	snprintf(a->dtype, sizeof a->dtype, "%s", json_is_string(dt) ? json_string_value(dt) : "float32");
	if (load_rope(a, cfg, e) || a->family->configure(a, cfg, e))
		return -1;
	if (a->rope_frac > 1 || arch_rope_dims(a) < 2)
		return err_set(e, EXIT_DATA, "rotary fraction %g of head_dim %lld leaves nothing to rotate or exceeds it",
			a->rope_frac, (long long)a->head_dim);
	return 0;
}

int arch_load(struct arch *a, const char *path, struct err *e)
{
	struct stat st;
	json_error_t je;
	size_t n;

	memset(a, 0, sizeof *a);
	char *file = !stat(path, &st) && S_ISDIR(st.st_mode) ? xasprintf("%s/config.json", path) : xstrdup(path);
	char *text = file_read_new(file, 16 << 20, &n, e);
	if (!text) {
		free(file);
		return -1;
	}
	json_t *cfg = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
	free(text);
	int rc = 0;
	if (!cfg)
		rc = err_set(e, EXIT_DATA, "%s: line %d: %s", file, je.line, je.text);
	else if (!json_is_object(cfg))
		rc = err_set(e, EXIT_DATA, "%s: not a JSON object", file);
	else if (load_fields(a, cfg, e))
		rc = err_wrap(e, "%s", file);
	if (rc) {
		json_decref(cfg);
		arch_free(a);
	} else {
		a->config = cfg;
	}
	free(file);
	return rc;
}
