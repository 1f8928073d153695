#!/bin/sh
# test_evalharness.sh - evalharness and logits as users call them: results, refusals with their exit codes and lines
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016  # sh -c '...' - ARGS: its own parameters
. tests/lib.sh
m=$t/model
cp -r "tests/golden/models/llama-tied-gqa" "$m"
cp tests/golden/eval/tokenizer*.json "$m"   # one id per printable character
cat >"$t/mc.jsonl" <<'END'
{"ctx": "The sky is", "choices": ["blue", "green cheese"], "gold": 0}
{"query": "Two plus two is ", "choices": ["four", "five", "a fish"], "gold": 0, "id": 17}

{"ctx": "", "choices": ["yes", "no"], "gold": 1, "delimiter": ""}
END
printf '{"text": "One line.\\nAnother line of text.", "url": "x"}\n{"text": "And more."}\n' >"$t/ppl.jsonl"
printf 'Plain text, nothing else.\n' >"$t/book.txt"

eval_() { evalharness -q -m "$m" --device ref --dtype f32 "$@"; }
bad_item() { # NAME LINE TEXT: as the second line of a file
	head -n 1 "$t/mc.jsonl" >"$t/wrong.jsonl"
	printf '%s\n' "$2" >>"$t/wrong.jsonl"
	fails "$1" 65 "wrong.jsonl:2: $3" eval_ --task "bad=$t/wrong.jsonl"
}

all() { eval_ --task "mc=$t/mc.jsonl" --task "ppl=$t/ppl.jsonl" --text "$t/book.txt" -f "$@"; }
works runs all --log-samples "$t/s1" -o "$t/r1"
cp "$t/out.txt" "$t/table"
works "table on stdout" grep -q '^book  *1  word_perplexity' "$t/table"
works "keys as lm-evaluation-harness" sh -c 'for k in acc,none acc_stderr,none acc_norm,none word_perplexity,none byte_perplexity,none \
	bits_per_byte,none token_perplexity,none; do grep -qF "\"$k\": " "$1" || exit 1; done; grep -qF "\"N/A\"" "$1"' - "$t/r1"
