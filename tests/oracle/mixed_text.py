#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mixed text for tok_parity.py, as JSONL: what an installed Debian system has in many languages, code, and made-up noise.

    mixed_text.py MEGABYTES OUT.jsonl [ENGLISH.jsonl...]
Message catalogues (/usr/share/locale) give some forty languages in more than ten scripts, /usr/include and Python's library
give code, /usr/share/doc English; every fifth document is noise: emoji, control characters, long runs of spaces and letters,
random code points, marks in odd order, special tokens.
"""
import gettext
import glob
import json
import os
import random
import sys

LANGS = "ru zh_CN zh_TW ja ko ar he hi ta te bn th el uk ka hy am gu kn ml mr pa si km my ne fa ur vi tr de fr es pl cs sv is eo".split()
NOISE = ("🙂 👩\u200d👩\u200d👧 🇩🇪🇫🇷 ☃\ufe0f e\u0301o\u0308 \u1100\u1161\u11a8 ½ ² Ⅷ ٣٤ ﬁ ｱｲｳ Ａ１ \u3000 \u00a0 \u2003 \u180e \u200b \ufeff \ufffd <s> </s> <unk> <0x0A> ▁ ▁▁x "
         "\x00 \x01 \x04 \x7f \x85 \r \r\n \t \n \n\n # {} ... ''' don't x_y İ ß Σς 𝔘𝔫𝔦 𠀀 \U0001e4f0 \u0fb2\u0f80 \u0344 \u212b ℌ ㎏ ㌀ a\u0315\u0300").split(" ")


def catalogue(lang):
    for path in sorted(glob.glob(f"/usr/share/locale/{lang}/LC_MESSAGES/*.mo")):
        try:
            with open(path, "rb") as f:
                texts = [v for v in gettext.GNUTranslations(f)._catalog.values() if isinstance(v, str) and v]
        except Exception:
            continue
        for i in range(0, len(texts), 40):
            yield "\n".join(texts[i:i + 40])


def files(patterns, most=20000):
    for pattern in patterns:
        for path in sorted(glob.glob(pattern, recursive=True)):
            try:
                with open(path, encoding="utf-8") as f:
                    text = f.read(400000)
            except (OSError, UnicodeDecodeError):
                continue
            for i in range(0, len(text), most):
                yield text[i:i + most]


def english(paths):
    for path in paths:
        with open(path, encoding="utf-8") as f:
            for line in f:
                yield json.loads(line)["text"]


def noise(rng):
    while True:
        out = []
        for _ in range(rng.randint(1, 200)):
            r = rng.random()
            if r < .6:
                out.append(rng.choice(NOISE))
            elif r < .8:
                out.append(chr(rng.choice([rng.randint(1, 0x2FF), rng.randint(0x300, 0xD7FF), rng.randint(0xE000, 0x10FFFF)])))
            elif r < .85:
                out.append(rng.choice("aX9 '\n") * rng.choice([2, 3, 7, 30, 100, 1000]))
            else:
                out.append(rng.choice("the cat sat where 12345 http://x.y/z?q=1 func(x);".split()))
            if rng.random() < .5:
                out.append(" " * rng.choice([1, 1, 1, 2, 5]))
        yield "".join(out)


def main():
    size, rng, total = float(sys.argv[1]) * 1e6, random.Random(0), 0
    sources = [english(sys.argv[3:]), files(["/usr/include/**/*.h", "/usr/lib/python3*/**/*.py"]),
               files(["/usr/share/doc/**/*.txt", "/usr/share/doc/**/*.html", "/usr/share/doc/**/copyright"]), noise(rng)]
    sources[1:1] = [catalogue(x) for x in LANGS if os.path.isdir(f"/usr/share/locale/{x}")]
    turns = list(range(len(sources))) + [0, len(sources) - 1] * 2 + [len(sources) - 3, len(sources) - 2] * 3
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        while total < size and turns:
            rng.shuffle(turns)
            for k in list(turns):
                text = next(sources[k], None)
                if text is None:
                    turns = [x for x in turns if x != k]
                    continue
                text = text.encode("utf-8", "replace").decode("utf-8")
                out.write(json.dumps({"text": text}) + "\n")
                total += len(text.encode())
    print(f"{total / 1e6:.1f} MB, {len(sources)} sources")


if __name__ == "__main__":
    main()
