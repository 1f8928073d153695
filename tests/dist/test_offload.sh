#!/bin/sh
# test_offload.sh - an optimizer whose states lie in the host's memory trains the same (kd-train --optimizer-place)
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
. tests/dist/place.sh
# shellcheck disable=SC2034 # of place.sh
option=--optimizer-place place=host
# the shim's memory is not the host's: here states come and go in eight pieces
cuda="env ADZE_LIB=$shim SHIM_GUARD=0 $kd --device cuda --loss ce --batch 2 --seq 8 --valid-samples 1"
both "f32, memory that the host cannot touch" env ADZE_LIB="$shim" $kd --device cuda --loss ce --dtype f32 --batch 1 --seq 8 --steps 2 --valid-samples 1
both "bf16 moments rounded at random, average, best" $cuda --moments bf16 --ema 0.9 --keep-best --valid-every 1 --recompute
both "frozen, exempt from decay, clipped" $cuda --freeze 'embed_tokens,*norm*' --no-decay o_proj --ema 0.9 --clip 0.01
both "adapters" $cuda --lora 'q_proj,down_proj' --lora-rank 4 --lora-adapter
both "a teacher that is trained, projections" $cuda --loss kl --teacher "$t/w" --correct-teacher 1e-3 --hidden-loss 'mse@last:last'
both "a teacher from the host beside it" $cuda --loss kl --teacher "$t/w" --teacher-place host
both "captured micro-batches" $cuda --graph --batch 4

# ---- saved by one, continued by the other ----
sums() { artcat "$1" | sed '1d;$d' | cksum; } # without header and digest: the command line is in them
long="$cuda --moments bf16 --ema 0.9 --steps 4 --save-every 1 --keep 9"
works "all on the device" $long -o "$t/one"
for first in device host; do
	case $first in device) then=host ;; *) then=device ;; esac
	rm -rf "$t/two"
	$long --optimizer-place $first --stop-after 2 -o "$t/two" >"$t/out.txt" 2>"$t/err"
	same "$first stops" $? 75
	works "$then goes on" $long --optimizer-place $then -o "$t/two"
	result "$t/one" >"$t/ra" && result "$t/two" >"$t/rb"
	alike "$first, then $then: the same bits" "$t/ra" "$t/rb"
	same "$first, then $then: the same states" "$(sums "$t/two/ckpt/step-2/state") $(sums "$t/two/ckpt/step-3/state")" "$(sums "$t/one/ckpt/step-2/state") $(sums "$t/one/ckpt/step-3/state")"
done

# ---- the plan: two pieces on the device, all of them on the host; on the CPU nothing changes ----
plan() { "$@" --dry-run=json | tr ',{' '\n\n'; }
bytes() { sed -n "s/^\"$1\":\([0-9]*\).*/\1/p" "$t/plan"; }
plan $cuda --dtype f32 >"$t/plan"
device=$(bytes optimizer)
plan $cuda --dtype f32 --optimizer-place host >"$t/plan"
held=$(bytes "optimizer on the host") pieces=$(bytes optimizer) moves=$(bytes update_moves_bytes)
if awk "BEGIN { m = $device; exit !($held >= m - 1024 && $held < m * 1.01 && $pieces <= $held / 4 + 1024 && $pieces >= $held / 4 && $moves == $held) }"; then ok "planned: a quarter of little, in two pieces"
else no "planned: a quarter of little, in two pieces" "on the device $device, of which $pieces stay and $held go to the host, moved $moves"; fi
mkmodel -q --layers 4 --hidden 512 --ffn 1536 --heads 8 --vocab 265 --eos 264 --tied --fast --tokenizer "$t/tok" -o "$t/big" || exit 1
plan $cuda --student "$t/big" --optimizer-place host >"$t/plan"
same "planned: 24 MiB of much" "$(bytes optimizer)" $((2 * 12 << 20))
works "planned in words" $cuda --student "$t/big" --optimizer-place host --dry-run
same "planned in words: what moves" "$(grep -c '^update .* to the device and back in every step$' "$t/out.txt")" 1
plan $kd --loss ce >"$t/plan"
sum=$(bytes optimizer)
plan $kd --loss ce --optimizer-place host >"$t/plan"
same "on the CPU they are there already" "$(bytes optimizer) $(bytes 'optimizer on the host') $(bytes update_moves_bytes)" "$sum  "
both "on the CPU" $kd --loss ce --moments bf16 --ema 0.9

# ---- over several processes: each has its part in its host's memory ----
. tests/dist/mpi.sh
for zero in 0 1 2; do
	both "2 processes on GPUs, zero $zero" many 2 env ADZE_LIB="$shim" FAKE_NCCL_DIR="$t" SHIM_GPUS=2 SHIM_GUARD=0 $kd --loss ce --device cuda --batch 2 --steps 2 --seq 8 --valid-samples 2 \
		--zero $zero --moments bf16 --ema 0.9 --save-every 1
done
mkmodel -q --layers 2 --hidden 32 --heads 4 --kv-heads 2 --head-dim 8 --ffn 48 --vocab 266 --eos 264 --tokenizer "$t/tok" -o "$t/even" || exit 1
both "2 processes on GPUs, tensor parallel" many 2 env ADZE_LIB="$shim" FAKE_NCCL_DIR="$t" SHIM_GPUS=2 SHIM_GUARD=0 $kd --loss ce --device cuda --batch 1 --steps 2 --seq 8 --valid-samples 1 --student "$t/even" --tp 2
