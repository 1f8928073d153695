#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns unpacked Debian packages into the demo's documents and test items: demo_text.py ROOT OUTDIR.

Used by fetch-demo-text.  The same packages give the same bytes.  One document is a chapter of a novel or of the Bible, or a
page of documentation; paragraphs are separated by a blank line.  Held out: the whole of Persuasion, and every 50th
document of the others.  A test item is 60 to 100 words of a held-out document and its true next sentence among
sentences from other places of the same source.
"""
import glob
import gzip
import html.parser
import json
import os
import random
import re
import struct
import sys
import zlib

SOURCES = ("austen", "bible", "postgresql", "git")
ITEMS = {"austen": 120, "bible": 80, "postgresql": 70, "git": 30}


def one(root, pattern):
    found = sorted(glob.glob(os.path.join(root, pattern), recursive=True))
    if not found:
        sys.exit(f"demo_text.py: nothing matches {pattern} in {root}")
    return found[0]


def read(path):
    with open(path, "rb") as f:
        return f.read()


# ---- novels: an R lazy-load database.  The index lists (offset, length) of each variable by name; a value is its
# length and a zlib stream of R's serialisation, in which a string is the tag 9, its length, its bytes.

def r_strings(data):
    at = 0
    while (at := data.find(b"\x00\x04\x00\x09", at)) >= 0:
        n = struct.unpack_from(">i", data, at + 4)[0]
        if n >= 0:
            yield data[at + 8:at + 8 + n].decode("utf-8")
        at += 8 + max(n, 0)


def novels(root):
    index = gzip.decompress(read(one(root, "**/janeaustenr/data/Rdata.rdx")))
    base = read(one(root, "**/janeaustenr/data/Rdata.rdb"))
    where = [struct.unpack(">ii", m) for m in re.findall(rb"\x00\x00\x00\x0d\x00\x00\x00\x02(.{8})", index, re.S)]
    names = re.findall(rb"\x00\x04\x00\x09\x00\x00\x00[\x01-\x40]([a-z]{4,})", index)
    names = [n for n in names if n != b"names"][:len(where)]   # "names" labels the list itself
    for name, (offset, length) in sorted(zip((n.decode() for n in names), where)):
        data = zlib.decompress(base[offset + 4:offset + length])
        chapter, chapters = [], []
        for line in r_strings(data):
            if re.match(r"\s*(chapter|volume)\s+[ivxl\d]+", line, re.I):
                chapters.append(chapter)
                chapter = []
            else:
                chapter.append(line)
        chapters.append(chapter)
        for i, lines in enumerate(chapters[1:], 1):
            text = paragraphs("\n".join(lines).replace("_", ""))
            if len(text) > 400:
                yield f"{name}-{i:02d}", text


def paragraphs(text):
    parts = (" ".join(p.split()) for p in re.split(r"\n\s*\n", text))
    return "\n\n".join(p for p in parts if p)


# ---- Bible: blocks of zlib, one a book, listed as (offset, size, unpacked size); OSIS markup inside.

def bible(root):
    for part in ("ot", "nt"):
        index, data = read(one(root, f"**/sword/**/{part}.bzs")), read(one(root, f"**/sword/**/{part}.bzz"))
        for book in range(len(index) // 12):
            offset, size, _ = struct.unpack_from("<III", index, 12 * book)
            text = zlib.decompress(data[offset:offset + size]).decode("utf-8")
            for i, chapter in enumerate(re.split(r"<chapter [^>]*sID=[^>]*>", text)[1:], 1):
                chapter = re.sub(r"<note\b.*?</note>|<title\b.*?</title>|<chapter[^>]*>", " ", chapter, flags=re.S)
                chapter = re.sub(r'<div [^>]*eID="[^"]*" type="x-p"/>|<lb[^>]*>|<l [^>]*eID[^>]*>', "\n\n", chapter)
                chapter = paragraphs(html.unescape(re.sub(r"<[^>]*>", "", chapter)))
                if len(chapter) > 200:
                    yield f"{part}-{book:02d}-{i:03d}", chapter


# ---- documentation: the running text of HTML pages, no code, no navigation.

class Prose(html.parser.HTMLParser):
    BLOCK = {"p", "div", "dt", "dd", "li", "td", "th", "h1", "h2", "h3", "h4", "table", "ul", "ol", "dl", "body"}
    SKIP = {"pre", "script", "style", "sup", "title", "head"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts, self.cur, self.inside, self.skip = [], [], False, 0

    def flush(self):
        text = " ".join("".join(self.cur).split())
        if len(text) > 40 and text[-1] in ".:!?":
            self.parts.append(text)
        self.cur = []

    def handle_starttag(self, tag, attrs):
        if tag in self.SKIP:
            self.skip += 1
        elif tag in self.BLOCK:
            self.flush()
            self.inside = tag == "p"

    def handle_endtag(self, tag):
        if tag in self.SKIP:
            self.skip = max(0, self.skip - 1)
        elif tag in self.BLOCK:
            self.flush()
            self.inside = False

    def handle_data(self, data):
        if self.inside and not self.skip:
            self.cur.append(data)


def pages(root, folder):
    seen = set()
    for path in sorted(glob.glob(os.path.join(root, folder, "**/*.html"), recursive=True)):
        parser = Prose()
        parser.feed(read(path).decode("utf-8", "replace"))
        parser.close()
        new = [p for p in parser.parts if p not in seen]
        seen.update(new)
        text = "\n\n".join(new)
        if len(text) > 400:
            yield os.path.basename(path)[:-5], text


# ---- test items

ABBREVIATION = re.compile(r"\b(Mr|Mrs|Dr|St|Capt|Col|Sir|e\.g|i\.e|etc|vs|cf|No|[A-Z])\.$")


def sentences(text):
    out = []
    for paragraph in text.split("\n\n"):
        cur = ""
        for piece in re.split(r"(?<=[.!?])\s+|(?<=[.!?][\"”’)])\s+", paragraph):
            cur = f"{cur} {piece}".strip()
            if not ABBREVIATION.search(cur):
                out.append(cur)
                cur = ""
        if cur:
            out.append(cur)
    return out


def fits(sentence):
    return 8 <= len(sentence.split()) <= 30 and sentence[0].isupper() and sentence[-1] in ".!?"


def items(docs, rng, want):
    """docs: [(id, text)] of one source.  Choices are sentences of much the same length."""
    split = [(name, sentences(text)) for name, text in docs]
    pool = [(name, i, s) for name, ss in split for i, s in enumerate(ss) if fits(s)]
    found, used = [], set()
    for name, ss in split:
        start = 0
        while start < len(ss):
            end, words = start, 0
            while end < len(ss) and words < 60:
                words += len(ss[end].split())
                end += 1
            if end < len(ss) and words <= 100 and fits(ss[end]):
                found.append((name, " ".join(ss[start:end]), end, ss[end]))
                start = end + 1
            else:
                start += 1
    rng.shuffle(found)
    out = []
    for name, ctx, at, gold in found:
        n = len(gold.split())
        others = [(d, i, s) for d, i, s in pool if abs(len(s.split()) - n) <= 3 and s != gold and s not in used
                  and s not in ctx and (d != name or abs(i - at) > 30)]
        if len(others) < 3:
            continue
        wrong = [s for _, _, s in rng.sample(others, 3)]
        if len(set(wrong)) < 3:
            continue
        used.update(wrong)
        place = rng.randrange(4)
        out.append((ctx, wrong[:place] + [gold] + wrong[place:], place))
        if len(out) == want:
            break
    return out


def write(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def excerpt(text, size=1200):
    """The beginning of a text, about size characters, up to the end of a word."""
    return text if len(text) <= size else text[:text.rfind(" ", 0, size)]


def main(root, out):
    docs = {
        "austen": list(novels(root)), "bible": list(bible(root)),
        "postgresql": list(pages(root, "usr/share/doc/postgresql-doc-15")), "git": list(pages(root, "usr/share/doc/git-doc")),
    }
    train, valid, cloze = [], [], []
    for source in SOURCES:
        held = []
        for i, (name, text) in enumerate(docs[source]):
            hold = name.startswith("persuasion") if source == "austen" else i % 50 == 25
            (valid if hold else train).append({"text": text, "source": source, "id": f"{source}/{name}"})
            if hold:
                held.append((name, text))
        for ctx, choices, gold in items(held, random.Random(f"cloze {source}"), ITEMS[source]):
            cloze.append({"ctx": ctx, "choices": choices, "gold": gold, "id": f"{source}-{len(cloze)}"})
    random.Random("documents").shuffle(train)
    random.Random("items").shuffle(cloze)
    write(os.path.join(out, "train.jsonl"), train)
    write(os.path.join(out, "valid.jsonl"), valid)
    write(os.path.join(out, "cloze.jsonl"), cloze)
    write(os.path.join(out, "excerpts.jsonl"), [dict(r, text=excerpt(r["text"])) for r in valid[::3]])
    if len(cloze) < 200 or len(train) < 500 or not valid:
        sys.exit(f"demo_text.py: only {len(train)} + {len(valid)} documents and {len(cloze)} items; the packages have changed")
    for what, rows in (("train", train), ("valid", valid)):
        size = {s: sum(len(r["text"].encode()) for r in rows if r["source"] == s) for s in SOURCES}
        print(f"{what}: {len(rows)} documents, " + ", ".join(f"{s} {n / 1e6:.2f} MB" for s, n in size.items()), file=sys.stderr)
    print(f"cloze: {len(cloze)} items", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: demo_text.py ROOT OUTDIR")
    main(sys.argv[1], sys.argv[2])
