/*
 * kd_opts.c - the options of kd-train and what they rule out together
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "kd_opts.h"
#include "session.h"
#include <string.h>

struct kd_opts kd = {
	.teacher_dtype = "same", .documents = "joined", .mix = "fixed", .mix_rate = 1, .mix_floor = 1e-4, .cache_what = "best", .cache_dtype = "f16", .batch = 8, .tail = "ghost", .weigh = "none", .alpha = "dynamic", .projection = "shared",
	.moments = "f32", .max_skips = 10, .tp = 1, .tau = 1, .beta = 0.5, .schedule = "cosine", .lr = 1e-4, .min_lr = 1e-5, .wsd = 0.2, .clip = 1, .decay = 0.1,
	.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .warmup = -1, .save_dtype = "stored", .save_every = 100, .keep = 2,
	.log_every = 1, .per_node = 8, .recompute_word = "selective", .teacher_place = "resident", .optimizer_place = "device", .lora = { NULL, 16, 32 },
};

static const struct opt opts[] = {
	OPT_STR(0, "teacher", &kd.teacher, "DIR", "model to learn from; without it, conventional training on --loss ce"),
	OPT_CHOICE(0, "teacher-place", &kd.teacher_place, "resident|sharded|host", "where its weights are while it runs: all on each device; a part of each block on the device of each process of a node; or in its files and the host's memory.  Then two blocks are on the device, the next one on its way while one computes; the same bits in less memory"),
	OPT_I64(0, "teacher-group", &kd.teacher_group, "N", "with --teacher-place sharded: every N neighbouring processes have a copy of the teacher between them; 0: those of each node", 0, 1 << 20),
	OPT_CHOICE(0, "teacher-dtype", &kd.teacher_dtype, "same|fp8", "fp8: the matrices of the teacher's blocks and what they multiply in 8-bit floats (e4m3), each scaled by its largest magnitude; faster on GPUs of compute capability 8.9 and later, emulated on the CPU"),
	OPT_STR(0, "cache-teacher", &kd.cache_out, "PATH", "write what --teacher says about --data and leave; goes on where it was stopped"),
	OPT_CHOICE(0, "cache-what", &kd.cache_what, "best|hidden", "the best tokens (--top-k of them, 64 by default), or the last hidden states in bf16: all logits, 2 bytes a channel"),
	OPT_LIST(0, "teacher-cache", &kd.cache, "[NAME=]PATH", "train from that, without the teacher's weights; with --teacher as well, only compares the two, but of a cache of hidden states reads the output matrix; one for each --data"),
	OPT_CHOICE(0, "cache-dtype", &kd.cache_dtype, "f16|f32", "of the log-probabilities that --cache-teacher writes"),
	OPT_I64(0, "cache-part", &kd.cache_part, "N", "sequences of a part of the cache, 0 for about 64 MiB", 0, 1 << 24),
	OPT_STR(0, "student", &kd.student, "DIR", "model to train"),
	OPT_LIST(0, "data", &kd.data, "[NAME=]TOKENS", "token set to train on; several of them are domains, with names"),
	OPT_LIST(0, "valid", &kd.valid, "[NAME=]TOKENS", "held-out token set, measured before, during and after; with names, also each for itself"),
	OPT_STR(0, "weights", &kd.weights, "NAME:W,...", "shares of the domains in what is drawn, by their size if not given"),
	OPT_CHOICE(0, "documents", &kd.documents, "joined|apart", "apart: tokens of a packed sequence attend to their own document only, which begins at position 0"),
	OPT_STR(0, "response-from", &kd.response_from, "TEXT", "losses count only behind this text, such as '<|im_start|>assistant': the response to a prompt"),
	OPT_STR(0, "response-to", &kd.response_to, "TEXT", "up to this text and with it, such as '<|im_end|>'; without it, up to the token that ends a document"),
	OPT_CHOICE(0, "mix", &kd.mix, "fixed|dynamic", "dynamic: after each --valid-every steps a domain's weight is multiplied by exp(held-out loss - reference)"),
	OPT_STR(0, "mix-reference", &kd.mix_reference, "NAME:L,...|teacher", "cross-entropy that each domain should end with, or the teacher's own"),
	OPT_F64(0, "mix-rate", &kd.mix_rate, "X", "factor of loss - reference in the exponent", 0, 1e6),
	OPT_F64(0, "mix-floor", &kd.mix_floor, "X", "share of the weights that stays spread over all domains alike", 0, 1),
	OPT_OUT_ROW("directory of the run"),
	OPT_STR(0, "loss", &kd.loss, "NAME:W,...", "terms and weights, kl:1 by default (ce:1 without teacher): kl, rkl, jsd, tvd, mse, cos, ce; kl, rkl, jsd and tvd enter the loss times temperature^2 and are reported without it"),
	OPT_F64(0, "temperature", &kd.tau, "T", "divides the logits of teacher and student in kl, rkl, jsd and tvd", 1e-3, 1e3),
	OPT_F64(0, "jsd-beta", &kd.beta, "B", "share of the teacher in the mixture m of jsd = B KL(teacher, m) + (1-B) KL(student, m)", 1e-3, 0.999),
	OPT_I64(0, "top-k", &kd.best, "K", "kl against the K best tokens of the teacher, 0 for all", 0, 1 << 24),
	OPT_CHOICE(0, "tail", &kd.tail, TAIL_WORDS, "with the best tokens alone: renorm both models over them, zero for the teacher's others, or one ghost token for the others of each"),
	OPT_CHOICE(0, "weigh", &kd.weigh, "none|wsl", "wsl (weighted soft labels) weights a position's teacher terms by 1 - exp(-CE(student)/CE(teacher))"),
	OPT_STR(0, "hidden-loss", &kd.hidden, "TERM;...", "losses between hidden states, TERM = cosine|mse|relation[:W]@PAIR,..., PAIR = [SITE.]STUDENT:TEACHER, [SITE.]uniform or emb; blocks are numbers, last or last-N, SITE is norm (the default: after the block, normalised), in, out or mlp; a relation (MiniLM-v2) is between the positions' queries, keys or values, SITE q, k or v, by default all three"),
	OPT_I64(0, "relation-heads", &kd.relation_heads, "N", "pieces that queries, keys and values are cut into for relations, 0 for the most up to 64 that leave 16 columns to each", 0, 1 << 14),
	OPT_CHOICE(0, "hidden-alpha", &kd.alpha, "dynamic|fixed", "factor of the hidden losses: what makes them as large as the teacher's terms on the logits, or 1"),
	OPT_CHOICE(0, "projection", &kd.projection, "shared|pair", "where widths differ, one learned matrix from student to teacher for all pairs or one each"),
	OPT_STR(0, "train", &kd.train, "GLOB,...", "train only these tensors of the student; a pattern stands for a name as in its files or for the end of one, with or without .weight: embed_tokens, layers.3.*, *norm*"),
	OPT_STR(0, "freeze", &kd.freeze, "GLOB,...", "leave these tensors as they are: no gradient, no optimizer state"),
	OPT_STR(0, "lora", &kd.lora.targets, "GLOB,...", "train low-rank adapters of these linears and nothing else but what --train names; the result is merged"),
	OPT_I64(0, "lora-rank", &kd.lora.rank, "R", "rank of the adapters", 1, 1 << 14),
	OPT_F64(0, "lora-alpha", &kd.lora.alpha, "X", "an adapter counts alpha/rank times", 1e-6, 1e6),
	OPT_FLAG(0, "lora-adapter", &kd.lora_adapter, "write RUNDIR/adapter, the adapters alone in the format of the PEFT library, as well"),
	OPT_I64(0, "steps", &kd.steps, "N", "optimizer steps, 0 for one pass over the data", 0, 1e12),
	OPT_I64(0, "tokens", &kd.tokens, "N", "tokens to train on, instead of --steps", 0, 1e15),
	OPT_I64(0, "seq", &kd.seq, "T", "tokens per sequence, 0 for the token set's", 0, 1 << 24),
	OPT_I64(0, "batch", &kd.batch, "N", "sequences per step", 1, 1 << 24),
	OPT_I64(0, "micro", &kd.micro, "N", "sequences at a time, 0 for what makes about 2048 tokens", 0, 1 << 24),
	OPT_F64(0, "lr", &kd.lr, "X", "peak learning rate", 0, 1e3),
	OPT_F64(0, "min-lr", &kd.min_lr, "X", "learning rate of the last step", 0, 1e3),
	OPT_F64(0, "correct-teacher", &kd.correct_teacher, "LR", "train the teacher as well, on the cross-entropy of the same batches, with this peak rate (a fifth of what it was trained with); the student follows it as it changes, RUNDIR/teacher is the result", 0, 1e3),
	OPT_I64(0, "warmup", &kd.warmup, "N", "steps of linear warm-up, -1 for the lesser of 40 and a tenth", -1, 1e12),
	OPT_CHOICE(0, "schedule", &kd.schedule, SCHEDULE_WORDS, "how the rate falls after warm-up"),
	OPT_F64(0, "wsd-decay", &kd.wsd, "F", "share of the steps in the final slope of wsd", 0, 1),
	OPT_F64(0, "clip", &kd.clip, "X", "limit of the gradient's norm, 0 for none", 0, 1e9),
	OPT_F64(0, "weight-decay", &kd.decay, "X", "of matrices", 0, 1e3),
	OPT_STR(0, "no-decay", &kd.no_decay, "GLOB,...", "matrices without weight decay, by the names in the model's files (embed_tokens,lm_head); vectors never have it"),
	OPT_CHOICE(0, "moments", &kd.moments, "f32|bf16|bf16-nearest", "arithmetic type in which AdamW's moments are kept; bf16 rounds at random, by seed, step and element, so that small changes add up"),
	OPT_I64(0, "zero", &kd.zero, "0|1|2", "with several processes: 1 shares out master weights, moments and averaged weights, 2 the gradients too; the same training in less memory of each", 0, 2),
	OPT_FLAG(0, "deterministic", &kd.deterministic, "add up what the micro-batches of a step give in an order that does not depend on the number of processes: the same bits on 1, 2, 4, 8 ...; costs a copy of the gradients each time that the micro-batches of a process double"),
	OPT_I64(0, "tp", &kd.tp, "N", "spread both models over every N of the processes, which must be a multiple of it (tensor parallel): heads, kv-heads, neurons and vocabulary, of which each has an N-th; the others have more of the batch; on GPUs by NCCL, a GPU each", 1, 1024),
	OPT_CHOICE(0, "optimizer-place", &kd.optimizer_place, "device|host", "where master weights, moments and averaged weights are: on the device, or in the host's memory, from which every update has them come and go in pieces (two of at most 16 MiB are on the device), the next one on its way while one is updated; the same bits.  On the CPU both are the same memory"),
	OPT_F64(0, "ema", &kd.ema, "D", "keep a moving average of the weights, D * average + (1 - D) * weights after each step, and write it as student-ema; 0 for none", 0, 0.9999999),
	OPT_I64(0, "max-skips", &kd.max_skips, "N", "end after so many steps in a row whose loss or gradient is not finite; such steps change nothing", 1, 1e9),
	OPT_F64(0, "beta1", &kd.beta1, "X", "AdamW, first moment", 0, 0.999999),
	OPT_F64(0, "beta2", &kd.beta2, "X", "AdamW, second moment", 0, 0.999999),
	OPT_F64(0, "eps", &kd.eps, "X", "AdamW, added to the denominator", 1e-30, 1),
	OPT_I64(0, "save-every", &kd.save_every, "N", "steps between checkpoints, 0 for only when stopped", 0, 1e12),
	OPT_FLAG(0, "keep-best", &kd.best_valid, "after each validation that is the best so far, write the model as best"),
	OPT_I64(0, "keep", &kd.keep, "K", "checkpoints to keep", 1, 1e6),
	OPT_STR(0, "max-time", &kd.max_time, "3h", "stop in time with a checkpoint and exit code 75 (90s, 15m, 1h30m)"),
	OPT_I64(0, "stop-after", &kd.stop_after, "N", "likewise after N steps of this session, 0 for never", 0, 1e12),
	OPT_I64(0, "stop-at", &kd.stop_at, "N", "end with a checkpoint and exit code 0 after step N of --steps; without it the run goes on later", 0, 1e12),
	OPT_STR(0, "export", &kd.export, "DIR", "with --stop-at: write the model so far, a Hugging Face directory"),
	OPT_I64(0, "log-every", &kd.log_every, "N", "steps between lines of metrics.jsonl", 1, 1e9),
	OPT_I64(0, "valid-every", &kd.valid_every, "N", "steps between validations, 0 for only first and last", 0, 1e12),
	OPT_I64(0, "valid-samples", &kd.valid_samples, "N", "sequences of --valid to use, 0 for all", 0, 1e12),
	OPT_CHOICE(0, "save-dtype", &kd.save_dtype, "stored|bf16|f16|f32", "of the result; stored is the student's own"),
	OPT_OPTVAL(0, "recompute", &kd.recompute_word, "none|selective|full", "what the backward pass computes again to save memory: nothing, each block's norms and activation functions (saves about a third of the activations for hardly any time), or all of it (full, also without a word); the same bits"),
	OPT_FLAG(0, "graph", &kd.graph, "on a GPU: capture a micro-batch and the update (with --optimizer-place host the micro-batch alone) as CUDA graphs and replay them, which saves the time of thousands of launches; the same bits"),
	OPT_F64(0, "peak-flops", &kd.peak, "X", "FLOP/s of the machine, for peak_share in the metrics; 0 measures a matrix product", 0, 1e20),
	OPT_FLAG(0, "explain", &kd.explain, "print the training program and exit"),
	OPT_I64(0, "world", &kd.world, "N", "with --dry-run: how it would lie on N GPUs, from the models' config.json alone", 1, 1 << 20),
	OPT_STR(0, "gpu-mem", &kd.gpu_mem, "BYTES", "memory of one of them [80G]"),
	OPT_STR(0, "gpu-flops", &kd.gpu_flops, "N", "FLOP a second that one achieves [400e12]"),
	OPT_I64(0, "gpus-per-node", &kd.per_node, "N", "GPUs of a node", 1, 1024),
	OPT_DEVICE_ROWS, OPT_SEED_ROW, OPT_COMMON_ROWS, OPT_END
};
const struct usage kd_usage = {
	"kd-train", "Trains a student on a token set to follow its teacher; resumes after any kill.",
	"--teacher DIR --student DIR --data TOKENS -o RUNDIR",
	"kd-train --teacher teacher --student student --data train.tok --steps 500 -o student-kd\n"
	"kd-train --student student --data train.tok --loss ce --valid valid.tok -o student-ce\n"
	"kd-train --teacher teacher --data train.tok --cache-teacher train.cache\n"
	"kd-train --teacher-cache train.cache --student student --data train.tok -o student-kd", opts
};

const char *kd_save_dtype(const char *stored)
{
	static const char *const word[] = { "bf16", "bfloat16", "f16", "float16", "f32", "float32" };
	for (int i = 0; i < 6; i += 2)
		if (!strcmp(kd.save_dtype, word[i]))
			return word[i + 1];
	return *stored ? stored : "bfloat16";
}

static void validate_data(void)
{
	struct err e = { 0 };
	bool dynamic = !strcmp(kd.mix, "dynamic");
	if (mix_names(&kd.data, "data", &e) || mix_names(&kd.valid, "valid", &e) || mix_names(&kd.cache, "teacher-cache", &e))
		opt_die("%s", e.msg);
	if (kd.response_to && !kd.response_from)
		opt_die("--response-to needs --response-from");
	if (!dynamic && kd.mix_reference)
		opt_die("--mix-reference is for --mix dynamic");
	if (dynamic && (!kd.mix_reference || !kd.valid_every))
		opt_die("--mix dynamic needs --mix-reference, what the losses are compared with, and --valid-every");
	if (dynamic && !strcmp(kd.mix_reference, "teacher") && (!kd.teacher || kd.cache.n))
		opt_die("--mix-reference teacher measures the weights of --teacher");
}

/* enum recompute of the words in the table; an option without one means all */
static int kd_recompute(const char *word)
{
	return !strcmp(word, "none") ? RECOMPUTE_NONE : !strcmp(word, "selective") ? RECOMPUTE_NORMS : RECOMPUTE_FULL;
}

