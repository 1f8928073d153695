#!/bin/sh
# test_device.sh - whole programs on memory that the host cannot touch: the CUDA kernels on the host (tests/cuda/shim)
# against the reference (ADZE_CUDA_LIB: the real ones on a GPU); machines without a GPU
#
# SPDX-License-Identifier: Apache-2.0
tokens=$B/tests/train/test_batches
. tests/lib.sh
shim=${ADZE_CUDA_LIB:-$PWD/$B/tests/cuda}

"$tokens" --make "$t/tok" 8 12 64
mkmodel -q --layers 2 --hidden 24 --ffn 40 --heads 4 --kv-heads 2 --vocab 64 --tied -o "$t/teacher"
mkmodel -q --family nemotron --layers 1 --hidden 16 --ffn 24 --heads 2 --kv-heads 1 --vocab 64 --seed 3 -o "$t/student"

on() { dev=$1; shift; if [ "$dev" = cuda ]; then ADZE_LIB=$shim "$@" --device cuda; else "$@" --device "$dev"; fi; }

# near NAME A B TOLERANCE: all numbers of two texts, in order, to that relative error; everything else equal
near() {
	if python3 - "$2" "$3" "$4" <<'PY' >"$t/near" 2>&1; then ok "$1"; else no "$1" "$(tail -n 1 "$t/near")"; fi
import re, sys
num = re.compile(r'-?\d+\.?\d*(?:[eE][-+]?\d+)?')
a, b = (re.sub(r'"(?:tok_per_s|flop_per_s|peak_share|seconds|bytes|peak_bytes)":[^,}]*', '', open(f).read()) for f in sys.argv[1:3])
if num.sub('#', a) != num.sub('#', b):
    sys.exit('the texts differ in more than numbers')
x, y = ([float(n) for n in num.findall(s)] for s in (a, b))
if not x:
    sys.exit('nothing to compare')
bad = [(p, q) for p, q in zip(x, y) if abs(p - q) > float(sys.argv[3]) * (1e-3 + abs(q))]
if bad:
    sys.exit(f'{len(bad)} of {len(x)} numbers differ, first {bad[0][0]} and {bad[0][1]}')
PY
}

for dev in ref cuda; do
	works act-stats-$dev on $dev act-stats -m "$t/teacher" --dtype f32 -q "$t/tok" -o "$t/stats.$dev"
	works kd-train-$dev on $dev kd-train --teacher "$t/teacher" --student "$t/student" --data "$t/tok" --steps 3 --batch 2 --lr 1e-2 \
		--dtype f32 --threads 1 -q -o "$t/run.$dev"
done
works act-stats-equal artdiff --tolerance 1e-3 "$t/stats.ref" "$t/stats.cuda"
near kd-train-equal "$t/run.ref/metrics.jsonl" "$t/run.cuda/metrics.jsonl" 2e-4
works kd-train-bf16 on cuda kd-train --teacher "$t/teacher" --student "$t/student" --data "$t/tok" --steps 2 --batch 2 --lr 1e-2 --dtype bf16 \
	-q -o "$t/run.bf16"
# kd NAME TOLERANCE OPTION...: three steps on both, the same losses
kd() {
	name=$1 tol=$2
	shift 2
	for dev in ref cuda; do
		on $dev kd-train --teacher "$t/teacher" --student "$t/student" --data "$t/tok" --steps 3 --batch 2 --lr 1e-2 --threads 1 -q "$@" \
			-o "$t/$name.$dev" >"$t/err" 2>&1 || no "$name-$dev" "$(cat "$t/err")"
	done
	near "$name" "$t/$name.ref/metrics.jsonl" "$t/$name.cuda/metrics.jsonl" "$tol"
}
kd adapters 2e-4 --dtype f32 --lora q_proj,down_proj --lora-rank 4
kd documents 2e-4 --dtype f32 --documents apart --recompute=full --hidden-loss relation@last:last
kd relations 2e-4 --dtype f32 --hidden-loss relation@last:last
# heads of 64 in bf16: attention on tensor cores
mkmodel -q --layers 2 --hidden 64 --ffn 40 --heads 2 --kv-heads 1 --head-dim 64 --vocab 64 --tied -o "$t/wide"
mkmodel -q --layers 1 --hidden 32 --ffn 24 --heads 2 --kv-heads 2 --head-dim 64 --vocab 64 --seed 3 -o "$t/wide-student"
kd tensor-cores 2e-2 --teacher "$t/wide" --student "$t/wide-student" --dtype bf16 --documents apart
kd relations-fixed 2e-4 --dtype f32 --hidden-loss relation@last:last --hidden-alpha fixed
on cuda kd-train --teacher "$t/teacher" --student "$t/student" --data "$t/tok" --steps 3 --batch 2 --lr 1e-2 --threads 1 -q --graph --dtype f32 \
	--hidden-loss relation@last:last --hidden-alpha fixed -o "$t/graph" >"$t/err" 2>&1 || no graph "$(cat "$t/err")"
