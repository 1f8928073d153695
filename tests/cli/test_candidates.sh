#!/bin/sh
# test_candidates.sh - budgets, formats and refusals of candidates
#
# SPDX-License-Identifier: Apache-2.0
set -u
t=$(mktemp -d) && trap 'rm -rf "$t"' EXIT

ok() { echo "ok $1"; }
no() { echo "not ok $1: $2"; }
same() { if [ "$2" = "$3" ]; then ok "$1"; else no "$1" "got '$2', expected '$3'"; fi; }
# fails NAME CODE TEXT COMMAND...
fails() {
	name=$1 code=$2 text=$3
	shift 3
	"$@" >"$t/out.txt" 2>"$t/err" </dev/null
	rc=$?
	if [ $rc -ne "$code" ]; then no "$name" "exit code $rc, expected $code: $(cat "$t/err")"
	elif [ "$(wc -l <"$t/err")" -ne 1 ]; then no "$name" "not one line on stderr: $(cat "$t/err")"
	elif ! grep -q -F -- "$text" "$t/err"; then no "$name" "no '$text' in: $(cat "$t/err")"
	else ok "$name"; fi
}

mkdir "$t/15b"
cat >"$t/15b/config.json" <<END
{"architectures": ["NemotronForCausalLM"], "model_type": "nemotron", "hidden_size": 6144, "intermediate_size": 24576,
 "num_hidden_layers": 32, "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 256000,
 "hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5, "rope_theta": 10000,
 "max_position_embeddings": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}
END
grid8="--layers 29:32 --heads 32,48 --ffn-ratio 2.5,3,3.5,4 --hidden 4096,4608,5120,5632,6144"
grid4="--layers 29:32 --heads 24,32,48 --ffn-ratio 2.5,3,3.5,4 --hidden 2560,3072,3584,4096,4608"
# shellcheck disable=SC2086
{
	candidates -q -m "$t/15b" $grid8 --params 7.8e9:8.5e9 --format tsv >"$t/8b"
	candidates -q -m "$t/15b" $grid4 --params 4e9 --tolerance 5% --format tsv >"$t/4b"
	candidates -q -m "$t/15b" $grid8 --format tsv >"$t/all8"
	candidates -q -m "$t/15b" $grid4 --format tsv >"$t/all4"
}
same "first columns" "$(head -n 1 "$t/8b" | cut -f1-9 | tr '\t' ' ')" \
	"id layers hidden ffn heads kv_heads head_dim params nonembedding"
same "8B: 15 of 160" "$(sed 1d "$t/8b" | wc -l) $(sed 1d "$t/all8" | wc -l)" "15 160"
same "4B: 18 of 240" "$(sed 1d "$t/4b" | wc -l) $(sed 1d "$t/all4" | wc -l)" "18 240"
same "Minitron-8B is number 4" "$(sed -n 5p "$t/8b" | cut -f1-9 | tr '\t' ' ')" \
	"4 32 4096 16384 48 8 128 8271699968 6174547968"
same "Minitron-4B is there" "$(grep -c "32	3072	9216	24	8	128	4190509056" "$t/4b")" 1
same "the teacher itself" "$(candidates -q -m "$t/15b" --format tsv | sed 1d | cut -f8)" 15628775424
same "config.json by its own name" "$(candidates -q -m "$t/15b/config.json" --format tsv | sed 1d | cut -f8)" 15628775424
same "top by a column" "$(candidates -q -m "$t/15b" --layers 1:9 --top 2 --by layers --format tsv | sed 1d | cut -f2 | tr '\n' ' ')" "9 8 "
same "smallest first" "$(candidates -q -m "$t/15b" --layers 1:9 --top 2 --by params:asc --format tsv | sed 1d | cut -f2 | tr '\n' ' ')" "1 2 "
same "memory is an upper bound" "$(candidates -q -m "$t/15b" --layers 1:32 --memory 16Gi --format tsv | sed 1d | awk -F'\t' '$10 > 16 * 1024 ^ 3' | wc -l)" 0
same "json" "$(candidates -q -m "$t/15b" --layers 3 --format json | grep -c '"layers": 3')" 1
candidates -q -m "$t/15b" --layers 30:32 -o "$t/cand"
if command -v artcat >/dev/null; then
	same "artifact" "$(artcat "$t/cand" | grep -c '"nonembedding"')" 3
	artcheck "$t/cand" >/dev/null 2>&1 && ok "artifact passes artcheck" || no "artifact passes artcheck" "refused"
fi

fails "unknown option" 2 "--layer-count" candidates -q -m "$t/15b" --layer-count 3
fails "junk in a list" 2 "29:x" candidates -q -m "$t/15b" --layers 29:x
fails "ratio without a whole number" 2 "not a whole number" candidates -q -m "$t/15b" --hidden 4097 --ffn-ratio 2.5
fails "both ways of ffn" 2 "exclude each other" candidates -q -m "$t/15b" --ffn 4096 --ffn-ratio 2
fails "beyond the parent" 2 "hidden 8192: the model has 6144" candidates -q -m "$t/15b" --hidden 8192
fails "empty budget" 2 "nothing lies between" candidates -q -m "$t/15b" --params 9e9:8e9
fails "nothing fits" 1 "no shape of the grid fits" candidates -q -m "$t/15b" --params 1:2
fails "bad column" 2 "--by 'size'" candidates -q -m "$t/15b" --by size
echo '{"model_type": "nemotron"' >"$t/broken.json"
fails "broken config" 65 "broken.json" candidates -q -m "$t/broken.json"
