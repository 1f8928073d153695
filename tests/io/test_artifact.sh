#!/bin/sh
# test_artifact.sh - artcat, artcheck, artdiff, and the container seen by other programs (lz4, a msgpack reader in Python)
#
# SPDX-License-Identifier: Apache-2.0
make_tokens=$B/tests/io/test_artifact
. tests/lib.sh

$make_tokens --make "$t/a" 3 4
$make_tokens --make "$t/b" 3 4
$make_tokens --make "$t/c" 4 4
$make_tokens --make "$t/big" 400 3001

# --- artcat
same artcat-lines "$(artcat "$t/a" | wc -l)" 5
same artcat-record "$(artcat "$t/a" | sed -n 3p | cut -c1-13)" '{"i":1,"ids":'
same artcat-stdin "$(artcat <"$t/a" | cksum)" "$(artcat "$t/a" | cksum)"
same artcat-pipe "$(cat "$t/a" | artcat - | cksum)" "$(artcat "$t/a" | cksum)"
same artcat-json "$(artcat "$t/big" | python3 -c '
import json, sys
rows = [json.loads(x) for x in sys.stdin]
print(rows[0]["kind"], len(rows[1:-1]), len(rows[5]["ids"]), rows[-1]["records"])')" "tokens 400 3001 400"
same artcat-summary "$(artcat -s "$t/a" | sed -n 2p)" '{"i":0,"ids":{"dtype":"u16","shape":[4],"min":0,"max":62306},"doc":0}'
same artcat-header "$(artcat --header "$t/a" | wc -l)" 1
same artcat-first "$(artcat -n 2 "$t/a" | wc -l)" 3
fails artcat-garbage 65 "is not an adze artifact" artcat "$0"
fails artcat-empty 65 "is empty" artcat /dev/null
fails artcat-absent 74 "cannot open" artcat "$t/none"
fails artcat-two 2 "one artifact at a time" artcat "$t/a" "$t/b"
artcat "$t/big" | head -n 1 >/dev/null
ok artcat-closed-pipe

# --- artcheck
same artcheck-says "$(artcheck "$t/a" | sed 's/digest .*/digest/;s,.*/,,')" "a: tokens version 1, 3 records, digest"
artcheck -q "$t/a" "$t/b" "$t/big" && ok artcheck-many || no artcheck-many "exit code $?"
fails artcheck-kind 65 "expected 'stats'" artcheck --kind stats "$t/a"
n=$(wc -c <"$t/a") bad=0 i=0
while [ $i -lt "$n" ]; do
	head -c $i "$t/a" | artcheck -q - 2>/dev/null
	[ $? -eq 65 ] || bad=$((bad + 1))
	i=$((i + 7))
done
same artcheck-truncated $bad 0
head -c 300000 "$t/big" >"$t/cut"
fails artcheck-cut 65 "is truncated after record" artcheck "$t/cut"
printf x | dd of="$t/cut" bs=1 seek=200000 conv=notrunc 2>/dev/null
fails artcheck-damaged 65 "is damaged after record" artcheck "$t/cut"
cat "$t/a" "$t/b" >"$t/two"
fails artcheck-joined 65 "has data after its trailer" artcheck "$t/two"
artcheck -q "$t/cut" "$t/a" "$t/two" 2>"$t/err"
same artcheck-each "$? $(wc -l <"$t/err")" "65 2"

# --- artdiff
same artdiff-same "$(artdiff "$t/a" "$t/b"; echo $?)" "ids: 0 of 12 elements differ
0"
cmp -s "$t/a" "$t/b" && ok same-bytes || no same-bytes "two runs wrote different bytes"
artdiff -q "$t/a" "$t/c"
same artdiff-count "$? $(artdiff "$t/a" "$t/c" | head -n 1)" "1 first difference: record 3: only the second has it"
fails artdiff-usage 2 "two artifacts" artdiff "$t/a"
fails artdiff-damaged 65 "is damaged after record" artdiff "$t/big" "$t/cut"

