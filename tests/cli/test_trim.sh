#!/bin/sh
# test_trim.sh - trim as a user meets it: measured rankings, candidates, configs, damaged models, kills
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh

mkdir "$t/tok"
cp tests/golden/tokenizers/smollm.json "$t/tok/tokenizer.json"
i=0
while [ $i -lt 60 ]; do
	echo "the cat sat on $i mats and the hat was $((i * i)) wide, what a world"
	i=$((i + 1))
done >"$t/text"
for f in llama nemotron; do
	mkmodel -q --family $f --layers 4 --hidden 48 --ffn 64 --heads 6 --kv-heads 2 --head-dim 8 --vocab 300 \
		$([ $f = llama ] && echo --tied) --tokenizer "$t/tok" --seed 3 -o "$t/$f" || no "mkmodel $f" failed
done
calib-sample -q --eos none -t "$t/llama" --samples 4 --seq 32 "$t/text" -o "$t/calib" || no calib-sample failed
for f in llama nemotron; do
	act-stats -q --device ref -m "$t/$f" "$t/calib" | rank -q -o "$t/$f.rank" || no "rank $f" failed
done

for f in llama nemotron; do
	works "trim $f by all axes" trim -q -m "$t/$f" -r "$t/$f.rank" --layers 3 --hidden 40 --ffn 24 --heads 4 -o "$t/small"
	same "config of trimmed $f" "$(grep -E '"(hidden_size|intermediate_size|num_attention_heads|num_key_value_heads|head_dim|num_hidden_layers)"' \
		"$t/small/config.json" | tr -dc '0-9\n' | tr '\n' ' ')" "40 24 4 2 8 3 "
	works "trimmed $f is read again" trim -q -m "$t/small" --drop 0 --dry-run
	works "trimmed $f computes" logits -m "$t/small" --device ref --dtype f32 --ids 1,2,3
	same "tokenizer goes along ($f)" "$(cmp "$t/small/tokenizer.json" "$t/tok/tokenizer.json" && echo same)" same
	works "twice the same bytes: first ($f)" trim -q -f -m "$t/$f" -r "$t/$f.rank" --hidden 40 -o "$t/one"
	works "twice the same bytes: second ($f)" trim -q -f -m "$t/$f" -r "$t/$f.rank" --hidden 40 -o "$t/two"
	same "twice the same bytes ($f)" "$(diff -r "$t/one" "$t/two" && echo same)" same
	works "nothing cut ($f)" trim -q -f -m "$t/$f" --layers 4 -o "$t/whole"
	same "nothing cut keeps every byte ($f)" "$(cmp "$t/whole/model.safetensors" "$t/$f/model.safetensors" && echo same)" same
	rm -rf "$t/small"
done

# whole query groups
rank -q --metric kv-contrib -o "$t/kv.rank" "$t/kv.st" 2>/dev/null && no "kv-contrib" "without statistics"
act-stats -q --device ref --sites all -m "$t/llama" "$t/calib" -o "$t/kv.st" && rank -q --metric kv-contrib "$t/kv.st" -o "$t/kv.rank"
works "trim a query group" trim -q -m "$t/llama" -r "$t/kv.rank" --kv-heads 1 -o "$t/kv1"
same "a group goes with its query heads" "$(grep -E '"num_(attention|key_value)_heads"' "$t/kv1/config.json" | tr -dc '0-9\n' | tr '\n' ' ')" "3 1 "
same "the kept group is the first of the ranking" "$(grep -o '"kv_heads":\[\[[0-9]*\]' "$t/kv1/adze-kept.json" | tr -dc 0-9)" \
	"$(rank --show kv:0 "$t/kv.rank" | awk 'NR == 2 { print $2 }')"
