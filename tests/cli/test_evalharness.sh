#!/bin/sh
# test_evalharness.sh - evalharness and logits as users call them: results, refusals with their exit codes and lines
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016  # sh -c '...' - ARGS: its own parameters
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
m=$tmp/model
cp -r "$here/tests/golden/models/llama-tied-gqa" "$m"
cp "$here"/tests/golden/eval/tokenizer*.json "$m"   # one id per printable character
cat >"$tmp/mc.jsonl" <<'END'
{"ctx": "The sky is", "choices": ["blue", "green cheese"], "gold": 0}
{"query": "Two plus two is ", "choices": ["four", "five", "a fish"], "gold": 0, "id": 17}

{"ctx": "", "choices": ["yes", "no"], "gold": 1, "delimiter": ""}
END
printf '{"text": "One line.\\nAnother line of text.", "url": "x"}\n{"text": "And more."}\n' >"$tmp/ppl.jsonl"
printf 'Plain text, nothing else.\n' >"$tmp/book.txt"

eval_() { evalharness -q -m "$m" --device ref --dtype f32 "$@"; }
check() { # NAME COMMAND...: the command succeeds
	name=$1
	shift
	if "$@" >"$tmp/out" 2>"$tmp/err"; then echo "ok $name"; else echo "not ok $name: $(tail -n 3 "$tmp/out" "$tmp/err" | tr '\n' ' ')"; fi
}
refuses() { # NAME CODE TEXT COMMAND...: exit code, one line on stderr that holds the text
	name=$1 code=$2 text=$3
	shift 3
	"$@" >"$tmp/out" 2>"$tmp/err"
	rc=$?
	if [ "$rc" -ne "$code" ]; then echo "not ok $name: exit $rc, expected $code: $(cat "$tmp/err")"
	elif ! grep -qF -- "$text" "$tmp/err"; then echo "not ok $name: '$text' not in: $(cat "$tmp/err")"
	elif [ "$code" -ne 2 ] && [ "$(wc -l <"$tmp/err")" -ne 1 ]; then echo "not ok $name: not one line: $(cat "$tmp/err")"
	else echo "ok $name"; fi
}
bad_item() { # NAME LINE TEXT: as the second line of a file
	head -n 1 "$tmp/mc.jsonl" >"$tmp/bad.jsonl"
	printf '%s\n' "$2" >>"$tmp/bad.jsonl"
	refuses "$1" 65 "bad.jsonl:2: $3" eval_ --task "bad=$tmp/bad.jsonl"
}

all() { eval_ --task "mc=$tmp/mc.jsonl" --task "ppl=$tmp/ppl.jsonl" --text "$tmp/book.txt" -f "$@"; }
check runs all --log-samples "$tmp/s1" -o "$tmp/r1"
cp "$tmp/out" "$tmp/table"
check "table on stdout" grep -q '^book  *1  word_perplexity' "$tmp/table"
check "keys as lm-evaluation-harness" sh -c 'for k in acc,none acc_stderr,none acc_norm,none word_perplexity,none byte_perplexity,none \
	bits_per_byte,none token_perplexity,none; do grep -qF "\"$k\": " "$1" || exit 1; done; grep -qF "\"N/A\"" "$1"' - "$tmp/r1"
