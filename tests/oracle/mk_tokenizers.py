#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Small tokenizer.json files of every supported shape, and what `tokenizers` makes of tricky texts with them.

    mk_tokenizers.py        writes tests/golden/tokenizers/NAME.json and tests/golden/tokenizers.tsv
                            (NAME, JSON text, ids, decoded JSON text; special tokens added)
Those of trained.py come from the library's trainers; NAME.model from sentencepiece's, whose decoder is not ours: null there.
tok_parity.py --fuzz uses the same shapes around a real vocabulary.
"""
import json
import os
import sys
import tempfile
import types

from tokenizers import Tokenizer

import trained
from texts import TEXTS as PARAGRAPHS

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "golden")

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(prefix=False, regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def digits(individual=True):
    return {"type": "Digits", "individual_digits": individual}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def added(tid, content, **how):
    return {"id": tid, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": False, **how}


def template(first, last):
    def special(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}
    names = [x for x in (first, last) if x]
    single = [special(n[0]) for n in names[:1] if n is first] + [{"Sequence": {"id": "A", "type_id": 0}}]
    if last:
        single.append(special(last[0]))
    return {"type": "TemplateProcessing", "single": single, "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in names}}


def variants(base):
    """{name: tokenizer.json} of every supported shape around base's vocabulary, merges and first two added tokens."""
    out = {}
    vocab = base["model"]["vocab"]
    top = max(vocab.values()) + 1
    token = base["added_tokens"][0]["content"], base["added_tokens"][0]["id"]
    word = "cat" if "cat" in vocab else next(v for v in vocab if v.isalpha() and len(v) > 2)

    def make(name, model=None, **parts):
        out[name] = {**base, **parts, "model": {**base["model"], **(model or {})}}

    more = base["added_tokens"] + [
        added(top, "<L>", lstrip=True), added(top + 1, "<R>", rstrip=True), added(vocab[word], word, single_word=True, normalized=True),
        added(top + 2, "é!", normalized=True), added(top + 3, "<LR>", lstrip=True, rstrip=True, special=True),
        added(top + 4, "<L><R>"), added(top + 5, " dog", normalized=True)]
    make("smollm", pre_tokenizer=sequence(digits(), byte_level()))
    make("gpt2", pre_tokenizer=byte_level())
    make("prefix", pre_tokenizer=byte_level(prefix=True), post_processor=byte_level())
    make("llama3", {"ignore_merges": True}, pre_tokenizer=sequence(split(LLAMA3), byte_level(regex=False)),
         post_processor={"type": "Sequence", "processors": [byte_level(), template(token, None)]})
    make("qwen2", pre_tokenizer=sequence(split(QWEN2), byte_level(regex=False)), normalizer={"type": "NFC"})
    make("tekken", pre_tokenizer=sequence(split(TEKKEN), byte_level(regex=False)), post_processor=template(token, token))
    make("runs", pre_tokenizer=sequence(digits(False), byte_level()))
    make("whole", pre_tokenizer=byte_level(regex=False))
    make("pairs", {"merges": [m.split(" ") if isinstance(m, str) else m for m in base["model"]["merges"]]})
    make("fuse", {"unk_token": token[0], "fuse_unk": True})
    make("unk", {"unk_token": token[0], "fuse_unk": False})
    make("added", added_tokens=more, normalizer={"type": "NFC"})
    make("added-prefix", added_tokens=more, pre_tokenizer=byte_level(prefix=True))
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            make(f"split-{behavior}{'-invert' * invert}",
                 pre_tokenizer=sequence(split(r"\s+|[aeiou]", behavior, invert), byte_level(regex=False)))
        make(f"string-{behavior}", pre_tokenizer=sequence(split(" ", behavior, kind="String"), byte_level(regex=False)))
    return out


# ---- a vocabulary small enough to commit: most bytes, and merges that join a few words, spaces and marks

WORDS = ["Ġthe", "Ġcat", "cat", "scat", "Ġworld", "ĠĠĠĠ", "'s", "'ll", "aaaa", "...", "Ġwe", "hello", "Ã©", "12", "ĊĊ"]


def byte_chars():
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in own]
    return {**{b: chr(b) for b in own}, **{b: chr(0x100 + i) for i, b in enumerate(rest)}}


