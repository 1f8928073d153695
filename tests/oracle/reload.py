"""A model directory that we wrote, loaded by transformers: every key known, none missing, and the same logits as ours.

    reload.py DIR [--bin build/bin] [--tokens 128] [--seed 1]
"""
import argparse, sys
import torch
from transformers import AutoModelForCausalLM
from common import check, our_logits


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("dir")
    ap.add_argument("--bin", default="build/bin")
    ap.add_argument("--tokens", type=int, default=128)
    ap.add_argument("--seed", type=int, default=1)
    a = ap.parse_args()
    torch.set_num_threads(2)
    model, info = AutoModelForCausalLM.from_pretrained(a.dir, dtype=torch.float32, output_loading_info=True)
    good = True
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        good &= check(f"{what} {sorted(info.get(what) or [])[:3]}", len(info.get(what) or []), 0)
    ids = torch.randint(0, model.config.vocab_size, (a.tokens,), generator=torch.Generator().manual_seed(a.seed))
    with torch.no_grad():
        ref = model.eval()(ids[None], use_cache=False).logits[0]
    good &= check("f32 max|delta|", (our_logits(a.bin, a.dir, ids, ref.shape[1]) - ref).abs().max(), 1e-3)
    sys.exit(not good)


if __name__ == "__main__":
    main()
