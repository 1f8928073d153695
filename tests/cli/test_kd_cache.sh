#!/bin/sh
# test_kd_cache.sh - a teacher cached on disk: as good as the teacher itself, resumable, refused where it does not fit
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
make_tokens() { "$B/tests/train/test_batches" --make "$@"; }
make_tokens "$t/tok" 40 24 96
make_tokens "$t/valid" 6 24 96
make_tokens "$t/other-tok" 41 24 96
for m in "teacher 1" "stranger 2"; do
	mkmodel -q --layers 2 --hidden 32 --ffn 64 --heads 4 --kv-heads 2 --vocab 96 --tied --seed "${m#* }" -o "$t/${m% *}"
done
mkmodel -q --layers 1 --hidden 24 --ffn 40 --heads 3 --kv-heads 1 --vocab 96 --tied --seed 3 -o "$t/student"
mkmodel -q --layers 1 --hidden 24 --ffn 40 --heads 3 --kv-heads 1 --vocab 97 --tied --seed 3 -o "$t/student97"

cache() { kd-train --teacher "$t/teacher" --data "$t/tok" --threads 2 "$@"; }
train() { kd-train --student "$t/student" --data "$t/tok" --steps 100 --batch 4 --lr 1e-2 --threads 2 --save-every 10 -q "$@"; }
value() { sed -n "$2p" "$1/metrics.jsonl" | sed "s|.*\"$3\":\([^,}]*\).*|\1|"; }
# near NAME TOLERANCE A B: relative
near() { if awk "BEGIN { d = ($3) / ($4) - 1; exit !(d < $2 && d > -$2) }"; then ok "$1"; else no "$1" "$3 and $4"; fi; }

# --- all of the vocabulary: the same as the teacher itself
works whole-f32 cache --cache-teacher "$t/whole" --top-k 96 --cache-dtype f32 --cache-part 16 --dtype f32
same parts "$(cd "$t/whole" && echo *)" "part-00000 part-00001 part-00002"
works checked artcheck -q "$t"/whole/part-*
train --teacher "$t/teacher" --dtype f32 -o "$t/online"
train --teacher-cache "$t/whole" --dtype f32 --valid "$t/valid" -o "$t/cached"; same cached-run $? 0
for i in 1 10 100; do near "as-online-$i" 1e-4 "$(value "$t/online" $i loss)" "$(value "$t/cached" $((i + 1)) loss)"; done
same valid-without-teacher "$(sed -n 1p "$t/cached/metrics.jsonl" | grep -c 'valid/kd\|valid/loss') $(grep -c valid/ppl "$t/cached/metrics.jsonl")" "0 2"
train --teacher-cache "$t/whole" --dtype f32 --temperature 2 --steps 1 -o "$t/warm"; train --teacher "$t/teacher" --dtype f32 --temperature 2 --steps 1 -o "$t/warm-online"
near temperature 1e-5 "$(value "$t/warm" 1 loss)" "$(value "$t/warm-online" 1 loss)"

# --- the best 8 in f16: near what the teacher's own best 8 give, for each rule
works best-f16 cache --cache-teacher "$t/best" --top-k 8 --dtype f32
for tail in renorm zero ghost; do
	train --teacher-cache "$t/best" --dtype f32 --tail $tail --steps 3 -o "$t/c-$tail"
	train --teacher "$t/teacher" --dtype f32 --top-k 8 --tail $tail --steps 3 -o "$t/o-$tail"
	near "best-$tail" 2e-3 "$(value "$t/c-$tail" 3 loss)" "$(value "$t/o-$tail" 3 loss)"
done

# --- hidden states in bf16: any loss at any temperature, of the teacher only its output matrix
hid() { train --teacher "$t/teacher" --teacher-cache "$t/hidden" "$@"; }
works hidden cache --cache-what hidden --cache-part 16 --cache-teacher "$t/hidden"
works hidden-checked artcheck -q "$t"/hidden/part-*
hid --valid "$t/valid" -o "$t/h16" && train --teacher "$t/teacher" -o "$t/o16"
hid --dtype f32 -o "$t/h32"
for i in 1 10 100; do
	near "hidden-bf16-$i" 2e-4 "$(value "$t/h16" $((i + 1)) loss)" "$(value "$t/o16" $i loss)"
	near "hidden-f32-$i" 2e-3 "$(value "$t/h32" $i loss)" "$(value "$t/online" $i loss)"