works "samples: one line an item" sh -c '[ "$(wc -l <"$1")" = 6 ] && [ "$(grep -o "\"loglikelihood\": -" "$1" | wc -l)" = 10 ]' - "$t/s1"
works "blank moved to the continuation, shown as it was" grep -qF '"context": "Two plus two is ", "continuation": " four"' "$t/s1"
works "own delimiter" grep -qF '"context": "", "continuation": "yes"' "$t/s1"
works "runs again" all --log-samples "$t/s2" -o "$t/r2"
sed 's/s2/s1/' "$t/r2" >"$t/r2s"
works "same bytes twice" sh -c 'cmp "$1" "$2" && cmp "$3" "$4"' - "$t/r1" "$t/r2s" "$t/s1" "$t/s2"
works "other batches" all --batch-tokens 1 --log-samples "$t/s3" -o "$t/r3"
works "same scores in other batches" cmp "$t/s1" "$t/s3"
same "json on stdout" "$(eval_ --task "mc=$t/mc.jsonl" | head -c 1)" "{"
works "scores artifact" eval_ --task "mc=$t/mc.jsonl" --text "$t/book.txt" --artifact "$t/scores" -o "$t/a"
works "scores artifact is sound" artcheck "$t/scores"
works "scores artifact: records" sh -c '[ "$(artcat "$1" | grep -c \"metric\")" = 6 ]' - "$t/scores"
eval_ --task mc=- -o "$t/b" <"$t/mc.jsonl" >"$t/out.txt"
same "items from stdin" $? 0
works "limit" eval_ --task "mc=$t/mc.jsonl" --limit 2 -o "$t/limit"
works "limit is written" sh -c 'tr -d "\n" <"$1" | grep -q "\"original\": 3, *\"effective\": 2"' - "$t/limit"
works "a share of the items, rounded up" eval_ --task "mc=$t/mc.jsonl" --limit 0.4 -o "$t/share"
works "share is written" sh -c 'tr -d " \n" <"$1" | grep -q "\"original\":3,\"effective\":2" && grep -q "\"limit\": 0.4" "$1"' - "$t/share"
fails "limit that is neither" 2 "a share below 1" eval_ --task "mc=$t/mc.jsonl" --limit 1.5
works "kind given" eval_ --task "x:ppl=$t/ppl.jsonl" -o "$t/kind"
works "windows" eval_ --text "$t/book.txt" --max-length 4 -o "$t/win"
works "dry run needs no weights" sh -c 'rm "$1"/model.safetensors; evalharness -q -m "$1" --task "mc=$2" --dry-run=json | grep -q "\"requests\": 7"' - "$m" "$t/mc.jsonl"
cp "tests/golden/models/llama-tied-gqa/model.safetensors" "$m"

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
printf '{"a": 1}\n' >"$t/none.jsonl"
fails "fields of no kind" 65 "none.jsonl:1: the fields fit no kind" eval_ --task "a=$t/none.jsonl"
printf '\n\n' >"$t/empty.jsonl"
fails "no items" 65 "empty.jsonl: no items" eval_ --task "a=$t/empty.jsonl"
: >"$t/empty.txt"
fails "empty text" 65 "empty.txt: no items" eval_ --text "$t/empty.txt"
printf 'a\377b' >"$t/latin.txt"
fails "text that is not UTF-8" 65 "latin.txt: not UTF-8 at byte 1" eval_ --text "$t/latin.txt"
fails "missing file" 74 "nowhere.jsonl" eval_ --task "a=$t/nowhere.jsonl"
fails "directory as items" 65 "is a directory" eval_ --task "a=$t"
fails "no task" 2 "--task or --text" eval_
fails "task without file" 2 "expected NAME=FILE" eval_ --task mc
fails "unknown kind" 2 "no kind 'xx'" eval_ --task "a:xx=$t/mc.jsonl"
fails "two tasks of one name" 2 "two tasks are named 'a'" eval_ --task "a=$t/mc.jsonl" --task "a=$t/ppl.jsonl"
fails "existing output" 1 "r1" eval_ --task "mc=$t/mc.jsonl" -o "$t/r1"
fails "samples over results" 2 "the same file" eval_ --task "mc=$t/mc.jsonl" -o "$t/x" --log-samples "$t/x"
fails "bad line leaves no output" 65 "wrong.jsonl:2" eval_ --task "bad=$t/wrong.jsonl" -o "$t/never"
works "no output of a failed run" test ! -e "$t/never"

# named tasks, examples, templates
mkdir "$t/piqa"
for i in 1 2 3 4 5 6; do
	printf '{"goal": "To get %s", "sol1": "ask %s.", "sol2": "wait.", "label": %d}\n' "$i" "$i" $((i % 2)) >>"$t/piqa/train.jsonl"
