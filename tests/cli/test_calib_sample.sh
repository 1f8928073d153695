#!/bin/sh
# test_calib_sample.sh - calib-sample and tokenize as a user meets them: same bytes, pipes, sources, splits, bad inputs
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
golden=tests/golden/tokenizers

# holds NAME WHY COMMAND...: the command must succeed
holds() {
	name=$1 why=$2
	shift 2
	if "$@"; then ok "$name"; else no "$name" "$why"; fi
}
records() { artcat "$1" | grep '^{"i":'; }

# a model directory: the tokenizer and the name of its end token
mkdir "$t/m"
cp $golden/smollm.json "$t/m/tokenizer.json"
echo '{"eos_token": {"content": "<|end|>"}, "bos_token": "<|start|>"}' >"$t/m/tokenizer_config.json"
i=0
while [ $i -lt 300 ]; do
	echo "{\"text\": \"the cat number $i says hello to the world $((i * 7919))\", \"n\": $i, \"alt\": \"we $i\"}"
	i=$((i + 1))
done >"$t/d.jsonl"
sed 's/.*"text": "\([^"]*\)".*/\1\n/' "$t/d.jsonl" >"$t/d.txt"
cs="calib-sample -q -t $t/m"

# the same bytes for any number of threads and from a pipe; another seed gives others
$cs --samples 20 --seq 33 "$t/d.jsonl" --threads 1 -o "$t/a.tok"
$cs --samples 20 --seq 33 "$t/d.jsonl" --threads 3 -o "$t/b.tok"
holds threads "1 and 3 threads give different bytes" cmp -s "$t/a.tok" "$t/b.tok"
$cs --samples 20 --seq 33 --threads 1 - <"$t/d.jsonl" >"$t/c.tok"
same "stdin and stdout" "$(records "$t/c.tok" | cksum)" "$(records "$t/a.tok" | cksum)"
sed -n p "$t/d.jsonl" | $cs --samples 20 --seq 33 | artcat >"$t/p"
same "a pipe" "$(grep -c '^{"i":' "$t/p")" 20
$cs --samples 20 --seq 33 --seed 1 "$t/d.jsonl" -o "$t/s1.tok"
holds "another seed" "same samples" [ "$(records "$t/s1.tok")" != "$(records "$t/a.tok")" ]
if artcheck "$t/a.tok" >/dev/null 2>"$t/err"; then ok "artcheck accepts it"; else no "artcheck accepts it" "$(cat "$t/err")"; fi

# plain text by paragraph holds the same documents as JSONL
$cs --samples 20 --seq 33 --documents paragraph "$t/d.txt" -o "$t/t.tok"
same "paragraphs" "$(records "$t/t.tok" | cksum)" "$(records "$t/a.tok" | cksum)"

# packing: every id of every document in order, the end id after each, nothing lost but the tail
$cs --samples 0 --seq 50 --no-shuffle "$t/d.jsonl" -o "$t/all.tok"
$cs --samples 0 --seq 100000 --no-pack --no-shuffle "$t/d.jsonl" -o "$t/docs.tok"
records "$t/all.tok" | sed 's/.*"ids":[^[]*\[\([^]]*\)\].*/\1/' | tr ',' '\n' >"$t/packed"
records "$t/docs.tok" | sed 's/.*"ids":[^[]*\[\([^]]*\)\].*/\1,0/' | tr ',' '\n' >"$t/joined"
head -n "$(wc -l <"$t/packed")" "$t/joined" >"$t/head"
holds "packed = joined" "ids differ" cmp -s "$t/head" "$t/packed"
holds "only the tail is lost" "more is" [ $(($(wc -l <"$t/joined") - $(wc -l <"$t/packed"))) -lt 50 ]
same "documents equal tokenize" "$(records "$t/docs.tok" | sed 's/.*"ids":[^[]*\[\([^]]*\)\].*/\1/' | tr ',' ' ')" \
	"$(grep . "$t/d.txt" | tokenize -t "$t/m")"

# shuffled samples are the same documents
$cs --samples 0 --seq 100000 --no-pack "$t/d.jsonl" -o "$t/sh.tok"
same "shuffling loses nothing" "$(records "$t/sh.tok" | sed 's/.*"ids"//' | sort | cksum)" "$(records "$t/docs.tok" | sed 's/.*"ids"//' | sort | cksum)"

# train and valid: disjoint, together everything, whatever the seed
for part in train valid; do
	$cs --samples 0 --seq 100000 --no-pack --split $part --valid-fraction 0.2 --seed 9 "$t/d.jsonl" -o "$t/$part.tok"
	records "$t/$part.tok" | sed 's/.*"ids":\(.*\),"doc.*/\1/' | sort >"$t/$part.ids"
