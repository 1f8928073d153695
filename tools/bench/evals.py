"""evals.py - evalharness against lm-evaluation-harness: 100 four-choice items, contexts of about 118 tokens, endings of about 5

SPDX-License-Identifier: Apache-2.0
"""
import json, random

from bench import line, med, versus

WORDS = """the river ran past an old mill where two brothers ground corn and talked about the weather while their sister painted doors for the
village and sold warm bread on market days because nobody else would bake before dawn and every winter they mended nets""".split()
TASK = """task: mc
dataset_path: json
dataset_kwargs:
  data_files:
    test: {items}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{ctx}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 1.0
"""


def items(n):
    r = random.Random(3)
    text = lambda k: " ".join(r.choice(WORDS) for _ in range(k))
    return [{"ctx": f"{text(110).capitalize()}. After that they", "choices": [text(r.randint(3, 5)) + "." for _ in range(4)], "gold": r.randrange(4)}
            for _ in range(n)]


def ours(ctx, path, n):
    events, out = ctx.path("events"), ctx.path("eval.json")
    r = ctx.prog("evalharness", "-q", "-f", "--device", "cpu", "--dtype", "bf16", "--threads", ctx.threads, "-m", ctx.model, "--task", f"mc={path}",
                 "--events", events, "-o", out)
    with open(events) as f:
        done = [json.loads(x) for x in f if '"progress"' in x][-1]
    ctx.rate_of(events)
    with open(out) as f:
        got = json.load(f)["results"]["mc"]
    return {"items_per_s": n / r.wall, "loop": n * done["rate"] / done["total"], "acc": got["acc,none"], "acc_norm": got["acc_norm,none"],
            "peak_mb": r.peak_mb}


def theirs(ctx, n):
    """The package's own run over a task file, in a process of its own; the loop is its loglikelihood() alone."""
    w = ctx.worker("lm_eval_task.py", ctx.model, ctx.path("task", "mc.yaml"), ctx.threads, 16)
    got = w.go()
    w.close()
    return {"items_per_s": n / got["wall"], "loop": n / got["loop"], "acc": got["acc"], "acc_norm": got["acc_norm"], "peak_mb": got["peak_mb"],
            "peer": w.ready["peer"]}


def choices(ctx):
    n = 6 if ctx.small else 100
    path = ctx.path(f"items-{n}.jsonl")
    with open(path, "w") as f:
        f.writelines(json.dumps(x) + "\n" for x in items(n))
    with open(ctx.path("task", "mc.yaml"), "w") as f:
        f.write(TASK.format(items=path))
    runs, peer = {"ours": [], "lm-eval": []}, None
    for _ in range(ctx.rounds):
        runs["ours"].append(ours(ctx, path, n))
        if ctx.python:
            runs["lm-eval"].append(theirs(ctx, n))
            peer = runs["lm-eval"][-1].pop("peer")
    mid = {k: {x: med([r[x] for r in rs]) for x in rs[0]} for k, rs in runs.items() if rs}
    of = lambda k, x: mid[k][x] if k in mid else None
    name = f"{n} four-choice items, bf16"
    lines = [versus(f"{name}, whole processes", of("ours", "items_per_s"), of("lm-eval", "items_per_s"), 8, "items/s"),
             versus(f"{name}, scoring alone", of("ours", "loop"), of("lm-eval", "loop"), 5, "items/s"),
             line(f"{name}, peak resident", of("ours", "peak_mb"), of("lm-eval", "peak_mb"), of("ours", "peak_mb"), 500, False, "MB"),
             line(f"{name}, accuracy", of("ours", "acc"), of("lm-eval", "acc"))]
    return {"lines": lines, "runs": runs, "peers": {"lm-eval": peer}}
