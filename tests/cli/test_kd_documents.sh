#!/bin/sh
# test_kd_documents.sh - kd-train --documents apart: another result, the same with a cached teacher, recorded in both
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
"$B/tests/train/test_batches" --make "$t/tok" 12 24 12        # one token in twelve ends a document
"$B/tests/train/test_batches" --make "$t/valid" 3 24 12
mkmodel -q --layers 1 --hidden 16 --ffn 24 --heads 2 --kv-heads 1 --vocab 12 --tied -o "$t/teacher"
mkmodel -q --layers 1 --hidden 8 --ffn 12 --heads 2 --kv-heads 1 --vocab 12 --tied --seed 3 -o "$t/student"
train() { kd-train -q --student "$t/student" --data "$t/tok" --valid "$t/valid" --steps 3 --batch 4 --lr 1e-2 --dtype f32 --threads 1 "$@"; }
value() { sed -n "$2p" "$1/metrics.jsonl" | sed "s|.*\"$3\":\([^,}]*\).*|\1|"; }

works apart train --teacher "$t/teacher" --documents apart -o "$t/apart"
train --teacher "$t/teacher" -o "$t/joined"
if [ "$(value "$t/apart" 1 valid/lm/ce)" != "$(value "$t/joined" 1 valid/lm/ce)" ]; then ok differs; else no differs "the same held-out loss"; fi
same explained "$(train --teacher "$t/teacher" --documents apart --explain | grep -ci 'attn.*starts')" 3
works cache-apart kd-train -q --teacher "$t/teacher" --data "$t/tok" --documents apart --top-k 12 --cache-dtype f32 --dtype f32 --cache-teacher "$t/cache"
works cache-format artcheck -q "$t"/cache/part-00000
works cached train --teacher-cache "$t/cache" --documents apart -o "$t/cached"
if awk "BEGIN { d = $(value "$t/apart" 4 loss) / $(value "$t/cached" 4 loss) - 1; exit !(d < 1e-4 && d > -1e-4) }"; then ok as-online
else no as-online "$(value "$t/apart" 4 loss) and $(value "$t/cached" 4 loss)"; fi
fails cache-of-apart 65 "documents apart, not joined" train --teacher-cache "$t/cache" -o "$t/bad"
fails cache-goes-on 65 "other --documents" kd-train -q --teacher "$t/teacher" --data "$t/tok" --top-k 12 --cache-dtype f32 --cache-teacher "$t/cache"
fails other-run 65 "documents" train --teacher "$t/teacher" -o "$t/apart"