done
same "train and valid are disjoint" "$(comm -12 "$t/train.ids" "$t/valid.ids" | wc -l)" 0
same "train and valid are all" "$(sort "$t/train.ids" "$t/valid.ids" | cksum)" \
	"$(records "$t/docs.tok" | sed 's/.*"ids":\(.*\),"doc.*/\1/' | sort | cksum)"
holds "valid has documents" "it has none" [ -s "$t/valid.ids" ]

# exact repeats, weighted sources, fields
cat "$t/d.jsonl" "$t/d.jsonl" | $cs --samples 0 --seq 100000 --no-pack --dedup --no-shuffle -o "$t/dd.tok"
same "dedup" "$(records "$t/dd.tok" | cksum)" "$(records "$t/docs.tok" | cksum)"
printf '# weights\n3 d.jsonl\n\n1 d.jsonl alt\n' >"$t/sources"
$cs --samples 40 --seq 16 --sources "$t/sources" -o "$t/w.tok"
same "sources: shares" "$(records "$t/w.tok" | sed 's/.*"doc":\([0-9]*\).*/\1/' | awk '$1 < 300 {a++} $1 >= 300 {b++} END {print a, b}')" "30 10"
same "field" "$($cs --samples 1 --seq 4 --no-pack --no-shuffle --field alt "$t/d.jsonl" | artcat | grep '^{"i"' | sed 's/.*\[\([^]]*\)\].*/\1/' | tr ',' ' ')" \
	"$(echo 'we 0' | tokenize -t "$t/m")"
same "no-shuffle stops an endless pipe" "$(yes 'the cat' | $cs --samples 3 --seq 8 --documents line --no-shuffle | artcat | grep -c '^{"i"')" 3

# packed input gives the same samples: a file, a pipe, each program that is here
gzip -c "$t/d.jsonl" >"$t/d.jsonl.gz"
mkdir "$t/onlybin"
ln -s "$(command -v calib-sample)" "$t/onlybin/calib-sample"
for z in gzip zstd xz bzip2; do
	$z -c "$t/d.jsonl" >"$t/packed.$z" 2>"$t/err" || continue   # not here, or it only unpacks
	$cs --samples 20 --seq 33 "$t/packed.$z" -f -o "$t/z.tok"
	same "$z" "$(records "$t/z.tok" | cksum)" "$(records "$t/a.tok" | cksum)"
	same "$z from a pipe" "$(sed '' "$t/packed.$z" | $cs --samples 20 --seq 33 | artcat | grep '^{"i":' | cksum)" "$(records "$t/a.tok" | cksum)"
done
same "packed, not read to its end" "$(yes 'the cat' | gzip -c | $cs --samples 3 --seq 8 --documents line --no-shuffle | artcat | grep -c '^{"i"')" 3

# more text than is held: written as it comes, with the same samples as ever, and known by its index
yes "$(cat "$t/d.txt")" | head -c 9000000 >"$t/big.txt"
$cs --documents paragraph --no-shuffle --seq 512 --samples 0 --threads 1 "$t/big.txt" -o "$t/big0.tok"
$cs --documents paragraph --no-shuffle --seq 512 --samples 8500 --threads 3 "$t/big.txt" -o "$t/big1.tok"
holds "streamed: all text" "not $(records "$t/big0.tok" | wc -l) samples" [ "$(records "$t/big0.tok" | wc -l)" -gt 8500 ]
same "streamed: same samples" "$(records "$t/big0.tok" | head -n 8500 | cksum)" "$(records "$t/big1.tok" | cksum)"
printf '1 big.txt\n1 d.txt\n' >"$t/two"       # two sources are held in memory: the other way to the same
$cs --documents paragraph --no-shuffle --seq 512 --samples 30 --sources "$t/two" -o "$t/two.tok"
same "streamed: as held" "$(records "$t/two.tok" | head -n 15 | cksum)" "$(records "$t/big0.tok" | head -n 15 | cksum)"
rm -f "$t/big.txt" "$t"/big?.tok

# classes of length: ten short, ten long documents, four samples of two classes
i=0
while [ $i -lt 10 ]; do
	echo "{\"text\": \"cat $i\"}"
	echo "{\"text\": \"the cat says hello to the world, and hello again to the cat $i\"}"
	i=$((i + 1))
done >"$t/len.jsonl"
same "strata" "$($cs --samples 4 --seq 99 --no-pack --strata 2 "$t/len.jsonl" | artcat | grep '^{"i"' | sed 's/.*"doc":\([0-9]*\).*/\1/' | awk '{n[$1 % 2]++} END {print n[0], n[1]}')" "2 2"

