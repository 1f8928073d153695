#!/bin/sh
# test_tensorboard.sh - tensorboard-events: the bytes of TensorBoard's own classes (tests/oracle/tensorboard_events.py), of a real run too
# as many scalars as it has numbers; bad lines are named, nothing is left of a file that is refused
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
gold=tests/golden/tensorboard
file=events.out.tfevents.0000000000.adze
works converts tensorboard-events -q $gold/metrics.jsonl -o "$t/logs/a"
alike bytes $gold/events "$t/logs/a/$file"
tensorboard-events -q -o "$t/pipe" <$gold/metrics.jsonl; alike stdin $gold/events "$t/pipe/$file"
fails there-already 1 "exists" tensorboard-events -q $gold/metrics.jsonl -o "$t/logs/a"
works again tensorboard-events -q -f $gold/metrics.jsonl -o "$t/logs/a"
works start tensorboard-events -q --start 1795346007 $gold/metrics.jsonl -o "$t/logs/b"
same named-by-start "$(ls "$t/logs/b")" events.out.tfevents.1795346007.adze

# --- a run: its directory is enough
"$B/tests/train/test_batches" --make "$t/tok" 8 16 64
mkmodel -q --layers 1 --hidden 16 --ffn 16 --heads 2 --vocab 64 --tied -o "$t/student"
kd-train -q --student "$t/student" --data "$t/tok" --valid "$t/tok" --steps 3 --batch 4 --threads 1 -o "$t/run"
numbers=$(tr ',' '\n' <"$t/run/metrics.jsonl" | grep -v '"step":' | wc -l)
same run "$(tensorboard-events --dry-run "$t/run" | sed 's/ .*//')" "$numbers"

# --- a line that is being written; bad lines
head -c 700 "$t/run/metrics.jsonl" >"$t/cut"
tensorboard-events "$t/cut" -o "$t/half" 2>"$t/err"; same unfinished "$? $(grep -c 'cut:[0-9]*: left out' "$t/err")" "0 1"
bad() { # NAME LINE TEXT: refused as line 2
	printf '%s\n' '{"step":5,"loss":1}' "$2" >"$t/lines"
	fails "$1" 65 "lines:2: $3" tensorboard-events -q "$t/lines" -o "$t/bad"
}
bad not-json '{"step":6,' "not JSON"
bad a-list '[6]' "not a JSON object"
bad no-step '{"loss":1}' 'no "step"'
bad negative-step '{"step":-1}' 'no "step"'
bad fraction '{"step":6.5}' 'no "step"'
bad goes-back '{"step":5,"loss":1}' "step 5 after step 5"
bad a-word '{"step":6,"loss":"low"}' '"loss" is neither'
bad twice '{"step":6,"loss":1,"loss":2}' "not JSON"
bad not-utf8 "$(printf '{"step":6,"\377":1}')" "not JSON"
: >"$t/empty"
fails empty 65 "no metrics" tensorboard-events -q "$t/empty" -o "$t/bad"
fails missing 74 "nowhere" tensorboard-events -q "$t/nowhere" -o "$t/bad"
fails no-out 2 "--out is missing" tensorboard-events -q $gold/metrics.jsonl
fails two 2 "unexpected operand" tensorboard-events -q a b -o "$t/bad"