near graph-equal "$t/relations-fixed.cuda/metrics.jsonl" "$t/graph/metrics.jsonl" 0
same graph-same-bytes "$(cksum <"$t/graph/student/model.safetensors")" "$(cksum <"$t/relations-fixed.cuda/student/model.safetensors")"
train() { kd-train --teacher "$t/teacher" --student "$t/student" --data "$t/tok" --steps 3 --batch 2 -q -o "$t/refused" "$@"; }
fails graph-on-the-host 69 "the cpu backend cannot replay" train --device cpu --graph
fails graph-with-dynamic 2 "hidden-alpha dynamic" train --graph --hidden-loss cosine@last:last
fails graph-with-zero-2 2 "zero 2" train --graph --zero 2
# the teacher in 8 bits: 24 rows by emulation, 48 as tensor cores take them; how far it is from itself in 32
kd fp8-teacher 2e-2 --teacher "$t/wide" --student "$t/wide-student" --dtype f32 --teacher-dtype fp8
kd fp8-tensor-cores 2e-2 --teacher "$t/wide" --student "$t/wide-student" --dtype bf16 --teacher-dtype fp8 --batch 4 --micro 4
for dev in cpu cuda; do
	on $dev kd-train --teacher "$t/wide" --student "$t/wide" --data "$t/tok" --steps 1 --batch 4 --lr 0 --min-lr 0 --dtype f32 --teacher-dtype fp8 -q \
		-o "$t/self.$dev" >"$t/err" 2>&1 || no fp8-self-$dev "$(cat "$t/err")"
	kl=$(sed -n 's|.*"kd/kl":\([^,}]*\).*|\1|p' "$t/self.$dev/metrics.jsonl")
	if awk "BEGIN { exit !($kl > 1e-9 && $kl < 0.03) }"; then ok fp8-self-$dev; else no fp8-self-$dev "kd/kl $kl"; fi
done
if [ -z "${ADZE_CUDA_LIB:-}" ]; then
	fails fp8-old-gpu 69 "no products of 8-bit floats" env SHIM_CAPABILITY=80 ADZE_LIB="$shim" kd-train --device cuda --teacher "$t/teacher" \
		--student "$t/student" --data "$t/tok" --steps 1 --batch 2 -q --teacher-dtype fp8 -o "$t/refused8"
fi
fails fp8-of-no-teacher 2 "teacher-dtype fp8" kd-train --student "$t/student" --data "$t/tok" --loss ce --teacher-dtype fp8 -q -o "$t/bad"
fails fp8-streamed 2 "exclude each other" train --teacher-dtype fp8 --teacher-place host
kd best-tokens 2e-4 --dtype f32 --top-k 9 --tail zero
# batches and what a cached teacher says of them are read a step ahead, over the end of an epoch
works cache on ref kd-train --teacher "$t/teacher" --data "$t/tok" --top-k 9 --cache-teacher "$t/cache" -q
for dev in ref cuda; do
	on $dev kd-train --teacher-cache "$t/cache" --student "$t/student" --data "$t/tok" --steps 6 --batch 4 --lr 1e-2 --threads 1 -q --dtype f32 \
		-o "$t/cached.$dev" >"$t/err" 2>&1 || no cached-$dev "$(cat "$t/err")"
done
near cached "$t/cached.ref/metrics.jsonl" "$t/cached.cuda/metrics.jsonl" 1e-3
kd all-losses 2e-4 --dtype f32 --loss jsd,tvd,mse,cos,kl,ce
for dev in ref cuda; do
	on $dev ablate -m "$t/teacher" -q --metric kl "$t/tok" -o "$t/ablate.$dev" >"$t/err" 2>&1 || no ablate-$dev "$(cat "$t/err")"
done
works ablate artdiff --tolerance 1e-4 "$t/ablate.ref" "$t/ablate.cuda"
if [ -z "${ADZE_CUDA_LIB:-}" ]; then
	export SHIM_GPUS=0
	fails no-gpu 69 "no usable GPU" on cuda act-stats -m "$t/teacher" -q "$t/tok" -o "$t/bad"
	unset SHIM_GPUS
fi
fails no-such-gpu 69 "cuda:7" env ADZE_LIB="$shim" act-stats -m "$t/teacher" --device cuda:7 -q "$t/tok" -o "$t/bad"
fails gpu-is-a-number 2 "cuda:x" act-stats -m "$t/teacher" --device cuda:x -q "$t/tok" -o "$t/bad"
