"""Our logits against transformers' in fp32: four real texts x 256 tokens.

    logits_parity.py MODELDIR [--bin build/bin] [--ids TOKENS]     compare (f32: max|delta| <= 1e-3; bf16: cosine, argmax)
    logits_parity.py MODELDIR --store tests/golden/smollm2.safetensors     write the fixture of the first text instead

Fixture: ids I32 [256] · lse F32 [256] log-sum-exp of the logits · top_ids I32, top F32 [256,5] (best first) · some_ids I32 [16],
some F32 [256,16] logits of 16 fixed vocabulary entries.  A model directory without a tokenizer gets random ids.
"""
import argparse, os, sys
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer
from common import check, load, our_logits, token_rows
from texts import TEXTS


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("model")
    ap.add_argument("--bin", default="build/bin")
    ap.add_argument("--ids", help="rows of ids (token set, .json, fixture) instead of the embedded texts")
    ap.add_argument("--store", metavar="FILE")
    ap.add_argument("--dtypes", default="f32,bf16")
    a = ap.parse_args()
    torch.set_num_threads(2)
    if a.ids:
        rows = token_rows(a.ids, a.bin, 4, 256)
    elif not os.path.exists(os.path.join(a.model, "tokenizer.json")):
        rows = torch.randint(0, AutoConfig.from_pretrained(a.model).vocab_size, (4, 256), generator=torch.Generator().manual_seed(1))
    else:
        t = AutoTokenizer.from_pretrained(a.model)
        rows = torch.tensor([t(x, add_special_tokens=False)["input_ids"][:256] for x in TEXTS])
    model, good = load(a.model), True
    with torch.no_grad():
        ref = [model(r[None], use_cache=False).logits[0] for r in rows]
    if a.store:
        some, x = torch.arange(16) * (ref[0].shape[1] // 16) + 7, ref[0]
        top = x.topk(5)
        save_file({"ids": rows[0].int(), "lse": x.logsumexp(-1), "top": top.values, "top_ids": top.indices.int(),
                   "some_ids": some.int(), "some": x[:, some].contiguous()}, a.store)
        return
    for dtype in a.dtypes.split(","):
        ours = [our_logits(a.bin, a.model, r, x.shape[1], dtype) for r, x in zip(rows, ref)]
        if dtype == "f32":
            good &= check("f32 max|delta|", max((o - x).abs().max() for o, x in zip(ours, ref)), 1e-3)
        else:
            good &= check(f"{dtype} cosine of all logits", torch.cosine_similarity(torch.cat(ours).flatten().double(), torch.cat(ref).flatten().double(), dim=0), 0.9999, True)
            print(f"     {dtype} cosine of the worst position: {min(torch.cosine_similarity(o, x, dim=-1).min() for o, x in zip(ours, ref)):.5f}")
            good &= check(f"{dtype} same argmax", torch.cat([o.argmax(-1) == x.argmax(-1) for o, x in zip(ours, ref)]).float().mean(), 0.99, True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