done
same hidden-valid "$(sed -n 1p "$t/h16/metrics.jsonl" | grep -c 'valid/kd\|valid/loss') $(grep -c valid/ppl "$t/h16/metrics.jsonl")" "0 2"
any="--loss rkl:1,jsd:0.5,ce:0.1 --temperature 2 --weigh wsl --dtype f32 --steps 2"
# shellcheck disable=SC2086
hid $any -o "$t/any" && train --teacher "$t/teacher" $any -o "$t/any-online"
near hidden-any-loss 2e-3 "$(value "$t/any" 2 loss)" "$(value "$t/any-online" 2 loss)"
hid --stop-after 35 -o "$t/h-resumed"; hid -o "$t/h-resumed"
alike hidden-resumed "$t/h16/student/model.safetensors" "$t/h-resumed/student/model.safetensors"
held() { "$@" --dry-run=json -o "$t/bad" | sed 's/.*"teacher weights":\([0-9]*\).*/\1/'; }
same hidden-memory "$(held hid) $(($(held train --teacher "$t/teacher") > 4 * $(held hid)))" "$((96 * 32 * 2)) 1"
fails hidden-no-teacher 2 "--teacher is needed for its output matrix" train --teacher-cache "$t/hidden" -o "$t/bad"
fails hidden-other-teacher 65 "made by teacher" train --teacher "$t/stranger" --teacher-cache "$t/hidden" -o "$t/bad"
fails hidden-top-k 2 "no part of --cache-what hidden" cache -q --cache-what hidden --top-k 4 --cache-teacher "$t/bad"
fails hidden-over-best 65 "another --cache-what" cache -q --cache-what hidden --cache-teacher "$t/best"

# --- making it again: nothing to do, going on, the same bytes
cp -r "$t/whole" "$t/again" && rm "$t/whole/part-00001"
cache --cache-teacher "$t/whole" --top-k 96 --cache-dtype f32 --cache-part 16 --dtype f32 2>"$t/err"
same goes-on "$? $(grep -c '16 sequences cached, 24 were there' "$t/err")" "0 1"
alike same-part "$t/whole/part-00001" "$t/again/part-00001"
upon rename 1 killed/part-00003 KILL cache --micro 1 --cache-part 2 -q --cache-teacher "$t/killed"
same "killed while it is made" "$? $(find "$t/killed" -name 'part-*' | wc -l)" "137 4"
works after-kill cache --micro 1 --cache-part 2 -q --cache-teacher "$t/killed"
works all-there artcheck -q "$t"/killed/part-*
same no-leftovers "$(find "$t/killed" -name '*.tmp*' | wc -l) $(find "$t/killed" -name 'part-*' | wc -l)" "0 20"

# --- 100 steps are 50, kill -9, and the rest
again() { train --teacher-cache "$t/whole" --dtype f32 --valid "$t/valid" -o "$t/k"; }
upon rename 1 ckpt/step-50 KILL again; same killed "$? $(ls "$t/k" | grep -c student)" "137 0"
again
alike kill-same-student "$t/cached/student/model.safetensors" "$t/k/student/model.safetensors"
alike kill-same-checkpoint "$t/cached/ckpt/step-90/state" "$t/k/ckpt/step-90/state"

# --- refusals
works same-teacher train --teacher "$t/teacher" --teacher-cache "$t/best" --steps 1 -o "$t/both"
fails other-teacher 65 "made by teacher" train --teacher "$t/stranger" --teacher-cache "$t/best" -o "$t/bad"
fails other-data 65 "made for token set" train --teacher-cache "$t/best" --data "$t/other-tok" -o "$t/bad"
fails other-windows 65 "windows of 24" train --teacher-cache "$t/best" --seq 12 -o "$t/bad"
fails other-vocabulary 65 "vocabulary has 96 tokens, the student's 97" train --student "$t/student97" --teacher-cache "$t/best" -o "$t/bad"
fails goes-on-as-another 65 "cache" train --teacher "$t/teacher" --dtype f32 --top-k 96 -o "$t/k"
fails other-top-k 65 "best 8 tokens" train --teacher-cache "$t/best" --top-k 9 -o "$t/bad"
fails ghost-at-2 2 "temperature 1 only" train --teacher-cache "$t/best" --temperature 2 -o "$t/bad"
fails cached-rkl 2 "not rkl" train --teacher-cache "$t/best" --loss rkl -o "$t/bad"
fails cached-hidden 2 "not enough for --hidden-loss" train --teacher-cache "$t/best" --hidden-loss mse@0:0 -o "$t/bad"
fails cache-of-other-teacher 65 "another teacher" kd-train -q --teacher "$t/stranger" --data "$t/tok" --top-k 8 --cache-teacher "$t/best"
fails cache-of-other-k 65 "--top-k" cache -q --top-k 9 --cache-teacher "$t/best"
fails cache-needs-teacher 2 "needs --teacher" kd-train -q --data "$t/tok" --cache-teacher "$t/bad"
rm "$t/again/part-00002"
fails missing-part 65 "part-00002: is missing" train --teacher-cache "$t/again" -o "$t/bad"
cp "$t/whole/part-00000" "$t/again/part-00002"
fails wrong-part 65 "holds part 0" train --teacher-cache "$t/again" --dtype f32 -o "$t/bad-run"
cp "$t/whole/part-00002" "$t/again/part-00002" && printf x | dd of="$t/again/part-00001" bs=1 seek=3000 conv=notrunc 2>/dev/null
fails damaged-part 65 "part-00001" train --teacher-cache "$t/again" --dtype f32 -o "$t/bad-run2"
fails no-cache 74 "nowhere" train --teacher-cache "$t/nowhere" -o "$t/bad"
