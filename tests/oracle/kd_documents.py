"""A distillation step on sequences that hold several documents, none of which attends to another, by PyTorch autograd.

mk_fixtures.py calls fixture() for some of the tiny models, and writes what it gives.

ids [B, T+1] as in kd_step.py, with END written over some of them: a document ends there.  Token i attends to token j of the same
document with j <= i (and j > i - window in sliding blocks), positions restart with each document; the token after an END
is no label.  loss = 0.75 KL + 0.25 CE, means over labels.  Tensors of the file:
    ids I32             ids, END included
    docs.loss F64 [3]   loss, KL, CE;   docs.norm F64 [1]   L2 norm of all gradients;   docs.grad.NAME F32   of the parameters in SHOWN
"""
import torch
import torch.nn.functional as F

END, AT = 7, ((2, 3, 9), (0, 12))
SHOWN = ("layers.0.self_attn", "layers.1.self_attn.q_proj", "norm")


def logits(model, x):
    doc = torch.cat([torch.zeros(len(x), 1, dtype=torch.long), (x == END).long().cumsum(1)[:, :-1]], 1)
    n = torch.arange(x.shape[1])
    first = torch.stack([torch.stack([(d == v).nonzero()[0, 0] for v in d]) for d in doc])
    see = (doc[:, :, None] == doc[:, None, :]) & (n[None, :, None] >= n[None, None, :])
    window = getattr(model.config, "sliding_window", None)
    additive = lambda m: torch.zeros(m.shape).masked_fill(~m, torch.finfo(torch.float32).min)[:, None]
    mask = additive(see)
    if window and getattr(model.config, "layer_types", None):
        mask = {"full_attention": mask, "sliding_attention": additive(see & (n[None, :, None] - n[None, None, :] < window))}
    return model(x, attention_mask=mask, position_ids=n[None] - first, use_cache=False).logits.flatten(0, 1)


def fixture(teacher, student, ids):
    ids = ids.clone()
    for row, at in enumerate(AT):
        ids[row, list(at)] = END
    x, y = ids[:, :-1], ids[:, 1:].reshape(-1)
    keep = x.reshape(-1) != END
    with torch.no_grad():
        t = logits(teacher, x)[keep]
    s = logits(student, x)[keep]
    kl = F.kl_div(F.log_softmax(s, -1), F.log_softmax(t, -1), log_target=True, reduction="batchmean")
    ce = F.cross_entropy(s, y[keep])
    student.zero_grad()
    loss = 0.75 * kl + 0.25 * ce
    loss.backward()
    named = dict(student.named_parameters())
    out = {"ids": ids.int(), "docs.loss": torch.stack([loss, kl, ce]).detach().double(),
           "docs.norm": torch.stack([p.grad.double().norm() for p in named.values()]).norm().reshape(1)}
    return out | {f"docs.grad.{n}": p.grad.clone() for n, p in named.items() if any(w in n for w in SHOWN)}
