#!/bin/sh
# test_generate.sh - generate as users call it: JSON lines, texts, a page of two models; refusals
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016  # sh -c '...' - ARGS: its own parameters
. tests/lib.sh
m=$t/first
for x in first:llama-untied second:llama-tied-gqa; do
	cp -r "tests/golden/models/${x#*:}" "$t/${x%:*}"
	cp tests/golden/eval/tokenizer*.json "$t/${x%:*}"   # one id per printable character
done
printf '{"prompt": "Once upon", "x": 1}\n\n{"prompt": "A ``` fence"}\n' >"$t/p.jsonl"
printf 'Once upon\n\nA ``` fence\n' >"$t/p.txt"
gen() { generate -q --device ref --dtype f32 --max-new 12 "$@"; }
gen -m "$m" "$t/p.jsonl" -o "$t/a.jsonl"
works "one line a continuation" test "$(grep -c '"model": *"first"' "$t/a.jsonl")" -eq 2
works "the same from lines of text" sh -c 'generate -q --device ref --dtype f32 --max-new 12 -m "$1" "$2" | cmp - "$3"' - "$m" "$t/p.txt" "$t/a.jsonl"
gen -m "$m" -p 'Once upon' -p 'A ``` fence' --batch 1 -o "$t/b.jsonl"
works "batch changes nothing" cmp "$t/a.jsonl" "$t/b.jsonl"
gen -m "$m" "$t/p.jsonl" --temperature 1.5 --top-p 0.9 --samples 3 --seed 7 --no-eos -o "$t/s1.jsonl"
gen -m "$m" "$t/p.jsonl" --temperature 1.5 --top-p 0.9 --samples 3 --seed 7 --no-eos --batch 2 -o "$t/s2.jsonl"
gen -m "$m" "$t/p.jsonl" --temperature 1.5 --top-p 0.9 --samples 3 --seed 8 --no-eos -o "$t/s3.jsonl"
works "draws depend on the seed alone" sh -c 'cmp "$1" "$2" && ! cmp -s "$1" "$3"' - "$t/s1.jsonl" "$t/s2.jsonl" "$t/s3.jsonl"
works "samples differ" test "$(sort -u "$t/s1.jsonl" | wc -l)" -eq 6
first=$(gen -m "$m" -p 'Once upon' --no-eos --format text)
cut=$(printf %s "$first" | cut -c 4)
works "a stop string ends the text before it" test "$(gen -m "$m" -p 'Once upon' --no-eos --format text --stop "$cut")" = "${first%%"$cut"*}"
gen -m "$t/first" -m "$t/second/" "$t/p.jsonl" --format md -o "$t/page.md"
works "a page of two models" sh -c 'test "$(grep -c "^\*\*[AB]: " "$1")" -eq 4 && grep -q "^| B | second |" "$1"' - "$t/page.md"
works "fences are longer than those inside" grep -qx '````text' "$t/page.md"
works "dry run" sh -c 'generate -m "$1" -p x --dry-run=json | grep -q "\"cache_bytes\": [1-9]"' - "$m"
fails "no prompt" 2 "nothing to continue" gen -m "$m"
fails "no model" 2 "-m is needed" gen -p x
fails "a stop string of nothing" 2 "--stop" gen -m "$m" -p x --stop ''
fails "a line that is no JSON" 65 "p.jsonl:2: not JSON" sh -c 'printf "{\"prompt\": \"a\"}\n{\n" >"$2/p.jsonl"; generate -m "$1" "$2/p.jsonl"' - "$m" "$t"
fails "a missing field" 65 "'question' must be a string" sh -c 'printf "{\"prompt\": \"a\"}\n" >"$2/p.jsonl"; generate -m "$1" --field question "$2/p.jsonl"' - "$m" "$t"
fails "no room for the prompt" 65 "leave no place" gen -m "$m" -p x --max-new 256