works "and heads of the group that stays" trim -q -m "$t/llama" -r "$t/kv.rank" --kv-heads 1 --heads 2 -o "$t/kv12"
works "its config leads there too" trim -q -m "$t/llama" -r "$t/kv.rank" --config "$t/kv12/config.json" -o "$t/kv12b"
same "its config gives the same weights" "$(cmp "$t/kv12/model.safetensors" "$t/kv12b/model.safetensors" && echo same)" same
candidates -q -m "$t/llama" --kv-heads 1 --heads 3 -o "$t/kvcand"
works "candidate with fewer groups" trim -q -m "$t/llama" -r "$t/kv.rank" --candidate "$t/kvcand#1" -o "$t/kv1c"
same "candidate gives the same weights" "$(cmp "$t/kv1/model.safetensors" "$t/kv1c/model.safetensors" && echo same)" same
fails "more heads than the groups have" 2 "heads 6: 1 query groups have 3" trim -q -m "$t/llama" -r "$t/kv.rank" --kv-heads 1 --heads 6 -o "$t/bad"

# biases for what went
works "compensate" trim -q -m "$t/llama" -r "$t/kv.rank" --ffn 32 --kv-heads 1 --hidden 40 --compensate "$t/kv.st" -o "$t/comp"
same "the config says so" "$(grep -c -E '"(attention|mlp)_bias": true' "$t/comp/config.json")" 2
works "it computes" logits -m "$t/comp" --device ref --dtype f32 --ids 1,2,3
works "it is trimmed again" trim -q -m "$t/comp" --drop 1 -o "$t/comp2"
fails "compensate nothing" 2 "no heads and no neurons are cut" trim -q -m "$t/llama" --drop 1 --compensate "$t/kv.st" -o "$t/bad"
fails "compensate with another model's statistics" 65 "statistics are of model" trim -q -m "$t/nemotron" -r "$t/nemotron.rank" --ffn 32 \
	--compensate "$t/kv.st" -o "$t/bad"
mkmodel -q --family qwen2 --layers 1 --hidden 16 --ffn 24 --heads 4 --kv-heads 2 --vocab 300 --tokenizer "$t/tok" -o "$t/qwen2"
act-stats -q --device ref -m "$t/qwen2" "$t/calib" -o "$t/q.st" && rank -q "$t/q.st" -o "$t/q.rank"
fails "a family without such biases" 2 "qwen2 models have no bias behind the MLP" trim -q -m "$t/qwen2" -r "$t/q.rank" --ffn 12 --compensate "$t/q.st" \
	-o "$t/bad"
fails "compensate and merge" 2 "exclude each other" trim -q -m "$t/llama" -r "$t/kv.rank" --drop 2 --ffn 32 --merge --compensate "$t/kv.st" -o "$t/bad"

# sizes from a list and from a config
candidates -q -m "$t/llama" --layers 2:4 --hidden 40,48 --ffn 32,64 --heads 4,6 --params 1:1e9 -o "$t/cand"
works "candidate" trim -q -f -m "$t/llama" -r "$t/llama.rank" --candidate "$t/cand#5" -o "$t/c5"
row=$(candidates -q -m "$t/llama" --layers 2:4 --hidden 40,48 --ffn 32,64 --heads 4,6 --params 1:1e9 --format tsv | sed -n 6p)
plan=$(trim -m "$t/c5" --drop 0 --dry-run -q | sed -n 2p)
same "candidate has the listed size" "$(echo "$plan" | cut -f2-5,7)" "$(echo "$row" | cut -f2,3,4,5,8)"
works "config" trim -q -f -m "$t/llama" -r "$t/llama.rank" --config "$t/c5/config.json" -o "$t/c5b"
same "config gives the same weights as the candidate" "$(cmp "$t/c5/model.safetensors" "$t/c5b/model.safetensors" && echo same)" same
works "ranking on stdin" sh -c "trim -q -f -m '$t/llama' --hidden 40 -o '$t/p1' <'$t/llama.rank'"
works "drop needs no ranking" trim -q -m "$t/llama" --drop 1-2 -o "$t/d12"
same "dropped layers" "$(grep -o '"layers":\[[0-9,]*\]' "$t/d12/adze-kept.json")" '"layers":[0,3]'
trim -q -m "$t/llama" -r "$t/llama.rank" --hidden 40 --dry-run=json >"$t/plan.json"
same "dry run writes nothing and says the size" "$(grep -c '"hidden":40' "$t/plan.json")" 1

