"""tools/export-tasks with the real package `datasets`: every set as a local parquet file in place of the Hub.

    export_tasks.py
The items of tests/golden/{tasks,written} are written as parquet, load_dataset gives those, and what export-tasks makes of them
must be the same items: numbers as numbers, text as it was, nested fields in order.
"""
import json, os, runpy, sys, tempfile
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
import datasets
from common import check

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def rows(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(x) for x in f]


def golden(name, split):
    return next(p for d in ("tasks", "written") for p in [f"{ROOT}/tests/golden/{d}/{name}/{split}.jsonl"] if os.path.exists(p))


def main():
    tool = os.path.join(ROOT, "tools", "export-tasks")
    sets = runpy.run_path(tool)["SETS"]
    where = {(path, config): name for name, (path, config, _) in sets.items()}
    real = datasets.load_dataset
    wrong = items = 0
    with tempfile.TemporaryDirectory() as d:
        def load(path, config=None, split=None):
            name = where[path, config]
            parquet = f"{d}/{name}-{split}.parquet"
            datasets.Dataset.from_list(rows(golden(name, split))).to_parquet(parquet)
            return real("parquet", data_files=parquet, split="train", cache_dir=f"{d}/cache")
        datasets.load_dataset = load
        sys.argv = [tool, f"{d}/out"]
        runpy.run_path(tool, run_name="__main__")
        for name, (_, _, splits) in sets.items():
            for split in splits:
                want, got = rows(golden(name, split)), rows(f"{d}/out/{name}/{split}.jsonl")
                items += len(want)
                wrong += abs(len(want) - len(got)) + sum(a != b for a, b in zip(want, got))
    sys.exit(not check(f"items of {len(sets)} sets that differ, of {items}", wrong, 0))


if __name__ == "__main__":
    main()