check "samples: one line an item" sh -c '[ "$(wc -l <"$1")" = 6 ] && [ "$(grep -o "\"loglikelihood\": -" "$1" | wc -l)" = 10 ]' - "$tmp/s1"
check "blank moved to the continuation, shown as it was" grep -qF '"context": "Two plus two is ", "continuation": " four"' "$tmp/s1"
check "own delimiter" grep -qF '"context": "", "continuation": "yes"' "$tmp/s1"
check "runs again" all --log-samples "$tmp/s2" -o "$tmp/r2"
sed 's/s2/s1/' "$tmp/r2" >"$tmp/r2s"
check "same bytes twice" sh -c 'cmp "$1" "$2" && cmp "$3" "$4"' - "$tmp/r1" "$tmp/r2s" "$tmp/s1" "$tmp/s2"
check "other batches" all --batch-tokens 1 --log-samples "$tmp/s3" -o "$tmp/r3"
check "same scores in other batches" cmp "$tmp/s1" "$tmp/s3"
check "json on stdout" sh -c '[ "$(head -c 1)" = "{" ]' <<END
$(eval_ --task "mc=$tmp/mc.jsonl")
END
check "scores artifact" eval_ --task "mc=$tmp/mc.jsonl" --text "$tmp/book.txt" --artifact "$tmp/scores" -o "$tmp/a"
check "scores artifact is sound" artcheck "$tmp/scores"
check "scores artifact: records" sh -c '[ "$(artcat "$1" | grep -c \"metric\")" = 6 ]' - "$tmp/scores"
check "items from stdin" eval_ --task mc=- -o "$tmp/b" <"$tmp/mc.jsonl"
check "limit" eval_ --task "mc=$tmp/mc.jsonl" --limit 2 -o "$tmp/limit"
check "limit is written" sh -c 'tr -d "\n" <"$1" | grep -q "\"original\": 3, *\"effective\": 2"' - "$tmp/limit"
check "kind given" eval_ --task "x:ppl=$tmp/ppl.jsonl" -o "$tmp/kind"
check "windows" eval_ --text "$tmp/book.txt" --max-length 4 -o "$tmp/win"
check "dry run needs no weights" sh -c 'rm "$1"/model.safetensors; evalharness -q -m "$1" --task "mc=$2" --dry-run=json | grep -q "\"requests\": 7"' - "$m" "$tmp/mc.jsonl"
cp "$here/tests/golden/models/llama-tied-gqa/model.safetensors" "$m"

bad_item "not json" '{"ctx": "a", ' "not JSON"
bad_item "two values in a line" '{"ctx": "a", "choices": ["x"], "gold": 0} 1' "not JSON"
bad_item "no object" '[1]' "expected an object"
bad_item "unknown field" '{"ctx": "a", "choices": ["x"], "gold": 0, "glod": 1}' "unknown field 'glod'"
bad_item "no choices" '{"ctx": "a", "choices": [], "gold": 0}' "'choices' must be"
bad_item "choice of a wrong type" '{"ctx": "a", "choices": ["x", 3], "gold": 0}' "choice 1 is not a string"
bad_item "gold beyond the choices" '{"ctx": "a", "choices": ["x"], "gold": 1}' "'gold' must be"
bad_item "no context" '{"choices": ["x"], "gold": 0}' "'ctx' (or 'query')"
bad_item "empty continuation" '{"ctx": "a", "choices": [""], "gold": 0, "delimiter": ""}' "choice 0: the continuation has no token"
bad_item "continuation too long" "$(printf '{"ctx": "a", "choices": ["%0300d"], "gold": 0}' 0)" "choice 0: the continuation has 301 tokens"
printf '{"a": 1}\n' >"$tmp/none.jsonl"
refuses "fields of no kind" 65 "none.jsonl:1: the fields fit no kind" eval_ --task "a=$tmp/none.jsonl"
printf '\n\n' >"$tmp/empty.jsonl"
refuses "no items" 65 "empty.jsonl: no items" eval_ --task "a=$tmp/empty.jsonl"
: >"$tmp/empty.txt"
refuses "empty text" 65 "empty.txt: no items" eval_ --text "$tmp/empty.txt"
printf 'a\377b' >"$tmp/latin.txt"
refuses "text that is not UTF-8" 65 "latin.txt: not UTF-8 at byte 1" eval_ --text "$tmp/latin.txt"
refuses "missing file" 74 "nowhere.jsonl" eval_ --task "a=$tmp/nowhere.jsonl"
refuses "directory as items" 65 "is a directory" eval_ --task "a=$tmp"
refuses "no task" 2 "--task or --text" eval_
refuses "task without file" 2 "expected NAME=FILE" eval_ --task mc
refuses "unknown kind" 2 "no kind 'xx'" eval_ --task "a:xx=$tmp/mc.jsonl"
refuses "two tasks of one name" 2 "two tasks are named 'a'" eval_ --task "a=$tmp/mc.jsonl" --task "a=$tmp/ppl.jsonl"
refuses "existing output" 1 "r1" eval_ --task "mc=$tmp/mc.jsonl" -o "$tmp/r1"
refuses "samples over results" 2 "the same file" eval_ --task "mc=$tmp/mc.jsonl" -o "$tmp/x" --log-samples "$tmp/x"
refuses "bad line leaves no output" 65 "bad.jsonl:2" eval_ --task "bad=$tmp/bad.jsonl" -o "$tmp/never"
check "no output of a failed run" test ! -e "$tmp/never"

