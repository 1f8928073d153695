"""start.py - start-up: --help of every program, the first logits of a model from a new process (warm page cache), against PyTorch

SPDX-License-Identifier: Apache-2.0
"""
import os

from bench import line, med, run, versus

STAGES = ("calib-sample", "act-stats", "ablate", "rank", "candidates", "trim", "kd-train", "evalharness")
CODE = ("import sys, torch\nfrom transformers import AutoModelForCausalLM\ntorch.set_num_threads({n})\n"
        "m = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)\n"
        "with torch.no_grad(): print(m(input_ids=torch.arange(1, 9)[None]).logits[0, -1].argmax())")


def help_ms(ctx, name):
    """Milliseconds of `name --help`, as seen from outside"""
    r = [ctx.prog(name, "--help", watch=False).wall for _ in range(5)]
    return 1e3 * med(r)


def first(ctx):
    helps = {n: [] for n in STAGES}
    runs = {"first logits": [], "first logits, PyTorch": []}
    for _ in range(ctx.rounds):
        for n in STAGES:
            helps[n].append(help_ms(ctx, n))
        for _ in range(3):
            r = ctx.prog("logits", "-q", "--device", "cpu", "--dtype", "bf16", "--threads", ctx.threads, "-m", ctx.model, "--ids", "1,2,3,4,5,6,7,8",
                         "-o", ctx.path("rows.f32"), "-f")
            runs["first logits"].append(r.wall)
        if ctx.python:
            env = dict(os.environ, HF_HUB_OFFLINE="1")
            runs["first logits, PyTorch"].append(run([ctx.python, "-c", CODE.format(n=ctx.threads), ctx.model], env=env).wall)
    worst = max(helps, key=lambda n: med(helps[n]))
    a, b = med(runs["first logits"]), med(runs["first logits, PyTorch"])
    return {"lines": [line("first logits of 8 tokens, bf16, from a new process", a, b, a, 0.25, False, "s"),
                      versus("first logits of 8 tokens, bf16, from a new process, against PyTorch", a, b, 30, "s", "less"),
                      line(f"--help, the slowest ({worst})", med(helps[worst]), None, med(helps[worst]), 10, False, "ms")],
            "runs": runs | {f"{n} --help, ms": v for n, v in helps.items()}}