# tensors of several pieces, written by several threads; streamed and sharded random models
mkmodel -q --fast --layers 1 --hidden 192 --ffn 64 --heads 4 --vocab 40000 --tied --shard-bytes 20M -o "$t/wide"
same "mkmodel makes shards" "$(find "$t/wide" -name 'model-0000?-of-00002.safetensors' | wc -l)" 2
rank -q --metric random -m "$t/wide" -o "$t/wide.rank"
works "pieces: one thread" trim -q -m "$t/wide" -r "$t/wide.rank" --hidden 190 --threads 1 -o "$t/w1"
works "pieces: seven threads" trim -q -m "$t/wide" -r "$t/wide.rank" --hidden 190 --threads 7 -o "$t/w7"
same "pieces: the same bytes" "$(cmp "$t/w1/model.safetensors" "$t/w7/model.safetensors" && echo same)" same
works "nothing cut of shards" trim -q -m "$t/wide" --layers 1 -o "$t/w0"
works "one file of the same model" mkmodel -q --fast --layers 1 --hidden 192 --ffn 64 --heads 4 --vocab 40000 --tied -o "$t/wide1"
same "shards and one file hold the same" "$(cmp "$t/w0/model.safetensors" "$t/wide1/model.safetensors" && echo same)" same
works "align" trim -q -m "$t/llama" -r "$t/llama.rank" --hidden 34 --ffn 30 --align 16 -o "$t/al"
same "aligned sizes" "$(grep -E '"(hidden|intermediate)_size"' "$t/al/config.json" | tr -dc '0-9\n' | tr '\n' ' ')" "32 32 "
works "merge" trim -q -m "$t/llama" --drop 2-3 --merge -o "$t/me"
same "merge is in the kept map" "$(grep -c '"merged":true' "$t/me/adze-kept.json")" 1
fails "merge without a block before" 2 "merge: block 0" trim -q -m "$t/llama" --drop 0 --merge -o "$t/bad"
fails "add-back of more than half" 2 "add-back needs at least half" trim -q -m "$t/llama" -r "$t/llama.rank" --heads 2 --add-back -o "$t/bad"

# refusals
fails "ranking of another model" 65 "ranking was made for model" trim -q -m "$t/llama" -r "$t/nemotron.rank" --hidden 40 -o "$t/bad"
fails "not a ranking" 65 "$t/cand" trim -q -m "$t/llama" -r "$t/cand" --hidden 40 -o "$t/bad"
fails "uneven heads" 2 "not a multiple of the 2 query groups" trim -q -m "$t/llama" -r "$t/llama.rank" --heads 5 -o "$t/bad"
fails "larger than the model" 2 "hidden 64: the model has 48" trim -q -m "$t/llama" -r "$t/llama.rank" --hidden 64 -o "$t/bad"
fails "nothing asked for" 2 "say what to keep" trim -q -m "$t/llama" -o "$t/bad"
fails "junk in a number" 2 "40x" trim -q -m "$t/llama" -r "$t/llama.rank" --hidden 40x -o "$t/bad"
fails "bad drop list" 2 "--drop" trim -q -m "$t/llama" --drop 3-1 -o "$t/bad"
fails "no such candidate" 65 "no candidate 99" trim -q -m "$t/llama" -r "$t/llama.rank" --candidate "$t/cand#99" -o "$t/bad"
fails "no such model" 74 "$t/none" trim -q -m "$t/none" -r "$t/llama.rank" --hidden 40 -o "$t/bad"
works "output exists: first" trim -q -m "$t/llama" --drop 0 -o "$t/there"
before=$(ls -l "$t/there")
trim -q -m "$t/llama" --drop 1 -o "$t/there" 2>/dev/null && no "existing output" "was replaced without -f"
same "existing output is left alone" "$(ls -l "$t/there")" "$before"

