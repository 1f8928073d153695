#!/usr/bin/env python3
"""scaling.py - time and peak memory of every stage against tokens, layers, hidden, vocabulary, samples and threads -> tests/results/scaling.md

    tools/bench/scaling.py [--build build] [--results DIR] [--threads N] [--quick] [STAGE...]

One size grows while the others stay; random models by mkmodel.  The least of a few runs counts, and what the smallest size costs
besides (start-up, constant parts) is left in: an exponent below 1 says that such parts still weigh.  Exponents are least-squares
slopes of log(time) over log(size), the last two points alone beside them; an SVG has all curves.  Standard library only.
SPDX-License-Identifier: Apache-2.0
"""
import argparse, glob, json, math, os, shutil, sys

sys.dont_write_bytecode = True
import bench

# What each stage starts from: on two cores a run of the middle size takes 0.1 to 1.5 s, all of them together some minutes
BASE = {"layers": 4, "hidden": 384, "ffn": 1024, "vocab": 8192, "seq": 512, "samples": 32}
BASES = {"calib-sample": {"samples": 2048}, "rank": {"layers": 16, "hidden": 192, "ffn": 8192, "samples": 4, "seq": 64},
         "trim": {"layers": 8, "hidden": 768, "ffn": 3072}, "kd-train": {"samples": 16, "seq": 256}, "evalharness": {"samples": 64}}
HEAD_DIM = 48
FACTORS = (0.25, 0.5, 1, 2)    # of the stage's base, for every axis but these:
VALUES = {"threads": (1, 2), "grid": (100_000, 1_000_000, 10_000_000, 50_000_000)}
STAGES = {
    "calib-sample": ("samples", "seq", "threads"), "act-stats": ("samples", "seq", "layers", "hidden", "ffn", "vocab", "threads"),
    "rank": ("layers", "hidden", "ffn"), "candidates": ("grid",), "trim": ("layers", "hidden", "ffn", "vocab", "threads"),
    "kd-train": ("samples", "seq", "layers", "hidden", "ffn", "vocab", "threads"), "evalharness": ("samples", "seq", "layers", "hidden", "vocab", "threads"),
}
# What time does in theory where it is not linear: a layer's matrices grow with hidden^2 at a fixed ratio, attention with seq^2
EXPECTED = {"hidden": "1 to 2", "rank hidden": "≤ 1", "seq": "1 to 2", "threads": "-1", "calib-sample seq": "1", "act-stats vocab": "0", "trim hidden": "1 to 2"}


