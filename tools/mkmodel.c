/*
 * mkmodel.c - a random model directory of any family and shape, for tests, demos and dry experiments
 *
 * Matrices are normal with deviation --std (0: 1/sqrt(columns), which keeps signals alive in tiny models), norms differ
 * from channel to channel, so that code which mixes channels up is noticed.  With --like it is instead a model of another
 * one's shape as training from scratch begins: norms do nothing, biases are 0.  Weights are a pure function of the seed and
 * the parameter's place in the table.  They are made and written piece by piece, so any size fits any machine; --fast takes
 * them from one table of TABLE random values over and over (its length is prime, so rows differ) and keeps up with a disk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/base/rng.h"
#include "../common/model/params.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct {
	const char *like, *family, *tokenizer, *store, *shard;
	int64_t layers, hidden, ffn, heads, kv_heads, head_dim, vocab, positions, bos, eos, window, pattern;
	double std, rope_theta;
	bool tied, fast, biases;
	int64_t shard_bytes;
} o = { .family = "llama", .store = "f32", .layers = 2, .hidden = 64, .heads = 4, .vocab = 256, .positions = 2048,
	.bos = -1, .eos = -1 };

static const struct opt opts[] = {
	OPT_STR(0, "like", &o.like, "DIR", "the shape and tokenizer of this model, initialised as training from scratch begins (--std 0.02)"),
	OPT_STR(0, "family", &o.family, "NAME", "llama, mistral, nemotron, qwen2, qwen3 or gemma3_text"),
	OPT_I64(0, "layers", &o.layers, "N", "blocks", 1, 4096),
	OPT_I64(0, "hidden", &o.hidden, "N", "hidden size", 1, 1 << 20),
	OPT_I64(0, "ffn", &o.ffn, "N", "MLP neurons, 0 for 4 x hidden", 0, 1 << 24),
	OPT_I64(0, "heads", &o.heads, "N", "query heads", 1, 1 << 14),
	OPT_I64(0, "kv-heads", &o.kv_heads, "N", "key-value heads, 0 for as many as query heads", 0, 1 << 14),
	OPT_I64(0, "head-dim", &o.head_dim, "N", "width of a head, 0 for hidden / heads", 0, 4096),
	OPT_I64(0, "vocab", &o.vocab, "N", "vocabulary", 1, 1 << 26),
	OPT_I64(0, "positions", &o.positions, "N", "longest sequence", 1, 1 << 30),
	OPT_I64(0, "window", &o.window, "N", "positions that sliding blocks see (mistral, gemma3_text), 0 for the default", 0, 1 << 30),
	OPT_I64(0, "window-pattern", &o.pattern, "P", "every P-th block sees everything (gemma3_text), 0 for the default", 0, 4096),
	OPT_I64(0, "bos", &o.bos, "ID", "token that begins a text, -1 for none", -1, 1 << 26),
	OPT_I64(0, "eos", &o.eos, "ID", "token that ends a text, -1 for none", -1, 1 << 26),
	OPT_F64(0, "rope-theta", &o.rope_theta, "X", "base of the rotary frequencies, 0 for the family's default", 0, 1e12),
	OPT_F64(0, "std", &o.std, "X", "deviation of matrix entries, 0 for 1/sqrt(columns)", 0, 1e3),
	OPT_FLAG(0, "tied", &o.tied, "the output matrix is the embedding"),
	OPT_FLAG(0, "biases", &o.biases, "biases wherever the family can have them"),
	OPT_CHOICE(0, "store", &o.store, "f32|bf16|f16", "type of the stored weights"),
	OPT_FLAG(0, "fast", &o.fast, "repeat a table of random values instead of drawing each: for models of gigabytes"),
	OPT_STR(0, "shard-bytes", &o.shard, "BYTES", "largest weight file (default: 5G)"),
	OPT_STR(0, "tokenizer", &o.tokenizer, "DIR", "copy tokenizer files from this model directory"),
	OPT_OUT_ROW("directory to make"), OPT_SEED_ROW, OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"mkmodel", "Writes a model directory with random weights.", "[--like DIR | --family llama --layers N --hidden N ...] -o DIR",
	"mkmodel --family nemotron --layers 3 --hidden 32 --heads 4 --kv-heads 2 -o tiny\n"
	"mkmodel --hidden 576 --ffn 1536 --heads 9 --kv-heads 3 --vocab 49152 --tied --store bf16 -o like-smollm2\n"
	"mkmodel --like trimmed --store bf16 -o from-scratch", opts
};

enum { TABLE = 1048573 };

struct maker {
	const struct ptable *t;
	float *table;                  /* TABLE standard normal values, or NULL: each is drawn */
};

