#!/bin/sh
# test_tables.sh - the two pipelines that make comparison tables, on a tiny random model: every row is there, what should
# differ differs, and a second make does nothing.
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
work=$t/w
sh tests/cli/tiny-tokenizer.sh "$t/tok" || exit 1
mkmodel -q --layers 4 --hidden 32 --heads 4 --kv-heads 2 --head-dim 8 --ffn 48 --vocab 265 --eos 264 --tied --tokenizer "$t/tok" -o "$t/teacher" || exit 1
fold -w 400 README.md | sed 's/[^A-Za-z0-9 .,]//g; s/.*/{"text":"&"}/' | grep ' ' >"$t/text.jsonl"
head -n 4 "$t/text.jsonl" >"$t/held.jsonl"

distil() {
	make -f pipelines/distil.mk BIN="$PWD/$B/bin" WORK="$work" TEACHER="$t/teacher" TEXT="$t/text.jsonl" HELD="$t/held.jsonl" STEPS=6 SEQ=32 BATCH=2 WARMUP=2 \
		SAMPLES=8 LIMIT=4 WIDTH="--ffn 16" HALFWAY="--ffn 32" DEPTH="--layers 2" ABLATION="--metric loss --mode block:2" HIDDEN=cosine@emb,mlp.last:last RUNOPTS="--progress none" "$@"
}
score() { sed -n 's/.*"token_perplexity,none": *\([0-9.e+]*\).*/\1/p' "$work/$1/results.json"; }
works "distil.mk makes its table" distil
same "one line for every row" "$(grep -c ' 4x32x\| 2x32x' "$work/report.txt")" 15
same "rows of one start and different losses differ" "$(for r in width-ce width-kl width-rkl width-mse; do score $r; done | sort -u | wc -l)" 4
same "other starts differ" "$(for r in teacher width depth random-width corrected scratch-ce two-step-kl corrected-kl; do score $r; done | sort -u | wc -l)" 8
same "as many tokens for each" "$(cat "$work"/*-ce/kd/metrics.jsonl "$work"/width-*/kd/metrics.jsonl | grep -o '"tokens":[0-9.]*' | sort -t: -k2 -n | tail -n 1)" \
	"$(grep -o '"tokens":[0-9.]*' "$work/corrected-kl/kd/metrics.jsonl" | tail -n 1)"
same "from scratch, in the shape of the student" "$(grep -c '"intermediate_size": 16' "$work/scratch/model/config.json" "$work/width/model/config.json" | sed 's/.*://' | tr -d '\n')" 11
works "make again" distil -q

metrics() {
	make -f pipelines/metrics.mk BIN="$PWD/$B/bin" WORK="$t/m" MODEL="$t/teacher" TEXT="$t/text.jsonl" HELD="$t/held.jsonl" SAMPLES=4 SEQ=32 LIMIT=2 ABLATE_SAMPLES=2 \
		RUNOPTS="--progress none" "$@"
}
works "metrics.mk makes its tables" metrics -j2
rows=$(make -s -f pipelines/metrics.mk MODEL="$t/teacher" TEXT=x HELD=x --eval 'rows: ; @echo $$(( $(words $(METRICS) $(DEPTH_ROWS)) + 2 ))' rows)
same "a row for every metric and two heads, all cells filled" "$(grep -c '^| [a-z].*[0-9] |$' "$t/m/table.md") $(grep -c '|  *|' "$t/m/table.md")" "$rows 0"
works "make again, metrics" metrics -q "$t/m/table.md"
