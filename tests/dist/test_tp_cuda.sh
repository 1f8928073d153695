#!/bin/sh
# test_tp_cuda.sh - models spread over processes (kd-train --tp) that compute with the CUDA kernels and exchange what lies on GPUs by NCCL: the
# losses, norms and student of one process on the CPU.  Without GPUs (tests/cuda/shim, whose memory the host cannot touch), or with
# ADZE_CUDA_LIB, the folder of the real backends, on the GPUs that are here.
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
. tests/dist/mpi.sh
export ADZE_COMM_TIMEOUT=60 FAKE_NCCL_DIR="$t"
lib=${ADZE_CUDA_LIB:-$t/lib}
if [ -z "${ADZE_CUDA_LIB:-}" ]; then
	gpus=4 tolerance=1e-5
	mkdir "$lib" && ln -s "$PWD/$B"/tests/cuda/adze-cuda.so "$PWD/$B"/tests/cuda/adze-nccl.so "$PWD/$B"/lib/adze/adze-mpi.so "$lib/"
else
	gpus=$(nvidia-smi -L | grep -c '^GPU') tolerance=1e-3
fi
sh tests/cli/tiny-tokenizer.sh "$t/tok" || exit 1
model() { mkmodel -q --layers 1 --head-dim 8 --vocab 268 --eos 264 --tokenizer "$t/tok" "$@" || exit 1; }
model --hidden 32 --heads 8 --kv-heads 4 --ffn 48 --tied -o "$t/m"
model --like "$t/m" --std 0.2 --seed 2 --store f32 -o "$t/s"
model --family nemotron --hidden 24 --heads 4 --kv-heads 4 --ffn 40 --biases --std 0.2 --seed 2 --store f32 -o "$t/n"
calib-sample -q -t "$t/m" --documents paragraph --samples 8 --seq 16 LICENSE -o "$t/c.tok" || exit 1
calib-sample -q -t "$t/m" --documents paragraph --samples 2 --seq 16 README.md -o "$t/v.tok" || exit 1
kd="kd-train --teacher $t/m --data $t/c.tok --valid $t/v.tok --micro 2 --steps 2 --batch 4 --lr 3e-3 --eps 1e-5 --save-dtype f32 --dtype f32 --threads 1 -q"
every="$kd --student $t/n --loss kl:1,rkl:1,jsd:1,tvd:1,mse:0.1,cos:1,ce:0.5 --temperature 1.5 --weigh wsl --recompute"
# spread N COMMAND...: over N GPUs
spread() { np=$1; shift; many "$np" env ADZE_LIB="$lib" SHIM_GPUS="$np" "$@" --device cuda; }

$kd --student "$t/s" --device cpu -o "$t/k1" || exit 1
works "--tp 2" spread 2 $kd --student "$t/s" --tp 2 -o "$t/k2"
equal "llama, tied, over 2" "$t/k1" "$t/k2"
if [ "$gpus" -ge 4 ]; then
	$every --device cpu -o "$t/n1" || exit 1
	SHIM_GUARD=0
	export SHIM_GUARD
	works "--tp 2 --zero 2" spread 4 $every --tp 2 --zero 2 -o "$t/n4"
	equal "nemotron, untied, every loss, recomputed, 2 x 2, zero 2" "$t/n1" "$t/n4"
fi
spread 2 $kd --student "$t/s" --tp 2 --stop-after 1 -o "$t/c" >"$t/out.txt" 2>"$t/err"
same "a checkpoint of two GPUs" "$?" 75
works "goes on alone on the CPU" $kd --student "$t/s" --device cpu -o "$t/c"
equal "goes on alone on the CPU" "$t/k1" "$t/c"
fails "captured steps" 2 "--tp does not go with --graph" env ADZE_LIB="$lib" SHIM_GPUS=1 $kd --student "$t/s" --tp 2 --graph --device cuda -o "$t/bad"
if [ -z "${ADZE_CUDA_LIB:-}" ]; then
	rm "$lib/adze-nccl.so"
	spread 2 $kd --student "$t/s" --tp 2 -o "$t/bad" >"$t/out.txt" 2>"$t/err"
	same "without NCCL: one line" "$? $(grep -c 'by NCCL: no shared object' "$t/err" | sed 's/[12]/said/')" "69 said"
fi