# damaged models: one line that names the file, 65, nothing written
damage() {
	rm -rf "$t/hurt"
	cp -r "$t/llama" "$t/hurt"
}
cut="trim -q -m $t/hurt -r $t/llama.rank --hidden 40 -o $t/bad"
size=$(wc -c <"$t/llama/model.safetensors")
for keep in 0 4 8 100 $((size / 2)) $((size - 1)); do
	damage
	head -c "$keep" "$t/llama/model.safetensors" >"$t/hurt/model.safetensors"
	# shellcheck disable=SC2086
	fails "weights cut to $keep bytes" 65 "$t/hurt/model.safetensors" $cut
done
damage
printf '\377\377\377\377\377\377\377\177' | dd of="$t/hurt/model.safetensors" conv=notrunc status=none
# shellcheck disable=SC2086
fails "header length out of range" 65 "header length" $cut
damage
printf '[[[[' | dd of="$t/hurt/model.safetensors" bs=1 seek=8 conv=notrunc status=none
# shellcheck disable=SC2086
fails "header is not JSON" 65 "$t/hurt/model.safetensors" $cut
damage
sed -i 's/model.layers.1.mlp.up_proj.weight/model.layers.1.mlp.uq_proj.weight/' "$t/hurt/model.safetensors"
# shellcheck disable=SC2086
fails "tensor missing" 65 "'model.layers.1.mlp.up_proj.weight' is missing" $cut
damage
sed -i 's/"intermediate_size": 64/"intermediate_size": 65/' "$t/hurt/config.json"
# shellcheck disable=SC2086
fails "shapes do not match the config" 65 "expected [65, 48]" $cut
damage
head -c 100 "$t/llama/config.json" >"$t/hurt/config.json"
# shellcheck disable=SC2086
fails "config cut short" 65 "$t/hurt/config.json" $cut
damage
sed -i 's/"llama"/"llamb"/' "$t/hurt/config.json"
# shellcheck disable=SC2086
fails "unknown model type" 65 "model_type 'llamb'" $cut
damage
rm "$t/hurt/model.safetensors"
# shellcheck disable=SC2086
fails "no weights" 65 "no model.safetensors" $cut

damage
printf '\000\000\200\177' | dd of="$t/hurt/model.safetensors" conv=notrunc status=none bs=1 seek=$((size - 4))
fails "a model that does not compute" 65 "not finite" trim -q -m "$t/hurt" --drop 1 -o "$t/bad"
works "unless nobody asks" trim -q -m "$t/hurt" --drop 1 --no-check -o "$t/inf"

# killed at any moment: the final name is absent or whole
mkmodel -q --layers 8 --hidden 256 --ffn 1024 --heads 4 --vocab 8000 -o "$t/large"
partial=
for at in "write 1 model.safetensors" "write 7 model.safetensors" "fsync 1 model.safetensors" "rename 1 config.json" "rename 1 kill"; do
	for how in kill KILL; do
		rm -rf "$t/kill"
		upon ${at% *} "${at##* }" $how trim -q -m "$t/large" --drop 0 -o "$t/kill"
		[ $? -eq 137 ] || partial="$partial: $at was not reached"
		if [ -e "$t/kill" ]; then
			trim -q -m "$t/kill" --drop 0 --dry-run >/dev/null 2>&1 || partial="$partial: after $at"
		fi
	done
done
same "kill -9 leaves nothing partial" "$partial" ""
rm -rf "$t/kill"
works "works after kills" trim -q -m "$t/large" --drop 0 -o "$t/kill"
