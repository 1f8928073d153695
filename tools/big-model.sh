#!/bin/sh
# big-model.sh DIR - act-stats and trim on a synthetic model of Nemotron-4-15B's shape: memory and speed against the disk's
#
# Makes the model in DIR (31 GB; trim's result, 17 GB, and a copy of one shard lie beside it for a while), measures it
# within --memory, trims it to Minitron-8B's shape, and prints a table.  Everything but DIR itself is removed again.
# Files are dropped from the page cache before each timed step; both `cp` and trim end with their data on the disk.
# LAYERS=4 makes a smaller one, STATS=0 leaves act-stats out (the ranking is then random), NOCHECK=1 times trim without
# the forward pass over what it wrote.
# SPDX-License-Identifier: Apache-2.0
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
dir=$1 layers=${LAYERS:-32} here=$(dirname "$0")/..
mkdir -p "$dir"
clean() { rm -rf "$dir/15b" "$dir/8b" "$dir/copy" "$dir/big.tok" "$dir/big.stats" "$dir/big.rank" "$dir/text" "$dir/tok"; }
trap clean EXIT
trap 'exit 130' INT TERM
clean

now() { date +%s.%N; }
bytes() { cat "$@" 2>/dev/null | wc -c; }
uncache() { for f; do dd if="$f" iflag=nocache count=0 status=none; done; }
# watched COMMAND...: runs it; leaves $secs, $peak (VmHWM) and $anon (largest RssAnon seen), both in MiB
watched() {
	t0=$(now) peak=0 anon=0
	"$@" &
	pid=$!
	while kill -0 $pid 2>/dev/null; do
		while read -r key n _; do
			case $key in
			VmHWM:) [ "$n" -gt "$peak" ] && peak=$n ;;
			RssAnon:) [ "$n" -gt "$anon" ] && anon=$n ;;
			esac
		done <"/proc/$pid/status" 2>/dev/null || :
		sleep 0.1
	done
	wait $pid
	secs=$(echo "$(now) $t0" | awk '{ printf "%.1f", $1 - $2 }') peak=$((peak / 1024)) anon=$((anon / 1024))
}

watched mkmodel --family nemotron --layers "$layers" --hidden 6144 --ffn 24576 --heads 48 --kv-heads 8 --head-dim 128 \
	--vocab 256000 --store bf16 --fast -o "$dir/15b"
in=$(cat "$dir"/15b/model*.safetensors | wc -c)
echo "| step | seconds | peak resident, MiB | of it anonymous, MiB | |"
echo "|---|---|---|---|---|"
row() { echo "| $1 | $secs | $peak | $anon | $2 |"; }
rate() { awk -v b="$1" -v s="$2" 'BEGIN { printf "%.0f", b / s / 1e6 }'; }
row "mkmodel --fast, $(awk -v b="$in" 'BEGIN { printf "%.1f", b / 1e9 }') GB" "$(rate "$in" "$secs") MB/s written"

if [ "${STATS:-1}" != 0 ]; then
	mkdir "$dir/tok"
	cp "$here/tests/golden/tokenizers/smollm.json" "$dir/tok/tokenizer.json"
	awk 'BEGIN { for (i = 0; i < 4000; i++) print "the cat sat on", i, "mats and the hat was", i * i, "wide, what a world" }' >"$dir/text"
	calib-sample -q --eos none -t "$dir/tok" --samples 8 --seq 512 "$dir/text" -o "$dir/big.tok"
	uncache "$dir"/15b/*
	watched act-stats -q --dtype bf16 --memory 3Gi -m "$dir/15b" "$dir/big.tok" -o "$dir/big.stats"
	row "act-stats --memory 3Gi, 8 x 512 tokens" "$(awk -v s="$secs" 'BEGIN { printf "%.1f", 4096 / s }') tokens/s"
	rank -q "$dir/big.stats" -o "$dir/big.rank"
else
	rank -q --metric random -m "$dir/15b" -o "$dir/big.rank"
fi

# the disk's own rate: the same files, one at a time, since the disk may not hold them twice
copy() {
	for f in "$dir"/15b/model*.safetensors; do
		cp "$f" "$dir/copy"
		sync "$dir/copy"
		rm "$dir/copy"
	done
}
uncache "$dir"/15b/*
watched copy
cp_secs=$secs peak=- anon=-
row "cp of the same files" "$(rate "$in" "$secs") MB/s copied"

uncache "$dir"/15b/*
watched trim -q -m "$dir/15b" -r "$dir/big.rank" --hidden 4096 --ffn 16384 ${NOCHECK:+--no-check} -o "$dir/8b"
out=$(cat "$dir"/8b/model*.safetensors | wc -c)
row "trim to hidden 4096, ffn 16384" "$(rate "$in" "$secs") MB/s read, $(rate "$out" "$secs") MB/s written"
awk -v i="$in" -v o="$out" -v s="$secs" -v c="$cp_secs" 'BEGIN {
	printf "\ntrim moves %.1f GB in and %.1f GB out: %.0f %% of the bytes per second that cp moves (%.0f MB/s in and out),\n", i / 1e9,
		o / 1e9, 100 * (i + o) / s / (2 * i / c), 2 * i / c / 1e6
	printf "%.0f %% of its rate by bytes read; copying the whole model takes %.0f s, trimming it %.0f s.\n", 100 * c / s, c, s
}'
