"""shapes.py - rank and candidates at the sizes of an 8B model, whole processes

The statistics have an 8B model's 32 blocks and as many units (1.2 million sums of seven kinds); its hidden size is narrower and its
FFN wider by as much, so that a model to measure is 1 GB and not 16.  candidates reads a real 8B shape.
SPDX-License-Identifier: Apache-2.0
"""
import json, os

from bench import line, med


def plan(ctx):
    layers, hidden, ffn = (2, 64, 256) if ctx.small else (32, 256, 18432)
    model = ctx.made("many-units", *ctx.shape(layers, hidden, ffn, 32, 8, max(8, hidden // 32)), "--vocab", 49152, "--tied", "--store", "bf16", "--fast")
    stats, eight = ctx.path("many.stats"), ctx.path("8b", "config.json")
    tok, _ = ctx.tokens(1, 64)
    ctx.prog("act-stats", "-q", "-f", "--device", "cpu", "-m", model, tok, "-o", stats)
    with open(os.path.join(model, "config.json")) as f:
        c = json.load(f)
    c |= {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": False}
    with open(eight, "w") as f:
        json.dump(c, f)
    runs = {"rank": [], "rank, least": [], "candidates": []}
    for _ in range(3 * ctx.rounds):
        runs["rank"].append(ctx.prog("rank", "-q", "-f", stats, "-o", ctx.path("many.rank"), watch=False).wall * 1e3)
        runs["candidates"].append(ctx.prog("candidates", "-q", "-m", os.path.dirname(eight), "--layers", "24:32", "--hidden", "3072:4096:256", "--ffn",
                                           "9216:14336:256", "--heads", "24:32:4", "--params", "4e9~5%", "--top", 20, watch=False).wall * 1e3)
    runs["rank, least"] = [min(runs["rank"])]
    size = os.path.getsize(stats) / 1e6
    return {"lines": [line(f"rank of an 8B model's statistics ({size:.0f} MB)", med(runs["rank"]), None, med(runs["rank"]), 50, False, "ms"),
                      line("candidates around an 8B model", med(runs["candidates"]), None, med(runs["candidates"]), 50, False, "ms")], "runs": runs}