done
head -n 3 "$t/piqa/train.jsonl" >"$t/piqa/validation.jsonl"
works "named task from a directory" eval_ --task "piqa=$t/piqa" --log-samples "$t/p0" -o "$t/pr"
works "its prompt" grep -qF '"context": "Question: To get 1\nAnswer:", "continuation": " ask 1."' "$t/p0"
works "its version" sh -c 'tr -d " \n" <"$1" | grep -qF "\"versions\":{\"piqa\":1.0}"' - "$t/pr"
works "examples of the directory" eval_ --task "piqa=$t/piqa" --shots 4 --log-samples "$t/p4" -f -o "$t/pr4"
works "four of them, none the item itself" sh -c '[ "$(head -n 1 "$1" | grep -o "nAnswer: " | wc -l)" = 8 ] && ! head -n 1 "$1" | grep -q "get 1.nAnswer: [aw]"' - "$t/p4"
works "shots are written" sh -c 'tr -d " \n" <"$1" | grep -qF "\"n-shot\":{\"piqa\":4}"' - "$t/pr4"
works "another seed" eval_ --task "piqa=$t/piqa" --num-fewshot 4 --fewshot-seed 7 --log-samples "$t/p5" -f -o "$t/pr4"
works "draws others" sh -c '! cmp -s "$1" "$2"' - "$t/p4" "$t/p5"
works "task of another name" eval_ --task "mine:piqa=$t/piqa/validation.jsonl" --fewshot "mine=$t/piqa/train.jsonl" --shots 4 --log-samples "$t/p6" -f -o "$t/pr4"
works "has the same prompts" sh -c 'sed "s/mine/piqa/" "$2" | cmp "$1" -' - "$t/p4" "$t/p6"
works "named task, plain items" eval_ --task "hellaswag=$t/mc.jsonl" -f -o "$t/pr"
works "examples of plain items" eval_ --task "mc=$t/mc.jsonl" --shots 2 --log-samples "$t/p7" -f -o "$t/pr"
cat >"$t/t.task" <<'END'
# a task of one's own
kind = mc
text = "Q: {q.text|strip}\n{{A}}: "
choice = {right}
choice = {wrong.0}
gold = 0
delimiter = ""
metrics = acc
END
printf '{"q": {"text": " why "}, "right": "so", "wrong": ["no"]}\n{"q": {"text": "who"}, "right": "me", "wrong": ["you"]}\n' >"$t/own.jsonl"
works "template" eval_ --task "own=$t/own.jsonl" --template "own=$t/t.task" --log-samples "$t/o1" -o "$t/or"
works "its texts" grep -qF '"context": "Q: why\n{A}: ", "continuation": "so"' "$t/o1"
works "its metrics" sh -c 'grep -q acc,none "$1" && ! grep -q acc_norm "$1"' - "$t/or"
printf '{"ctx": "Bees make", "target": " honey"}\n{"ctx": "", "target": "x"}\n' >"$t/target.jsonl"
works "kind target" eval_ --task "t=$t/target.jsonl" -o "$t/tr"
printf '{"ctx": "Bees make", "choices": ["honey", "wax", "tin"], "labels": [1, 1, 0]}\n' >"$t/mass.jsonl"
works "kind mass" eval_ --task "t=$t/mass.jsonl" --log-samples "$t/ms" -o "$t/mr"
for b in auto always never; do eval_ --task "mc=$t/mc.jsonl" --bos "$b" --log-samples "$t/bos-$b" -f -o "$t/pr" >"$t/out.txt"; done
works "bos: this tokenizer puts it, so always is auto" cmp "$t/bos-auto" "$t/bos-always"
works "bos: never changes numbers" sh -c '! cmp -s "$1" "$2"' - "$t/bos-auto" "$t/bos-never"

works "batch invariance" eval_ --task "mc=$t/mc.jsonl" --task "ppl=$t/ppl.jsonl" --verify-batch-invariance --batch-tokens 32 -f -o "$t/pr"

# a run that was killed goes on: what is in the journal is not run again, the files are the same bytes
i=0
while [ $i -lt 300 ]; do
	printf '{"ctx": "Number %d is", "choices": ["even", "odd", "both"], "gold": %d}\n' $i $((i % 2))
	i=$((i + 1))
done >"$t/many.jsonl"
many() { evalharness -m "$m" --device ref --dtype f32 --progress none --task "many=$t/many.jsonl" --batch-tokens 64 --log-samples "$t/$1.log" -f -o "$t/$1"; }
many whole >"$t/out.txt" 2>&1
upon write 40 cut.state KILL many cut >"$t/out.txt"
same "a killed run left a journal" "$? $(ls "$t/cut" 2>/dev/null)" "137 "
lines=$(wc -l <"$t/cut.state")
printf '5 0x1.8p' >>"$t/cut.state"   # a torn line
many cut >"$t/out.txt" 2>"$t/err2"
works "a killed run goes on" grep -q "cut.state: $((lines - 1)) of 900 requests of an earlier run" "$t/err2"
sed 's/cut/whole/' "$t/cut" >"$t/cut2"
works "and writes the same bytes" sh -c 'cmp "$1" "$2" && cmp "$3" "$4"' - "$t/cut2" "$t/whole" "$t/cut.log" "$t/whole.log"
works "no journal is left" test ! -e "$t/cut.state"
printf 'adze-eval 1 0123\n0 0x1p0 1 .\n' >"$t/cut.state"
works "the journal of another run" sh -c '"$@" 2>&1 | grep -q "of another run: starting over"' - evalharness -m "$m" --device ref --task "mc=$t/mc.jsonl" -f -o "$t/cut"

