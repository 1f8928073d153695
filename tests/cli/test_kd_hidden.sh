#!/bin/sh
# test_kd_hidden.sh - kd-train with losses between hidden states: projections, resuming, refusals
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
"$B/tests/train/test_batches" --make "$t/tok" 40 24 96
mkmodel -q --layers 3 --hidden 32 --ffn 64 --heads 4 --kv-heads 2 --vocab 96 --tied -o "$t/teacher"
act-stats -q -m "$t/teacher" "$t/tok" -o "$t/stats" && rank -q "$t/stats" -o "$t/rank" &&
	trim -q --allow-uneven -m "$t/teacher" -r "$t/rank" --layers 2 --hidden 24 -o "$t/student" && ok trimmed || no trimmed "$?"

train() { kd-train --teacher "$t/teacher" --student "$t/student" --data "$t/tok" --steps 12 --batch 4 --lr 1e-2 --threads 2 --save-every 6 --keep 9 "$@"; }
value() { sed -n "$2p" "$1/metrics.jsonl" | sed "s|.*\"$3\":\([^,}]*\).*|\1|"; }
spec="cosine:1@last:last,emb;mse:0.1@mlp.uniform"

train --hidden-loss "$spec" -v -o "$t/a" 2>"$t/err"; same run "$? $(grep -c 'channels that trimming kept' "$t/err")" "0 1"
train -q --hidden-loss "$spec" --stop-after 5 -o "$t/b"; same stops $? 75
train -q --hidden-loss "$spec" -o "$t/b"
alike resumed-student "$t/a/student/model.safetensors" "$t/b/student/model.safetensors"
alike resumed-checkpoint "$t/a/ckpt/step-6/state" "$t/b/ckpt/step-6/state"
same checkpoint-has-projection "$(artcat "$t/a/ckpt/step-6/state" | sed 1d | grep -c 'm.hidden.proj.0')" 1
same student-has-none "$(grep -c proj.0 "$t/a/student/model.safetensors")" 0
# the loss is twice the KL when alpha makes both halves equal
if awk "BEGIN { r = $(value "$t/a" 3 loss) / $(value "$t/a" 3 kd/kl); s = $(value "$t/a" 3 kd/alpha) * $(value "$t/a" 3 kd/hidden) / $(value "$t/a" 3 kd/kl); exit !(r > 1.9999 && r < 2.0001 && s > 0.9999 && s < 1.0001) }"
then ok dynamic-alpha; else no dynamic-alpha "$(sed -n 3p "$t/a/metrics.jsonl")"; fi
if awk "BEGIN { exit !($(value "$t/a" 12 kd/hidden) < $(value "$t/a" 1 kd/hidden)) }"; then ok hidden-falls; else no hidden-falls "$(value "$t/a" 1 kd/hidden) to $(value "$t/a" 12 kd/hidden)"; fi
train -q --hidden-loss "$spec" --hidden-alpha fixed --projection pair --recompute --micro 2 -o "$t/c"
same pair-projections "$? $(artcat "$t/c/ckpt/step-6/state" | grep -c '"w.hidden.proj') $(value "$t/c" 3 kd/alpha)" "0 4 1"
mkmodel -q --layers 2 --hidden 32 --ffn 48 --heads 4 --vocab 96 --tied --seed 5 -o "$t/wide"
train -q --student "$t/wide" --hidden-loss "mse@uniform" -o "$t/d"; same equal-widths "$? $(artcat "$t/d/ckpt/step-6/state" | grep -c proj)" "0 0"
train --hidden-loss "mse@uniform" --student "$t/wide" --dry-run -o "$t/bad" >/dev/null; same dry-run $? 0

rel="relation:0.5@uniform;cosine@last:last"
train -q --hidden-loss "$rel" --relation-heads 2 -o "$t/r"; same relations $? 0
train -q --hidden-loss "$rel" --relation-heads 2 --stop-after 5 -o "$t/s"
train -q --hidden-loss "$rel" --relation-heads 2 --recompute -o "$t/s"
alike relations-resumed "$t/r/student/model.safetensors" "$t/s/student/model.safetensors"
if awk "BEGIN { exit !($(value "$t/r" 12 kd/hidden) < $(value "$t/r" 1 kd/hidden)) }"; then ok relations-fall; else no relations-fall "$(value "$t/r" 1 kd/hidden) to $(value "$t/r" 12 kd/hidden)"; fi
fails relation-heads 2 "--relation-heads 5 does not divide" train -q --hidden-loss "$rel" --relation-heads 5 -o "$t/bad"

fails other-spec 65 "hidden-loss" train -q --hidden-loss "cosine@last:last" -o "$t/a"
fails no-teacher-block 2 "the teacher has no such block in '0:3'" train -q --hidden-loss "mse@0:3" -o "$t/bad"
fails no-place 2 "no such place" train -q --hidden-loss "mse@ffn.0:0" -o "$t/bad"
fails no-teacher 2 "needs --teacher" kd-train --student "$t/student" --data "$t/tok" --hidden-loss "mse@0:0" -o "$t/bad"
fails alpha-of-ce 2 "say fixed" train -q --loss ce --hidden-loss "mse@0:0" -o "$t/bad"
