"""Speed of evalharness against lm-evaluation-harness on the CPU: four-choice items with contexts of about 100 tokens, in turn.

    eval_speed.py MODELDIR [--hf DIR] [--bin build/bin] [--items 100] [--probe 12] [--batches 1,4,16,32] [--rounds 2] [--threads 2] [--dtype f32]

lm-eval's batch size is the fastest of --batches on --probe items.  One process per run; lm-eval's time is that of scoring alone
(model loaded, requests built), evalharness' that of the whole process, start and model included.  Also: one item from a cold
start, whole processes.  Prints one JSON object per run and a summary with the ratios of the medians, of wall and of CPU time (on
a machine that others use too the latter says more).
"""
import argparse, json, os, random, statistics, subprocess, sys, tempfile, time
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

WORDS = """the river ran past an old mill where two brothers ground corn and talked about the weather while their sister painted doors for the
village and sold warm bread on market days because nobody else would bake before dawn and every winter they mended nets""".split()


def items(n):
    r = random.Random(3)
    text = lambda k: " ".join(r.choice(WORDS) for _ in range(k))
    return [{"ctx": f"{text(92).capitalize()}. After that they", "choices": [text(r.randint(5, 9)) + "." for _ in range(4)], "gold": r.randrange(4)}
            for _ in range(n)]


def theirs(a):
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    torch.set_num_threads(a.threads)
    torch.set_num_interop_threads(1)
    lm = HFLM(pretrained=a.hf or a.model, dtype={"f32": "float32", "bf16": "bfloat16"}[a.dtype], device="cpu", batch_size=a.worker)
    req = [Instance("loglikelihood", {}, (d["ctx"], " " + c), i) for d in items(a.items) for i, c in enumerate(d["choices"])]
    lm.loglikelihood(req[:4], disable_tqdm=True)
    t, c = time.perf_counter(), time.process_time()
    lm.loglikelihood(req, disable_tqdm=True)
    print(json.dumps({"wall": time.perf_counter() - t, "cpu": time.process_time() - c}))


def run(cmd):
    """({wall, cpu} seconds of the whole process, its stdout)"""
    t = time.perf_counter()
    p = subprocess.Popen(cmd, stdout=subprocess.PIPE, text=True)
    out = p.stdout.read()
    _, status, use = os.wait4(p.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(cmd)}")
    return {"wall": time.perf_counter() - t, "cpu": use.ru_utime + use.ru_stime}, out


def peer(a, n, batch):
    wall, out = run([sys.executable, __file__, a.model, "--items", str(n), "--threads", str(a.threads), "--dtype", a.dtype, "--worker", str(batch)]
                    + (["--hf", a.hf] if a.hf else []))
    return json.loads(out.splitlines()[-1]), wall


def ours(a, n, tmp):
    with open(f"{tmp}/{n}.jsonl", "w") as f:
        f.writelines(json.dumps(d) + "\n" for d in items(n))
    return run([f"{a.bin}/evalharness", "-q", "-m", a.model, "--task", f"mc={tmp}/{n}.jsonl", "--dtype", a.dtype, "--threads", str(a.threads), "-f",
                "-o", f"{tmp}/out.json"])[0]


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("model")
    ap.add_argument("--hf")
    ap.add_argument("--bin", default="build/bin")
    for name, default in (("items", 100), ("probe", 12), ("rounds", 2), ("threads", 2), ("worker", 0)):
        ap.add_argument("--" + name, type=int, default=default)
    ap.add_argument("--batches", default="1,4,16,32")
    ap.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    a = ap.parse_args()
    if a.worker:
        return theirs(a)
    with tempfile.TemporaryDirectory() as tmp:
        probe = {b: peer(a, a.probe, b)[0]["cpu"] for b in map(int, a.batches.split(","))}
        best = min(probe, key=probe.get)
        print(json.dumps({"lm-eval, CPU s by batch size": {k: round(v, 2) for k, v in probe.items()}, "best": best}), flush=True)
        mine, other = [], []
        for _ in range(a.rounds):
            for side, runs, f in (("ours", mine, lambda: ours(a, a.items, tmp)), ("lm-eval", other, lambda: peer(a, a.items, best)[0])):
                runs.append(f())
                print(json.dumps({"side": side} | {"items per s of " + k: round(a.items / v, 3) for k, v in runs[-1].items()}), flush=True)
        cold = [ours(a, 1, tmp) for _ in range(5)], [peer(a, 1, 1)[1]]
    mid = lambda runs, k: statistics.median(r[k] for r in runs)
    print(json.dumps({k: {"ratio": round(mid(other, k) / mid(mine, k), 2), "one item cold, s": [round(mid(x, k), 2) for x in cold]} for k in ("wall", "cpu")}))


if __name__ == "__main__":
    main()