def tiny():
    missing = {0x04, 0x06, 0x13, 0xC0, 0xC1, *range(0xF5, 0x100)}
    chars = [c for b, c in sorted(byte_chars().items()) if b not in missing]
    vocab = {"<|end|>": 0, "<|start|>": 1}
    merges = []
    for c in chars:
        vocab[c] = len(vocab)
    for w in WORDS:
        left = w[0]
        for c in w[1:]:
            if f"{left} {c}" not in merges and left + c not in vocab:
                merges.append(f"{left} {c}")
                vocab[left + c] = len(vocab)
            left += c
    # two tokens that no merge order reaches: only ignore_merges finds them
    vocab["Ġunreached"] = len(vocab)
    vocab["aaaaa"] = len(vocab)
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [added(0, "<|end|>", special=True), added(1, "<|start|>", special=True)],
            "normalizer": None, "pre_tokenizer": sequence(digits(), byte_level()), "post_processor": None,
            "decoder": byte_level(), "model": {"type": "BPE", "dropout": None, "unk_token": None,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": vocab, "merges": merges}}


TEXTS = [
    "hello the cat's world", "    4 spaces, 12 digits 3456", " the  cat \n\n we'll \t x", "scat cats cat. cat",
    "e\u0301 é é! caf\u00e9 e\u0301!", "a\u0004b\u0013c\u0006", "<|start|>the cat<|end|>", "a <L> b <R> c <LR> d<L><R> dog",
    "aaaaaaaaaaa unreached aaaaa", "'S 'LL don'\u017ft I'M ''s", "你好 世界 \u3000\u00a0x \u180e", "½ ² Ⅷ ٣٤ 1234567",
    "\u1100\u1161\u11a8 \u0928\u092e\u0938 \U0001f469\u200d\U0001f469", "http://x.y/z?q=1 //...!!!\r\n\r\n", " ", "\n", "x" * 300 + " " * 70, "scathellocatcathel" * 20,
]


# of trained.py: a selection that has every part once
TRAINED = ["bpe-legacy", "bpe-first", "bpe-gemma", "across-first", "nobytes-never", "nobytes-words", "nobytes-punct-next", "bpe-punct", "bpe-legacy-unk",
           "unigram-t5", "unibytes-first", "unigram-always"]
MARKED = [
    "hello the cat's world", "  two spaces  in front ", "<s>the cat</s> x<unk>", "▁▁ the▁cat", "café cafe\u0301 ﬁ ½ Ａ１ ㎏ İSS ß",
    "你好 世界 \u3000x \U0001f469\u200d\U0001f469", "a.b,c!? «d» 12 345", "<0x0A> <0x41>\n\n\t x\r\n", "qqq\u4e00qqq\u4e00\u4e01 q", "x" * 120, " ", "\n",
    "<user>ab cab", "ﾞｶﾞ e\u0315\u0301 \u1100\u1161\u11a8"]


def trained_specs():
    """(name, file text or bytes, ids of a text, decoded text) of small trained tokenizers."""
    texts = [line for t in PARAGRAPHS for line in t.split("\n")] + TEXTS[:16]
    specs, models = trained.specs(texts, 420), trained.spm_models(texts, 420)
    rules = os.path.join(tempfile.mkdtemp(), "rules.tsv")
    with open(rules, "w", encoding="utf-8") as f:
        f.writelines(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n"
                     for a, b in [("ﬁ", "fi"), ("e\u0301", "é"), ("\t", " "), ("\r\n", " "), ("\r", " "), ("Ａ", "A"), ("\u3000", " "), ("½", "1⁄2"), ("\u200d", "")])
    models["spm-rules"] = trained.spm_model(texts, 300, "unigram", normalization_rule_tsv=rules)
    specs["unigram-charsmap"] = trained.with_charsmap(specs["unigram-t5"], models["spm-rules"])
    for name in TRAINED + ["unigram-charsmap"]:
        t = Tokenizer.from_str(json.dumps(specs[name]))
        yield name + ".json", json.dumps(specs[name], ensure_ascii=False, separators=(",", ":")).encode() + b"\n", t.encode, t.decode
    for name in ("spm-bpe", "spm-bpe-nfkc", "spm-rules", "spm-unibytes"):
        if name == "spm-bpe-nfkc":     # the whole of nmt_nfkc would be 300 KB
            models[name] = trained.spm_model(texts, 300, "bpe", user_defined_symbols=["<user>", "ab"], normalization_rule_tsv=rules)
        import sentencepiece
        sp = sentencepiece.SentencePieceProcessor(model_proto=models[name])
        yield name + ".model", models[name], lambda x, sp=sp: types.SimpleNamespace(ids=[sp.bos_id()] + sp.encode(x)), None


def write_trained(where, tsv):
    for name, data, encode, decode in trained_specs():
        with open(os.path.join(where, name), "wb") as f:
            f.write(data)
        for text in MARKED:
            ids = encode(text).ids
            back = decode(ids, skip_special_tokens=False) if decode else None
            print(name.removesuffix(".json"), json.dumps(text), " ".join(map(str, ids)), json.dumps(back), sep="\t", file=tsv)


def main():
    where = os.path.join(GOLDEN, "tokenizers")
    os.makedirs(where, exist_ok=True)
    with open(os.path.join(GOLDEN, "tokenizers.tsv"), "w", encoding="utf-8") as tsv:
        for name, spec in variants(tiny()).items():
            if name.startswith("string-") and name != "string-Removed":
                continue
            path = os.path.join(where, name + ".json")
            with open(path, "w", encoding="utf-8") as f:
                json.dump(spec, f, ensure_ascii=False, separators=(",", ":"))
                f.write("\n")
            t = Tokenizer.from_file(path)
            for text in TEXTS:
                ids = t.encode(text).ids
                back = t.decode(ids, skip_special_tokens=False)
                print(name, json.dumps(text), " ".join(map(str, ids)), json.dumps(back), sep="\t", file=tsv)
        write_trained(where, tsv)


if __name__ == "__main__":
    sys.exit(main())
