"""evalharness against lm-evaluation-harness in fp32: multiple choice and rolling perplexity on items written here.

    eval_parity.py MODELDIR [--bin build/bin] [--device auto] [--max-length 48]

Per request |delta log-likelihood| <= 1e-3, the same greedy flags, acc and acc_norm equal, perplexities within 1e-4 relative.
--max-length makes the documents run through several windows and the long contexts lose their left end.
"""
import argparse, json, os, subprocess, sys, tempfile
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.api.task import ConfigurableTask
from common import check

MC = [
    ("The capital of France is", ["Paris", "London", "a kind of cheese"], 0),
    ("The capital of Italy is", ["Naples", "Rome", "Milan"], 1),
    ("Two plus two equals ", ["four", "five", "purple"], 0),
    ("Water freezes at zero degrees", ["Celsius.", "Fahrenheit.", "in the summer"], 0),
    ("Question: What do bees make?\nAnswer:", ["honey", "milk", "wool", "bread"], 0),
    ("Question: Which animal barks?\nAnswer:", ["cat", "dog", "fish", "horse"], 1),
    ("Question: How many legs does a spider have?\nAnswer:\t ", ["six", "eight", "ten"], 1),
    ("", ["The sun rises in the east.", "The sun rises in the kitchen sink."], 0),
    ("She opened the umbrella because it was", ["raining", "a piano", "yesterday's"], 0),
    ("Le café était très", ["chaud.", "naïve – déjà vu!", "日本語"], 0),
    ("He put the pizza in the oven. After fifteen minutes he", ["took it out and let it cool down.", "drove it to the moon."], 0),
    ("1, 2, 3, 4,", ["5", "7", "100", "x"], 0),
    ("def add(a, b):\n    return a", ["+ b", "- c", "# nothing"], 0),
    ("A bird in the hand is worth two in the", ["bush", "bank", "box"], 0),
    ("The opposite of hot is", ["cold", "warm", "hotel"], 0),
    ("The ship sailed across the wide blue ocean for many weeks, through storms and calm, past islands without a name, and the crew "
     "sang old songs at night while the captain studied the stars and wrote in his book about the wind, the water and the long way "
     "that still lay before them. One morning the lookout shouted:", ["Land!", "Cheese!", "Thirty-seven!"], 0),
]
DOCS = [
    "The quick brown fox jumps over the lazy dog.",
    "It was a bright cold day in April, and the clocks were striking thirteen. Nobody in the street looked up; they had heard worse, "
    "and the rain was coming.\n\nInside, the kettle sang. She counted the spoons again: five, six, seven. One was missing, as always, "
    "and as always she blamed the cat, who slept on the window sill and dreamed of other houses and other spoons.",
    " Leading and trailing white space \n",
    "Prices rose by 3.75 % in 2021, to $1,299.99 – “a record”, said Ms. Müller. 価格は上がった。",
]


def reference(model, max_length, mc, docs):
    lm = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=8, max_length=max_length)
    base = {"dataset_path": "json", "test_split": "test"}
    tasks = [
        ConfigurableTask(config=dict(base, task="mc", dataset_kwargs={"data_files": {"test": mc}}, output_type="multiple_choice",
                                     doc_to_text="ctx", doc_to_choice="choices", doc_to_target="gold",
                                     metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}])),
        ConfigurableTask(config=dict(base, task="docs", dataset_kwargs={"data_files": {"test": docs}},
                                     output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="text",
                                     metric_list=[{"metric": m} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")])),
    ]
    return lm_eval.simple_evaluate(lm, tasks=tasks, bootstrap_iters=10, log_samples=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("model")
    ap.add_argument("--bin", default="build/bin")
    ap.add_argument("--device", default="auto")
    ap.add_argument("--max-length", type=int, default=48)
    a = ap.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as d:
        os.environ["HF_DATASETS_CACHE"] = d
        mc, docs, out, log = (os.path.join(d, f) for f in ("mc.jsonl", "docs.jsonl", "results.json", "samples.jsonl"))
        with open(mc, "w") as f:
            f.writelines(json.dumps({"ctx": c, "choices": x, "gold": g}) + "\n" for c, x, g in MC)
        with open(docs, "w") as f:
            f.writelines(json.dumps({"text": t}) + "\n" for t in DOCS)
        ref = reference(a.model, a.max_length, mc, docs)
        subprocess.run([os.path.join(a.bin, "evalharness"), "-m", a.model, "--task", "mc=" + mc, "--task", "docs=" + docs, "--dtype", "f32",
                        "--device", a.device, "--max-length", str(a.max_length), "--log-samples", log, "-o", out], check=True)
        res, lines = json.load(open(out))["results"], [json.loads(x) for x in open(log)]
    ours = {t: [r for x in lines if x["task"] == t for r in x["requests"]] for t in ("mc", "docs")}
    theirs = [r for s in sorted(ref["samples"]["mc"], key=lambda s: s["doc_id"]) for r in s["filtered_resps"]]
    assert len(theirs) == len(ours["mc"])
    good = check(f"mc: max |delta ll| of {len(theirs)} requests",
                 max(abs(o["loglikelihood"] - t[0]) for o, t in zip(ours["mc"], theirs)), 1e-3)
    good &= check("mc: greedy flags that differ", sum(o["greedy"] != t[1] for o, t in zip(ours["mc"], theirs)), 0)
    rolling = [s["filtered_resps"][0] for s in sorted(ref["samples"]["docs"], key=lambda s: s["doc_id"])]
    rolling = [r[0] if isinstance(r, (list, tuple)) else r for r in rolling]
    good &= check(f"docs: max |delta ll| of {len(rolling)} documents",
                  max(abs(o["loglikelihood"] - t) for o, t in zip(ours["docs"], rolling)), 1e-3)
    for m in ("acc", "acc_norm", "acc_stderr", "acc_norm_stderr"):
        good &= check(f"mc: {m} {res['mc'][m + ',none']:.4f}, difference", abs(res["mc"][m + ",none"] - ref["results"]["mc"][m + ",none"]), 1e-12)
    for m in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        x, y = res["docs"][m + ",none"], ref["results"]["docs"][m + ",none"]
        good &= check(f"docs: {m} {x:.6g}, relative difference", abs(x - y) / y, 1e-4)
    sys.exit(not good)


if __name__ == "__main__":
    main()
