#!/bin/sh
# tiny-tokenizer.sh DIR - writes DIR/tokenizer.json: byte-level BPE with 256 bytes, eight merges and an end-of-text token
# SPDX-License-Identifier: Apache-2.0
set -eu
mkdir -p "$1"
LC_ALL=C awk '
# the printable character that byte-level tokenizers use for byte b, as UTF-8, quoted for JSON where needed
function byte(b,   c) {
	if (b == 34 || b == 92) return sprintf("\\%c", b)
	if (b >= 33 && b <= 126) return sprintf("%c", b)
	if ((b >= 161 && b <= 172) || b >= 174) c = b
	else c = 256 + (b < 33 ? b : b < 161 ? b - 127 + 33 : 67)
	return sprintf("%c%c", 192 + int(c / 64), 128 + c % 64)
}
BEGIN {
	printf "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":264,\"content\":\"<|endoftext|>\",\"single_word\":false,"
	printf "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}],\"normalizer\":null,"
	printf "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"
	printf "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
	printf "\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
	printf "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{"
	for (b = 0; b < 256; b++) printf "%s\"%s\":%d", (b ? "," : ""), byte(b), b
	n = split("t h,h e,i n,e r,a n,r e,o n,th e", m, ",")
	for (i = 1; i <= n; i++) { t = m[i]; sub(/ /, "", t); printf ",\"%s\":%d", t, 255 + i }
	printf ",\"<|endoftext|>\":264},\"merges\":["
	for (i = 1; i <= n; i++) printf "%s\"%s\"", (i > 1 ? "," : ""), m[i]
	printf "]}}\n"
}' >"$1/tokenizer.json"
printf '{"eos_token":"<|endoftext|>","tokenizer_class":"PreTrainedTokenizerFast"}\n' >"$1/tokenizer_config.json"
