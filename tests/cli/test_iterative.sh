#!/bin/sh
# test_iterative.sh - importance in rounds: masks measure what trim would make, whole or block by block; one round is one
# shot; rankings of global scope and models whose widths differ from block to block
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
top=$PWD
sh tests/cli/tiny-tokenizer.sh "$t/tok" || exit 1
cd "$t" || exit 1
calib-sample -q -t tok --documents paragraph --samples 6 --seq 40 "$top/LICENSE" -o c.tok || exit 1
stats() { act-stats -q -f --dtype f32 --device cpu c.tok --micro 4 "$@"; }

# the kept units of a masked model have the statistics of the trimmed one, the others none
cat >same.py <<'END'
import json, subprocess, sys
def load(path):
    out = {}
    for line in subprocess.run(["artcat", path], stdout=subprocess.PIPE, check=True).stdout.splitlines():
        r = json.loads(line)
        if "site" in r:
            out[r["site"], r["layer"]] = r
    return out
masked, small, kept = load(sys.argv[1]), load(sys.argv[2]), json.load(open(sys.argv[3]))
H, D = int(sys.argv[4]), int(sys.argv[5])
def flat(x):
    x = x.get("data", x) if isinstance(x, dict) else x
    return [v for row in x for v in row] if isinstance(x[0], list) else x
