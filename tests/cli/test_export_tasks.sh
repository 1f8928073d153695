#!/bin/sh
# test_export_tasks.sh - export-tasks against a stand-in for the package `datasets`: which sets it asks for, what it leaves, what evalharness makes of it
#
# The stand-in knows the names of the data sets on the Hub, their configurations and splits, and gives this project's own items of
# each (tests/golden); tests/oracle/export_tasks.py does the same with the real package.
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016  # sh -c '...' - ARGS: its own parameters
. tests/lib.sh
if ! command -v python3 >/dev/null; then
	ok "export-tasks # skipped, no python3"
	exit
fi
mkdir "$t/fake"
cat >"$t/fake/datasets.py" <<'END'
import json, os
HUB = {("Rowan/hellaswag", None): "tasks/hellaswag", ("baber/piqa", None): "tasks/piqa", ("allenai/winogrande", "winogrande_xl"): "tasks/winogrande",
       ("allenai/ai2_arc", "ARC-Easy"): "tasks/arc_easy", ("allenai/ai2_arc", "ARC-Challenge"): "tasks/arc_challenge",
       ("aps/super_glue", "boolq"): "tasks/boolq", ("cais/mmlu", "all"): "tasks/mmlu",
       ("truthfulqa/truthful_qa", "multiple_choice"): "tasks/truthfulqa_mc2", ("EleutherAI/race", "high"): "tasks/race",
       ("EleutherAI/lambada_openai", "default"): "tasks/lambada_openai",
       ("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1"): "tasks/wikitext", ("openai/gsm8k", "main"): "written/gsm8k",
       ("openai/openai_humaneval", None): "written/humaneval", ("google-research-datasets/mbpp", "full"): "written/mbpp"}


class Dataset:
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def to_json(self, path, force_ascii=True):
        with open(path, "w", encoding="utf-8") as f:
            for i, row in enumerate(self.rows):
                if os.environ.get("BREAK") == str(i):
                    f.flush()
                    os._exit(9)
                f.write(json.dumps(row, ensure_ascii=force_ascii) + "\n")


def load_dataset(path, name, split):
    with open(f"tests/golden/{HUB[path, name]}/{split}.jsonl", encoding="utf-8") as f:
        return Dataset([json.loads(x) for x in f])
END
export PYTHONPATH="$t/fake" PYTHONDONTWRITEBYTECODE=1
works "all tasks" tools/export-tasks "$t/data"
same "as many as evalharness has" "$(find "$t/data" -mindepth 1 -maxdepth 1 | wc -l)" 14
cat >"$t/rows.py" <<'END'
import json, sys
a, b = ([json.loads(x) for x in open(p, encoding="utf-8")] for p in sys.argv[1:])
sys.exit(a != b)
END
bad=''
for f in tests/golden/tasks/*/*.jsonl tests/golden/written/*/*.jsonl; do
	part=${f#tests/golden/*/}
	case $part in arc_*/validation.jsonl) [ ! -e "$t/data/$part" ] || bad="$bad $part(not needed)"; continue ;; esac
	python3 "$t/rows.py" "$f" "$t/data/$part" || bad="$bad $part"
done
if [ -z "$bad" ]; then ok "every split that is scored or drawn from, item by item"; else no "items" "wrong:$bad"; fi
works "text is UTF-8" grep -q "Émile" "$t/data/hellaswag/validation.jsonl"
works "what is there is kept" sh -c 'tools/export-tasks "$1" piqa | grep -c "is there already" | grep -qx 2' - "$t/data"
rm -r "$t/data/race"
BREAK=3 tools/export-tasks "$t/data" race >"$t/out.txt" 2>&1
same "one that is not finished" "$? $(ls "$t/data/race")" "9 test.jsonl.part"
works "is made again" sh -c 'tools/export-tasks "$1" race && [ "$(ls "$1/race")" = test.jsonl ]' - "$t/data"
fails_usage() { tools/export-tasks "$@" >"$t/out.txt" 2>"$t/err"; echo "$? $(head -n 1 "$t/err" | cut -c 1-28)"; }
same "unknown task" "$(fails_usage "$t/data" chess)" "2 export-tasks: no task 'chess"
cp -r tests/golden/models/llama-tied-gqa "$t/model"
cp tests/golden/eval/tokenizer*.json "$t/model"
for name in "$t"/data/*; do
	set -- "$@" --task "${name##*/}=$name"
done
works "evalharness reads them all" sh -c 'evalharness -q -m "$@" --max-length 2000 --dry-run=json | grep -q "\"tasks\": 70"' - "$t/model" "$@"
