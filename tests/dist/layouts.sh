#!/bin/sh
# layouts.sh [OPTION...] - prints the table of tests/results/layouts.md from kd-train --dry-run --world; options go to kd-train.  In a directory of its own
# it makes the config.json files that the planner reads: nothing else of these models is needed.
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2064
dir=$(mktemp -d) || exit 1
trap "rm -rf '$dir'" EXIT
# config NAME TYPE LAYERS HIDDEN FFN HEADS VOCABULARY ACTIVATION
config() {
	mkdir "$dir/$1"
	cat >"$dir/$1/config.json" <<-END
	{"model_type":"$2","num_hidden_layers":$3,"hidden_size":$4,"intermediate_size":$5,"num_attention_heads":$6,"num_key_value_heads":8,"head_dim":128,"vocab_size":$7,
	 "hidden_act":"$8","norm_eps":1e-5,"rms_norm_eps":1e-5,"partial_rotary_factor":0.5,"rope_theta":10000,"max_position_embeddings":4096,"tie_word_embeddings":false}
	END
}
config 15B nemotron 32 6144 24576 48 256000 relu2
config 8B nemotron 32 4096 16384 48 256000 relu2
config 4B nemotron 32 3072 9216 24 256000 relu2
config 70B llama 80 8192 28672 64 128256 silu
config 35B llama 80 6144 16384 64 128256 silu
for pair in "15B 8B" "8B 4B" "70B 35B"; do
	for world in 8 32; do
		# shellcheck disable=SC2086
		set -- $pair "$world" "$@"
		teacher=$1 student=$2
		shift 3
		kd-train --dry-run=json --world "$world" --gpu-mem 80G --teacher "$dir/$teacher" --student "$dir/$student" --seq 4096 --batch 1152 --tokens 94e9 "$@" >"$dir/$teacher.$world" || exit 1
	done
done
python3 - "$dir" <<'PY'
import json, sys
print('| pair | GPUs | layout | GB a GPU: all | student | teacher | activations | GB on the host | compute a step | GB sent a step in the node | of the teacher | between nodes | of the teacher | traffic a step | days |')
print('|---' * 15 + '|')
for teacher, student in ('15B', '8B'), ('8B', '4B'), ('70B', '35B'):
    for world in 8, 32:
        plan = json.load(open(f'{sys.argv[1]}/{teacher}.{world}'))
        l = plan['layouts'][plan['fits']]
        b = l['bytes']
        gb = lambda x: f'{x / 1e9:.1f}'
        sent = lambda link: f'{l["sent_" + link] / 1e9:.0f} | {l["teacher_" + link] / 1e9:.0f}'
        print(f'| {teacher} to {student} | {world} | {l["layout"]} | {gb(b["sum"])} | {gb(b["student"])} | {gb(b["teacher"])} | {gb(b["activations"])} | '
              f'{gb(l["host"])} | {l["step_seconds"]:.1f} s | {sent("node")} | {sent("net")} | {l["traffic_seconds"]:.1f} s | {l["days"]:.1f} |')
PY