worst = n = 0
for (site, layer), s in small.items():
    m = masked[site, kept["layers"][layer]]
    if "sums" not in s:
        a, b = [m["one_minus_cos"]], [s["one_minus_cos"]]
    else:
        p, q = flat(m["sums"]), flat(s["sums"])
        W, w = len(p) // 7, len(q) // 7
        if site in ("attn_in", "ffn_in"):
            idx = kept["hidden"]
        elif site == "attn_out":
            idx = [h * D + j for h in kept["heads"][layer] for j in range(D)]
        elif site == "attn_out_norm":
            idx = kept["heads"][layer]
        elif site == "attn_kv":
            idx = kept["kv_heads"][layer]
        else:
            F = len(kept["ffn"][layer])
            idx = [r * (W // (w // F)) + i for r in range(w // F) for i in kept["ffn"][layer]]
        a = [p[r * W + i] for r in range(7) for i in idx]
        b = q
        gone = set(range(W)) - set(idx)
        if any(p[r * W + i] for r in range(7) for i in gone):
            sys.exit("%s %d: a masked unit has statistics" % (site, layer))
    n += len(b)
    scale = max(map(abs, b)) + 1e-30
    worst = max([worst] + [abs(x - y) / scale for x, y in zip(a, b)])
if n < 1000 or worst > 1e-4:
    sys.exit("%d values, largest difference %g" % (n, worst))
END
for f in llama nemotron; do
	mkmodel -q --family $f --layers 4 --hidden 32 --heads 4 --kv-heads 2 --head-dim 8 --ffn 48 --vocab 265 --eos 264 --seed 4 \
		--tokenizer tok -o $f || exit 1
	stats -m $f -o one.st && rank -q -f one.st -o one.rank || exit 1
	stats -m $f --keep one.rank -o all.st
	works "$f: keeping everything changes nothing" artdiff -q one.st all.st
	stats -m $f --keep one.rank --layers 3 --hidden 24 --ffn 20 --heads 2 -o two.st
	stats -m $f --keep one.rank --layers 3 --hidden 24 --ffn 20 --heads 2 --memory 64Ki -o two.blocks.st
	works "$f: masks block by block" artdiff -q -t 1e-6 two.st two.blocks.st
	trim -q -f -m $f -r one.rank --layers 3 --hidden 24 --ffn 20 --heads 2 -o small
	stats -m small -o small.st
	works "$f: masked is trimmed" python3 same.py two.st small.st small/adze-kept.json 4 8
	rank -q -f two.st -o two.rank
	trim -q -f -m $f -r two.rank --layers 3 --hidden 24 --ffn 20 --heads 2 -o again
	works "$f: what was masked stays behind" cmp small/model.safetensors again/model.safetensors
	for m in wifv wanda-sp; do
		works "$f: $m of a masked model" rank -q -f two.st -m $f --metric $m -o m.rank
	done
done

# the pipeline
rounds() { make -s -f "$top/pipelines/iterative.mk" MODEL=llama CALIB=c.tok STATSOPTS="--dtype f32 --micro 4" RUNOPTS="--progress none -q" "$@"; }
works "four rounds" rounds WORK=w4 ROUNDS=4 FFN=20 HIDDEN=24 HEADS=2 LAYERS=3
works "four rounds: the target's shape" grep -q '"intermediate_size": 20' w4/student/config.json
works "four rounds: the last measures three quarters of the way" grep -q -e '--layers 4 --hidden 26 --ffn 27 --heads 4' w4/round4.stats.cmd
cp w4/round4.rank before && rounds WORK=w4 ROUNDS=4 FFN=20 HIDDEN=24 HEADS=2 LAYERS=3
works "twice does nothing" [ ! w4/round4.rank -nt before ]
works "query groups too" rounds WORK=wk ROUNDS=2 KV_HEADS=1 HEADS=2
works "query groups too: half of the way" grep -q -e '--kv-heads 2 --heads 4' wk/round2.stats.cmd
works "query groups too: the target's shape" grep -q '"num_key_value_heads": 1' wk/student/config.json
works "one round" rounds WORK=w1 ROUNDS=1 FFN=20
stats -m llama -o shot.st && rank -q -f shot.st -o shot.rank && trim -q -m llama -r shot.rank --ffn 20 -o shot
works "one round is one shot" cmp w1/student/model.safetensors shot/model.safetensors

# one comparison for all blocks: widths differ
for f in llama nemotron; do
	[ $f = nemotron ] || mkmodel -q -f --family llama --layers 4 --hidden 32 --heads 8 --kv-heads 2 --head-dim 8 --ffn 48 --vocab 265 \
		--eos 264 --tied --seed 4 --tokenizer tok -o llama || exit 1
	[ $f = llama ] || mkmodel -q -f --family nemotron --layers 4 --hidden 32 --heads 8 --head-dim 8 --ffn 48 --vocab 265 --eos 264 \
		--seed 5 --tokenizer tok -o nemotron || exit 1
	stats -m $f -o g.st && rank -q -f --scope global g.st -o g.rank || exit 1
	fails "$f: uneven widths are asked for" 2 "needs --allow-uneven" trim -q -m $f -r g.rank --ffn 20 -o x
	cut="--layers 3 --hidden 24 --ffn 20 --heads 4"
	# shellcheck disable=SC2086
	works "$f: uneven cut" trim -q -f -m $f -r g.rank $cut --allow-uneven -o uneven
	works "$f: lists in config.json that add up" python3 -c 'import json
c = json.load(open("uneven/config.json"))
f, h = c["adze_intermediate_sizes"], c["adze_num_attention_heads"]
assert sum(f) == 60 and sum(h) == 12 and len(set(f)) > 1 and max(f) == c["intermediate_size"], (f, h)
assert max(h) == c["num_attention_heads"], h'
	# shellcheck disable=SC2086
	stats -m $f --keep g.rank $cut -o two.st && stats -m uneven -o small.st
	works "$f: masked is trimmed, uneven" python3 same.py two.st small.st uneven/adze-kept.json 8 8
	stats -m uneven --memory 64Ki -o small.blocks.st
	works "$f: uneven blocks one by one" artdiff -q -t 1e-6 small.st small.blocks.st
	# shellcheck disable=SC2086
	stats -m $f --keep g.rank $cut --memory 64Ki -o two.blocks.st
	works "$f: uneven masks one by one" artdiff -q -t 1e-6 two.st two.blocks.st
	works "$f: depth of an uneven model" trim -q -f -m uneven --drop 1 -o uneven2
	works "$f: its widths go along" python3 -c 'import json
a, b = (json.load(open(p + "/config.json"))["adze_intermediate_sizes"] for p in ("uneven", "uneven2"))
assert b == [a[0], a[2]], (a, b)'
	works "$f: an uneven student is trained" kd-train -q -f --dtype f32 --teacher $f --student uneven --data c.tok --steps 2 --batch 2 \
		--lr 1e-3 -o run
	works "$f: and keeps its lists" trim -q -m run/student --drop 0 --dry-run
	rm -rf run
done
fails "an uneven model is not ranked by weights" 65 "differ from block to block" rank -q --metric random -m uneven -o x
fails "nor by activations" 65 "does not fit the shape" rank -q small.st -o x
fails "nor searched" 65 "differ from block to block" candidates -q -m uneven --params 1:1e9 -o x
works "steps of the alignment" trim -q -f -m nemotron -r g.rank --ffn 24 --align 8 --allow-uneven -o al
works "steps of the alignment: multiples" python3 -c 'import json
f = json.load(open("al/config.json"))["adze_intermediate_sizes"]
assert sum(f) == 96 and not any(x % 8 for x in f), f'
sed -i 's/"adze_num_attention_heads": *\[/"adze_num_attention_heads": [9,/' uneven/config.json
fails "a list that does not fit" 65 "adze_num_attention_heads' is not a list of 3" logits -m uneven --ids 1,2
rm -rf shot.rank && stats -m llama -o shot.st && rank -q -f shot.st -o shot.rank

fails "sizes without a ranking" 2 "need --keep" stats -m llama --ffn 20 -o x
fails "ranking of another model" 65 "not for llama" stats -m llama --keep one.rank --ffn 20 -o x
fails "too large" 2 "ffn 99: the model has 48" stats -m llama --keep shot.rank --ffn 99 -o x
works "nothing was left behind" [ ! -e x ]
