"""stats.py - act-stats against PyTorch with hooks, and against its own plain forward pass (what the statistics cost)

SPDX-License-Identifier: Apache-2.0
"""
import json

from bench import ceiling, line, med, products, versus

SEQ, MICRO = 1024, 4


def once(ctx, dtype, tok, *more):
    """(tokens/s of the loop, of the whole process, Run)"""
    events = ctx.path("events")
    r = ctx.prog("act-stats", "-q", "-f", "--device", "cpu", "--threads", ctx.threads, "--dtype", dtype, "--micro", MICRO, "-m", ctx.model, tok,
                 "--events", events, "-o", ctx.path("stats"), *more)
    return ctx.rate_of(events), r


def compare(ctx, dtype, samples, targets):
    """targets: (ratio to PyTorch, ratio to ModelOpt, largest resident MB or None)"""
    samples, seq = (4, 64) if ctx.small else (samples, SEQ)
    tok, ids = ctx.tokens(samples, seq)
    notes, runs = [], {"ours": [], "plain": [], "torch": [], "modelopt": [], "ceiling": []}
    peer = {k: ctx.worker_or_none(notes, "torch_stats.py", ctx.model, ids, dtype, ctx.threads, MICRO, k) for k in ("torch", "modelopt")}
    flops = float(json.loads(ctx.prog("act-stats", "-m", ctx.model, tok, "--dry-run=json").out)["flops"]) / (samples * seq)
    for _ in range(ctx.rounds):
        rate, r = once(ctx, dtype, tok)
        runs["ours"].append({"tok_per_s": rate, "whole": samples * seq / r.wall, "peak_mb": r.peak_mb, "private_mb": r.private_mb})
        if peer["torch"]:
            runs["torch"].append(peer["torch"].go())
        rate, r = once(ctx, dtype, tok, "--sites", "none")
        runs["plain"].append({"tok_per_s": rate})
        if peer["modelopt"]:
            runs["modelopt"].append(peer["modelopt"].go("2"))
        runs["ceiling"].append({"flop_per_s": ceiling(ctx, products(ctx.config, MICRO * seq), dtype)})
    mid = {k: {x: med([r[x] for r in rs]) for x in rs[0] if x != "times"} for k, rs in runs.items() if rs}
    rate, name = mid["ours"]["tok_per_s"], f"act-stats {dtype}, {samples} x {seq}"
    of = lambda k: mid[k]["tok_per_s"] if k in mid else None
    cost = med([a["tok_per_s"] and b["tok_per_s"] / a["tok_per_s"] - 1 for a, b in zip(runs["ours"], runs["plain"])])
    lines = [versus(f"{name}, against PyTorch with hooks", rate, of("torch"), targets[0], "tok/s"),
             versus(f"{name}, against ModelOpt's hooks", rate, of("modelopt"), targets[1], "tok/s"),
             line(f"{name}, statistics over the plain forward pass, %", 100 * cost, None, 100 * cost, 3, False, "%"),
             line(f"{name}, share of the products' rate", rate * flops / 1e9, mid["ceiling"]["flop_per_s"] / 1e9,
                  rate * flops / mid["ceiling"]["flop_per_s"], 0.75 if dtype == "bf16" else None, True, "GFLOP/s"),
             line(f"{name}, peak resident", mid["ours"]["peak_mb"], mid["torch"]["peak_mb"] if "torch" in mid else None, mid["ours"]["peak_mb"],
                  targets[2], False, "MB")]
    return {"lines": lines, "runs": runs, "notes": notes, "flop_per_token": flops,
            "peers": {k: w.ready.get("peer") for k, w in peer.items() if w}}


def bf16(ctx):
    return compare(ctx, "bf16", 32, (2.0, 2.2, 600))


def f32(ctx):
    return compare(ctx, "f32", 16, (1.25, None, None))