# named tasks, examples, templates
mkdir "$tmp/piqa"
for i in 1 2 3 4 5 6; do
	printf '{"goal": "To get %s", "sol1": "ask %s.", "sol2": "wait.", "label": %d}\n' "$i" "$i" $((i % 2)) >>"$tmp/piqa/train.jsonl"
done
head -n 3 "$tmp/piqa/train.jsonl" >"$tmp/piqa/validation.jsonl"
check "named task from a directory" eval_ --task "piqa=$tmp/piqa" --log-samples "$tmp/p0" -o "$tmp/pr"
check "its prompt" grep -qF '"context": "Question: To get 1\nAnswer:", "continuation": " ask 1."' "$tmp/p0"
check "its version" sh -c 'tr -d " \n" <"$1" | grep -qF "\"versions\":{\"piqa\":1.0}"' - "$tmp/pr"
check "examples of the directory" eval_ --task "piqa=$tmp/piqa" --shots 4 --log-samples "$tmp/p4" -f -o "$tmp/pr4"
check "four of them, none the item itself" sh -c '[ "$(head -n 1 "$1" | grep -o "nAnswer: " | wc -l)" = 8 ] && ! head -n 1 "$1" | grep -q "get 1.nAnswer: [aw]"' - "$tmp/p4"
check "shots are written" sh -c 'tr -d " \n" <"$1" | grep -qF "\"n-shot\":{\"piqa\":4}"' - "$tmp/pr4"
check "another seed" eval_ --task "piqa=$tmp/piqa" --num-fewshot 4 --fewshot-seed 7 --log-samples "$tmp/p5" -f -o "$tmp/pr4"
check "draws others" sh -c '! cmp -s "$1" "$2"' - "$tmp/p4" "$tmp/p5"
check "task of another name" eval_ --task "mine:piqa=$tmp/piqa/validation.jsonl" --fewshot "mine=$tmp/piqa/train.jsonl" --shots 4 --log-samples "$tmp/p6" -f -o "$tmp/pr4"
check "has the same prompts" sh -c 'sed "s/mine/piqa/" "$2" | cmp "$1" -' - "$tmp/p4" "$tmp/p6"
check "named task, plain items" eval_ --task "hellaswag=$tmp/mc.jsonl" -f -o "$tmp/pr"
check "examples of plain items" eval_ --task "mc=$tmp/mc.jsonl" --shots 2 --log-samples "$tmp/p7" -f -o "$tmp/pr"
cat >"$tmp/t.task" <<'END'
# a task of one's own
kind = mc
text = "Q: {q.text|strip}\n{{A}}: "
choice = {right}
choice = {wrong.0}
gold = 0
delimiter = ""
metrics = acc
END
printf '{"q": {"text": " why "}, "right": "so", "wrong": ["no"]}\n{"q": {"text": "who"}, "right": "me", "wrong": ["you"]}\n' >"$tmp/own.jsonl"
check "template" eval_ --task "own=$tmp/own.jsonl" --template "own=$tmp/t.task" --log-samples "$tmp/o1" -o "$tmp/or"
check "its texts" grep -qF '"context": "Q: why\n{A}: ", "continuation": "so"' "$tmp/o1"
check "its metrics" sh -c 'grep -q acc,none "$1" && ! grep -q acc_norm "$1"' - "$tmp/or"
printf '{"ctx": "Bees make", "target": " honey"}\n{"ctx": "", "target": "x"}\n' >"$tmp/target.jsonl"
check "kind target" eval_ --task "t=$tmp/target.jsonl" -o "$tmp/tr"
printf '{"ctx": "Bees make", "choices": ["honey", "wax", "tin"], "labels": [1, 1, 0]}\n' >"$tmp/mass.jsonl"
check "kind mass" eval_ --task "t=$tmp/mass.jsonl" --log-samples "$tmp/ms" -o "$tmp/mr"
for b in auto always never; do eval_ --task "mc=$tmp/mc.jsonl" --bos "$b" --log-samples "$tmp/bos-$b" -f -o "$tmp/pr" >"$tmp/out"; done
check "bos: this tokenizer puts it, so always is auto" cmp "$tmp/bos-auto" "$tmp/bos-always"
check "bos: never changes numbers" sh -c '! cmp -s "$1" "$2"' - "$tmp/bos-auto" "$tmp/bos-never"