class Bench:
    def __init__(self, ctx):
        self.ctx, self.size = ctx, None

    def model(self, size, name="model"):
        heads = max(1, size["hidden"] // HEAD_DIM)
        return self.ctx.made(f"{name}-{size['layers']}-{size['hidden']}-{size['ffn']}-{size['vocab']}",
                             *self.ctx.shape(size["layers"], size["hidden"], size["ffn"], heads, max(1, heads // 2), HEAD_DIM), "--vocab", size["vocab"],
                             "--tied", "--store", "bf16", "--fast", "--tokenizer", self.ctx.tokenizer)

    def tokens(self, size):
        tok = self.ctx.path(f"{size['samples']}x{size['seq']}.tok")
        if not os.path.exists(tok):
            self.sample(size, tok)
        return tok

    def sample(self, size, tok):
        docs = self.ctx.documents(24 << 20)
        return self.ctx.prog("calib-sample", "-q", "-f", "-t", self.ctx.tokenizer, "--no-shuffle", "--samples", size["samples"], "--seq", size["seq"],
                             "--eos", "none", "--threads", size["threads"], docs, "-o", tok)

    def stage(self, name, size):
        """One run of a stage at this size -> bench.Run"""
        c, common = self.ctx, ["-q", "-f", "--threads", size["threads"]]
        cpu = [*common, "--device", "cpu", "--dtype", "bf16"]
        if name == "calib-sample":
            return self.sample(size, c.path("out.tok"))
        if name == "candidates":
            with open(os.path.join(self.model(size), "config.json")) as f:
                large = json.load(f) | {"num_hidden_layers": 20, "hidden_size": 1024, "intermediate_size": 1 << 20, "num_attention_heads": 8}
            with open(c.path("parent", "config.json"), "w") as f:
                json.dump(large, f)
            return c.prog("candidates", "-q", "-m", c.path("parent"), "--layers", "1:20", "--hidden", "256:1024:256", "--heads", "8", "--ffn",
                          f"1024:{1023 + size['grid'] // 80}", "--params", "1e7:1e12", "--top", 10)
        model = self.model(size)
        if name == "act-stats":
            return c.prog("act-stats", *cpu, "--micro", 4, "-m", model, self.tokens(size), "-o", c.path("out.stats"))
        if name == "rank":
            stats = c.path("for-rank-" + os.path.basename(model))
            if not os.path.exists(stats):
                c.prog("act-stats", *cpu, "-m", model, self.tokens(size), "-o", stats)
            return c.prog("rank", "-q", "-f", stats, "-o", c.path("out.rank"))
        if name == "trim":
            rank = c.path("random-" + os.path.basename(model) + ".rank")
            if not os.path.exists(rank):
                c.prog("rank", "-q", "-f", "--metric", "random", "-m", model, "-o", rank)
            return c.prog("trim", *common, "--no-check", "-m", model, "-r", rank, "--hidden", size["hidden"] // 2, "--ffn", size["ffn"] // 2, "-o", c.path("cut"))
        if name == "kd-train":
            shutil.rmtree(c.path("kd"), ignore_errors=True)
            return c.prog("kd-train", *cpu, "--teacher", model, "--student", model, "--data", self.tokens(size), "--batch", 4, "--micro", 4, "--peak-flops",
                          "1e12", "--steps", size["samples"] // 4, "-o", c.path("kd"))
        items = c.path(f"items-{size['samples']}-{size['seq']}.jsonl")
        if not os.path.exists(items):
            words = [w for w in open(c.documents(24 << 20)).read(4 << 20).split() if w.isalpha()]
            with open(items, "w") as f:
                for i in range(size["samples"]):
                    at = 997 * i % (len(words) - size["seq"])
                    f.write(json.dumps({"ctx": " ".join(words[at:at + size["seq"] // 4]), "choices": words[at:at + 4], "gold": 0}) + "\n")
        return c.prog("evalharness", *cpu, "-m", model, "--task", f"mc={items}", "-o", c.path("out.json"))


def slope(points):
    """Least squares of log y over log x"""
    x, y = [math.log(a) for a, _ in points], [math.log(max(b, 1e-6)) for _, b in points]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)


def curve(b, name, axis, threads, repeats, points):
    """[(value, least seconds, median peak MB)]"""
    out, base = [], BASE | BASES.get(name, {}) | {"threads": threads}
    for v in (VALUES.get(axis) or [int(base[axis] * f) for f in FACTORS])[:points]:
        size = base | {axis: v}
        if axis == "hidden":
            size["ffn"] = base["ffn"] * v // base["hidden"]
        runs = [b.stage(name, size) for _ in range(repeats)]
        out.append((v, min(r.wall for r in runs), bench.med([r.peak_mb for r in runs])))
    return out


# ---- the page
COLORS = ("#1b6ca8", "#d1495b", "#2a9d57", "#8a5fbf", "#b8860b", "#3f8f8f", "#555555")


def panel(x0, y0, title, curves, pick):
    """One log-log plot of 220 x 180 with a line for each axis"""
    points = [(p[0] / c[0][0], pick(p)) for _, c in curves for p in c]
    hi_x, lo_y, hi_y = max(p[0] for p in points), min(p[1] for p in points), max(p[1] for p in points)
    sx = lambda v: x0 + 40 + 170 * math.log(v) / math.log(max(hi_x, 2))
    sy = lambda v: y0 + 160 - 130 * (math.log(v / lo_y) / math.log(max(hi_y / lo_y, 2)))
    svg = [f'<rect x="{x0 + 40}" y="{y0 + 25}" width="170" height="140" fill="none" stroke="#bbb"/>',
           f'<text x="{x0 + 40}" y="{y0 + 17}" font-weight="bold">{title}</text>',
           f'<text x="{x0 + 36}" y="{sy(hi_y) + 4:.0f}" text-anchor="end">{bench.show(hi_y)}</text>',
           f'<text x="{x0 + 36}" y="{sy(lo_y) + 4:.0f}" text-anchor="end">{bench.show(lo_y)}</text>',
           f'<text x="{x0 + 210}" y="{y0 + 178}" text-anchor="end">size, up to x {hi_x:.0f}</text>']
    for i, (axis, c) in enumerate(curves):
        path = " ".join(f"{sx(p[0] / c[0][0]):.1f},{sy(max(pick(p), lo_y)):.1f}" for p in c)
        svg.append(f'<polyline points="{path}" fill="none" stroke="{COLORS[i]}" stroke-width="1.6"/>')
        svg += [f'<circle cx="{q.split(",")[0]}" cy="{q.split(",")[1]}" r="2.2" fill="{COLORS[i]}"/>' for q in path.split()]
        svg.append(f'<text x="{x0 + 44 + 56 * (i % 3)}" y="{y0 + 192 + 12 * (i // 3)}" fill="{COLORS[i]}">{axis}</text>')
    return svg


def plot(curves, path):
    """A row for each stage: seconds on the left, peak MB on the right"""
    names = list(dict.fromkeys(n for n, _ in curves))
    svg = []
    for k, n in enumerate(names):
        mine = [(a, c) for (m, a), c in curves.items() if m == n and a != "threads"]
        x, y = 480 * (k % 2), 225 * (k // 2)
        svg += panel(x, y, f"{n}: seconds", mine, lambda p: p[1]) + panel(x + 235, y, "peak MB", mine, lambda p: max(p[2], 0.1))
    with open(path, "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{225 * ((len(names) + 1) // 2) + 10}" font-family="sans-serif" font-size="10">\n'
                '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(svg) + "\n</svg>\n")


def page(curves, about, others, path):
    text = [f"# Time and memory against size\n\nWritten by `tools/bench/scaling.py`. {about['cpu']}, {about['cores']} cores, {about['date']}, revision "
            f"{about['commit']}; other processes took {others['others_cpu']} processors.",
            f"\nOne size grows from a model of {BASE['layers']} layers, hidden {BASE['hidden']}, FFN {BASE['ffn']}, vocabulary {BASE['vocab']}, on {BASE['samples']} "
            f"sequences of {BASE['seq']} tokens,\nif not " + "; ".join(f"{n}: " + ", ".join(f"{k} {v}" for k, v in b.items()) for n, b in BASES.items()) +
            "\n(hidden: FFN and heads grow with it; kd-train: a step for each 4 sequences; evalharness: items, and words of context by seq/4;"
            "\ntrim: to half of hidden and FFN; candidates: shapes of the grid). bf16, whole processes, the least of the runs. Exponent: slope of log seconds over"
            "\nlog size, then between the last two points alone. Start-up is part of it, so that it nears the expected one from below.\n",
            "![curves](scaling.svg)\n", "| stage | size | values | seconds | exponent | last two | expected | peak MB | exponent |",
            "|---|---|---|---|---:|---:|---:|---|---:|"]
    for (name, axis), c in curves.items():
        expected = EXPECTED.get(f"{name} {axis}") or EXPECTED.get(axis) or "1"
        time = [(v, s) for v, s, _ in c]
        text.append(f"| {name} | {axis} | {', '.join(f'{v:,}' for v, _, _ in c)} | {', '.join(f'{s:.3g}' for _, s, _ in c)} | {slope(time):.2f} | "
                    f"{slope(time[-2:]):.2f} | {expected} | {', '.join(f'{m:.0f}' for *_, m in c)} | {slope([(v, m) for v, _, m in c]):.2f} |")
    with open(path, "w") as f:
        f.write("\n".join(text) + "\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("stages", nargs="*")
    ap.add_argument("--build", default="build")
    ap.add_argument("--results", default=bench.RESULTS)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--quick", action="store_true", help="two points a curve, once each: does everything run?")
    a = ap.parse_args()
    for s in a.stages:
        if s not in STAGES:
            sys.exit(f"scaling: no stage '{s}'; there are {' '.join(STAGES)}")
    ctx = bench.Context(os.path.join(a.build, "bin"), "", os.environ.get("BENCH_DIR") or os.path.join(a.build, "bench", "scaling"), threads=a.threads, small=True)
    ctx.tokenizer = os.path.dirname(ctx.path("tokenizer", "tokenizer.json"))
    about, others, curves, b = bench.machine(), bench.Others(), {}, Bench(ctx)
    for name in a.stages or STAGES:
        for axis in STAGES[name]:
            curves[name, axis] = curve(b, name, axis, a.threads, *((1, 2) if a.quick else (2, 9)))
            print(name, axis, " ".join(f"{v}:{s:.3g}s/{m:.0f}MB" for v, s, m in curves[name, axis]), flush=True)
    for old in glob.glob(ctx.path("model-*")) + [ctx.path("cut"), ctx.path("kd")]:
        shutil.rmtree(old, ignore_errors=True) if os.path.isdir(old) else os.path.exists(old) and os.remove(old)
    os.makedirs(a.results, exist_ok=True)
    plot(curves, os.path.join(a.results, "scaling.svg"))
    page(curves, about, others.rate(), os.path.join(a.results, "scaling.md"))


if __name__ == "__main__":
    main()
