#!/bin/sh
# test_kd_lora.sh - kd-train --lora: 100 steps = 50 + kill -9 + the rest, what checkpoints hold, the merged model, refusals
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
"$B/tests/train/test_batches" --make "$t/tok" 40 24 96
"$B/tests/train/test_batches" --make "$t/valid" 6 24 96
mkmodel -q --layers 2 --hidden 32 --ffn 64 --heads 4 --kv-heads 2 --vocab 96 --tied -o "$t/teacher"
mkmodel -q --layers 2 --hidden 24 --ffn 40 --heads 3 --kv-heads 1 --vocab 96 --seed 3 -o "$t/student"

train() { kd-train --teacher "$t/teacher" --student "$t/student" --data "$t/tok" --valid "$t/valid" --lora 'q_proj,down_proj' --lora-rank 4 --steps 100 --batch 4 --lr 1e-2 --threads 2 --save-every 10 --keep 99 -q "$@"; }
value() { sed -n "$2p" "$1/metrics.jsonl" | sed "s|.*\"$3\":\([^,}]*\).*|\1|"; }

train --lora-adapter -o "$t/a"; same run $? 0
upon rename 1 ckpt/step-50 KILL train -o "$t/b"; same killed "$? $(ls "$t/b" | grep -c student)" "137 0"
train -o "$t/b"; same resumes $? 0
alike resumed-student "$t/a/student/model.safetensors" "$t/b/student/model.safetensors"
same resumed-checkpoint "$(artcat "$t/a/ckpt/step-90/state" | sed '1d;$d' | cksum)" "$(artcat "$t/b/ckpt/step-90/state" | sed '1d;$d' | cksum)"
if awk "BEGIN { exit !($(value "$t/a" 101 loss) < 0.98 * $(value "$t/a" 2 loss)) }"; then ok learns; else no learns "$(value "$t/a" 2 loss) to $(value "$t/a" 101 loss)"; fi

same checkpoint-adapters "$(artcat "$t/a/ckpt/step-90/state" | sed 1d | grep -c '"w\.')" 8
same checkpoint-no-base "$(artcat "$t/a/ckpt/step-90/state" | sed 1d | grep '"w\.' | grep -v -c lora_)" 0
same adapter-files "$(ls "$t/a/adapter" | tr '\n' ' ')" "adapter_config.json adapter_model.safetensors "
same adapter-config "$(grep -c -e '"peft_type": "LORA"' -e '"r": 4' -e '"lora_alpha": 32' -e '"q_proj"' "$t/a/adapter/adapter_config.json")" 4
# the merged model is the one that was trained: its held-out loss at step 0 of another run is that of the last step
train --dtype f32 --steps 20 -o "$t/f"
kd-train --teacher "$t/teacher" --student "$t/f/student" --data "$t/tok" --valid "$t/valid" --steps 1 --batch 4 --dtype f32 -q -o "$t/g"
if awk "BEGIN { r = $(value "$t/g" 1 valid/kd/kl) / $(value "$t/f" 21 valid/kd/kl) - 1; exit !(r < 1e-5 && r > -1e-5) }"; then ok merged-same-loss
else no merged-same-loss "$(value "$t/g" 1 valid/kd/kl), before $(value "$t/f" 21 valid/kd/kl)"; fi
train --recompute --steps 20 -o "$t/h" && train --recompute=none --steps 20 -o "$t/i" && train --steps 20 -o "$t/sel"
alike recompute-selective "$t/sel/student/model.safetensors" "$t/i/student/model.safetensors"
alike recompute "$t/h/student/model.safetensors" "$t/i/student/model.safetensors"
train --train 'model.norm' --steps 3 --save-every 2 -o "$t/j"; same with-trained "$? $(artcat "$t/j/ckpt/step-2/state" | grep -c '"w.final.norm.w"')" "0 1"
opt() { sed 's/.*"optimizer":\([0-9]*\).*/\1/'; }
n=$(train --dry-run=json -o "$t/bad" | opt) m=$(kd-train --student "$t/student" --data "$t/tok" --dry-run=json -o "$t/bad" | opt)
if [ "$n" -lt $((m / 4)) ]; then ok dry-run-memory; else no dry-run-memory "$n of $m"; fi

fails other-rank 65 "lora-rank 4, now 8" train --lora-rank 8 -o "$t/a"
fails no-linear 2 "is not the matrix of a linear" train --lora embed_tokens -o "$t/bad"
fails adapter-and-more 2 "holds adapters only" train --lora-adapter --train model.norm -o "$t/bad"
fails adapter-of-none 2 "needs --lora" kd-train --student "$t/student" --data "$t/tok" --lora-adapter -o "$t/bad"
