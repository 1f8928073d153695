#!/bin/sh
# test_kd_refusals.sh - models, data and disks that do not fit: one clear line each, nothing lost
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
sh tests/cli/tiny-tokenizer.sh "$t/tok"
model() { mkmodel -q --layers 1 --hidden 16 --ffn 24 --heads 2 --kv-heads 1 --tied "$@"; }
model --vocab 272 --tokenizer "$t/tok" -o "$t/teacher"                  # 265 tokens, 7 rows of padding
model --vocab 280 --seed 3 --tokenizer "$t/tok" -o "$t/student"
model --vocab 272 --seed 4 -o "$t/bare272"
model --vocab 280 --seed 4 -o "$t/bare280"
model --vocab 272 --seed 9 --tokenizer "$t/tok" -o "$t/stranger"
model --vocab 260 --seed 4 --tokenizer "$t/tok" -o "$t/short"
calib-sample -q -t "$t/teacher" --documents paragraph --samples 24 --seq 32 README.md -o "$t/data"
train() { kd-train -q --student "$t/student" --data "$t/data" --steps 6 --batch 4 --lr 1e-2 --dtype f32 --threads 1 --save-every 2 "$@"; }
kl() { sed -n "$2p" "$1/metrics.jsonl" | sed 's|.*"kd/kl":\([^,}]*\).*|\1|'; }

# --- padding: other sizes of one vocabulary work, and a teacher with itself has no divergence over the tokens
works padded train --teacher "$t/teacher" -o "$t/run"
works padded-top-k train --teacher "$t/teacher" --top-k 265 -o "$t/topk"
if awk "BEGIN { d = $(kl "$t/run" 6) / $(kl "$t/topk" 6) - 1; exit !(d < 1e-4 && d > -1e-4) }"; then ok padded-all-of-top-k; else no padded-all-of-top-k "$(kl "$t/run" 6) $(kl "$t/topk" 6)"; fi
works padded-cache kd-train -q --teacher "$t/teacher" --data "$t/data" --top-k 300 --cache-dtype f32 --dtype f32 --cache-teacher "$t/cache"
works from-padded-cache train --teacher-cache "$t/cache" -o "$t/cached"
if awk "BEGIN { d = $(kl "$t/run" 6) / $(kl "$t/cached" 6) - 1; exit !(d < 1e-4 && d > -1e-4) }"; then ok padded-as-online; else no padded-as-online "$(kl "$t/run" 6) $(kl "$t/cached" 6)"; fi
same keeps-padding "$(grep -c '"vocab_size": 280' "$t/run/student/config.json")" 1
fails sizes-unexplained 65 "no tokenizer says which are padding" train --teacher "$t/bare272" --student "$t/bare280" -o "$t/bad"
fails too-few-rows 65 "and the tokenizer more" train --teacher "$t/teacher" --student "$t/short" -o "$t/bad"

# --- other tokens
cp -r "$t/teacher" "$t/renamed" && sed 's/"the":263/"tha":263/; s/"th e"/"th a"/' "$t/tok/tokenizer.json" >"$t/renamed/tokenizer.json"
fails tokenizer-mismatch 65 "token 263 is 'the', of teacher" train --teacher "$t/renamed" -o "$t/bad"
fails data-mismatch 65 "made with other tokens" kd-train -q --student "$t/renamed" --data "$t/data" -o "$t/bad"
cp -r "$t/student" "$t/spaced" && sed 's/^{/{ /' "$t/tok/tokenizer.json" >"$t/spaced/tokenizer.json"
kd-train --student "$t/spaced" --teacher "$t/teacher" --data "$t/data" --steps 1 --batch 4 -o "$t/anew" 2>"$t/err"
same written-anew "$? $(grep -c tokenizer "$t/err")" "0 0"

# --- only responses
printf '{"text":"Q: in the end A: there and then.\\n"}\n%.0s' 1 2 3 4 5 6 7 8 9 10 11 12 >"$t/qa.jsonl"
calib-sample -q -t "$t/teacher" --samples 4 --seq 32 "$t/qa.jsonl" -o "$t/qa" || echo "not ok responses: no data"
qa() { train --teacher "$t/teacher" --data "$t/qa" --valid "$t/qa" --steps 2 "$@"; }
works responses qa --response-from "A:" --response-to "." -o "$t/answers"
qa -o "$t/all"
if [ "$(kl "$t/answers" 1)" != "$(kl "$t/all" 1)" ]; then ok responses-differ; else no responses-differ "the same"; fi
fails no-response 65 "no response in it" qa --response-from "Z:" -o "$t/bad"
fails response-to-alone 2 "needs --response-from" qa --response-to "." -o "$t/bad"

# --- a batch that gives no number: left out, named by its digest, and what was saved stays
fails nan-batch 1 "(batch " train --teacher "$t/teacher" --steps 40 --lr 1e3 --weight-decay 1e3 -o "$t/nan"
works nan-nothing-lost artcheck -q "$t"/nan/ckpt/*/state

# --- files
model --vocab 272 --layers 3 --shard-bytes 8000 --tokenizer "$t/tok" -o "$t/shards"
works shards train --teacher "$t/shards" --steps 1 -o "$t/sharded"
shard=$(cd "$t/shards" && echo model-00002-of-*)
rm "$t/shards/$shard"
fails missing-shard 74 "$shard" train --teacher "$t/shards" -o "$t/bad-teacher"
train --teacher "$t/teacher" --steps 7 --stop-after 4 -o "$t/going"; same stopped $? 75
cp -r "$t/going/ckpt" "$t/before"
fails cache-of-another 65 "made by teacher" train --teacher "$t/stranger" --teacher-cache "$t/cache" -o "$t/bad"
fails other-teacher 65 "holds a run with teacher" train --teacher "$t/stranger" --steps 7 -o "$t/going"
# a disk that is full: no file may grow beyond what is there already
(ulimit -f 8; trap '' XFSZ; fails full-disk 74 "cannot write" train --teacher "$t/teacher" --steps 7 -o "$t/going")
if diff -r "$t/before/step-4" "$t/going/ckpt/step-4" >"$t/out.txt"; then ok nothing-lost; else no nothing-lost "$(cat "$t/out.txt")"; fi
works goes-on train --teacher "$t/teacher" --steps 7 -o "$t/going"
train --teacher "$t/teacher" --steps 7 -o "$t/whole"
alike same-student "$t/whole/student/model.safetensors" "$t/going/student/model.safetensors"
