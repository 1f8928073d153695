#!/bin/sh
# act-stats and rank on the command line: streaming and sharding change nothing, bad input is refused with one line.
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
q='-q --progress none'
root=$PWD
for f in llama nemotron gemma3_text; do
	# shellcheck disable=SC2086
	mkmodel $q --family $f --window 9 --window-pattern 3 --layers 4 --hidden 24 --ffn 36 --heads 6 --kv-heads 2 --vocab 300 --seed 3 -o "$t/$f"
done
sh tests/cli/tiny-tokenizer.sh "$t/tok"
cp "$t"/tok/* "$t/llama/"
cp "$t"/tok/* "$t/nemotron/"
cp "$t"/tok/* "$t/gemma3_text/"
cat "$root/README.md" "$root/LICENSE" "$root/Makefile" >"$t/text.txt"
# shellcheck disable=SC2086
tok() { calib-sample $q -t "$t/llama" --seq 48 "$@"; }
tok --samples 10 "$t/text.txt" -o "$t/a.tok" || no tokens "calib-sample failed"
# shellcheck disable=SC2086
stats() { act-stats $q --dtype f32 --device cpu --sites all -f "$@"; }

for f in llama nemotron gemma3_text; do
	stats -m "$t/$f" "$t/a.tok" --micro 3 -o "$t/whole.st"
	stats -m "$t/$f" "$t/a.tok" --micro 3 --memory 64Ki -o "$t/blocks.st"
	works "$f: block by block gives the same sums, spilled to a file" artdiff -q "$t/whole.st" "$t/blocks.st"
	stats -m "$t/$f" "$t/a.tok" --micro 10 -o "$t/one.st"
	works "$f: the batch size does not matter" artdiff -q -t 1e-9 "$t/whole.st" "$t/one.st"
	stats -m "$t/$f" "$t/a.tok" --micro 3 --threads 1 -o "$t/t1.st"
	works "$f: nor do threads" artdiff -q -t 1e-9 "$t/whole.st" "$t/t1.st"
	stats -m "$t/$f" "$t/a.tok" --micro 3 -o "$t/again.st"
	works "$f: the same bytes twice" cmp "$t/whole.st" "$t/again.st"
	stats -m "$t/$f" "$t/a.tok" --device ref -o "$t/ref.st"
	works "$f: cpu and ref agree" artdiff -q -t 1e-2 "$t/whole.st" "$t/ref.st"
done

# shards: 4 + 6 samples, unshuffled, against all 10
tok --no-shuffle --samples 10 "$t/text.txt" -o "$t/all.tok"
tok --no-shuffle --samples 4 "$t/text.txt" -o "$t/s1.tok"
stats -m "$t/llama" "$t/all.tok" -o "$t/all.st"
stats -m "$t/llama" "$t/s1.tok" -o "$t/s1.st"
stats -m "$t/llama" "$t/all.tok" --samples 4 -o "$t/s1b.st"
works "--samples stops early" artdiff -q "$t/s1.st" "$t/s1b.st"
# shellcheck disable=SC2086
act-stats $q -f --merge "$t/s1.st" "$t/all.st" -o "$t/merged.st"
works "a merged file is whole" artcheck -q "$t/merged.st"
n=$(artcat --header "$t/merged.st" | grep -o '"samples":[ ]*[0-9]*' | grep -o '[0-9]*$' | head -1)
works "merged samples add" [ "$n" = 14 ]
# shellcheck disable=SC2086
rank $q -f "$t/all.st" -o "$t/r1" && act-stats $q -f --merge "$t/all.st" "$t/all.st" -o "$t/twice.st" && rank $q -f "$t/twice.st" --agg batch=mean -o "$t/r2" &&
	rank $q -f "$t/all.st" --agg batch=mean -o "$t/r3"
works "doubling the data changes no mean" artdiff -q -t 1e-6 "$t/r2" "$t/r3"

# the pipe, without temporary files
# shellcheck disable=SC2086
# rank reads from a file only the frames that it needs, from a pipe everything: the same bytes, and damage is found where it is read
mkmodel -q --layers 6 --hidden 16 --ffn 16384 --heads 2 --kv-heads 1 --vocab 300 --fast -o "$t/wide"
act-stats -q -f --device cpu -m "$t/wide" "$t/a.tok" -o "$t/wide.st"
damage() { # FILE PERCENT: another byte there
	cp "$1" "$t/damaged.st"
	at=$(($(wc -c <"$1") * $2 / 100))
	was=$(od -An -tu1 -j "$at" -N 1 "$1")
	# shellcheck disable=SC2059
	printf "\\$(printf %03o $((was ^ 85)))" | dd of="$t/damaged.st" bs=1 seek="$at" conv=notrunc 2>"$t/dd"
}
for how in "" "--neuron pre --agg seq=l2" "--head norm-first --agg batch=var,seq=var"; do
	# shellcheck disable=SC2086
	rank -q -f $how "$t/wide.st" -o "$t/some.rank" && rank -q -f $how <"$t/wide.st" -o "$t/whole.rank"
	alike "by its frames or as a stream${how:+, }$how" "$t/some.rank" "$t/whole.rank"
done
damage "$t/wide.st" 30
works "sites that are not needed are not read" rank -q -f "$t/damaged.st" -o "$t/some.rank"
fails "damage where it reads" 65 "is damaged after record" rank -q -f --neuron pre "$t/damaged.st" -o "$t/bad"
fails "damage in a stream" 65 "is damaged after record" sh -c "rank -q -f -o '$t/bad' <'$t/damaged.st'"
damage "$t/wide.st" 80
fails "damage in a needed site" 65 "is damaged after record" rank -q -f "$t/damaged.st" -o "$t/bad"

if tok --samples 10 "$t/text.txt" | act-stats $q --dtype f32 -m "$t/llama" | rank $q -f -o "$t/piped.rank"; then
	stats -m "$t/llama" "$t/a.tok" -o "$t/p.st" && rank -q -f "$t/p.st" -o "$t/files.rank"
	works "a pipe equals files" artdiff -q "$t/piped.rank" "$t/files.rank"
else no "a pipe equals files" "failed"; fi

# metrics that look at weights
for m in magnitude wanda-sp wifv wnorm-absmean; do
	works "metric $m" rank -q -f "$t/all.st" -m "$t/llama" --metric $m -o "$t/m.rank"
done
works "metric kv-contrib needs no weights" rank -q -f "$t/all.st" --metric kv-contrib -o "$t/kv.rank"
works "kv-contrib ranks query groups" rank --show kv:3 "$t/kv.rank"
stats -m "$t/llama" "$t/a.tok" --sites heads -o "$t/heads.st"
fails "kv-contrib without its statistics" 65 "no attn_kv of layer 0" rank -q "$t/heads.st" --metric kv-contrib -o "$t/bad"
works "metric random needs no statistics" rank -q -f -m "$t/llama" --metric random --seed 5 -o "$t/rnd.rank"
fails "statistics of another model" 65 "are of model" rank -q -f "$t/all.st" -m "$t/nemotron" --metric wifv -o "$t/bad"

# refusals
fails "no model" 2 "model is missing" act-stats "$t/a.tok" -o "$t/bad"
works "no site: the forward pass alone" stats -m "$t/llama" "$t/a.tok" --sites none -o "$t/none.st"
fails "unknown site" 2 "'nope' is not one of" stats -m "$t/llama" "$t/a.tok" --sites nope -o "$t/bad"
fails "not an artifact" 65 "README" stats -m "$t/llama" "$root/README.md" -o "$t/bad"
fails "wrong kind" 65 "expected 'tokens'" stats -m "$t/llama" "$t/all.st" -o "$t/bad"
fails "missing directory" 74 "nowhere" stats -m "$t/nowhere" "$t/a.tok" -o "$t/bad"
head -c 200 "$t/a.tok" >"$t/cut.tok"
fails "truncated tokens" 65 "cut.tok" stats -m "$t/llama" "$t/cut.tok" -o "$t/bad"
# shellcheck disable=SC2086
mkmodel $q --layers 1 --hidden 8 --heads 2 --vocab 200 -o "$t/small"
fails "vocabulary too small" 65 "vocabulary of" stats -m "$t/small" "$t/a.tok" -o "$t/bad"
fails "merge of two models" 65 "cannot be added" act-stats -q --merge "$t/all.st" "$t/blocks.st" -o "$t/bad"
fails "aggregation" 2 "expected batch" rank -q "$t/all.st" --agg batch=max -o "$t/bad"
fails "existing output" 1 "exists" rank -q "$t/all.st" -o "$t/r1"