# two evaluations of the same items
works "another model's scores" eval_ --task "mc=$t/many.jsonl" --text "$t/book.txt" --task "ppl=$t/ppl.jsonl" --log-samples "$t/c1" --artifact "$t/ca1" -f -o "$t/pr"
works "and with one position less" eval_ --task "mc=$t/many.jsonl" --text "$t/book.txt" --task "ppl=$t/ppl.jsonl" --max-length 12 --log-samples "$t/c2" --artifact "$t/ca2" -f -o "$t/pr"
works "compare" evalharness -q --compare "$t/c1" "$t/c2" -o "$t/cmp.json"
cp "$t/out.txt" "$t/cmp.txt"
works "compare: a row per task and metric" sh -c '[ "$(wc -l <"$1")" = 5 ] && grep -q "^mc *acc *300 " "$1" && grep -q "^ppl *bits_per_byte *2 " "$1"' - "$t/cmp.txt"
works "compare: keys" sh -c 'for k in difference interval only_a only_b mcnemar_p; do grep -q "\"$k\"" "$1" || exit 1; done' - "$t/cmp.json"
works "compare: a model with itself" sh -c 'evalharness -q --compare "$1" "$1" | grep -q "^mc *acc .* 0.0000  \[0.0000, 0.0000\] *0 *0 *1$"' - "$t/c1"
works "compare: artifacts" sh -c 'evalharness -q --compare "$1" "$2" | grep -q "^mc *acc *300 .* -$"' - "$t/ca1" "$t/ca2"
fails "compare: other items" 65 "not about the same items" evalharness --compare "$t/c1" "$t/s1"
fails "compare: a log and an artifact" 65 "one is a scores artifact" evalharness --compare "$t/c1" "$t/ca1"
fails "compare: no log" 65 "not a line of --log-samples" evalharness --compare "$t/mc.jsonl" "$t/mc.jsonl"
fails "compare: one file" 2 "takes two files" evalharness --compare "$t/c1"

fails "examples from nowhere" 2 "--fewshot piqa=FILE" eval_ --task "piqa=$t/piqa/validation.jsonl" --shots 2
fails "examples of no task" 2 "there is no --task pika" eval_ --task "piqa=$t/piqa" --fewshot "pika=$t/piqa/train.jsonl"
fails "too few examples" 65 "6 examples, 9 are needed" eval_ --task "piqa=$t/piqa" --shots 8
fails "field of a named task" 65 "own.jsonl:1: no field 'goal'" eval_ --task "piqa=$t/own.jsonl"
printf '{"goal": "x", "sol1": "a", "sol2": "b", "label": 2}\n' >"$t/gold.jsonl"
fails "right answer of a named task" 65 "gold.jsonl:1: the right answer '2' is none of the 2 choices" eval_ --task "piqa=$t/gold.jsonl"
printf '{"question": "x", "subject": "knitting", "choices": ["a", "b", "c", "d"], "answer": 1}\n' >"$t/mmlu.jsonl"
works "one subject of a file of several" sh -c 'evalharness -q -m "$1" --device ref --task "mmlu_virology=$2" --shots 1 -f -o "$3" && tr -d " \n" <"$3" | grep -qF "\"original\":2,\"effective\":2"' - "$m" "tests/golden/tasks/mmlu" "$t/pr"
fails "unknown subject" 65 "mmlu.jsonl:1: no subject 'knitting'" eval_ --task "mmlu=$t/mmlu.jsonl"
fails "directory without the split" 74 "test.jsonl" eval_ --task "arc_easy=$t/piqa"
bad_template() { # NAME LINE TEXT
	sed "s|^metrics.*|$2|" "$t/t.task" >"$t/wrong.task"
	fails "template: $1" 65 "$3" eval_ --task "own=$t/own.jsonl" --template "own=$t/wrong.task"
}
bad_template "unknown key" "metrisc = acc" "wrong.task:8: unknown key 'metrisc'"
bad_template "no value" "metrics" "wrong.task:8: expected key = value"
bad_template "unknown kind" "kind = mcq" "no kind 'mcq'"
bad_template "number" "shots = many" "wrong.task:8: shots: 'many'"
bad_template "escape" 'text = a\\q' 'unknown escape'
bad_template "prep" "prep = none" "no prep 'none'"