check "batch invariance" eval_ --task "mc=$tmp/mc.jsonl" --task "ppl=$tmp/ppl.jsonl" --verify-batch-invariance --batch-tokens 32 -f -o "$tmp/pr"

# a run that was killed goes on: what is in the journal is not run again, the files are the same bytes
i=0
while [ $i -lt 300 ]; do
	printf '{"ctx": "Number %d is", "choices": ["even", "odd", "both"], "gold": %d}\n' $i $((i % 2))
	i=$((i + 1))
done >"$tmp/many.jsonl"
many() { evalharness -m "$m" --device ref --dtype f32 --progress none --task "many=$tmp/many.jsonl" --batch-tokens 64 --log-samples "$tmp/$1.log" -f -o "$tmp/$1"; }
many whole >"$tmp/out" 2>&1
hit=0
for try in 1 2 3 4 5; do
	rm -f "$tmp/cut" "$tmp/cut.log" "$tmp/cut.state"
	evalharness -q -m "$m" --device ref --dtype f32 --task "many=$tmp/many.jsonl" --batch-tokens 64 --log-samples "$tmp/cut.log" -f -o "$tmp/cut" >"$tmp/out" 2>&1 &
	pid=$!
	until [ "$(cat "$tmp/cut.state" 2>/dev/null | wc -l)" -gt $((100 * try)) ] || ! kill -0 $pid 2>/dev/null; do sleep 0.01; done
	kill -9 $pid 2>/dev/null && [ ! -e "$tmp/cut" ] && hit=1
	wait $pid 2>/dev/null
	[ $hit = 1 ] && break
done
lines=$(wc -l <"$tmp/cut.state")
printf '5 0x1.8p' >>"$tmp/cut.state"   # a torn line
many cut >"$tmp/out" 2>"$tmp/err2"
check "a killed run left a journal" test $hit = 1
check "a killed run goes on" grep -q "cut.state: $((lines - 1)) of 900 requests of an earlier run" "$tmp/err2"
sed 's/cut/whole/' "$tmp/cut" >"$tmp/cut2"
check "and writes the same bytes" sh -c 'cmp "$1" "$2" && cmp "$3" "$4"' - "$tmp/cut2" "$tmp/whole" "$tmp/cut.log" "$tmp/whole.log"
check "no journal is left" test ! -e "$tmp/cut.state"
printf 'adze-eval 1 0123\n0 0x1p0 1 .\n' >"$tmp/cut.state"
check "the journal of another run" sh -c '"$@" 2>&1 | grep -q "of another run: starting over"' - evalharness -m "$m" --device ref --task "mc=$tmp/mc.jsonl" -f -o "$tmp/cut"

