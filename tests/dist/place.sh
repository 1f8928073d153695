# place.sh - what is kept in another place changes no bit; source it after lib.sh: tiny models, data, and `both`
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154,SC2034
shim=$t/lib # the CUDA kernels on the host, and MPI
mkdir "$shim" && for f in "$PWD/$B"/tests/cuda/adze-*.so "$PWD/$B"/lib/adze/adze-mpi.so "$PWD/$B"/lib/adze/adze-cpu.so; do [ -e "$f" ] && ln -s "$f" "$shim/"; done
sh tests/cli/tiny-tokenizer.sh "$t/tok" || exit 1
mkmodel -q --layers 3 --hidden 32 --heads 4 --kv-heads 2 --head-dim 8 --ffn 48 --vocab 265 --eos 264 --tied --tokenizer "$t/tok" -o "$t/m" || exit 1
mkmodel -q --layers 4 --hidden 48 --heads 6 --kv-heads 2 --head-dim 8 --ffn 40 --vocab 265 --eos 264 --store f32 --tokenizer "$t/tok" -o "$t/w" || exit 1
mkmodel -q --like "$t/m" --std 0.2 --seed 2 --store f32 -o "$t/s" || exit 1
calib-sample -q -t "$t/m" --documents paragraph --samples 24 --seq 16 LICENSE -o "$t/c.tok" || exit 1
calib-sample -q -t "$t/m" --documents paragraph --samples 5 --seq 16 README.md -o "$t/v.tok" || exit 1
kd="kd-train --student $t/s --data x=$t/c.tok --valid x=$t/v.tok --micro 1 --batch 6 --steps 3 --lr 3e-3 --save-dtype f32 --threads 1 -q"
# what a run computed: its losses, bit for bit as far as the log has them, and its models
result() { grep -o '"[a-z/_]*":[^,}]*' "$1/metrics.jsonl" | grep -v 'per_s\|peak_share\|seconds' && find "$1" -name '*.safetensors' | sort | xargs cksum | cut -d' ' -f1,2; }
# both NAME COMMAND... OPTION...: the same without and with $option $place
both() {
	what=$1
	shift
	rm -rf "$t/a" "$t/b"
	works "$what, on the device" "$@" -o "$t/a"
	# shellcheck disable=SC2086
	works "$what, $place" "$@" $option $place -o "$t/b"
	result "$t/a" >"$t/ra" && result "$t/b" >"$t/rb"
	alike "$what, $place: the same bits" "$t/ra" "$t/rb"
}
