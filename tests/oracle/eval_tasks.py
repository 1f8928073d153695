"""evalharness' named tasks against lm-evaluation-harness's own, on items written here (eval_items.py), in fp32 on the CPU.

    eval_tasks.py MODELDIR [--hf DIR] [--bin build/bin] [--shots 0,3] [--max-length N] [--tasks a,b] [--limit N] [--mmlu SUBJECT,...]   compare
    eval_tasks.py tests/golden/models/llama-tied-gqa --store tests/golden/tasks      write the fixture of tests/eval/test_named.c

With --mmlu, these subjects alone, each with at least six items and five examples, each a task of its own.
lm-eval runs its own task files; only load_dataset is replaced, by the local JSON lines.  Per request: the same context and
continuation, |delta log-likelihood| <= 1e-3, the same greedy flag; accuracies and their errors identical (1e-12), other
scores within 1e-4 relative (bootstrapped errors of perplexities 1e-3).
"""
import argparse, json, os, shutil, subprocess, sys, tempfile
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import datasets
import xxhash
import eval_items
from common import check

SETS = {"Rowan/hellaswag": "hellaswag", "baber/piqa": "piqa", "allenai/winogrande": "winogrande", "ARC-Easy": "arc_easy",
        "ARC-Challenge": "arc_challenge", "aps/super_glue": "boolq", "cais/mmlu": "mmlu", "truthfulqa/truthful_qa": "truthfulqa_mc2",
        "EleutherAI/race": "race", "EleutherAI/lambada_openai": "lambada_openai", "EleutherAI/wikitext_document_level": "wikitext"}
NO_SHOTS = ("truthfulqa_mc2", "wikitext")


def use_local(root):
    def load(path=None, name=None, **_):
        task = SETS[name if path == "allenai/ai2_arc" else path]
        splits = {}
        for f in sorted(os.listdir(f"{root}/{task}")):
            rows = [json.loads(x) for x in open(f"{root}/{task}/{f}")]
            splits[f[:-6]] = datasets.Dataset.from_list([x for x in rows if task != "mmlu" or x["subject"] == name])
        any_split = next(iter(splits.values()))
        return datasets.DatasetDict({k: any_split for k in ("train", "validation")} | splits)   # asked for, not used
    datasets.load_dataset = load


def reference(model, max_length, tasks, shots, limit=None):
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    torch.set_num_threads(2)
    lm = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=4, max_length=max_length)
    return lm_eval.simple_evaluate(lm, tasks=tasks, num_fewshot=shots or None, log_samples=True, limit=limit)


def responses(samples):
    """[(context, continuation, ll, greedy)] of one task, in the order of documents and choices; rolling: greedy None."""
    out = []
    for s in sorted(samples, key=lambda s: s["doc_id"]):
        for args, resp in zip(s["arguments"], s["filtered_resps"]):
            out.append((args[0], args[1], *resp) if len(args) == 2 else ("", args[0], resp[0] if isinstance(resp, (list, tuple)) else resp, None))
    return out


def leaves(ref):
    return {t: responses(s) for t, s in ref["samples"].items()}


def scores(ref, name):
    return {k: float(v) for k, v in ref["results"][name].items() if "," in k and v != "N/A"}


def digest(ctx, cont):
    return xxhash.xxh3_128_hexdigest((ctx + "\0" + cont).encode())[:8]


def store(model, where, max_length):
    import eval_parity
    eval_items.make(where)
    use_local(where)
    names = sorted(os.listdir(where))
    names = [n for n in names if os.path.isdir(f"{where}/{n}")]
    out = {"max_length": max_length, "runs": []}
    with tempfile.TemporaryDirectory() as d:
        for f in ["config.json", "model.safetensors"]:
            shutil.copy(os.path.join(model, f), d)
        eval_parity.tiny_tokenizer(d)
        for shots in (0, 3):
            ref = reference(d, max_length, [n for n in names if not shots or n not in NO_SHOTS], shots)
            tasks = {t: {"shots": ref["n-shot"][t], "version": float(ref["versions"][t]), "scores": scores(ref, t),
                         "requests": [[round(ll, 6), None if g is None else int(g), digest(c, k)] for c, k, ll, g in r]}
                     for t, r in leaves(ref).items()}
            groups = {g: scores(ref, g) for g in ref.get("groups", {})}
            out["runs"].append({"shots": shots, "tasks": tasks, "groups": groups})
    with open(f"{where}/expected.json", "w") as f:
        f.write(json.dumps(out).replace('}}, "', '}},\n"').replace('"runs": [{', '"runs": [\n{'))
        f.write("\n")


