#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every code point through each normalizer: ours (a vocabulary of bytes shows them) against `tokenizers`.  Alone, after "a", before a combining mark.

    norm_parity.py [BIN]
"""
import json
import os
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer, models, normalizers

BIN = sys.argv[1] if len(sys.argv) > 1 else "build/bin"
SKIP = {0, 0xA}
POINTS = [chr(c) for c in range(1, 0x110000) if c not in SKIP and not 0xD800 <= c < 0xE000]


def main():
    bytes_vocab = {f"<0x{b:02X}>": b for b in range(256)}
    bad = 0
    for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "Strip"):
        t = Tokenizer(models.BPE(vocab=bytes_vocab, merges=[], byte_fallback=True))
        t.normalizer = getattr(normalizers, name)()
        with tempfile.TemporaryDirectory() as tmp:
            t.save(os.path.join(tmp, "tokenizer.json"))
            for shape in ("{}", "a{}e", "{}\u0301\u0327b"):
                texts = [shape.format(c) for c in POINTS]
                out = subprocess.run([os.path.join(BIN, "tokenize"), "-t", tmp], input="\n".join(texts).encode(), stdout=subprocess.PIPE, check=True)
                wrong = [x for x, line in zip(texts, out.stdout.decode().split("\n"))
                         if bytes(map(int, line.split())).decode() != t.normalizer.normalize_str(x)]
                print(f"{name} {shape!r}: {len(texts)} texts, {len(wrong)} differ {[hex(ord(max(x))) for x in wrong[:8]]}", flush=True)
                bad += len(wrong)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
