"""loaded.py - what is left of the speed with one other busy process on the machine: act-stats and PyTorch, quiet and beside a spinning process

SPDX-License-Identifier: Apache-2.0
"""
import subprocess, sys

from bench import line, med
from stats import MICRO, SEQ, once


class Spin:
    """A process that only turns"""
    def __enter__(self):
        self.p = subprocess.Popen([sys.executable, "-c", "while True: pass"])

    def __exit__(self, *_):
        self.p.kill()
        self.p.wait()


def beside(ctx):
    samples, seq = (4, 64) if ctx.small else (16, SEQ)
    tok, ids = ctx.tokens(samples, seq)
    notes, runs = [], {k: [] for k in ("ours, quiet", "ours, loaded", "torch, quiet", "torch, loaded")}
    peer = ctx.worker_or_none(notes, "torch_stats.py", ctx.model, ids, "bf16", ctx.threads, MICRO, "torch")

    def both(state):
        runs[f"ours, {state}"].append(once(ctx, "bf16", tok)[0])
        if peer:
            runs[f"torch, {state}"].append(peer.go("1")["tok_per_s"])
    for _ in range(ctx.rounds):
        both("quiet")
        with Spin():
            both("loaded")
    of = lambda k: med(runs[k])
    kept = lambda k: of(f"{k}, loaded") / of(f"{k}, quiet") if runs[f"{k}, quiet"] else None
    lines = [line("act-stats beside one busy process, share of its speed kept", of("ours, loaded"), of("ours, quiet"), kept("ours"), 0.6, True, "tok/s"),
             line("PyTorch beside one busy process, share of its speed kept", of("torch, loaded"), of("torch, quiet"), kept("torch"), None, True, "tok/s"),
             line("act-stats against PyTorch, both beside one busy process", of("ours, loaded"), of("torch, loaded"),
                  of("torch, loaded") and of("ours, loaded") / of("torch, loaded"), None, True, "tok/s")]
    return {"lines": lines, "runs": runs, "notes": notes, "peers": {"torch": peer and peer.ready["peer"]}}