# --- the container for others: lz4cat gives plain msgpack
cat >"$t/read.py" <<'PY'
# a msgpack reader in 25 lines, from the public msgpack specification
import struct, sys
d = sys.stdin.buffer.read()
def get(p):
    t = d[p]; p += 1
    def num(f, n): return struct.unpack(">" + f, d[p:p + n])[0], p + n
    def run(n, p): return d[p:p + n], p + n
    def seq(n, p):
        r = []
        for _ in range(n):
            v, p = get(p); r.append(v)
        return r, p
    def mapping(n, p):
        r, p = seq(2 * n, p)
        return dict(zip(r[::2], r[1::2])), p
    if t < 0x80: return t, p
    if t < 0x90: return mapping(t & 15, p)
    if t < 0xa0: return seq(t & 15, p)
    if t < 0xc0: s, p = run(t & 31, p); return s.decode(), p
    if t >= 0xe0: return t - 256, p
    if t in (0xc0, 0xc2, 0xc3): return {0xc0: None, 0xc2: False, 0xc3: True}[t], p
    if t in (0xca, 0xcb): return num("fd"[t - 0xca], 4 << (t - 0xca))
    if 0xcc <= t <= 0xd3: return num("BHIQbhiq"[t - 0xcc], 1 << ((t - 0xcc) & 3))
    f, n, kind = {0xc4: "B1b", 0xc5: "H2b", 0xc6: "I4b", 0xd9: "B1s", 0xda: "H2s", 0xdb: "I4s",
                  0xdc: "H2l", 0xdd: "I4l", 0xde: "H2m", 0xdf: "I4m"}[t]
    c, p = num(f, int(n))
    if kind == "l": return seq(c, p)
    if kind == "m": return mapping(c, p)
    b, p = run(c, p)
    return (b if kind == "b" else b.decode()), p
p, objs = 0, []
while p < len(d):
    v, p = get(p); objs.append(v)
h, t, recs = objs[0], objs[-1], objs[1:-1]
ids = [struct.unpack("<%dH" % r["ids"]["shape"][0], r["ids"]["data"]) for r in recs]
good = all(x == (i * 7 + j * 2654435761) & 0xffff for i, s in enumerate(ids) for j, x in enumerate(s))
print(h["format"], h["container"], h["kind"], h["meta"]["seq"], len(recs), t["records"] == len(recs), len(t["digest"]), good)
PY
same lz4cat "$(lz4cat "$t/big" 2>/dev/null | python3 "$t/read.py")" "adze 1 tokens 3001 400 True 32 True"
lz4 -t "$t/big" >/dev/null 2>&1 && ok lz4-test || no lz4-test "lz4 -t refuses the file"
# and back: msgpack recompressed by lz4 is an artifact again, only without the index that its trailer promises
lz4cat "$t/a" 2>/dev/null | lz4 -q - - >"$t/again"
fails recompressed 65 "expected an index" artcheck "$t/again"
same recompressed-records "$(artcat "$t/again" 2>/dev/null | sed -n 2,4p | cksum)" "$(artcat "$t/a" | sed -n 2,4p | cksum)"

# --- every kind's page shows the table that is checked
for k in formats/*.def; do
	k=$(basename "$k" .def)
	[ "$k" != kinds ] || continue
	sed -n "/^<!-- artcheck --schema $k -->/,/^<!-- end -->/p" "formats/$k.md" | sed '1d;$d' >"$t/page"
	artcheck --schema "$k" >"$t/table"
	cmp -s "$t/page" "$t/table" && ok "page-$k" || no "page-$k" "formats/$k.md differs from artcheck --schema $k"
done
fails schema-unknown 2 "there is no kind 'nonsense'" artcheck --schema nonsense

# --- options, the same in every program because the parser is one
fails opt-unknown 2 "unknown option '--sumary', did you mean '--summary'?" artcat --sumary
fails opt-letter 2 "unknown option '-x'" artcat -x
fails opt-cluster 2 "unknown option '-z'" artcat -sz
fails opt-missing 2 "--records needs a value (N)" artcat --records
fails opt-missing-letter 2 "-n needs a value (N)" artcat "$t/a" -n
fails opt-junk 2 "--records: '3x' is not a whole number" artcat --records=3x
fails opt-range 2 "--records: -2 is outside" artcat -n -2
fails opt-flag-value 2 "--summary takes no value" artcat --summary=yes
fails opt-empty 2 "--kind: its value is empty" artcheck --kind ""
same opt-after-operand "$(artcat "$t/a" --header | wc -l)" 1
same opt-joined "$(artcat -sn1 "$t/a" | wc -l)" 2
fails opt-end 74 "--header: cannot open" artcat -- --header
for p in artcat artcheck artdiff; do
	same "$p-version" "$($p --version | sed 's/[0-9.]*$//')" "$p (adze) "
	$p --help >"$t/help" && grep -q '^exit codes:' "$t/help" && grep -q '^examples:' "$t/help" && ok "$p-help" || no "$p-help" "incomplete"
	$p --man | grep -q '^.Sh OPTIONS' && ok "$p-man" || no "$p-man" "no mdoc page"
	same "$p-options" "$($p --options | awk -F'\t' 'NF != 8' | wc -l)" 0
done
$make_tokens --make /dev/full 2 4 >/dev/null 2>&1 && no full-disk "a full device was not noticed" || ok full-disk
