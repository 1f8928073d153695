#!/bin/sh
# test_candidates.sh - budgets, formats and refusals of candidates
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh

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
same "memory between bounds" "$(candidates -q -m "$t/15b" --layers 1:32 --memory 16Gi:18Gi --format tsv | sed 1d | awk -F'\t' '$10 < 16 * 1024 ^ 3 || $10 > 18 * 1024 ^ 3' | wc -l)" 0
same "memory of a batch and context" "$(candidates -q -m "$t/15b" --layers 1 --batch 3 --context 100 --format tsv | sed 1d | awk -F'\t' '{ print $10 - 2 * $8 }')" \
	$((2 * 2 * 3 * 100 * 8 * 128))
same "~ is a tolerance of its own" "$(candidates -q -m "$t/15b" --layers 1:32 --flops 20e9~2% --format tsv | sed 1d | awk -F'\t' '$11 < 19.6e9 || $11 > 20.4e9' | wc -l)" 0
same "active of a dense model" "$(candidates -q -m "$t/15b" --layers 1:32 --active 8e9: --format tsv | sed 1d | awk -F'\t' '$8 != $12 || $8 < 8e9' | wc -l)" 0
same "divisors" "$(candidates -q -m "$t/15b" --hidden 4000:4300 --ffn 4000:9000:100 --divisor hidden=64,ffn=128 --format tsv | sed 1d | awk -F'\t' '$3 % 64 || $4 % 128' | wc -l)" 0
same "ratios become multiples" "$(candidates -q -m "$t/15b" --hidden 4097 --ffn-ratio 2:3:0.5 --divisor ffn=256 --format tsv | sed 1d | cut -f4 | tr '\n' ' ')" "8192 10240 12288 "
# H100: 2 bytes x (blocks + output matrix) at 3.35e12 B/s, the cache of one position is nothing
same "latency is a roofline" "$(candidates -q -m "$t/15b" --context 1 --hardware h100 --format tsv | sed 1d | awk -F'\t' '{ printf "%.5f", $14 * 3.35e12 / 2 / ($8 - 256000 * 6144) }')" 1.00000
same "compute bound at a large batch" "$(candidates -q -m "$t/15b" --context 1 --batch 4096 --hardware 1e12:1e12 --format tsv | sed 1d | awk -F'\t' '{ printf "%.2f", $14 * 1e12 / 4096 / 2 / ($8 - 256000 * 6144) }')" 1.00
same "latency limit" "$(candidates -q -m "$t/15b" --layers 1:32 --hardware a100 --latency 5ms:9ms --format tsv | sed 1d | awk -F'\t' '$14 < 5e-3 || $14 > 9e-3' | wc -l)" 0
candidates -q -m "$t/15b" --layers 8:32:8 --kv-heads 1,8 --heads 24,48 --hardware a100 --pareto params,latency --format tsv | sed 1d | cut -f8,14 | sort -n >"$t/front"
same "a front rises in both" "$(sort -g -k2 -c "$t/front" 2>&1)$([ "$(wc -l <"$t/front")" -gt 2 ] || echo short)" ""
same "no group gains heads: trim could not make it" "$(candidates -q -m "$t/15b" --heads 24,48 --kv-heads 2,4,8 --format tsv | sed 1d | awk -F'\t' '$5 > 6 * $6' | wc -l)" 0
grid='--layers 1:32 --hidden 2048:6144:64 --ffn 4096:24576:128 --heads 1:48 --kv-heads 1:8'
# shellcheck disable=SC2086
same "1.3e8 shapes" "$(candidates -q -m "$t/15b" $grid --params 8e9~1% --top 1 --format tsv 2>/dev/null | sed 1d | cut -f1,8)" "16120	8079996416"
echo '{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8, "vocab_size": 320, "rms_norm_eps": 1e-5}' >"$t/llama.json"
same "unloadable shapes are marked" "$(candidates -q -m "$t/llama.json" --heads 6,8 --format tsv | sed 1d | cut -f13 | tr '\n' ' ')" "0 1 "
same "or left out" "$(candidates -q -m "$t/llama.json" --heads 6,8 --loadable --format tsv | sed 1d | cut -f5)" 8
same "measured" "$(candidates -q -m "$t/llama.json" --layers 1,2 --measure --top 2 --threads 1 --format tsv | sed 1d | awk -F'\t' '$14 > 0 && $14 < 10' | wc -l)" 2
candidates -q -m "$t/15b" --layers 30:32 --hardware l4 -o "$t/cand"
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
fails "unknown hardware" 2 "hardware 'abacus'" candidates -q -m "$t/15b" --hardware abacus
fails "latency of nothing" 2 "--hardware" candidates -q -m "$t/15b" --latency 5ms
fails "bad divisor" 2 "--divisor 'vocab'" candidates -q -m "$t/15b" --divisor vocab=8
fails "nothing divides" 2 "no value is a multiple" candidates -q -m "$t/15b" --hidden 4100 --divisor hidden=64
fails "front of one column" 2 "two columns" candidates -q -m "$t/15b" --pareto params
fails "junk in a limit" 2 "--memory '5:x'" candidates -q -m "$t/15b" --memory 5:x
fails "a limit without ends" 2 "--memory ':'" candidates -q -m "$t/15b" --memory :
fails "measure how many" 2 "--top" candidates -q -m "$t/15b" --measure
fails "too long a list" 2 "more than" candidates -q -m "$t/15b" --layers 1:32 --hidden 1:6144 --heads 1:48 --kv-heads 1:8
fails "bad column" 2 "--by 'size'" candidates -q -m "$t/15b" --by size
echo '{"model_type": "nemotron"' >"$t/broken.json"
fails "broken config" 65 "broken.json" candidates -q -m "$t/broken.json"

