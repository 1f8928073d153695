"""kd.py - a distillation step against PyTorch eager and chunked losses (Liger's, or one of our own in PyTorch where that is missing)

A step: teacher forward, student forward and backward, forward KL over the whole vocabulary, clipping, AdamW.  Peers keep their
model loaded and do one step a round, all of them together where memory allows (they hold 14 GB), else each in rounds of its own;
ours is a process of STEPS steps a round, the first of which (page faults) does not count.
SPDX-License-Identifier: Apache-2.0
"""
import json, os, shutil

from bench import ceiling, free_gb, head_products, line, med, products, versus

MICRO, STEPS = 4, 3


def once(ctx, dtype, teacher, student, tok, *more):
    """{tok_per_s, flop_per_s, peak_mb} of one process"""
    out = ctx.path("kd-run")
    shutil.rmtree(out, ignore_errors=True)
    r = ctx.prog("kd-train", "-q", "-f", "--device", "cpu", "--threads", ctx.threads, "--dtype", dtype, "--teacher", teacher, "--student", student, "--data",
                 tok, "--batch", MICRO, "--micro", MICRO, "--steps", STEPS, "--save-every", 0, "--peak-flops", "1e12", "--lr", "1e-4", "-o", out, *more)
    with open(os.path.join(out, "metrics.jsonl")) as f:
        rows = [json.loads(x) for x in f][1:]
    return {k: med([x[k] for x in rows]) for k in ("tok_per_s", "flop_per_s")} | {"peak_mb": r.peak_mb}


def work(teacher, student, rows):
    """All products of a step"""
    return (products(teacher, rows) + head_products(teacher, rows, max(1, rows // 512)) + products(student, rows, True)
            + head_products(student, rows, max(1, rows // 512), True))


def compare(ctx, dtype, seq, peers, targets, more=()):
    """peers: which of torch, chunked; targets: their ratios and the largest resident MB; more: [(name, options, MB)] memory of other forms"""
    seq = 32 if ctx.small else seq
    tok, ids = ctx.tokens(32, seq)
    teacher, student = ctx.model, ctx.student(ctx.config["vocab_size"])
    with open(os.path.join(student, "config.json")) as f:
        student_config = json.load(f)
    notes, runs = [], {"ours": [], "ceiling": [], **{p: [] for p in peers}}
    names = {}
    for group in [list(peers)] if ctx.small or free_gb() > 20 else [[p] for p in peers]:
        workers = {p: ctx.worker_or_none(notes, "torch_kd.py", teacher, student, ids, dtype, ctx.threads, MICRO, p) for p in group}
        names |= {p: w.ready["peer"] for p, w in workers.items() if w}
        for _ in range(ctx.rounds):
            runs["ours"].append(once(ctx, dtype, teacher, student, tok))
            for p, w in workers.items():
                if w:
                    runs[p].append(w.go())
            runs["ceiling"].append({"flop_per_s": ceiling(ctx, work(ctx.config, student_config, MICRO * seq), dtype)})
        ctx.close()
    runs |= {n: [once(ctx, dtype, teacher, student, tok, *options)] for n, options, _ in more}
    mid = {k: {x: med([r[x] for r in rs]) for x in rs[0]} for k, rs in runs.items() if rs}
    name = f"distillation step {dtype}, {MICRO} x {seq}"
    of = lambda k, x="tok_per_s": mid[k][x] if k in mid else None
    said = {"torch": "PyTorch eager", "chunked": "the chunked loss"}
    lines = [versus(f"{name}, against {said[p]}", of("ours"), of(p), targets[p], "tok/s") for p in peers]
    share = of("ours", "flop_per_s") / of("ceiling", "flop_per_s")
    lines.append(line(f"{name}, share of the products' rate", of("ours", "flop_per_s") / 1e9, of("ceiling", "flop_per_s") / 1e9, share,
                      0.65 if dtype == "bf16" else None, True, "GFLOP/s"))
    best = min((of(p, "peak_mb") for p in peers if p in mid), default=None)
    lines.append(line(f"{name}, peak resident (peer: the smallest)", of("ours", "peak_mb"), best, of("ours", "peak_mb"), targets["mb"], False, "MB"))
    lines += [line(f"{name}, {n}: peak resident at {of(n):.0f} tok/s", of(n, "peak_mb"), None, of(n, "peak_mb"), mb, False, "MB") for n, _, mb in more]
    return {"lines": lines, "runs": runs, "notes": notes, "peers": names}


def long(ctx):
    return compare(ctx, "bf16", 1024, ("torch", "chunked"), {"torch": 2.0, "chunked": 1.7, "mb": 3000}, [("recomputation, one sequence at a time", ["--recompute=full", "--micro", "1"], 1800)])


def short(ctx):
    return compare(ctx, "bf16", 512, ("torch", "chunked"), {"torch": 1.5, "chunked": 1.5, "mb": None})


def f32(ctx):
    return compare(ctx, "f32", 1024, ("torch",), {"torch": 1.25, "mb": 3800})


def vocabulary(ctx):
    """Peak memory at the model's vocabulary and at 128000, less what belongs to the embeddings: teacher and student in bf16, the
    student's master weights, moments and gradient in f32 (tied: once each)"""
    c, seq, rest, runs = ctx.config, 32 if ctx.small else 1024, [], {}
    tok, _ = ctx.tokens(32, seq)
    shape = ctx.shape(c["num_hidden_layers"], c["hidden_size"], c["intermediate_size"], c["num_attention_heads"], c["num_key_value_heads"],
                      c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"])
    for v in (c["vocab_size"], 128000):
        student = ctx.student(v)
        with open(os.path.join(student, "config.json")) as f:
            embedding = v * (json.load(f)["hidden_size"] * (2 + 4 * 4) + c["hidden_size"] * 2) / 1048576
        got = once(ctx, "bf16", ctx.made(f"teacher-{v}", *shape, "--vocab", v, "--tied", "--store", "bf16", "--fast"), student, tok)
        runs[f"vocabulary {v}"] = [got | {"embedding_mb": embedding}]
        rest.append(got["peak_mb"] - embedding)
    growth = 100 * (rest[1] / rest[0] - 1)
    return {"lines": [line("distillation step bf16, peak without embeddings, more at a vocabulary of 128000", growth, None, growth, 10, False, "%")],
            "runs": runs}