static void fill(void *arg, const struct param *p, int64_t at, int64_t n, float *out)
{
	const struct maker *m = arg;
	const char *tail = strrchr(p->name, '.');
	uint64_t i = (uint64_t)(p - m->t->p), from = (uint64_t)at + rng_below((uint64_t)com.seed, i, 0, TABLE);
	double mean = 0, std = o.std > 0 ? o.std : 1 / sqrt((double)p->cols);

	if (row_is_vector(p->row)) {
		bool gain = tail && !strcmp(tail, ".w");
		mean = gain && m->t->arch.norm == NORM_RMS ? 1 : 0;
		std = o.like ? 0 : gain ? 0.2 : 0.1;
	}
	for (int64_t k = 0; m->table && k < n;) {
		int64_t j = (int64_t)((from + (uint64_t)k) % TABLE), run = TABLE - j < n - k ? TABLE - j : n - k;
		for (int64_t c = 0; c < run; c++)
			out[k + c] = (float)mean + (float)std * m->table[j + c];
		k += run;
	}
	for (int64_t k = 0; !m->table && k < n; k++)
		out[k] = (float)(mean + std * rng_normal((uint64_t)com.seed, i, (uint64_t)(at + k)));
}

/* The keys of a config.json that the family reads by itself. */
static json_t *own_keys(const struct arch *a)
{
	json_t *c = json_object();

	json_object_set_new(c, "tie_word_embeddings", json_boolean(o.tied));
	if (o.window)
		json_object_set_new(c, "sliding_window", json_integer(o.window));
	else if (a->family->hf_null)
		json_object_set_new(c, a->family->hf_null, json_null());
	if (o.biases && a->family->biases & BIAS_ATTN)
		json_object_set_new(c, "attention_bias", json_true());
	if (o.biases && a->family->biases & BIAS_MLP)
		json_object_set_new(c, "mlp_bias", json_true());
	if (o.pattern)
		json_object_set_new(c, "sliding_window_pattern", json_integer(o.pattern));
	json_object_set_new(c, "query_pre_attn_scalar", json_integer(a->head_dim));
	return c;
}

/* The architecture that the options describe. */
static void describe(struct arch *a)
{
	struct err e;

	a->family = family_find(o.family);
	if (!a->family)
		opt_die("--family '%s' is not known (%s are)", o.family, family_list());
	a->layers = o.layers;
	a->hidden = o.hidden;
	a->ffn = o.ffn ? o.ffn : 4 * o.hidden;
	a->heads = o.heads;
	a->kv_heads = o.kv_heads ? o.kv_heads : o.heads;
	if (!o.head_dim && o.hidden % o.heads)
		opt_die("--hidden %lld is not a multiple of --heads %lld: give --head-dim", (long long)o.hidden,
			(long long)o.heads);
	a->head_dim = o.head_dim ? o.head_dim : o.hidden / o.heads;
	if (a->heads % a->kv_heads)
		opt_die("--heads %lld is not a multiple of --kv-heads %lld", (long long)a->heads, (long long)a->kv_heads);
	a->vocab = o.vocab;
	a->tied = o.tied;
	a->rope_theta = o.rope_theta > 0 ? o.rope_theta : a->family->rope_theta > 0 ? a->family->rope_theta : 10000;
	a->max_positions = o.positions;
	a->bos = o.bos;
	a->eos = o.eos;
	a->pad = -1;
	a->rope_frac = 1;
	a->rope_local = a->family->rope_local;
	a->embed_scale = arch_embed_scale(a);
	json_t *keys = own_keys(a);
	if (a->family->configure(a, keys, &e))
		die_err(&e);
	json_decref(keys);
}

int main(int argc, char **argv)
{
	struct arch a = { 0 };
	struct err e;

	if (opt_parse(&use, argc, argv))
		opt_die("unexpected operand '%s'", argv[0]);
	if (!com.out)
		opt_die("-o DIR is needed");
	if (o.shard && (parse_i64(o.shard, &o.shard_bytes) || o.shard_bytes < 1))
		opt_die("--shard-bytes %s: expected a size such as 5G", o.shard);
	if (!o.like)
		describe(&a);
	else if (arch_load(&a, o.like, &e))
		die_err(&e);
	if (o.like && o.std == 0)
		o.std = 0.02;
	if (o.like && !o.tokenizer)
		o.tokenizer = o.like;
	log_start();

	struct ptable *t = ptable_new(&a);
	arch_free(&a);
	struct maker m = { t, NULL };
	if (o.fast) {
		m.table = xmalloc(TABLE * sizeof *m.table);
		for (int64_t i = 0; i < TABLE; i++)
			m.table[i] = (float)rng_normal((uint64_t)com.seed, UINT64_MAX, (uint64_t)i);
	}
	struct model_card card = { .title = "Random model", .commands = opt_record_line(),
		.notes = "Random weights: useful for tests only." };
	if (params_save_made(t, fill, &m, o.shard_bytes, com.out, o.tokenizer, o.store, &card, com.force, &e))
		die_err(&e);
	log_summary("%lld parameters", (long long)t->count);
	free(m.table);
	ptable_free(t);
	return EXIT_DONE;
}
