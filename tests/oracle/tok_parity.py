#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Token ids of calib-sample against Hugging Face `tokenizers`, document by document, and the speed of both.

    tok_parity.py -t MODELDIR [--bin build/bin] TEXT.jsonl...     every document of the files
    tok_parity.py -t MODELDIR [--bin build/bin] --fuzz 2000       random texts, each supported shape of tokenizer.json
    tok_parity.py --kinds DIR [--vocab 8000] TEXT.jsonl...        tokenizers of every other kind, trained on a part of the texts
                                                                  (kept in DIR), every document of the files
    tok_parity.py -t MODELDIR --speed TEXT.jsonl                  wall time in turn, --threads each
Exits 1 on any difference.
"""
import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

from tokenizers import Tokenizer

import trained
from mk_tokenizers import TEXTS, variants

PARTS = ("the cat scat cats can't CAN'T we'll I'M don'\u017ft 'LL 've <L> <R> <LR> <L><R> <|im_start|> <|endoftext|> dog é! e\u0301! é A\u030a "
         "\ufb01 \u1100\u1161 가 각 नमस्ते 你好世界 日本語 ½ ² Ⅷ ٣٤ 1 12 123 12345 ... !!! // http://x.y/z?q=1 func(x) \t\t \u00a0\u3000\u2003 "
         "\u180e \x04 \x7f\x06 🙂 👩\u200d👩\u200d👧 a\u0310e\u0301o\u0308\u0332 \U0002ceb0 \U0001e4f0 x_y '\u017f' ''s '").split(" ")
PARTS += [" ", "  ", "   ", "\n", "\t", " \n ", "    ", "\r", "\r\n", "\n\n", "\0", "\u0301", "\u1161", "\u11a8"]


def random_text(rng):
    out = []
    for _ in range(rng.randint(1, 14)):
        r = rng.random()
        if r < .75:
            out.append(rng.choice(PARTS))
        elif r < .85:
            out.append(chr(rng.choice([rng.randint(1, 0x2FF), rng.randint(0x300, 0xD7FF), rng.randint(0xE000, 0x10FFFF)])))
        elif r < .9:
            out.append(rng.choice("aX9 '\n") * rng.randint(1, 200))
        else:
            out.append(str(rng.randint(0, 10 ** 9)))
        if rng.random() < .5:
            out.append(" ")
    return "".join(out) + "ab"          # no text without tokens: calib-sample passes over those


def children_cpu():
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


def ours(bin_dir, tokenizer, path, field, threads):
    """Ids of every document of a JSONL file, and the processor seconds it took."""
    with tempfile.TemporaryDirectory() as tmp:
        out = os.path.join(tmp, "all.tok")
        start = children_cpu()
        subprocess.run([os.path.join(bin_dir, "calib-sample"), "-t", tokenizer, "--samples", "0", "--seq", str(1 << 24), "--no-pack",
                        "--no-shuffle", "--special", "--field", field, "--threads", str(threads), "-q", path, "-o", out], check=True)
        took = children_cpu() - start
        cat = subprocess.run([os.path.join(bin_dir, "artcat"), out], check=True, stdout=subprocess.PIPE).stdout
    ids = []
    for line in cat.decode().splitlines():
        rec = json.loads(line)
        if "i" in rec and "ids" in rec:
            ids.append(rec["ids"]["data"] if isinstance(rec["ids"], dict) else rec["ids"])
    return ids, took


def compare(t, texts, got, name):
    bad, got = 0, iter(got)
    for i, enc in enumerate(t.encode_batch(texts)):
        if not enc.ids:                 # calib-sample passes over documents without tokens
            continue
        ids = next(got, [])
        if enc.ids != ids:
            bad += 1
            at = next((k for k, (a, b) in enumerate(zip(enc.ids, ids)) if a != b), min(len(enc.ids), len(ids)))
            if bad <= 3:
                print(f"{name}: document {i}: token {at}: expected {enc.tokens[at:at + 5]}, "
                      f"got {[t.id_to_token(x) for x in ids[at:at + 5]]} in {texts[i][:60]!r}")
    return bad + sum(1 for _ in got)


def documents(args):
    t = Tokenizer.from_file(os.path.join(args.t, "tokenizer.json"))
    bad = 0
    for path in args.text:
        with open(path, encoding="utf-8") as f:
            texts = [json.loads(line)[args.field] for line in f]
        size = sum(len(x.encode()) for x in texts) / 1e6
        got, took = ours(args.bin, args.t, path, args.field, 1)
        start = time.process_time()
        for x in texts:
            t.encode(x)
        theirs = time.process_time() - start
        wrong = compare(t, texts, got, path)
        bad += wrong
        print(f"{path}: {len(texts)} documents, {size:.2f} MB, {sum(map(len, got))} tokens, {wrong} documents differ; one thread, processor time: "
              f"calib-sample (whole program) {size / took:.1f} MB/s, tokenizers {size / theirs:.1f} MB/s")
    return bad


def fuzz(args):
    with open(os.path.join(args.t, "tokenizer.json"), encoding="utf-8") as f:
        base = json.load(f)
    rng = random.Random(args.seed)
    texts = [x + "ab" for x in TEXTS] + [random_text(rng) for _ in range(args.fuzz)]
    bad = 0
    with tempfile.TemporaryDirectory() as tmp:
        jsonl = os.path.join(tmp, "texts.jsonl")
        with open(jsonl, "w", encoding="utf-8") as f:
            f.writelines(json.dumps({"text": x}) + "\n" for x in texts)
        for name, spec in variants(base).items():
            path = os.path.join(tmp, name + ".json")
            with open(path, "w", encoding="utf-8") as f:
                json.dump(spec, f)
            got, _ = ours(args.bin, path, jsonl, "text", 2)
            want = Tokenizer.from_file(path)
            wrong = compare(want, texts, got, name)
            bad += wrong
            print(f"{name}: {len(texts)} texts, {wrong} differ")
    return bad


class Spm:
    """sentencepiece behind the few calls of Tokenizer that are used here."""
    def __init__(self, path):
        import sentencepiece
        self.sp = sentencepiece.SentencePieceProcessor(model_file=path)

    def encode_batch(self, texts):
        class Enc:
            pass
        for x in texts:
            e = Enc()
            e.ids = [self.sp.bos_id()] + self.sp.encode(x)
            e.tokens = [self.sp.id_to_piece(i) for i in e.ids]
            yield e

    def id_to_token(self, i):
        return self.sp.id_to_piece(i)


def documents_of(path, field):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line)[field] for line in f]


def make_kinds(where, texts, vocab):
    os.makedirs(where, exist_ok=True)
    some = texts[::max(1, len(texts) // 1500)]
    for name, model in trained.spm_models(some, vocab).items():
        os.makedirs(os.path.join(where, name), exist_ok=True)
        with open(os.path.join(where, name, "tokenizer.model"), "wb") as f:
            f.write(model)
    all_specs = trained.specs(some, vocab) | trained.byte_level_specs(some, vocab)
    nfkc = os.path.join(where, "spm-unigram", "tokenizer.model")
    if os.path.exists(nfkc):
        with open(nfkc, "rb") as f:
            all_specs["unigram-charsmap"] = trained.with_charsmap(all_specs["unigram-t5"], f.read())
    for name, spec in all_specs.items():
        os.makedirs(os.path.join(where, name), exist_ok=True)
        with open(os.path.join(where, name, "tokenizer.json"), "w", encoding="utf-8") as f:
            json.dump(spec, f)


def kinds(args):
    texts = {p: documents_of(p, args.field) for p in args.text}
    if not os.path.isdir(args.kinds):
        make_kinds(args.kinds, texts[args.text[0]], args.vocab)
    bad = 0
    for name in sorted(os.listdir(args.kinds)):
        if args.only and name not in args.only.split(","):
            continue
        where = os.path.join(args.kinds, name)
        spm = os.path.join(where, "tokenizer.model")
        t = Spm(spm) if os.path.exists(spm) else Tokenizer.from_file(os.path.join(where, "tokenizer.json"))
        for path in args.text:
            got, took = ours(args.bin, where, path, args.field, args.threads)
            start = time.time()
            wrong = compare(t, texts[path], got, name)
            size = sum(len(x.encode()) for x in texts[path]) / 1e6
            print(f"{name}: {len(texts[path])} documents, {size:.1f} MB, {sum(map(len, got))} tokens, {wrong} differ; ours {took:.1f} s of processor "
                  f"time, reference {time.time() - start:.1f} s", flush=True)
            bad += wrong
    return bad


def tiktoken_of(path):
    """The same byte-level BPE in tiktoken; None without it, or where a tokenizer.json is none that it can have."""
    try:
        import tiktoken
    except ImportError:
        return None
    from trained import GPT2, L3, TK
    name = os.path.basename(os.path.normpath(path))
    pattern = {"bytes-gpt2": GPT2, "bytes-llama3": L3, "bytes-tekken": TK}.get(name)
    if not pattern:
        return None
    with open(os.path.join(path, "tokenizer.json"), encoding="utf-8") as f:
        vocab = json.load(f)["model"]["vocab"]
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    byte = {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in plain)}
    ranks = {bytes(byte[c] for c in k): v for k, v in vocab.items() if all(c in byte for c in k)}
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def speed(args):
    """The same paragraphs, to the others in memory, to calib-sample as a plain text file; three turns each, the best of each."""
    texts = [p for x in documents_of(args.text[0], args.field) for p in x.split("\n\n") if p.strip()]
    plain = tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", newline="")
    plain.write("\n\n".join(texts))
    plain.flush()
    size = sum(len(x.encode()) for x in texts) / 1e6
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    t = Tokenizer.from_file(os.path.join(args.t, "tokenizer.json"))
    other = tiktoken_of(args.t)
    wall, cpu = ([], [], []), ([], [], [])
    for _ in range(3):
        start, used = time.time(), time.process_time()
        if other:
            other.encode_ordinary_batch(texts, num_threads=args.threads)
        wall[2].append(time.time() - start)
        cpu[2].append(time.process_time() - used)
        start, used = time.time(), time.process_time()
        n = sum(len(e) for e in t.encode_batch_fast(texts))
        wall[0].append(time.time() - start)
        cpu[0].append(time.process_time() - used)
        start, used = time.time(), children_cpu()
        subprocess.run([os.path.join(args.bin, "calib-sample"), "-t", args.t, "--samples", "0", "--seq", "4096", "--eos", "none", "--no-shuffle",
                        "--documents", "paragraph", "--threads", str(args.threads), "-q", plain.name, "-o", "/dev/null", "--force"], check=True)
        wall[1].append(time.time() - start)
        cpu[1].append(children_cpu() - used)
    for what, (a, b, c) in (("wall", wall), ("processor time", cpu)):
        if other:
            print(f"{args.t}: tiktoken, {what}: {size / min(c):.1f} MB/s, calib-sample {min(c) / min(b):.1f} x", flush=True)
        print(f"{args.t}: {size:.1f} MB, {n} tokens, {args.threads} threads, {what}: tokenizers {size / min(a):.1f} MB/s, calib-sample (whole program) "
              f"{size / min(b):.1f} MB/s, {min(a) / min(b):.1f} x", flush=True)
    return 0


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("-t", metavar="MODELDIR")
    ap.add_argument("--bin", default="build/bin")
    ap.add_argument("--field", default="text")
    ap.add_argument("--fuzz", type=int, default=0)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kinds", metavar="DIR")
    ap.add_argument("--only", metavar="NAME,NAME")
    ap.add_argument("--vocab", type=int, default=8000)
    ap.add_argument("--speed", action="store_true")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("text", nargs="*")
    a = ap.parse_args()
    sys.exit(1 if (kinds if a.kinds else speed if a.speed else fuzz if a.fuzz else documents)(a) else 0)
