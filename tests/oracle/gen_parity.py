"""Greedy continuations by transformers' generate: the fixture tests/golden/generate.json, or a check of the tool `generate`.

  gen_parity.py --store [tests/golden]      tiny models of every family: prompts of 1 to 150 tokens, 24 new ones; with and
                                            without EOS ids -> {NAME: [{ids, eos, new}]}
  gen_parity.py -m MODELDIR --bin build/bin TEXT.jsonl
                                            16 texts cut to prompts of different lengths, 64 new tokens, in fp32,
                                            against `generate --batch 1` and 7; a text that differs must
                                            do so at a near tie (two best logits closer than 2e-3)
"""
import argparse, json, os, subprocess, sys, tempfile
import torch
from transformers import GenerationConfig
from common import check, load

LENGTHS, NEW = (1, 2, 9, 33, 64, 150), 24


def greedy(model, ids, new, eos):
    cfg = GenerationConfig(do_sample=False, max_new_tokens=new, eos_token_id=eos or None, pad_token_id=0, bos_token_id=1)
    model.generation_config.eos_token_id = None    # what cfg leaves open is taken from there
    x = torch.tensor([ids])
    out = model.generate(x, attention_mask=torch.ones_like(x), generation_config=cfg)[0, len(ids):].tolist()
    return out[:-1] if eos and out and out[-1] in eos else out


def store(where):
    fixture = {}
    for seed, name in enumerate(sorted(n for n in os.listdir(os.path.join(where, "models")) if not n.endswith("-student"))):
        model = load(os.path.join(where, "models", name), attn="eager")
        g = torch.Generator().manual_seed(300 + seed)
        rows = []
        for i, n in enumerate(LENGTHS):
            ids = torch.randint(3, model.config.vocab_size, (n,), generator=g).tolist()
            eos = [] if i % 2 else [2, 7, 11]
            rows.append({"ids": ids, "eos": eos, "new": greedy(model, ids, NEW, eos)})
        fixture[name] = rows
    with open(os.path.join(where, "generate.json"), "w") as f:
        f.write("{\n" + ",\n".join(f'"{k}": [\n' + ",\n".join(json.dumps(r, separators=(",", ":")) for r in v) + "]"
                                   for k, v in fixture.items()) + "\n}\n")


def compare(args):
    from tokenizers import Tokenizer
    model = load(args.m)
    tok = Tokenizer.from_file(os.path.join(args.m, "tokenizer.json"))
    with open(args.text, encoding="utf-8") as f:
        texts = [json.loads(line)["text"] for line in f][:16]
    texts = [t[:40 + 150 * i] for i, t in enumerate(texts)]
    bad = 0
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as p:
        p.writelines(json.dumps({"prompt": t}) + "\n" for t in texts)
        p.flush()
        ours = []
        for batch in ("1", "7"):
            run = subprocess.run([os.path.join(args.bin, "generate"), "-m", args.m, "--max-new", "64", "--dtype", "f32", "--batch", batch,
                                  "--no-eos", "--quiet", p.name], check=True, stdout=subprocess.PIPE)
            ours.append([json.loads(line)["ids"] for line in run.stdout.splitlines()])
        print("ok   same for --batch 1 and 7" if ours[0] == ours[1] else "FAIL --batch changes results")
        bad += ours[0] != ours[1]
    ties = 0
    for text, got in zip(texts, ours[0]):
        ids = tok.encode(text).ids
        want = greedy(model, ids, 64, [])
        if got != want:
            k = next(i for i in range(64) if got[i] != want[i])
            with torch.no_grad():
                top = model(torch.tensor([ids + want[:k]])).logits[0, -1].topk(2).values
            gap = float(top[0] - top[1])
            ties += 1
            print(f"{len(ids)} tokens: differs at {k}, two best logits {gap:.2g} apart")
            bad += gap > 2e-3
    bad += not check("texts that agree in all 64 tokens", len(texts) - ties, len(texts) - 2, least=True)
    return bad


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--store", nargs="?", const="tests/golden")
    ap.add_argument("-m")
    ap.add_argument("--bin", default="build/bin")
    ap.add_argument("text", nargs="?")
    a = ap.parse_args()
    torch.set_num_threads(1)
    sys.exit(store(a.store) if a.store else 1 if compare(a) else 0)
