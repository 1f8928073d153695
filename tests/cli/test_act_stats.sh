#!/bin/sh
# act-stats and rank on the command line: streaming and sharding change nothing, bad input is refused with one line.
# SPDX-License-Identifier: Apache-2.0
set -u
d=$(mktemp -d) && trap 'rm -rf "$d"' EXIT
ok() { echo "ok $1"; }
not_ok() { echo "not ok $1: $2"; }
check() { # check NAME COMMAND...: succeeds quietly
	name=$1
	shift
	if out=$("$@" 2>&1); then ok "$name"; else not_ok "$name" "$out"; fi
}
refused() { # refused NAME CODE PATTERN COMMAND...: that exit code, one line that matches, no output file left
	name=$1 code=$2 pattern=$3
	shift 3
	out=$("$@" 2>&1 >/dev/null)
	rc=$?
	if [ "$rc" -ne "$code" ]; then
		not_ok "$name" "exit $rc, expected $code: $out"
	elif [ "$(printf '%s\n' "$out" | wc -l)" -ne 1 ] || ! printf '%s' "$out" | grep -q -e "$pattern"; then
		not_ok "$name" "said: $out"
	else ok "$name"; fi
}
q='-q --progress none'
root=$PWD
for f in llama nemotron; do
	# shellcheck disable=SC2086
	mkmodel $q --family $f --layers 4 --hidden 24 --ffn 36 --heads 6 --kv-heads 2 --vocab 300 --seed 3 -o "$d/$f"
done
sh tests/cli/tiny-tokenizer.sh "$d/tok"
cp "$d"/tok/* "$d/llama/"
cp "$d"/tok/* "$d/nemotron/"
cat "$root/README.md" "$root/LICENSE" "$root/Makefile" >"$d/text.txt"
# shellcheck disable=SC2086
tok() { calib-sample $q -t "$d/llama" --seq 48 "$@"; }
tok --samples 10 "$d/text.txt" -o "$d/a.tok" || not_ok tokens "calib-sample failed"
# shellcheck disable=SC2086
stats() { act-stats $q --dtype f32 --device cpu -f "$@"; }

for f in llama nemotron; do
	stats -m "$d/$f" "$d/a.tok" --micro 3 -o "$d/whole.st"
	stats -m "$d/$f" "$d/a.tok" --micro 3 --memory 64Ki -o "$d/blocks.st"
	check "$f: block by block gives the same sums, spilled to a file" artdiff -q "$d/whole.st" "$d/blocks.st"
	stats -m "$d/$f" "$d/a.tok" --micro 10 -o "$d/one.st"
	check "$f: the batch size does not matter" artdiff -q -t 1e-9 "$d/whole.st" "$d/one.st"
	stats -m "$d/$f" "$d/a.tok" --micro 3 --threads 1 -o "$d/t1.st"
	check "$f: nor do threads" artdiff -q -t 1e-9 "$d/whole.st" "$d/t1.st"
	stats -m "$d/$f" "$d/a.tok" --micro 3 -o "$d/again.st"
	check "$f: the same bytes twice" cmp "$d/whole.st" "$d/again.st"
	stats -m "$d/$f" "$d/a.tok" --device ref -o "$d/ref.st"
	check "$f: cpu and ref agree" artdiff -q -t 1e-2 "$d/whole.st" "$d/ref.st"
done

# shards: 4 + 6 samples, unshuffled, against all 10
tok --no-shuffle --samples 10 "$d/text.txt" -o "$d/all.tok"
tok --no-shuffle --samples 4 "$d/text.txt" -o "$d/s1.tok"
stats -m "$d/llama" "$d/all.tok" -o "$d/all.st"
stats -m "$d/llama" "$d/s1.tok" -o "$d/s1.st"
stats -m "$d/llama" "$d/all.tok" --samples 4 -o "$d/s1b.st"
check "--samples stops early" artdiff -q "$d/s1.st" "$d/s1b.st"
# shellcheck disable=SC2086
act-stats $q -f --merge "$d/s1.st" "$d/all.st" -o "$d/merged.st"
check "a merged file is whole" artcheck -q "$d/merged.st"
n=$(artcat --header "$d/merged.st" | grep -o '"samples":[ ]*[0-9]*' | grep -o '[0-9]*$' | head -1)
check "merged samples add" [ "$n" = 14 ]
# shellcheck disable=SC2086
rank $q -f "$d/all.st" -o "$d/r1" && act-stats $q -f --merge "$d/all.st" "$d/all.st" -o "$d/twice.st" && rank $q -f "$d/twice.st" --agg batch=mean -o "$d/r2" &&
	rank $q -f "$d/all.st" --agg batch=mean -o "$d/r3"
check "doubling the data changes no mean" artdiff -q -t 1e-6 "$d/r2" "$d/r3"

# the pipe, without temporary files
# shellcheck disable=SC2086
if tok --samples 10 "$d/text.txt" | act-stats $q --dtype f32 -m "$d/llama" | rank $q -f -o "$d/piped.rank"; then
	stats -m "$d/llama" "$d/a.tok" -o "$d/p.st" && rank -q -f "$d/p.st" -o "$d/files.rank"
	check "a pipe equals files" artdiff -q "$d/piped.rank" "$d/files.rank"
else not_ok "a pipe equals files" "failed"; fi

# metrics that look at weights
for m in magnitude wanda-sp wifv wnorm-absmean; do
	check "metric $m" rank -q -f "$d/all.st" -m "$d/llama" --metric $m -o "$d/m.rank"
done
check "metric random needs no statistics" rank -q -f -m "$d/llama" --metric random --seed 5 -o "$d/rnd.rank"
refused "statistics of another model" 65 "are of model" rank -q -f "$d/all.st" -m "$d/nemotron" --metric wifv -o "$d/x"

# refusals
refused "no model" 2 "model is missing" act-stats "$d/a.tok" -o "$d/x"
refused "unknown site" 2 "'nope' is not one of" stats -m "$d/llama" "$d/a.tok" --sites nope -o "$d/x"
refused "not an artifact" 65 "README" stats -m "$d/llama" "$root/README.md" -o "$d/x"
refused "wrong kind" 65 "expected 'tokens'" stats -m "$d/llama" "$d/all.st" -o "$d/x"
refused "missing directory" 74 "nowhere" stats -m "$d/nowhere" "$d/a.tok" -o "$d/x"
head -c 200 "$d/a.tok" >"$d/cut.tok"
refused "truncated tokens" 65 "cut.tok" stats -m "$d/llama" "$d/cut.tok" -o "$d/x"
# shellcheck disable=SC2086
mkmodel $q --layers 1 --hidden 8 --heads 2 --vocab 200 -o "$d/small"
refused "vocabulary too small" 65 "vocabulary of" stats -m "$d/small" "$d/a.tok" -o "$d/x"
refused "merge of two models" 65 "cannot be added" act-stats -q --merge "$d/all.st" "$d/blocks.st" -o "$d/x"
refused "aggregation" 2 "expected batch" rank -q "$d/all.st" --agg batch=max -o "$d/x"
refused "existing output" 1 "exists" rank -q "$d/all.st" -o "$d/r1"
check "nothing was left behind" [ ! -e "$d/x" ]