# two evaluations of the same items
check "another model's scores" eval_ --task "mc=$tmp/many.jsonl" --text "$tmp/book.txt" --task "ppl=$tmp/ppl.jsonl" --log-samples "$tmp/c1" --artifact "$tmp/ca1" -f -o "$tmp/pr"
check "and with one position less" eval_ --task "mc=$tmp/many.jsonl" --text "$tmp/book.txt" --task "ppl=$tmp/ppl.jsonl" --max-length 12 --log-samples "$tmp/c2" --artifact "$tmp/ca2" -f -o "$tmp/pr"
check "compare" evalharness -q --compare "$tmp/c1" "$tmp/c2" -o "$tmp/cmp.json"
cp "$tmp/out" "$tmp/cmp.txt"
check "compare: a row per task and metric" sh -c '[ "$(wc -l <"$1")" = 5 ] && grep -q "^mc *acc *300 " "$1" && grep -q "^ppl *bits_per_byte *2 " "$1"' - "$tmp/cmp.txt"
check "compare: keys" sh -c 'for k in difference interval only_a only_b mcnemar_p; do grep -q "\"$k\"" "$1" || exit 1; done' - "$tmp/cmp.json"
check "compare: a model with itself" sh -c 'evalharness -q --compare "$1" "$1" | grep -q "^mc *acc .* 0.0000  \[0.0000, 0.0000\] *0 *0 *1$"' - "$tmp/c1"
check "compare: artifacts" sh -c 'evalharness -q --compare "$1" "$2" | grep -q "^mc *acc *300 .* -$"' - "$tmp/ca1" "$tmp/ca2"
refuses "compare: other items" 65 "not about the same items" evalharness --compare "$tmp/c1" "$tmp/s1"
refuses "compare: a log and an artifact" 65 "one is a scores artifact" evalharness --compare "$tmp/c1" "$tmp/ca1"
refuses "compare: no log" 65 "not a line of --log-samples" evalharness --compare "$tmp/mc.jsonl" "$tmp/mc.jsonl"
refuses "compare: one file" 2 "takes two files" evalharness --compare "$tmp/c1"

refuses "examples from nowhere" 2 "--fewshot piqa=FILE" eval_ --task "piqa=$tmp/piqa/validation.jsonl" --shots 2
refuses "examples of no task" 2 "there is no --task pika" eval_ --task "piqa=$tmp/piqa" --fewshot "pika=$tmp/piqa/train.jsonl"
refuses "too few examples" 65 "6 examples, 9 are needed" eval_ --task "piqa=$tmp/piqa" --shots 8
refuses "field of a named task" 65 "own.jsonl:1: no field 'goal'" eval_ --task "piqa=$tmp/own.jsonl"
printf '{"goal": "x", "sol1": "a", "sol2": "b", "label": 2}\n' >"$tmp/gold.jsonl"
refuses "right answer of a named task" 65 "gold.jsonl:1: the right answer '2' is none of the 2 choices" eval_ --task "piqa=$tmp/gold.jsonl"
printf '{"question": "x", "subject": "knitting", "choices": ["a", "b", "c", "d"], "answer": 1}\n' >"$tmp/mmlu.jsonl"
check "one subject of a file of several" sh -c 'evalharness -q -m "$1" --device ref --task "mmlu_virology=$2" --shots 1 -f -o "$3" && tr -d " \n" <"$3" | grep -qF "\"original\":2,\"effective\":2"' - "$m" "$here/tests/golden/tasks/mmlu" "$tmp/pr"
refuses "unknown subject" 65 "mmlu.jsonl:1: no subject 'knitting'" eval_ --task "mmlu=$tmp/mmlu.jsonl"
refuses "directory without the split" 74 "test.jsonl" eval_ --task "arc_easy=$tmp/piqa"
bad_template() { # NAME LINE TEXT
	sed "s|^metrics.*|$2|" "$tmp/t.task" >"$tmp/bad.task"
	refuses "template: $1" 65 "$3" eval_ --task "own=$tmp/own.jsonl" --template "own=$tmp/bad.task"
}
bad_template "unknown key" "metrisc = acc" "bad.task:8: unknown key 'metrisc'"
bad_template "no value" "metrics" "bad.task:8: expected key = value"
bad_template "unknown kind" "kind = mcq" "no kind 'mcq'"
bad_template "number" "shots = many" "bad.task:8: shots: 'many'"
bad_template "escape" 'text = a\\q' 'unknown escape'
bad_template "prep" "prep = none" "no prep 'none'"

