#!/bin/sh
# test_gguf_import.sh - a model written as GGUF (rows of q and k permuted as llama.cpp does) comes back unchanged
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh

if ! command -v python3 >/dev/null; then
	ok "skipped: no python3 to write GGUF files"
	exit 0
fi
cat >"$t/write.py" <<'END'
import json, struct, sys
src, dst, extra = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ''
d = open(src + '/model.safetensors', 'rb').read()
n = struct.unpack('<Q', d[:8])[0]
h = json.loads(d[8:8 + n]); h.pop('__metadata__', None)
c = json.load(open(src + '/config.json'))
names = {'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm', 'lm_head': 'output', 'input_layernorm': 'attn_norm',
    'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output',
    'post_attention_layernorm': 'ffn_norm', 'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down'}
s = lambda x: struct.pack('<Q', len(x.encode())) + x.encode()
kv = []
def put(k, kind, v): kv.append(s(k) + struct.pack('<I', kind) + v)
put('general.architecture', 8, s('gpt2' if extra == 'arch' else 'llama'))
for k, v in (('block_count', 'num_hidden_layers'), ('embedding_length', 'hidden_size'), ('feed_forward_length', 'intermediate_size'),
        ('attention.head_count', 'num_attention_heads'), ('attention.head_count_kv', 'num_key_value_heads'),
        ('attention.key_length', 'head_dim'), ('rope.dimension_count', 'head_dim'), ('context_length', 'max_position_embeddings')):
    put('llama.' + k, 4, struct.pack('<I', c[v]))
put('llama.attention.layer_norm_rms_epsilon', 6, struct.pack('<f', c['rms_norm_eps']))
put('llama.rope.freq_base', 6, struct.pack('<f', c['rope_theta']))
if extra == 'experts': put('llama.expert_count', 4, struct.pack('<I', 8))
infos, data = b'', b''
for name, t in sorted(h.items()):
    lo, hi = t['data_offsets']; raw = d[8 + n + lo:8 + n + hi]
    stem, tail = name[:-7], ''
    if stem.startswith('model.layers.'):
        _, _, l, stem = stem.split('.', 3); tail = 'blk.%s.' % l
    if stem.endswith(('q_proj', 'k_proj')):
        row = t['shape'][1] * 4; D = c['head_dim']; rows = [raw[i:i + row] for i in range(0, len(raw), row)]; out = [b''] * len(rows)
        for r in range(len(rows)):
            k = r % D; out[r - k + 2 * (k % (D // 2)) + k // (D // 2)] = rows[r]
        raw = b''.join(out)
    name = tail + names[stem] + ('.bias' if extra == 'bias' and stem.endswith('o_proj') else '.weight')
    infos += s(name) + struct.pack('<I', len(t['shape'])) + b''.join(struct.pack('<Q', x) for x in reversed(t['shape'])) + struct.pack('<IQ', 0, len(data))
    data += raw + b'\0' * (-len(raw) % 32)
head = b'GGUF' + struct.pack('<IQQ', 3, len(h), len(kv)) + b''.join(kv) + infos
open(dst, 'wb').write(head + b'\0' * (-len(head) % 32) + data)
END
for tied in "" --tied; do
	# shellcheck disable=SC2086
	mkmodel -q $tied --layers 2 --hidden 24 --ffn 40 --heads 6 --kv-heads 2 --head-dim 8 --vocab 50 --rope-theta 50000 -o "$t/m$tied"
	python3 "$t/write.py" "$t/m$tied" "$t/m$tied.gguf" || no "write$tied" failed
	if gguf-import -q --no-tokenizer --dtype f32 "$t/m$tied.gguf" -o "$t/back$tied" 2>"$t/err"; then ok "import$tied"; else no "import$tied" "$(cat "$t/err")"; fi
	same "weights come back$tied" "$(cmp "$t/m$tied/model.safetensors" "$t/back$tied/model.safetensors" && echo same)" same
	keys='"(hidden_size|head_dim|rope_theta|rms_norm_eps|tie_word_embeddings|num_key_value_heads|vocab_size)"'
	same "config comes back$tied" "$(grep -E "$keys" "$t/back$tied/config.json")" "$(grep -E "$keys" "$t/m$tied/config.json")"
done
gguf-import -q --no-tokenizer "$t/m.gguf" -o "$t/half"
same "bf16 by default" "$(grep -c '"torch_dtype": "bfloat16"' "$t/half/config.json")" 1
fails "no tokenizer in the file" 65 "tokenizer.ggml.model" gguf-import -q "$t/m.gguf" -o "$t/bad"
for kind in arch:gpt2 experts:mixtures bias:attn_output; do
	python3 "$t/write.py" "$t/m" "$t/odd.gguf" "${kind%%:*}"
	fails "refused by name: ${kind%%:*}" 65 "${kind#*:}" gguf-import -q --no-tokenizer "$t/odd.gguf" -o "$t/bad"
done
size=$(wc -c <"$t/m.gguf")
for keep in 0 20 200 $((size / 2)) $((size - 32)); do
	head -c "$keep" "$t/m.gguf" >"$t/cut.gguf"
	fails "cut to $keep bytes" 65 "$t/cut.gguf" gguf-import -q --no-tokenizer "$t/cut.gguf" -o "$t/bad"
done
