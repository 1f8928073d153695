#!/bin/sh
# test_kd_optim.sh - bf16 moments, averaged weights, the best model so far, exemptions from decay: they train, resume to the bit, refuse
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
"$B/tests/train/test_batches" --make "$t/tok" 40 24 96
"$B/tests/train/test_batches" --make "$t/valid" 6 24 96
mkmodel -q --layers 2 --hidden 32 --ffn 64 --heads 4 --kv-heads 2 --vocab 96 --tied -o "$t/teacher"
mkmodel -q --layers 1 --hidden 24 --ffn 40 --heads 3 --kv-heads 1 --vocab 96 --tied --seed 3 -o "$t/student"
train() { kd-train --teacher "$t/teacher" --student "$t/student" --data "$t/tok" --valid "$t/valid" --valid-every 4 --steps 20 --batch 4 --lr 1e-2 --threads 2 --save-every 5 --keep 9 --peak-flops 1 -q "$@"; }
value() { sed -n "$2p" "$1/metrics.jsonl" | sed "s|.*\"$3\":\([^,}]*\).*|\1|"; }
# near NAME TOLERANCE A B: relative
near() { if awk "BEGIN { d = ($3) / ($4) - 1; exit !(d < $2 && d > -$2) }"; then ok "$1"; else no "$1" "$3 and $4"; fi; }

train -o "$t/plain"
for m in bf16 bf16-nearest; do
	train --moments $m -o "$t/$m"; same $m $? 0
	near $m-learns 0.02 "$(value "$t/$m" 21 loss)" "$(value "$t/plain" 21 loss)"
done
if cmp -s "$t/bf16/student/model.safetensors" "$t/bf16-nearest/student/model.safetensors"; then no rounding "at random and to nearest are the same"; else ok rounding; fi
a=$(wc -c <"$t/bf16/ckpt/step-5/state") b=$(wc -c <"$t/plain/ckpt/step-5/state")
if [ $((a * 4)) -lt $((b * 3)) ]; then ok smaller-checkpoint; else no smaller-checkpoint "$a, with f32 moments $b bytes"; fi
works checkpoint-format artcheck -q "$t/bf16/ckpt/step-5/state"
train --moments bf16 --seed 0 -o "$t/again"; alike repeats "$t/bf16/student/model.safetensors" "$t/again/student/model.safetensors"

# --- all together: stopped, resumed, the same bytes
all() { train --moments bf16 --ema 0.9 --keep-best --no-decay embed_tokens,o_proj --recompute=selective "$@"; }
all -o "$t/a"; same together $? 0
all --stop-after 7 -o "$t/b"; same stopped $? 75
all -o "$t/b"; same resumed $? 0
for d in student student-ema best; do alike resumed-$d "$t/a/$d/model.safetensors" "$t/b/$d/model.safetensors"; done
alike resumed-checkpoint "$t/a/ckpt/step-15/state" "$t/b/ckpt/step-15/state"
fails other-average 65 "ema 0.9, now 0.8" all --ema 0.8 -o "$t/a"
fails other-exempt 65 "no-decay" train --moments bf16 --ema 0.9 -o "$t/a"

# --- the best model is the one of the step with the lowest held-out loss
best=$(sed -n 's/{"step":\([0-9]*\),.*"valid\/loss":\([^,]*\),.*/\2 \1/p' "$t/a/metrics.jsonl" | grep -v ' 0$' | sort -g | head -n 1 | cut -d' ' -f2)
if [ "$best" -eq 20 ]; then cp "$t/a/student/model.safetensors" "$t/want"; else all --stop-at "$best" --export "$t/e" -o "$t/c" && cp "$t/e/model.safetensors" "$t/want"; fi
alike best-model "$t/want" "$t/a/best/model.safetensors"
# worse and worse: the first one stays
train --keep-best --lr 1e3 --min-lr 1e3 --steps 8 -o "$t/w" 2>/dev/null
train --lr 1e3 --min-lr 1e3 --steps 8 --stop-at 4 --export "$t/w4" -o "$t/w2" 2>/dev/null
if awk "BEGIN { exit !($(value "$t/w" 9 valid/loss) > $(value "$t/w" 5 valid/loss)) }"; then alike best-stays "$t/w/best/model.safetensors" "$t/w4/model.safetensors"; else ok best-stays-not-shown; fi

# --- the guard names the batch
fails skips 1 "not finite in 3 steps in a row, up to step " train --lr 1e3 --weight-decay 1e3 --steps 40 --max-skips 3 --valid-every 0 -o "$t/nan"
same digest "$(grep -c '(batch [0-9a-f]*)' "$t/err")" 1

fails no-such-tensor 2 "--no-decay 'nothing'" train --no-decay nothing -o "$t/x"
fails best-of-nothing 2 "--keep-best" kd-train --student "$t/student" --data "$t/tok" --keep-best -o "$t/x"
a=$(train --dry-run=json | sed 's/.*"optimizer":\([0-9]*\).*/\1/') b=$(train --moments bf16 --dry-run=json | sed 's/.*"optimizer":\([0-9]*\).*/\1/')
same half-the-memory "$((b * 2))" "$a"
