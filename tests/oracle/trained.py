#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of the kinds that SentencePiece made common, trained by the `tokenizers` library's own trainers (and models by
`sentencepiece` where it is installed).  Used by mk_tokenizers.py (small, committed) and tok_parity.py (large)."""
import base64
import io
import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

MARK = "\u2581"
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def bpe(texts, vocab, split=True, bytes_too=True, alphabet=1000):
    """A BPE model over characters: words cut at U+2581, or, with split False, merges across words too."""
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=split)
    names = ["<unk>", "<s>", "</s>"] + BYTES * bytes_too
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab, special_tokens=names, limit_alphabet=alphabet, show_progress=False,
                                                     max_token_length=16))
    spec = json.loads(t.to_str())
    spec["added_tokens"] = [a for a in spec["added_tokens"] if a["id"] < 3]
    spec["model"].update(byte_fallback=bytes_too, fuse_unk=True)
    return spec


def unigram(texts, vocab, bytes_too=False, split=True):
    t = Tokenizer(models.Unigram())
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=split)
    names = ["<unk>", "<s>", "</s>"] + BYTES * bytes_too
    t.train_from_iterator(texts, trainers.UnigramTrainer(vocab_size=vocab, special_tokens=names, unk_token="<unk>", show_progress=False,
                                                         max_piece_length=12))
    spec = json.loads(t.to_str())
    spec["added_tokens"] = [a for a in spec["added_tokens"] if a["id"] < 3]
    spec["model"]["byte_fallback"] = bytes_too
    return spec


def spm_model(texts, vocab, kind, **how):
    """Bytes of a .model by sentencepiece; None without the library."""
    try:
        import sentencepiece
    except ImportError:
        return None
    out = io.BytesIO()
    lines = [x for text in texts for x in text.split("\n") if x.strip() and "\0" not in x]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, vocab_size=vocab, model_type=kind,
                                             minloglevel=2, hard_vocab_limit=False, num_threads=1, **how)
    return out.getvalue()


def charsmap_of(model):
    """precompiled_charsmap of a .model, as tokenizer.json spells it."""
    at, wire = 0, {}

    def varint():
        nonlocal at
        v = shift = 0
        while True:
            b = model[at]
            at += 1
            v |= (b & 127) << shift
            shift += 7
            if b < 128:
                return v
    while at < len(model):
        tag = varint()
        n = varint()
        wire[tag >> 3] = model[at:at + n]
        at += n
    model, at = wire[3], 0
    while at < len(model):
        tag = varint()
        n = varint()
        if tag & 7 == 2:
            if tag >> 3 == 2:
                return base64.b64encode(model[at:at + n]).decode()
            at += n
    return None


def text_parts():
    """The parts that go around the models, as tokenizers spells them: name -> (normalizer, pre_tokenizer, decoder)."""
    n, p, d = normalizers, pre_tokenizers, decoders
    llama = d.Sequence([d.Replace(MARK, " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])
    gemma = d.Sequence([d.Replace(MARK, " "), d.ByteFallback(), d.Fuse()])
    meta = p.Metaspace
    return {
        "legacy": (n.Sequence([n.Prepend(MARK), n.Replace(" ", MARK)]), None, llama),
        "first": (None, meta(prepend_scheme="first", split=False), llama),
        "gemma": (n.Replace(" ", MARK), p.Split(" ", "merged_with_previous"), gemma),
        "always": (n.NFKC(), meta(prepend_scheme="always"), d.Metaspace()),
        "never": (n.Sequence([n.NFD(), n.Lowercase()]), meta(prepend_scheme="never"), d.Metaspace(prepend_scheme="never")),
        "t5": (n.Sequence([n.Nmt(), n.NFKC(), n.Strip(), n.Replace(__import__("tokenizers").Regex(" {2,}"), " ")]),
               p.Sequence([p.WhitespaceSplit(), meta(prepend_scheme="always")]), d.Metaspace()),
        "words": (n.NFKD(), p.Sequence([p.Whitespace(), meta(prepend_scheme="always")]), d.Fuse()),
        "punct": (n.NFC(), p.Sequence([p.Punctuation(), p.Digits(individual_digits=True), meta(prepend_scheme="always")]), None),
        "punct-next": (n.Strip(left=False), p.Sequence([p.Punctuation("merged_with_next"), meta(prepend_scheme="first", split=False)]), d.Strip("a", 0, 1)),
    }


def specs(texts, vocab):
    """{name: tokenizer.json} of every kind."""
    base = {"bpe": bpe(texts, vocab), "nobytes": bpe(texts, vocab, bytes_too=False, alphabet=100), "across": bpe(texts, vocab, split=False),
            "unigram": unigram(texts, vocab), "unibytes": unigram(texts, vocab, True)}
    use = {"legacy": ["bpe", "across", "nobytes", "unibytes"], "first": ["bpe", "across", "unibytes"], "gemma": ["bpe"], "always": ["bpe", "unigram"],
           "never": ["nobytes", "unigram"], "t5": ["unigram", "unibytes"], "words": ["nobytes", "unigram"], "punct": ["bpe", "unigram"],
           "punct-next": ["nobytes"]}
    out = {}
    for part, (norm, pre, deco) in text_parts().items():
        for model in use[part]:
            t = Tokenizer.from_str(json.dumps(base[model]))
            t.pre_tokenizer = pre or pre_tokenizers.Sequence([])
            t.normalizer = norm
            t.decoder = deco
            spec = json.loads(t.to_str())
            if not pre:
                spec["pre_tokenizer"] = None
            out[f"{model}-{part}"] = spec
    out["bpe-legacy-unk"] = json.loads(json.dumps(out["nobytes-legacy"]))
    out["bpe-legacy-unk"]["model"]["fuse_unk"] = False
    return out


def spm_models(texts, vocab):
    rules = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    out = {"spm-bpe": spm_model(texts, vocab, "bpe", **rules), "spm-bpe-nfkc": spm_model(texts, vocab, "bpe", user_defined_symbols=["<user>", "ab"]),
           "spm-unigram": spm_model(texts, vocab, "unigram"), "spm-unibytes": spm_model(texts, vocab, "unigram", user_defined_symbols=["<user>", "ab"],
                                                                                       add_dummy_prefix=False, **rules)}
    return {k: v for k, v in out.items() if v}


def with_charsmap(spec, model):
    spec = json.loads(json.dumps(spec))
    spec["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": charsmap_of(model)},
                          {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]}
    return spec


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
L3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TK = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
      r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level_specs(texts, vocab):
    """Byte-level BPE with the parts of Llama-3, Qwen2, Mistral-NeMo (tekken), SmolLM2 and GPT-2, each trained behind its own pre-tokenizer."""
    from tokenizers import Regex, processors
    p, plain = pre_tokenizers, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def split(pattern):
        return p.Sequence([p.Split(Regex(pattern), "isolated"), plain])
    parts = {"llama3": (None, split(L3), "<|begin_of_text|>", True),
             "qwen2": (normalizers.NFC(), split(L3.replace(r"\p{N}{1,3}", r"\p{N}")), None, False),
             "tekken": (None, split(TK), "<s>", True),
             "smollm": (None, p.Sequence([p.Digits(individual_digits=True), p.ByteLevel(add_prefix_space=False)]), None, False),
             "gpt2": (None, p.ByteLevel(add_prefix_space=False), None, False)}
    out = {}
    for name, (norm, pre, bos, whole) in parts.items():
        t = Tokenizer(models.BPE(ignore_merges=whole))
        t.normalizer, t.pre_tokenizer, t.decoder = norm, pre, decoders.ByteLevel()
        t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab, special_tokens=[bos or "<|endoftext|>"], show_progress=False,
                                                         initial_alphabet=p.ByteLevel.alphabet()))
        if bos:
            t.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])
        out["bytes-" + name] = json.loads(t.to_str())
    return out