/* enum teacher_place of the words in the table */
static int kd_place(const char *word)
{
	return !strcmp(word, "host") ? TEACHER_HOST : !strcmp(word, "sharded") ? TEACHER_SHARDED : TEACHER_RESIDENT;
}

/* What is not spread over processes */
static void validate_tp(void)
{
	const struct { bool given; const char *word; } no[] = {
		{ kd.cache.n > 0, "teacher-cache" }, { kd.best > 0, "top-k" }, { kd.hidden != NULL, "hidden-loss" }, { kd.lora.targets != NULL, "lora" },
		{ kd.correct_teacher > 0, "correct-teacher" }, { strcmp(kd.teacher_place, "resident") != 0, "teacher-place" },
		{ strcmp(kd.teacher_dtype, "same") != 0, "teacher-dtype" }, { kd.graph, "graph" },
	};
	for (size_t i = 0; i < sizeof no / sizeof *no; i++)
		if (kd.tp > 1 && no[i].given)
			opt_die("--tp does not go with --%s", no[i].word);
}

void kd_validate(struct objective *loss, double *max_seconds)
{
	struct err e = { 0 };
	bool taught = kd.teacher || kd.cache.n;
	if (!kd.student || !kd.data.n)
		opt_die("%s is missing", kd.student ? "--data" : "--student");
	if (!com.out && !com.dry_run && !kd.explain)
		opt_die("--out is missing: the directory of the run");
	validate_data();
	validate_tp();
	if (!kd.loss)
		kd.loss = taught ? "kl:1" : "ce:1";
	if (objective_parse(loss, kd.loss, kd.tau, &e))
		opt_die("%s", e.msg);
	loss->beta = kd.beta;
	loss->best = kd.best;
	loss->tail = tail_find(kd.tail);
	loss->wsl = !strcmp(kd.weigh, "wsl");
	if (objective_check(loss, &e))
		opt_die("%s", e.msg);
	if (kd.cache.n && kd.hidden)
		opt_die("--teacher-cache holds the teacher's output: not enough for --hidden-loss");
	if (!taught && objective_needs_teacher(loss))
		opt_die("--loss %s needs --teacher or --teacher-cache; conventional training is --loss ce", kd.loss);
	if (kd.hidden && !kd.teacher)
		opt_die("--hidden-loss needs --teacher");
	if (kd.hidden && !strcmp(kd.alpha, "dynamic") && !objective_needs_teacher(loss))
		opt_die("--hidden-alpha dynamic compares with the teacher's terms, and --loss %s has none: say fixed", kd.loss);
	if (kd.lora_adapter && (!kd.lora.targets || kd.train))
		opt_die("--lora-adapter %s", kd.train ? "holds adapters only, not what --train names" : "needs --lora");
	if (kd.correct_teacher > 0 && (!kd.teacher || kd.cache.n))
		opt_die("--correct-teacher trains the weights of --teacher");
	kd.place = kd_place(kd.teacher_place);
	if (kd.place && (!kd.teacher || kd.cache.n || kd.correct_teacher > 0))
		opt_die("--teacher-place %s is for a --teacher that runs and stays as it is%s", kd.teacher_place, kd.cache.n ? ": not with --teacher-cache" : kd.correct_teacher > 0 ? ": not with --correct-teacher" : "");
	if (kd.teacher_group && kd.place != TEACHER_SHARDED)
		opt_die("--teacher-group says who has the parts of --teacher-place sharded");
	if (strcmp(kd.teacher_dtype, "same") && (!kd.teacher || kd.cache.n || kd.correct_teacher > 0))
		opt_die("--teacher-dtype fp8 is for the forward pass of a --teacher that is not trained");
	if (kd.steps && kd.tokens)
		opt_die("--steps and --tokens exclude each other");
	if (kd.micro && kd.batch % kd.micro)
		opt_die("--batch %lld is not a multiple of --micro %lld", (long long)kd.batch, (long long)kd.micro);
	if (kd.min_lr > kd.lr)
		opt_die("--min-lr %g is above --lr %g", kd.min_lr, kd.lr);
	kd.recompute = kd_recompute(kd.recompute_word);
	if (kd.graph && kd.hidden && !strcmp(kd.alpha, "dynamic"))
		opt_die("--graph replays a step without the host, which --hidden-alpha dynamic needs: say fixed");
	if (kd.deterministic && (kd.zero == 2 || kd.tp > 1))
		opt_die("--deterministic and --%s exclude each other: parts of a gradient are added up where they arise", kd.tp > 1 ? "tp" : "zero 2");
	if (kd.deterministic && !kd.micro)
		opt_die("--deterministic needs --micro: what is added up must not depend on the number of processes");
	if (kd.graph && kd.zero == 2)
		opt_die("--graph and --zero 2 exclude each other: sums over processes cannot be replayed");
	if (kd.place && strcmp(kd.teacher_dtype, "same"))
		opt_die("--teacher-dtype fp8 and --teacher-place %s exclude each other", kd.teacher_place);
	if (kd.graph && kd.place)
		opt_die("--graph and --teacher-place %s exclude each other: weights that come while a step runs cannot be replayed", kd.teacher_place);
	if (kd.best_valid && !kd.valid.n)
		opt_die("--keep-best compares held-out losses: it needs --valid");
	if (kd.export && !kd.stop_at)
		opt_die("--export needs --stop-at: the step whose model is meant");
	if (kd.max_time && parse_duration(kd.max_time, max_seconds))
		opt_die("--max-time '%s' is not a time such as 90s, 15m, 3h or 1h30m", kd.max_time);
}
