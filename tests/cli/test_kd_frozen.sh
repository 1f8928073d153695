#!/bin/sh
# test_kd_frozen.sh - kd-train --freeze and --train: memory, checkpoints, resuming, what is left as it was, refusals
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
"$B/tests/train/test_batches" --make "$t/tok" 40 24 96
mkmodel -q --layers 2 --hidden 32 --ffn 64 --heads 4 --kv-heads 2 --vocab 96 --tied -o "$t/teacher"
mkmodel -q --layers 3 --hidden 24 --ffn 40 --heads 3 --kv-heads 1 --vocab 96 --seed 3 -o "$t/student"

train() { kd-train --teacher "$t/teacher" --student "$t/student" --data "$t/tok" --steps 12 --batch 4 --lr 1e-2 --threads 2 --save-every 6 --keep 9 -q "$@"; }
row() { sed 's/.*"'"$2"'":\([0-9]*\).*/\1/' "$1"; }
elements() { artcat "$1" | sed -n 's/.*"name":"w\.[^"]*".*"count":\([0-9]*\).*/\1/p' | awk '{ n += $1 } END { print n + 0 }'; }
# bytes in which two files differ
differ() { cmp -l "$1" "$2" | wc -l; }

train --dry-run=json -o "$t/bad" >"$t/all"
train --freeze "layers.[01].*,embed_tokens" --dry-run=json -o "$t/bad" >"$t/part"
if [ "$(row "$t/part" optimizer)" -lt $(($(row "$t/all" optimizer) / 2)) ] && [ "$(row "$t/part" gradients)" -lt $(($(row "$t/all" gradients) / 2)) ] &&
	[ "$(row "$t/part" activations)" -lt $(($(row "$t/all" activations) * 3 / 4)) ] && [ "$(row "$t/part" "student weights")" -lt "$(row "$t/all" "student weights")" ]
then ok dry-run-memory; else no dry-run-memory "$(cat "$t/all" "$t/part")"; fi
if [ "$(row "$t/part" flops)" -lt "$(row "$t/all" flops)" ]; then ok dry-run-flops; else no dry-run-flops "$(cat "$t/all" "$t/part")"; fi

# --- one tensor of 24 values; the rest leaves as it came, though the arithmetic is bf16 and the file f32
train --train model.norm -o "$t/norm"; same one-tensor $? 0
n=$(differ "$t/student/model.safetensors" "$t/norm/student/model.safetensors")
if [ "$n" -gt 0 ] && [ "$n" -le 96 ]; then ok others-untouched; else no others-untouched "$n bytes differ"; fi
same checkpoint-of-one "$(elements "$t/norm/ckpt/step-6/state")" 24

# --- frozen blocks and resuming, with and without recomputation, any micro-batch
f="layers.[01].*,embed_tokens"
train --freeze "$f" -o "$t/a"; same run $? 0
train --freeze "$f" --stop-after 5 -o "$t/b"; same stops $? 75
train --freeze "$f" -o "$t/b"
alike resumed-student "$t/a/student/model.safetensors" "$t/b/student/model.safetensors"
alike resumed-checkpoint "$t/a/ckpt/step-6/state" "$t/b/ckpt/step-6/state"
train --freeze "$f" --recompute -o "$t/c"; alike recompute "$t/a/student/model.safetensors" "$t/c/student/model.safetensors"
same checkpoint-names "$(artcat "$t/a/ckpt/step-6/state" | sed 1d | grep -c -e "\"w.blk.[01]" -e "\"w.embed")" 0
same checkpoint-block "$(artcat "$t/a/ckpt/step-6/state" | sed 1d | grep -c 'w.blk.2.mlp.up')" 1
if artcheck "$t/a/ckpt/step-6/state" >/dev/null 2>"$t/err"; then ok checkpoint-format; else no checkpoint-format "$(cat "$t/err")"; fi
train --freeze "$f" --dtype f32 -o "$t/d"; same f32 $? 0

fails other-choice 65 "freeze" train --freeze embed_tokens -o "$t/a"
fails half-of-qkv 2 "they are one matrix here" train --train q_proj -o "$t/bad"
fails no-such-tensor 2 "--freeze 'lm_heat'" train --freeze lm_heat -o "$t/bad"
fails nothing-left 2 "nothing of the student is left to train" train --freeze '*' -o "$t/bad"