rm "$m/tokenizer.json"
fails "no tokenizer" 74 "tokenizer.json" eval_ --task "mc=$t/mc.jsonl"

logits_() { logits -q -m "$m" --device ref "$@"; }
works "logits: rows" sh -c '[ "$(logits -q -m "$1" --device ref --ids 1,2,3 | wc -c)" = $((3 * 96 * 4)) ]' - "$m"
printf '1 2 3\n\n4,5\n' >"$t/ids"
works "logits: sequences of a file" logits_ --ids-file "$t/ids" -o "$t/rows"
works "logits: their rows" sh -c 'logits -q -m "$1" --device ref --ids 1,2,3 >"$2.a" && logits -q -m "$1" --device ref --ids 4,5 >>"$2.a" && cmp "$2" "$2.a"' - "$m" "$t/rows"
fails "logits: id out of range" 65 "'96' is not a token id" logits_ --ids 1,96
fails "logits: line of a bad id" 65 "ids2:2: 'x' is not" sh -c 'printf "1\nx\n" >"$2"; logits -q -m "$1" --device ref --ids-file "$2"' - "$m" "$t/ids2"
fails "logits: nothing given" 2 "one of --ids" logits_

# tasks in which the model writes
cp tests/golden/eval/tokenizer.json "$m"
printf '{"ctx": "Say 7:", "until": ["z"], "target": "7", "max_new": 6}\n{"ctx": "Two", "until": [], "target": "3"}\n' >"$t/say.jsonl"
printf 'kind = match\ntext = {q}\ntarget = {a}\nuntil = "\\n"\nmax_new = 5\nextract = number last -?[0-9]+\nextract = word first [a-z]+\nignore = x\n' >"$t/say.rules"
printf '{"q": "One", "a": "1"}\n' >"$t/own.jsonl"
works "answers are compared" eval_ --task "say=$t/say.jsonl" --max-new 6 --log-samples "$t/w1" -o "$t/w"
works "exact match" grep -q '"exact_match,none": 0' "$t/w"
works "sequences at a time change nothing" sh -c 'evalharness -q -m "$1" --device ref --dtype f32 --task "say=$2/say.jsonl" --max-new 6 --sequences 1 --log-samples "$2/w2" -f -o "$2/w" && cmp "$2/w1" "$2/w2"' - "$m" "$t"
works "filters of a template" eval_ --task "own=$t/own.jsonl" --template "own=$t/say.rules" --artifact "$t/wa" -f -o "$t/w"
works "a score for each" sh -c 'grep -q "\"exact_match,number\"" "$1" && grep -q "\"exact_match_stderr,word\"" "$1" && artcat "$2" | grep -q exact_match,word' - "$t/w" "$t/wa"
works "dry run counts texts" sh -c 'evalharness -q -m "$1" --max-new 6 --task "say=$2" --dry-run=json | grep -q "\"written\": 2, .*\"cache_bytes\": [1-9]"' - "$m" "$t/say.jsonl"
printf 'kind = match\ntext = {q}\ntarget = {a}\nextract = number last (\n' >"$t/wrong.rules"
fails "a regex that is none" 65 "in regex (" eval_ --task "own=$t/own.jsonl" --template "own=$t/wrong.rules"
fails "no room for the prompt" 65 "leave no place" eval_ --task "say=$t/say.jsonl" --max-new 300 --max-length 256
printf '{"ctx": "x = ", "prefix": "x = ", "until": ["\\n"], "test": "assert x"}\n' >"$t/code.jsonl"
fails "programs without a sandbox" 69 "no sandbox for generated programs: " env PATH=/nonexistent "$(command -v evalharness)" -q -m "$m" --max-new 6 --task "code=$t/code.jsonl"
