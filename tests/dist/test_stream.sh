#!/bin/sh
# test_stream.sh - a teacher whose weights are not all on the device teaches the same (kd-train --teacher-place)
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
. tests/dist/place.sh
# shellcheck disable=SC2034 # of place.sh
option=--teacher-place place=host
both "tied" $kd --teacher "$t/m" --dtype f32
both "stored as f32, hidden states" $kd --teacher "$t/w" --dtype bf16 --hidden-loss 'mse@last:last' --recompute
both "mixture against the teacher" $kd --teacher "$t/m" --mix dynamic --valid-every 2 --mix-reference teacher --data y="$t/v.tok" --valid y="$t/c.tok"
both "memory that the host cannot touch" env ADZE_LIB="$shim" $kd --teacher "$t/w" --device cuda --batch 2 --steps 2 --seq 8 --valid-samples 2
kd-train --student "$t/s" --data "$t/c.tok" --teacher "$t/w" --micro 1 --teacher-place host --explain | awk '$3 == "fetch" { print substr($4, index($4, ":") + 1, 9) }' | tr '\n' ' ' >"$t/fetched"
same "pieces in their order" "$(cat "$t/fetched")" "t.piece.0 t.piece.1 t.piece.2 t.piece.3 t.piece.4 t.piece.5 "
fails "no teacher" 2 "--teacher-place host" $kd --loss ce --teacher-place host -o "$t/bad"
fails "a teacher that is trained" 2 "--correct-teacher" $kd --teacher "$t/m" --correct-teacher 1e-4 --teacher-place host -o "$t/bad"

# ---- memory: as planned (sanitizers take memory of their own) ----
mkmodel -q --layers 7 --hidden 768 --heads 12 --kv-heads 12 --head-dim 64 --ffn 2304 --vocab 265 --eos 264 --tied --fast --tokenizer "$t/tok" -o "$t/big" || exit 1
small="--student $t/s --teacher $t/big --data $t/c.tok --micro 1 --threads 1"
# peak PLACE LAUNCH...: what one process took, and what was planned
peak() {
	where=$1
	shift
	rm -f "$t/ev"
	"$@" kd-train $small --batch 4 --steps 1 --save-every 0 --teacher-place $where --events "$t/ev" -q -f -o "$t/p" 2>"$t/err"
	sed -n 's/.*"peak_bytes":\([0-9]*\).*/\1/p' "$t/ev" >"$t/got.$where"
	"$@" kd-train $small --batch 4 --steps 1 --teacher-place $where --dry-run=json 2>"$t/err" | sed 's/.*"peak_bytes":\([0-9]*\).*/\1/' >"$t/want.$where"
	if paste "$t/got.$where" "$t/want.$where" | awk '{ exit !($1 > 0.92 * $2 && $1 < 1.08 * $2) }'; then ok "$where: peak as planned"
	else no "$where: peak as planned" "$(paste "$t/got.$where" "$t/want.$where")"; fi
}
case $B in */san) ;; *) peak resident env && peak host env ;; esac

# ---- over the processes of a node: each keeps a part of each block; --teacher-group 2 stands for nodes of two ----
. tests/dist/mpi.sh
place=sharded
both "2 processes" many 2 $kd --teacher "$t/w" --zero 2
both "3 processes, tied" many 3 $kd --teacher "$t/m" --dtype f32
both "2 processes, mixture against the teacher" many 2 $kd --teacher "$t/w" --mix dynamic --valid-every 2 --mix-reference teacher --data y="$t/v.tok" --valid y="$t/c.tok"
both "2 processes on GPUs" many 2 env ADZE_LIB="$shim" FAKE_NCCL_DIR="$t" SHIM_GPUS=2 SHIM_GUARD=0 $kd --teacher "$t/w" --device cuda --batch 2 --steps 2 --seq 8 --valid-samples 2
place="sharded --teacher-group 2"
both "2 nodes of 2" many 4 $kd --teacher "$t/w" --batch 8 --zero 2 --valid-samples 3
both "a node of 2 and one of 1" many 3 $kd --teacher "$t/m" --valid-samples 2
both "2 nodes of 2 on GPUs" many 4 env ADZE_LIB="$shim" FAKE_NCCL_DIR="$t" SHIM_GPUS=4 SHIM_GUARD=0 $kd --teacher "$t/w" --device cuda --batch 4 --steps 1 --seq 8 --valid-samples 2
place=host
both "2 processes, from files" many 2 $kd --teacher "$t/m" --zero 1
works "alone, sharded is resident" $kd --teacher "$t/m" --teacher-place sharded -o "$t/alone"
case $B in */san) ;; *) peak sharded many 2 ;; esac
# of_teacher N OPTION...: bytes that a process of N is to keep of it
of_teacher() { many "$1" kd-train $small --batch 4 --steps 1 --teacher-place sharded --dry-run=json ${2:+"$2" "$3"} 2>"$t/err" | sed 's/.*"teacher weights":\([0-9]*\).*/\1/'; }
two=$(of_teacher 2) four=$(of_teacher 4)
same "2 nodes of 2 keep what one of 2 keeps" "$(of_teacher 4 --teacher-group 2)" "$two"
if [ "${four:-0}" -gt 0 ] && [ "$four" -lt "$two" ]; then ok "one machine is one node"; else no "one machine is one node" "$four of 4, $two of 2"; fi
fails "a group of nothing" 2 "--teacher-group says" $kd --teacher "$t/m" --teacher-group 2 -o "$t/bad"
