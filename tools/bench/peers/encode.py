"""encode.py MODEL DOCUMENTS THREADS IDS tiktoken|tokenizers - encodes all documents a line; writes their ids to IDS once

tiktoken gets the vocabulary of tokenizer.json as its ranks and the pattern of SmolLM2 (single digits, then GPT-2's words).
SPDX-License-Identifier: Apache-2.0
"""
import array, json, os, sys
from common import missing, peak_mb, serve

path, docs, threads, out, impl = sys.argv[1:]
threads, rules = int(threads), os.path.join(path, "tokenizer.json")
with open(docs) as f:
    texts = [json.loads(x)["text"] for x in f]


def byte_of():
    """The character of each byte in byte-level vocabularies, and back"""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def ranks():
    with open(rules) as f:
        vocab, back = json.load(f)["model"]["vocab"], byte_of()
    return {bytes(back[c] for c in word): i for word, i in vocab.items() if all(c in back for c in word)}


try:
    if impl == "tiktoken":
        import tiktoken
        name = f"tiktoken {tiktoken.__version__}"
        words = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        enc = tiktoken.Encoding("of the model", pat_str=words, mergeable_ranks=ranks(), special_tokens={})
        encode = (lambda: [enc.encode_ordinary(t) for t in texts]) if threads == 1 else lambda: enc.encode_ordinary_batch(texts, num_threads=threads)
    else:
        import tokenizers
        name = f"tokenizers {tokenizers.__version__}"
        tok = tokenizers.Tokenizer.from_file(rules)
        encode = lambda: [e.ids for e in tok.encode_batch_fast(texts, add_special_tokens=False)]
except ImportError:
    missing(f"no package {impl}")

with open(out, "wb") as f:
    for ids in encode():
        array.array("I", ids).tofile(f)


def answer(word):
    encode()
    return {"peak_mb": peak_mb()}


serve(name, answer)
