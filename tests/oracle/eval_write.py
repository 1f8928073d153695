"""Tasks in which the model writes (gsm8k, humaneval, mbpp) against lm-evaluation-harness's own, on items written here: the fixture tests/golden/written.

  eval_write.py MODELDIR [--bin build/bin] [--max-new 64]                    compare, in fp32: prompts, texts, scores
  eval_write.py --store [tests/golden/written] [--bin build/bin]
      NAME/SPLIT.jsonl   items
      expected.json      for each task prompt, text and scores of the tiny model llama-tied-gqa (one id per character, max_length 300, at most 40
                         new tokens), and what filters and exact_match make of texts written here
lm-eval's code_eval is a download and would run programs in the open; `passk` stands for it here.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, types
from common import check

MAX_LENGTH, NEW = 300, 40
GSM = [("Ann has 3 apples and buys 4. How many?", "3+4=<<3+4=7>>7\n#### 7"), ("A box holds 1,200 pens; half are sold. How many remain?", "1200/2=<<1200/2=600>>600\n#### 600"),
       ("Tom runs 2 km a day for 5 days.", "2*5=<<2*5=10>>10 km\n#### 10"), ("A book costs $12.50, two cost?", "#### $25"), ("How cold is it 3 below 0?", "0-3=-3\n#### -3"),
       ("Six cats have how many legs?", "6*4=24 legs.\n#### 24"), ("Ten minus ten?", "#### 0"), ("A thousand thousands?", "1000*1000\n#### 1,000,000")]
HUMAN = [{"task_id": "T/0", "prompt": "def one():\n    return 1\n# ", "entry_point": "one", "canonical_solution": "", "test": "def check(f):\n    assert f() == 1\n"},
         {"task_id": "T/1", "prompt": "def add(a, b):\n    \"\"\" Sum. \"\"\"\n", "entry_point": "add", "canonical_solution": "    return a + b\n",
          "test": "def check(f):\n    assert f(1, 2) == 3\n"},
         {"task_id": "T/2", "prompt": "def two():\n    return 1\n# ", "entry_point": "two", "canonical_solution": "", "test": "def check(f):\n    assert f() == 2\n"}]
MBPP = [{"task_id": 11, "text": "Write a function that doubles.", "code": "def double(x):\r\n  return 2 * x", "test_list": [f"assert double({i}) == {2 * i}" for i in (1, 2, 3)]},
        {"task_id": 12, "text": "Write a function that says nothing.", "code": "def nothing():\r\n  pass", "test_list": ["assert True"] * 3}]
SAID = ["#### 7", " 3+4=7\n#### 7\n", "#### 1,200", "####7", "the answer is 18.", "$18.00", "18 or 19, no: 20", "-5", "#### -5", "#### 5.", "#### 5.0\n\n#### 6", "none", "", "  ",
        "#### .", "x = 3.14, y = 2", "1.000.000", "a 7 b", "7", "77", "$", "#### $25", "£25", "٣٤", "#### 600\n", "9" * 40, "#### 12,50 km", "a\n#### 4 #### 5", "-7-", "3-4",
        "½ of 8 is 4", "#### 7\x0b", "\n\n\n", "0", "$5 $6", ",,", "..", "#### 1,000,000."]
WANT = ["3+4\n#### 7", "#### 600", "#### 25", "#### -5", "#### 1,000,000", "18", "#### 5", "#### $25.", "a #### 4"]
SETS = {"openai/gsm8k": "gsm8k", "openai/openai_humaneval": "humaneval", "google-research-datasets/mbpp": "mbpp"}


def make(where):
    rows = [{"question": q, "answer": a} for q, a in GSM]
    for name, split, items in (("gsm8k", "train", rows), ("gsm8k", "test", rows[3:7]), ("humaneval", "test", HUMAN), ("mbpp", "test", MBPP)):
        os.makedirs(f"{where}/{name}", exist_ok=True)
        with open(f"{where}/{name}/{split}.jsonl", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(x, ensure_ascii=False) + "\n" for x in items)


def stand_in(passk):
    class CodeEval:
        def compute(self, references, predictions, k):
            lines = [json.dumps({"task_id": i, "program": p + "\n" + r}) + "\n" for i, (r, ps) in enumerate(zip(references, predictions)) for p in ps]
            out = subprocess.run([passk, "-q", "--seconds", "20", "-k", ",".join(map(str, k))], input="".join(lines), text=True, check=True,
                                 stdout=subprocess.PIPE).stdout
            return {x.split("\t")[0]: float(x.split("\t")[1]) for x in out.splitlines()}, {}
    module = types.ModuleType("evaluate")
    module.load = lambda name: CodeEval()
    sys.modules["evaluate"] = module


def reference(where, passk, model, max_length, new):
    """simple_evaluate of the items in `where`, whose programs `passk` judges."""
    stand_in(passk)
    import datasets

    def load(path=None, name=None, **_):
        d = f"{where}/{SETS[path]}"
        splits = {f[:-6]: datasets.Dataset.from_list([json.loads(x) for x in open(f"{d}/{f}", encoding="utf-8")]) for f in sorted(os.listdir(d))}
        return datasets.DatasetDict({k: next(iter(splits.values())) for k in ("train", "validation", "prompt")} | splits)
    datasets.load_dataset = load
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    torch.set_num_threads(1)
    os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    lm = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=1, max_length=max_length)
    return lm_eval.simple_evaluate(lm, tasks=list(SETS.values()), log_samples=True, gen_kwargs=f"max_gen_toks={new}", confirm_run_unsafe_code=True,
                                   bootstrap_iters=0)


def written(ref, name):
    """[prompt, text] of each item of a task, and its scores."""
    seen = {s["doc_id"]: [s["arguments"][0][0], s["resps"][0][0]] for s in ref["samples"][name]}
    return [seen[i] for i in sorted(seen)], {k: float(v) for k, v in ref["results"][name].items() if "," in k and "stderr" not in k}


def compare(model, bin_dir, new):
    good = True
    with tempfile.TemporaryDirectory() as d:
        make(d)
        cmd = [f"{bin_dir}/evalharness", "-q", "-m", model, "--dtype", "f32", "--max-new", str(new), "--log-samples", f"{d}/log", "-o", f"{d}/res"]
        subprocess.run(cmd + [x for n in SETS.values() for x in ("--task", f"{n}={d}/{n}")], check=True, stdout=subprocess.DEVNULL)
        ours, res = {}, json.load(open(f"{d}/res"))
        for line in map(json.loads, open(f"{d}/log", encoding="utf-8")):
            ours.setdefault(line["task"], []).append([line["context"], line["texts"][0]])
        ref = reference(d, f"{bin_dir}/passk", model, None, new)
        for name in SETS.values():
            samples, scores = written(ref, name)
            print(f"{name}: {len(samples)} items, " + ", ".join(f"{k} {v:.4g} / {res['results'][name][k]:.4g}" for k, v in scores.items()))
            good &= check(f"{name}: prompts and texts that differ", sum(a != b for a, b in zip(samples, ours[name])) + abs(len(samples) - len(ours[name])), 0)
            good &= check(f"{name}: scores, largest difference", max(abs(v - res["results"][name][k]) for k, v in scores.items()), 1e-12)
    return good


def store(where, passk, model):
    make(where)
    import eval_parity
    eval_parity.tiny_tokenizer(where)
    with open(f"{where}/tokenizer_config.json", "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<s>", "model_max_length": 256}, f)
    out = {"max_length": MAX_LENGTH, "max_new": NEW, "tasks": {}}
    with tempfile.TemporaryDirectory() as d:
        for f in ["config.json", "model.safetensors"]:
            shutil.copy(os.path.join(model, f), d)
        for f in ["tokenizer.json", "tokenizer_config.json"]:
            shutil.copy(os.path.join(where, f), d)
        ref = reference(where, passk, d, MAX_LENGTH, NEW)
    for name in SETS.values():
        samples, scores = written(ref, name)
        out["tasks"][name] = {"shots": ref["n-shot"][name], "version": float(ref["versions"][name]), "samples": samples, "scores": scores}
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter
    strict, flexible = RegexFilter(), RegexFilter(regex_pattern="(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    ignore = [",", "\\$", "(?s).*#### ", "\\.$"]
    out["answers"] = []
    for i, said in enumerate(SAID):
        target = WANT[i % len(WANT)]
        row = [said, target]
        for f in (strict, flexible):
            answer = f.apply([[said]], [{}])[0][0]
            row += [answer, bool(exact_match_hf_evaluate([answer], [target], ignore, ignore_case=True)["exact_match"])]
        out["answers"].append(row)
    with open(f"{where}/expected.json", "w", encoding="utf-8") as f:
        f.write(json.dumps(out, ensure_ascii=False).replace('], ["', '],\n["').replace('}, "', '},\n"') + "\n")


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("model", nargs="?")
    ap.add_argument("--store", nargs="?", const="tests/golden/written", default="tests/golden/written")
    ap.add_argument("--bin", default="build/bin")
    ap.add_argument("--max-new", type=int, default=64)
    a = ap.parse_args()
    if a.model:
        sys.exit(not compare(a.model, os.path.abspath(a.bin), a.max_new))
    store(a.store, os.path.abspath(os.path.join(a.bin, "passk")), "tests/golden/models/llama-tied-gqa")