def compare(a, root, shots, names):
    tag = f"{shots} shots"
    log, res = f"{root}/log-{shots}.jsonl", f"{root}/res-{shots}.json"
    cmd = [os.path.join(a.bin, "evalharness"), "-q", "-m", a.model, "--dtype", "f32", "--device", a.device, "--log-samples", log, "-o", res,
           "--max-length", str(a.max_length), "-f"] + (["--shots", str(shots)] if shots else [])
    if a.limit:
        cmd += ["--limit", str(a.limit)]
    for n in names:
        cmd += ["--task", f"{n}={root}/{'mmlu' if n.startswith('mmlu') else n}"]
    subprocess.run(cmd, check=True)
    ref = reference(a.hf or a.model, a.max_length, names, shots, a.limit)
    ours, res = {}, json.load(open(res))
    for line in map(json.loads, open(log)):
        ours.setdefault(line["task"], []).extend((r["context"], r["continuation"], r["loglikelihood"], r["greedy"]) for r in line["requests"])
    theirs = leaves(ref)
    good = check(f"{tag}: tasks that are not in both", len(set(ours) ^ set(theirs)), 0)
    delta, texts, flags, n = 0.0, 0, 0, 0
    for t, want in theirs.items():
        got, worst = ours[t], max((abs(x[2] - y[2]) for x, y in zip(want, ours[t])), default=0)
        texts += abs(len(got) - len(want))
        print(f"{tag}: {t}: {ref['n-samples'][t]['effective']} items, {len(want)} requests, max |delta ll| {worst:.2g}, " +
              ", ".join(f"{k.split(',')[0]} {v:.4g} / {res['results'][t][k]:.4g}" for k, v in scores(ref, t).items()), flush=True)
        for (c, k, ll, g), (c2, k2, ll2, g2) in zip(want, got):
            delta, texts = max(delta, abs(ll - ll2)), texts + ((c, k) != (c2, k2))
            flags, n = flags + (g is not None and bool(g) != g2), n + 1
    good &= check(f"{tag}: texts of {n} requests that differ", texts, 0)
    good &= check(f"{tag}: max |delta ll|", delta, 1e-3)
    good &= check(f"{tag}: greedy flags that differ", flags, 0)
    worst, acc, count = 0.0, 0.0, 0
    for t in list(theirs) + list(ref.get("groups", {})):
        odd = (res["versions"][t], res["n-shot"][t]) != (float(ref["versions"][t]), ref["n-shot"].get(t, 0))
        good &= not odd or check(f"{tag}: {t}: version or shots differ", 1, 0)
        for k, v in scores(ref, t).items():
            d = abs(res["results"][t][k] - v) / max(1.0, abs(v))
            exact = k.startswith("acc") and t != "truthfulqa_mc2"
            # the bootstrap's error is a difference of items: it shows their noise many times as large
            d = d / 10 if k.startswith("perplexity_stderr") else d
            acc, worst, count = max(acc, d if exact else 0), max(worst, 0 if exact else d), count + 1
    good &= check(f"{tag}: accuracies and their errors, max difference of {count} scores", acc, 1e-12)
    good &= check(f"{tag}: other scores, max relative difference", worst, 1e-4)
    return good


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("model")
    ap.add_argument("--hf", help="the model as transformers should load it, if another directory")
    ap.add_argument("--bin", default="build/bin")
    ap.add_argument("--device", default="auto")
    ap.add_argument("--store", metavar="DIR")
    ap.add_argument("--shots", default="0,3")
    ap.add_argument("--max-length", type=int, default=256)
    ap.add_argument("--tasks")
    ap.add_argument("--limit", type=int, help="items per task")
    ap.add_argument("--mmlu", metavar="SUBJECT,...", help="six items of each of these subjects, not two of all")
    a = ap.parse_args()
    if a.store:
        return store(a.model, a.store, a.max_length)
    good = True
    with tempfile.TemporaryDirectory() as d:
        subjects = a.mmlu.split(",") if a.mmlu else []
        eval_items.make(d, subjects)
        use_local(d)
        names = a.tasks.split(",") if a.tasks else sorted(os.listdir(d))
        if subjects and "mmlu" in names:
            names = [n for n in names if n != "mmlu"] + [f"mmlu_{s}" for s in subjects]
        for shots in map(int, a.shots.split(",")):
            good &= compare(a, d, shots, [n for n in names if not shots or n not in NO_SHOTS])
    sys.exit(not good)


if __name__ == "__main__":
    main()
