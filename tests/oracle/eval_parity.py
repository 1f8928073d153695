"""evalharness against lm-evaluation-harness in fp32: multiple choice and rolling perplexity on items written here.

    eval_parity.py MODELDIR [--bin build/bin] [--device auto] [--max-length 48]     compare
    eval_parity.py tests/golden/models/llama-tied-gqa --store tests/golden/eval     write the fixture of tests/eval/test_tasks.c

The fixture has a tokenizer of one id per character, which puts <s> in front of every text.
Per request |delta log-likelihood| <= 1e-3, the same greedy flags, acc and acc_norm equal, perplexities within 1e-4 relative.
--max-length makes the documents run through several windows and the long contexts lose their left end.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.api.task import ConfigurableTask
from common import check

TINY_MC = [
    ("The sky is", ["blue", "green cheese"], 0),
    ("Two and two make ", ["four", "five", "a fish"], 2),
    ("", ["yes", "no"], 1),
    ("<s>Begins as the prefix", ["does", "not"], 0),
    ("A context that is longer than the window of this fixture", ["cut", "kept", "neither"], 1),
]
TINY_DOCS = ["Short.", "One line of text.\nAnother  line, so long that it needs several windows.\n", "<s>With its own start", "", "x"]


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


def tiny_tokenizer(where):
    """One id per printable character, blank and newline; id 0 is <s>, which the post-processor puts in front."""
    vocab = {c: i for i, c in enumerate(["<s>"] + [chr(c) for c in range(34, 127)] + ["\u0120", "\u010a"])}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    bos = {"id": "<s>", "type_id": 0}
    post = {"type": "TemplateProcessing", "single": [{"SpecialToken": bos}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": bos}, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}
    tok = {"version": "1.0", "truncation": None, "padding": None,
           "added_tokens": [{"id": 0, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                             "special": True}],
           "normalizer": None, "pre_tokenizer": byte_level, "post_processor": post, "decoder": byte_level,
           "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                     "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []}}
    with open(os.path.join(where, "tokenizer.json"), "w") as f:
        json.dump(tok, f)
    with open(os.path.join(where, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "model_max_length": 256}, f)


def write_items(where, mc, docs):
    with open(os.path.join(where, "mc.jsonl"), "w") as f:
        f.writelines(json.dumps({"ctx": c, "choices": x, "gold": g}) + "\n" for c, x, g in mc)
    with open(os.path.join(where, "docs.jsonl"), "w") as f:
        f.writelines(json.dumps({"text": t}) + "\n" for t in docs)


def responses(ref):
    """[(ll, greedy)] of all choices, [ll] of the documents."""
    by_doc = lambda t: sorted(ref["samples"][t], key=lambda s: s["doc_id"])
    rolling = [s["filtered_resps"][0] for s in by_doc("docs")]
    return [r for s in by_doc("mc") for r in s["filtered_resps"]], [r[0] if isinstance(r, (list, tuple)) else r for r in rolling]


def store(model, where, max_length):
    os.makedirs(where, exist_ok=True)
    tiny_tokenizer(where)
    write_items(where, TINY_MC, TINY_DOCS)
    with tempfile.TemporaryDirectory() as d:
        os.environ["HF_DATASETS_CACHE"] = d
        for f in ["config.json", "model.safetensors"]:
            shutil.copy(os.path.join(model, f), d)
        for f in ["tokenizer.json", "tokenizer_config.json"]:
            shutil.copy(os.path.join(where, f), d)
        ref = reference(d, max_length, os.path.join(where, "mc.jsonl"), os.path.join(where, "docs.jsonl"))
    mc, docs = responses(ref)
    scores = {t: {k: v for k, v in ref["results"][t].items() if "," in k and isinstance(v, float)} for t in ("mc", "docs")}
    with open(os.path.join(where, "expected.json"), "w") as f:
        json.dump({"max_length": max_length, "mc": [[x, bool(g)] for x, g in mc], "docs": docs, "scores": scores}, f, indent=1)


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
    ap.add_argument("--store", metavar="DIR")
    ap.add_argument("--device", default="auto")
    ap.add_argument("--max-length", type=int, default=48)
    a = ap.parse_args()
    torch.set_num_threads(2)
    if a.store:
        return store(a.model, a.store, 24)
    with tempfile.TemporaryDirectory() as d:
        os.environ["HF_DATASETS_CACHE"] = d
        mc, docs, out, log = (os.path.join(d, f) for f in ("mc.jsonl", "docs.jsonl", "results.json", "samples.jsonl"))
        write_items(d, MC, DOCS)
        ref = reference(a.model, a.max_length, mc, docs)
        subprocess.run([os.path.join(a.bin, "evalharness"), "-m", a.model, "--task", "mc=" + mc, "--task", "docs=" + docs, "--dtype", "f32",
                        "--device", a.device, "--max-length", str(a.max_length), "--log-samples", log, "-o", out], check=True)
        res, lines = json.load(open(out))["results"], [json.loads(x) for x in open(log)]
    ours = {t: [r for x in lines if x["task"] == t for r in x["requests"]] for t in ("mc", "docs")}
    theirs, rolling = responses(ref)
    assert len(theirs) == len(ours["mc"])
    good = check(f"mc: max |delta ll| of {len(theirs)} requests",
                 max(abs(o["loglikelihood"] - t[0]) for o, t in zip(ours["mc"], theirs)), 1e-3)
    good &= check("mc: greedy flags that differ", sum(o["greedy"] != t[1] for o, t in zip(ours["mc"], theirs)), 0)
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