rm "$m/tokenizer.json"
refuses "no tokenizer" 74 "tokenizer.json" eval_ --task "mc=$tmp/mc.jsonl"

logits_() { logits -q -m "$m" --device ref "$@"; }
check "logits: rows" sh -c '[ "$(logits -q -m "$1" --device ref --ids 1,2,3 | wc -c)" = $((3 * 96 * 4)) ]' - "$m"
printf '1 2 3\n\n4,5\n' >"$tmp/ids"
check "logits: sequences of a file" logits_ --ids-file "$tmp/ids" -o "$tmp/rows"
check "logits: their rows" sh -c 'logits -q -m "$1" --device ref --ids 1,2,3 >"$2.a" && logits -q -m "$1" --device ref --ids 4,5 >>"$2.a" && cmp "$2" "$2.a"' - "$m" "$tmp/rows"
refuses "logits: id out of range" 65 "'96' is not a token id" logits_ --ids 1,96
refuses "logits: line of a bad id" 65 "ids2:2: 'x' is not" sh -c 'printf "1\nx\n" >"$2"; logits -q -m "$1" --device ref --ids-file "$2"' - "$m" "$tmp/ids2"
refuses "logits: nothing given" 2 "one of --ids" logits_

# tasks in which the model writes
cp "$here"/tests/golden/eval/tokenizer.json "$m"
printf '{"ctx": "Say 7:", "until": ["z"], "target": "7", "max_new": 6}\n{"ctx": "Two", "until": [], "target": "3"}\n' >"$tmp/say.jsonl"
printf 'kind = match\ntext = {q}\ntarget = {a}\nuntil = "\\n"\nmax_new = 5\nextract = number last -?[0-9]+\nextract = word first [a-z]+\nignore = x\n' >"$tmp/say.rules"
printf '{"q": "One", "a": "1"}\n' >"$tmp/own.jsonl"
check "answers are compared" eval_ --task "say=$tmp/say.jsonl" --max-new 6 --log-samples "$tmp/w1" -o "$tmp/w"
check "exact match" grep -q '"exact_match,none": 0' "$tmp/w"
check "sequences at a time change nothing" sh -c 'evalharness -q -m "$1" --device ref --dtype f32 --task "say=$2/say.jsonl" --max-new 6 --sequences 1 --log-samples "$2/w2" -f -o "$2/w" && cmp "$2/w1" "$2/w2"' - "$m" "$tmp"
check "filters of a template" eval_ --task "own=$tmp/own.jsonl" --template "own=$tmp/say.rules" --artifact "$tmp/wa" -f -o "$tmp/w"
check "a score for each" sh -c 'grep -q "\"exact_match,number\"" "$1" && grep -q "\"exact_match_stderr,word\"" "$1" && artcat "$2" | grep -q exact_match,word' - "$tmp/w" "$tmp/wa"
check "dry run counts texts" sh -c 'evalharness -q -m "$1" --max-new 6 --task "say=$2" --dry-run=json | grep -q "\"written\": 2, .*\"cache_bytes\": [1-9]"' - "$m" "$tmp/say.jsonl"
printf 'kind = match\ntext = {q}\ntarget = {a}\nextract = number last (\n' >"$tmp/bad.rules"
refuses "a regex that is none" 65 "in regex (" eval_ --task "own=$tmp/own.jsonl" --template "own=$tmp/bad.rules"
refuses "no room for the prompt" 65 "leave no place" eval_ --task "say=$tmp/say.jsonl" --max-new 300 --max-length 256
printf '{"ctx": "x = ", "prefix": "x = ", "until": ["\\n"], "test": "assert x"}\n' >"$tmp/code.jsonl"
refuses "programs without a sandbox" 69 "bubblewrap" env PATH=/nonexistent "$(command -v evalharness)" -q -m "$m" --max-new 6 --task "code=$tmp/code.jsonl"
