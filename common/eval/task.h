/*
 * task.h - items to score, what they ask of the model, and their scores
 *
 * A suite of tasks is opened (items become requests in a shared set), the set is scored once for all tasks, then each task
 * reads its results.  A kind of task is one file task_KIND.c with three functions and a row of kinds.def; a named task is
 * a row of tasks.def, which turns the items of a public data set into items of a kind.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TASK_H
#define ADZE_TASK_H
#include "../base/outfile.h"
#include "../io/artifact.h"
#include "encode.h"
#include "items.h"

enum { MAX_SCORES = 8 };
struct score {                 /* one metric of a task */
	const char *metric;
	double value, err;     /* err NAN: "N/A" */
	int higher;            /* higher is better */
	const char *filter;    /* what was done to what the model wrote; NULL: none */
};
struct doc {                   /* one item */
	json_t *item;          /* owned: as its kind wants it; {"text": ...} of a text file */
	int64_t req0, n_req;   /* its requests in the set */
	int64_t tokens;        /* scored, for perplexities */
	int64_t words, bytes;  /* of the text that perplexities are measured on */
	json_t *texts;         /* owned: what the model wrote, one string per sample (written.h), or NULL */
	json_t *verdicts;      /* owned: code: true where a text ran to its end; match: {filter, answer, exact_match} */
};
struct task {
	const char *name, *path;   /* owned by `names` */
	const struct task_kind *kind;
	const struct rules *rules; /* NULL: the items were of the kind already */
	const char *group, *top;   /* groups that it belongs to, or NULL: "mmlu_stem", "mmlu" */
	struct arena names;
	struct doc *doc;
	int64_t n, cap;        /* items used; --limit cuts */
	int64_t n_file;        /* items in the file */
	int64_t shots;         /* examples in each prompt */
	char digest[33];       /* of the file */
	int64_t at[MAX_SCORES];    /* kind code: the k of pass@k, and its metrics' names */
	const char *at_name[MAX_SCORES];
	int n_at;
	struct score score[MAX_SCORES]; /* filled by task_score */
	int n_score;
};

struct task_kind {
	const char *word;
	const char *mark[2];   /* fields that only this kind's items have; none: never guessed */
	int whole_file;        /* the file is one item, not JSON lines */
	/* Checks one item and adds its requests; d->item is set. */
	int (*add)(struct doc *d, struct encoder *c, struct ll_set *s, struct err *e);
	/* Fields of the sample log beyond doc_id and task: keys into o. */
	void (*sample)(const struct doc *d, const struct ll_set *s, json_t *o);
	/* Scores of the task; returns their number. */
	int (*score)(const struct task *t, const struct ll_set *s, struct score out[MAX_SCORES]);
	int writes;            /* the model writes (written.h): 1 what is compared, 2 what is run */
};
#define KIND(id, word, items, doc) extern const struct task_kind task_##id;
#include "kinds.def"
#undef KIND

/* A file of items that are of a kind already.  spec: NAME=FILE (kind from the first item's fields) or NAME:KIND=FILE;
 * FILE - is stdin.  limit 0: all items.  The error names file and line.  The caller frees with task_free in either case. */
int task_open(struct task *t, const char *spec, int64_t limit, struct encoder *c, struct ll_set *s, struct err *e);
/* A whole file under the name of its last component without extension. */
int task_open_text(struct task *t, const char *path, struct encoder *c, struct ll_set *s, struct err *e);
void task_free(struct task *t);
/* Fills t->score with what is reported: the scores of the kind that the rules name. */
void task_score(struct task *t, const struct ll_set *s);
int task_reports(const struct task *t, const char *metric);

/* Steps of opening, for suite.c. */
const struct task_kind *kind_named(const char *word);
const struct task_kind *kind_of(const json_t *item);           /* by its fields; NULL: none fits */
extern const char kind_words[], kind_fields[];                 /* for messages */
int task_add(struct task *t, json_t *item, int64_t words, int64_t bytes, struct encoder *c, struct ll_set *s,
	     struct err *e);                                   /* takes the reference */

struct suite {
	struct task *t;
	int n, cap;
};
struct suite_opts {
	double limit;          /* items per task, below 1: this share of them, rounded up; 0: all */
	int64_t shots;         /* -1: as the task says */
	uint64_t seed;         /* of the choice of examples */
	const char *const *fewshot, *const *template; /* "NAME=FILE" */
	int n_fewshot, n_template;
};
/* spec: NAME=PATH or NAME:KIND=PATH, where NAME or KIND may be a named task, and PATH a data directory with a file per
 * split then.  A task that is split by a field becomes one task per value. */
int suite_add(struct suite *u, const char *spec, const struct suite_opts *o, struct encoder *c, struct ll_set *s,
	      struct err *e);
int suite_add_text(struct suite *u, const char *path, struct encoder *c, struct ll_set *s, struct err *e);
void suite_free(struct suite *u);

/* One JSON line per item. */
int task_log_samples(const struct task *t, const struct ll_set *s, struct outfile *o, struct err *e);

/* What the results say about how they were made. */
struct eval_config {
	const char *model, *fingerprint, *tokenizer, *dtype, *device, *command, *bos;
	int64_t max_length;
	double limit;          /* as in suite_opts */
	uint64_t seed;
	struct prov prov;      /* filled by scores_create, which needs it until scores_commit */
};
/* Keyed as lm-evaluation-harness keys its own; the same scores give the same bytes. */
int results_write(const struct task *t, int n, const struct eval_config *cfg, struct outfile *o, struct err *e);
/* A "scores" artifact (formats/scores.md): one record per task and metric.  Refuses early, when created. */
struct art_w *scores_create(const struct task *t, int n, struct eval_config *cfg, const char *path, bool force,
			    struct err *e);
int scores_commit(struct art_w *w, const struct task *t, int n, struct err *e);
void results_table(const struct task *t, int n, FILE *f);

/* Tasks whose accuracy is reported together, each item counting the same (group.c). */
struct group {
	const char *name, *parent; /* parent NULL: a top group */
	double version;
	int64_t items, shots;
	int tasks;
	struct score acc;
};
/* Parents first; returns their number, *out_new to be freed. */
int groups_new(const struct task *t, int n, struct group **out_new);
#endif
