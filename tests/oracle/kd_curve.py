"""Fifty steps of distillation by PyTorch, each on a batch of its own: the loss curve that the trainer has to follow.

    kd_curve.py TEACHER STUDENT OUT.safetensors [--no-decay WORD,...]        (mk_fixtures.py calls it for two tiny pairs)

Forward KL at temperature 1, mean over positions; torch's AdamW (betas .9 .95, eps 1e-8, decay 0.1 on matrices but those that
--no-decay names, 0 on vectors), clip_grad_norm_ 1.0, LinearLR over WARMUP steps to PEAK, then CosineAnnealingLR to LEAST;
torch's AveragedModel with decay EMA from the weights at the start.  f32.  Tensors of the file:
    ids I32 [B, T+1]             of step 1;       curve.ids I32 [STEPS, B, T+1]   of each
    curve.loss, norm, lr F64     [STEPS]          before the update; norm before clipping
    curve.ema.NAME F32           the average after the last step, of the parameters in SHOWN
"""
import argparse
import torch
from safetensors.torch import save_file
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from common import load
from kd_step import losses

STEPS, WARMUP, PEAK, LEAST, DECAY, EMA = 50, 5, 5e-3, 5e-4, 0.1, 0.9
BATCH, SEQ = 2, 16
SHOWN = ("embed_tokens", "o_proj", "norm")


def fixture(teacher, student, seed, no_decay=()):
    named = dict(student.named_parameters())   # tied matrices once
    free = {n for n, p in named.items() if p.ndim == 1 or any(w in n for w in no_decay)}
    opt = torch.optim.AdamW([{"params": [p for n, p in named.items() if n not in free], "weight_decay": DECAY},
                             {"params": [p for n, p in named.items() if n in free], "weight_decay": 0.0}], PEAK, (0.9, 0.95), 1e-8)
    rate = SequentialLR(opt, [LinearLR(opt, 1 / WARMUP, 1, WARMUP - 1), CosineAnnealingLR(opt, STEPS - WARMUP, LEAST)], [WARMUP - 1])
    mean = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(EMA))
    mean.update_parameters(student)            # the first call copies
    ids = torch.randint(0, teacher.config.vocab_size, (STEPS, BATCH, SEQ + 1), generator=torch.Generator().manual_seed(seed))
    curve = {"loss": [], "norm": [], "lr": []}
    for x in ids:
        opt.zero_grad()
        loss = losses(teacher, student, x, 1, 0, 1)[0]
        loss.backward()
        curve["loss"].append(loss.item())
        curve["norm"].append(torch.nn.utils.clip_grad_norm_(named.values(), 1.0).item())
        curve["lr"].append(opt.param_groups[0]["lr"])
        opt.step()
        rate.step()
        mean.update_parameters(student)
    out = {"ids": ids[0].int().clone(), "curve.ids": ids.int()}
    out.update({f"curve.{k}": torch.tensor(v, dtype=torch.float64) for k, v in curve.items()})
    return out | {f"curve.ema.{n}": p.detach().clone() for n, p in mean.module.named_parameters() if any(w in n for w in SHOWN)}


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("teacher", "student", "out"):
        ap.add_argument(name)
    ap.add_argument("--no-decay", default="", metavar="WORD,...")
    a = ap.parse_args()
    save_file(fixture(load(a.teacher), load(a.student), 0, [w for w in a.no_decay.split(",") if w]), a.out)


if __name__ == "__main__":
    main()
