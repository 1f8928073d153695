"""tok.py - tokenization against tiktoken and tokenizers: documents of 16 KB to ids, one thread and two; table building; identical ids

Ours is calib-sample as a whole process, reading and writing included; the peers' time is that of encoding alone, loaded before.
SPDX-License-Identifier: Apache-2.0
"""
import array

from bench import ids_of, line, med, text_bytes, versus


def ours(ctx, docs, threads, *more):
    return ctx.prog("calib-sample", "-q", "-f", "-t", ctx.model, "--samples", 0, "--seq", 4096, "--eos", "none", "--threads", threads, *more, docs,
                    "-o", ctx.path("all.tok"))


def speed(ctx):
    docs = ctx.documents(200_000 if ctx.small else 12_000_000)
    size = text_bytes(docs) / 1e6
    notes, runs, workers = [], {}, {}
    for n in (1, 2):
        for impl in ("tiktoken", "tokenizers"):
            workers[impl, n] = ctx.worker_or_none(notes, "encode.py", ctx.model, docs, n, ctx.path(f"{impl}.ids"), impl, threads=n)
    for _ in range(ctx.rounds):
        for n in (1, 2):
            r = ours(ctx, docs, n)
            runs.setdefault(f"ours, {n}", []).append({"mb_per_s": size / r.wall, "peak_mb": r.peak_mb})
            for impl in ("tiktoken", "tokenizers"):
                if workers[impl, n]:
                    got = workers[impl, n].go()
                    runs.setdefault(f"{impl}, {n}", []).append({"mb_per_s": size / got["seconds"], "peak_mb": got["peak_mb"]})
    empty = [ctx.prog("tokenize", "-t", ctx.model, watch=False).wall * 1e3 for _ in range(3 * ctx.rounds)]
    of = lambda k, x="mb_per_s": med([r[x] for r in runs[k]]) if k in runs else None
    name = f"tokenization of {size:.3g} MB"
    lines = [versus(f"{name}, one thread, against tiktoken", of("ours, 1"), of("tiktoken, 1"), 2, "MB/s"),
             versus(f"{name}, one thread, against tokenizers", of("ours, 1"), of("tokenizers, 1"), 15, "MB/s"),
             versus(f"{name}, two threads, against tiktoken", of("ours, 2"), of("tiktoken, 2"), None, "MB/s"),
             line(f"{name}, two threads over one", of("ours, 2"), of("ours, 1"), of("ours, 2") / of("ours, 1"), 1.9, True, "MB/s"),
             line("tokenizer's tables, start-up included", med(empty), None, med(empty), 30, False, "ms"),
             line(f"{name}, peak resident", of("ours, 1", "peak_mb"), of("tiktoken, 1", "peak_mb"), None, None, False, "MB")]
    ours(ctx, docs, ctx.threads, "--no-shuffle")
    mine = ids_of(ctx.records(ctx.path("all.tok")))
    for impl in ("tokenizers", "tiktoken"):
        if workers[impl, 1]:
            other = array.array("I", open(ctx.path(f"{impl}.ids"), "rb").read())
            same = sum(a == b for a, b in zip(mine, other)) / max(1, len(mine))
            lines.append(line(f"ids the same as those of {impl}, share of {len(mine)}", len(mine), len(other), same, 1 if impl == "tokenizers" else None, True, "ids"))
    return {"lines": lines, "runs": runs | {"tables, ms": empty}, "notes": notes, "peers": {f"{k}, {n}": w.ready["peer"] for (k, n), w in workers.items() if w}}