# ---- published shapes: parameters and those without embeddings, as the papers' tables count them ----
# published NAME FAMILY LAYERS HIDDEN FFN HEADS KV VOCAB TOTAL BODY
published() {
	printf '{"model_type":"%s","num_hidden_layers":%d,"hidden_size":%d,"intermediate_size":%d,"num_attention_heads":%d,"num_key_value_heads":%d,"vocab_size":%d,
		"head_dim":128,"rms_norm_eps":1e-5,"norm_eps":1e-5,"partial_rotary_factor":0.5,"hidden_act":"%s","sliding_window":null,"tie_word_embeddings":false}' \
		"$2" "$3" "$4" "$5" "$6" "$7" "$8" "$([ "$2" = nemotron ] && echo relu2 || echo silu)" >"$t/published.json"
	same "$1" "$(candidates -q -m "$t/published.json" --format tsv | sed 1d | cut -f8,9 | tr '\t' ' ')" "$9 ${10}"
}
published Nemotron-4-15B nemotron 32 6144 24576 48 8 256000 15628775424 12483047424
published Nemotron-3-8B nemotron 32 4096 16384 32 32 256000 8540135424 6442983424
published Minitron-8B nemotron 32 4096 16384 48 8 256000 8271699968 6174547968
published Minitron-4B nemotron 32 3072 9216 24 8 256000 4190509056 2617645056
published Minitron-8B-Depth nemotron 16 6144 24576 48 8 256000 9387257856 6241529856
published width-7.74B nemotron 32 4096 16384 32 8 256000 7734829056 5637677056
published depth-width-7.91B nemotron 28 4608 16384 32 8 256000 7908885504 5549589504
published Llama-3.1-8B llama 32 4096 14336 32 8 128256 8030261248 6979588096
published Llama-3.1-Minitron-4B-Width llama 32 3072 9216 32 8 128256 4512746496 3724741632
published Llama-3.1-Minitron-4B-Depth llama 16 4096 14336 32 8 128256 4540469248 3489796096
published Mistral-NeMo-12B mistral 40 5120 14336 32 8 131072 12247782400 10905605120
published Mistral-NeMo-Minitron-8B mistral 40 4096 11520 32 8 131072 8414105600 7340363776
published Qwen3-8B qwen3 36 4096 12288 32 8 151936 8190735360 6946075648
published Qwen3-6.96B qwen3 32 3840 12288 32 8 151936 6955265792 5788397312
same "three widths, two head counts, two depths" "$(candidates -q -m "$t/15b" --hidden 96:160:32 --heads 24,32 --layers 7,8 --format tsv | sed 1d | wc -l)" 12