# conversations: the template's text is what is tokenized
mkdir "$t/c"
sed 's/<|start|>/<|im_start|>/g; s/<|end|>/<|im_end|>/g' "$t/m/tokenizer.json" >"$t/c/tokenizer.json"
ch="calib-sample -q -t $t/c --eos <|im_end|>"
echo '{"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "the cat?"}, {"role": "assistant", "content": "hello"}]}' >"$t/chat.jsonl"
printf '<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\nthe cat?<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n' >"$t/chat.txt"
same "chatml" "$($ch --chat chatml --no-pack --samples 1 --seq 999 "$t/chat.jsonl" | artcat | grep '^{"i"' | sed 's/.*\[\([^]]*\)\].*/\1/' | tr ',' ' ')" \
	"$(tokenize -t "$t/c" --whole "$t/chat.txt")"

# tokenize: back and forth, offsets
echo "hello the cat's world é 42" >"$t/line"
same "tokenize --decode" "$(tokenize -t "$t/m" "$t/line" | tokenize -t "$t/m" --decode)" "$(cat "$t/line")"
same "tokenize --json" "$(echo 'the cat' | tokenize -t "$t/m" --json | sed 's/.*"offsets"/"offsets"/')" '"offsets":[[0,1],[1,3],[3,7]]}'

# dry run writes nothing
$cs --dry-run=json "$t/d.jsonl" -o "$t/dry.tok" >"$t/out"
holds "dry run plans" "no memory in it" grep -q '"memory_bytes"' "$t/out"
holds "dry run writes nothing" "it did" [ ! -e "$t/dry.tok" ]

# what goes wrong
o="-o $t/bad.tok"
echo '{"text": "x"' >"$t/broken.jsonl"
echo '{"text": 1}' >"$t/number.jsonl"
head -c 700 "$t/d.jsonl.gz" >"$t/cut.jsonl.gz"
echo '{"messages": "hello"}' >"$t/nochat.jsonl"
echo '{"messages": [{"role": "tool", "content": "x"}]}' >"$t/norole.jsonl"
echo '1 nowhere.jsonl' >"$t/nowhere"
echo 'x d.jsonl' >"$t/noweight"
: >"$t/empty.txt"
mkdir "$t/bare"
cp $golden/smollm.json "$t/bare/tokenizer.json"
# shellcheck disable=SC2086
{
	fails "no tokenizer option" 2 "-t" calib-sample "$t/d.jsonl" $o
	fails "no such model" 74 "none" calib-sample -t "$t/none" "$t/d.jsonl" $o
	fails "no such text" 74 "none.txt" $cs "$t/none.txt" $o
	fails "a directory" 65 "directory" $cs "$t/m" $o
	fails "too little text" 65 "too little text" $cs --samples 1000 --seq 1000 "$t/d.jsonl" $o
	fails "empty text" 65 "too little text" $cs --samples 0 "$t/empty.txt" $o
	fails "broken JSON" 65 "broken.jsonl:1" $cs "$t/broken.jsonl" $o
	fails "not a string" 65 "not a string" $cs "$t/number.jsonl" $o
	fails "no such field" 65 "no field 'body'" $cs --field body "$t/d.jsonl" $o
	fails "packed and truncated" 65 "truncated" $cs "$t/cut.jsonl.gz" $o
	fails "packed, no program" 69 "'gzip' to unpack it" env PATH="$t/onlybin" calib-sample -q -t "$t/m" "$t/d.jsonl.gz" $o
	fails "chat: no list" 65 "list of messages" $ch --chat chatml "$t/nochat.jsonl" $o
	fails "chat: no such role" 65 "role" $ch --chat chatml "$t/norole.jsonl" $o
	fails "chat: no marks" 65 "<|im_start|>" $cs --chat chatml "$t/d.jsonl" $o
	fails "source missing" 74 "nowhere.jsonl" $cs --sources "$t/nowhere" $o
	fails "source line" 65 "weight path" $cs --sources "$t/noweight" $o
	fails "sources and operands" 2 "exclude" $cs --sources "$t/sources" "$t/d.jsonl" $o
	fails "no end token" 65 "--eos" calib-sample -q -t "$t/bare" "$t/d.jsonl" $o
	fails "unknown end token" 65 "nonesuch" $cs --eos nonesuch "$t/d.jsonl" $o
	fails "sequence of nothing" 2 "--seq" $cs --seq 0 "$t/d.jsonl" $o
	fails "decode out of range" 65 "999999" sh -c "echo 999999 | tokenize -t $t/m --decode"
	fails "output directory missing" 74 "nodir" $cs --samples 1 --seq 8 "$t/d.jsonl" -o "$t/nodir/x.tok"
}
