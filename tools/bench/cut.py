"""cut.py - trim of a synthetic model of 3.9 GB (nine blocks of an 8B model, 4096 and 14336 to 3072 and 9216) against PyTorch with safetensors

Warm: the source in the page cache; ours ends with its data on the disk all the same, the peer's does not.  Cold: the source dropped
from the cache, both end with a sync.  Ceiling: the bytes a second, read and written, that `cp` of the source moves.
SPDX-License-Identifier: Apache-2.0
"""
import glob, os, shutil

from bench import line, med, run, uncache, versus


def size(directory):
    return sum(os.path.getsize(p) for p in weights(directory))


def weights(directory):
    return sorted(glob.glob(os.path.join(directory, "*.safetensors")))


def ours(ctx, model, rank, hidden, ffn, cold, *more):
    out = ctx.path("cut")
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    if cold:
        uncache(*weights(model))
    r = ctx.prog("trim", "-q", "-f", "--device", "cpu", "--threads", ctx.threads, "-m", model, "-r", rank, "--hidden", hidden, "--ffn", ffn, *more, "-o", out)
    return {"seconds": r.wall, "peak_mb": r.peak_mb, "private_mb": r.private_mb, "written": size(out)}


def copied(ctx, model, cold):
    """Seconds of cp of all weight files, to the disk if cold"""
    total = 0.0
    for p in weights(model):
        to = ctx.path("copy")
        os.sync()
        if cold:
            uncache(p)
        total += run(["cp", p, to], watch=False).wall + (run(["sync", to], watch=False).wall if cold else 0)
        os.remove(to)
    return total


def models(ctx):
    layers, hidden, ffn, to = (2, 64, 128, (48, 96)) if ctx.small else (9, 4096, 14336, (3072, 9216))
    heads = 2 if ctx.small else 32
    model = ctx.made("big", *ctx.shape(layers, hidden, ffn, heads, heads // 4 or 1, hidden // heads), "--vocab", 256, "--tied", "--store", "bf16", "--fast")
    rank = ctx.path("big.rank")
    ctx.prog("rank", "-q", "-f", "--metric", "random", "-m", model, "-o", rank)
    notes, runs = [], {k: [] for k in ("ours, warm", "checked, warm", "peer, warm", "ours, cold", "peer, cold", "cp, warm", "cp, cold")}
    peer = ctx.worker_or_none(notes, "torch_cut.py", model, ctx.path("peer-cut.safetensors"), ctx.threads, hidden, ffn, *to)
    for temper in ("warm", "cold"):
        cold = temper == "cold"
        for _ in range(ctx.rounds):
            runs[f"ours, {temper}"].append(ours(ctx, model, rank, *to, cold, "--no-check"))
            if peer:
                runs[f"peer, {temper}"].append(peer.go(temper))
            runs[f"cp, {temper}"].append({"seconds": copied(ctx, model, cold)})
    runs["checked, warm"].append(ours(ctx, model, rank, *to, False))
    mid = {k: {x: med([r[x] for r in rs]) for x in rs[0]} for k, rs in runs.items() if rs}
    of = lambda k, x="seconds": mid[k][x] if k in mid else None
    total, name = size(model), f"trim of {size(model) / 1e9:.2g} GB"
    lines = []
    for temper, target in (("warm", 3), ("cold", 2.5)):
        lines.append(versus(f"{name}, {temper}", of(f"ours, {temper}"), of(f"peer, {temper}"), target, "s", "less"))
        rate = lambda k, n: n / of(f"{k}, {temper}") / 1e9
        a, b = rate("ours", total + size(ctx.path("cut"))), rate("cp", 2 * total)
        lines.append(line(f"{name}, {temper}, bytes read and written a second by cp's", a, b, a / b, None, True, "GB/s"))
    lines.append(line(f"{name}, private memory", of("ours, warm", "private_mb"), of("peer, warm", "private_mb"), of("ours, warm", "private_mb"), 64, False, "MB"))
    lines.append(line(f"{name}, with the check of the result, private memory", of("checked, warm", "private_mb"), None, None, None, False, "MB"))
    shutil.rmtree(ctx.path("cut"))
    return {"lines": lines, "runs": runs, "notes": notes, "peers": {"torch": peer and peer.ready["peer"]}}
