"""run.py - `make bench`: ours and each peer in turn, on the same inputs; medians, ratios and memory to tests/results

    make bench                                    all comparisons, ours against the machine's limits
    make bench PEERS=DIR                          and against the peers in the environment DIR, installed there if it is not yet
    make bench BENCH="actstats kd" BENCH_ROUNDS=5
    run.py --build build --small --results /tmp/x eval    tiny models: does everything run?

Environment: MODEL (a model directory; build/demo/smollm2 if `make demo` has made it, else random weights of that shape), TEXT (JSON lines with
a field text; build/demo/text/train.jsonl), BENCH_ROUNDS (3), BENCH_THREADS (2), BENCH_DIR (build/bench: room for 10 GB).
SPDX-License-Identifier: Apache-2.0
"""
import argparse, importlib, json, os, subprocess, sys, time, zlib

sys.dont_write_bytecode = True
import bench

# name -> module.function; several may share a group's first word
COMPARISONS = {
    "actstats": "stats.bf16", "actstats-f32": "stats.f32", "kd": "kd.long", "kd-512": "kd.short", "kd-f32": "kd.f32", "kd-vocabulary": "kd.vocabulary",
    "loaded": "loaded.beside", "eval": "evals.choices", "start": "start.first", "trim": "cut.models", "tokens": "tok.speed", "plan": "shapes.plan",
    "gemm": "mm.listed",
}


def chosen(words):
    """Names whose beginning, up to a -, is one of the words; all without words"""
    for w in words:
        if not any(n == w or n.startswith(w + "-") for n in COMPARISONS):
            sys.exit(f"bench: no comparison '{w}'; there are {' '.join(COMPARISONS)}")
    return [n for n in COMPARISONS if not words or any(n == w or n.startswith(w + "-") for w in words)]


def python_of(peers):
    """The peers' interpreter; installs them where there is none."""
    if not peers:
        return None
    exe = os.path.join(peers, "bin", "python")
    if not os.path.exists(exe):
        subprocess.run([os.path.join(bench.HERE, "setup"), peers], check=True)
    return os.path.abspath(exe)


def demo(build, *names):
    p = os.path.join(build, "demo", *names)
    return p if os.path.exists(p) else None


def arguments():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("names", nargs="*")
    ap.add_argument("--build", default="build")
    ap.add_argument("--peers")
    ap.add_argument("--results", default=bench.RESULTS)
    ap.add_argument("--small", action="store_true")
    a = ap.parse_args()
    env = os.environ.get
    model = env("MODEL") or demo(a.build, "smollm2")
    text = env("TEXT") or demo(a.build, "text", "train.jsonl")
    inputs = f"{zlib.crc32(f'{model} {text} {a.small}'.encode()):08x}"  # token sets of one model are no other's
    ctx = bench.Context(os.path.join(a.build, "bin"), os.path.join(a.build, "bench"), os.path.join(env("BENCH_DIR") or os.path.join(a.build, "bench"), inputs),
                        model, text, python_of(a.peers), int(env("BENCH_ROUNDS") or 3), int(env("BENCH_THREADS") or 2), a.small)
    return a, ctx


def one(ctx, name, about):
    """Result of one comparison: its lines and runs, with what it was measured on"""
    module, function = COMPARISONS[name].split(".")
    others, t = bench.Others(), time.perf_counter()
    try:
        result = getattr(importlib.import_module(module), function)(ctx)
    finally:
        ctx.close()
    return {"comparison": name, "machine": about | others.rate(), "threads": ctx.threads, "rounds": ctx.rounds, "weights": "random" if
            ctx.model.startswith(ctx.work) else "given", "took_s": round(time.perf_counter() - t)} | result


def summary(where):
    """bench.md from all results that are there, in the order of the list above"""
    done = []
    for n in COMPARISONS:
        path = os.path.join(where, f"bench-{n}.json")
        if os.path.exists(path):
            with open(path) as f:
                done.append(json.load(f))
    m = done[-1]["machine"]
    text = (f"# Against the peers\n\nWritten by `make bench`; ours and each peer in turn, medians of the rounds. {m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, "
            f"Linux {m['kernel']};\n{m['date']}, revision {m['commit']}; details and versions in `bench-*.json`.\n\n" + bench.table(done))
    notes = [f"- {r['comparison']}: {n}\n" for r in done for n in r.get("notes", [])]
    text += "".join(["\n", *notes]) if notes else ""
    with open(os.path.join(where, "bench.md"), "w") as f:
        f.write(text)


def main():
    a, ctx = arguments()
    os.environ.pop("MAKEFLAGS", None)
    about, failed = bench.machine(), False
    for name in chosen(a.names):
        print(f"== {name}", flush=True)
        try:
            result = one(ctx, name, about)
        except bench.Missing as e:
            print(f"{name}: {e}", file=sys.stderr)
            failed = True
            continue
        bench.save(ctx, name, result, a.results)
        print(bench.table([result]) + f"({result['took_s']} s; others took {result['machine']['others_cpu']} processors)\n", flush=True)
        for n in result.get("notes", []):
            print("note:", n, file=sys.stderr)
    summary(a.results)
    return failed


if __name__ == "__main__":
    sys.exit(main())
