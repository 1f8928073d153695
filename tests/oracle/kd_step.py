"""One knowledge-distillation step, and three with the optimizer, by PyTorch autograd: the judge of the training core.

mk_fixtures.py calls fixture() for the tiny models, and writes what it gives.

ids [B, T+1]: input ids[:, :-1], labels ids[:, 1:], N = B*T tokens.  s, t = logits of student and teacher, tau temperature:
    KL = 1/N sum_n sum_v pt (log pt - log ps),  pt = softmax(t/tau), ps = softmax(s/tau);   CE = 1/N sum_n -log softmax(s)[label]
Cases (KL weight, CE weight, tau), loss = kl*tau^2*KL + ce*CE:   kl = (1, 0, 1)   kl2 = (1, 0, 2)   mix = (0.75, 0.25, 2)   ce = (0, 1, 1)
Tensors of the file, NAME a Hugging Face parameter of the student (a tied output matrix is model.embed_tokens.weight):
    ids I32            ids, as above
    CASE.loss F64 [3]  loss, KL (without tau^2), CE before any step;    CASE.grad.NAME F32   d loss / d NAME   (kl and mix)
    CASE.norm F64 [1]  L2 norm of all gradients
    adamw.loss, adamw.norm F64 [4], [3]   case mix on the same ids: loss before steps 1..3 and after the third; norm before clipping
    adamw.param.NAME F32                  parameters after step 3
AdamW: lr 1e-3 constant, betas .9 .95, eps 1e-8, decoupled weight decay 0.1 on matrices (embedding included) and none on
vectors; the whole gradient is first scaled by min(1, 1 / (norm + 1e-6)).  Entries whose gradient is rounding noise take
steps of +-lr all the same: compare parameters by their share outside a tolerance, the losses closely.
"""
import torch
import torch.nn.functional as F

CASES = {"kl": (1.0, 0.0, 1.0), "kl2": (1.0, 0.0, 2.0), "mix": (0.75, 0.25, 2.0), "ce": (0.0, 1.0, 1.0)}


def losses(teacher, student, ids, kl_w, ce_w, tau):
    x, y = ids[:, :-1], ids[:, 1:].reshape(-1)
    with torch.no_grad():
        t = teacher(x, use_cache=False).logits.flatten(0, 1)
    s = student(x, use_cache=False).logits.flatten(0, 1)
    kl = F.kl_div(F.log_softmax(s / tau, -1), F.log_softmax(t / tau, -1), log_target=True, reduction="batchmean")
    ce = F.cross_entropy(s, y)
    return kl_w * tau ** 2 * kl + ce_w * ce, kl, ce


def norm(params):
    return torch.stack([p.grad.double().norm() for p in params]).norm().item()


def fixture(teacher, student, ids):
    out, named = {"ids": ids.int()}, dict(student.named_parameters())   # tied matrices once
    params = list(named.values())
    f64 = lambda *v: torch.tensor([torch.as_tensor(x).item() for x in v], dtype=torch.float64)
    for case, weights in CASES.items():
        student.zero_grad()
        loss = losses(teacher, student, ids, *weights)
        loss[0].backward()
        out[f"{case}.loss"], out[f"{case}.norm"] = f64(*loss), f64(norm(params))
        if case in ("kl", "mix"):
            out.update({f"{case}.grad.{n}": p.grad.clone() for n, p in named.items()})
    opt = torch.optim.AdamW([{"params": [p for p in params if p.ndim > 1], "weight_decay": 0.1},
                             {"params": [p for p in params if p.ndim == 1], "weight_decay": 0.0}], 1e-3, (0.9, 0.95), 1e-8)
    curve, norms = [], []
    for _ in range(3):
        opt.zero_grad()
        loss = losses(teacher, student, ids, *CASES["mix"])[0]
        loss.backward()
        curve.append(loss)
        norms.append(torch.nn.utils.clip_grad_norm_(params, 1.0))
        opt.step()
    with torch.no_grad():
        curve.append(losses(teacher, student, ids, *CASES["mix"])[0])
    out.update({f"adamw.param.{n}": p.detach().clone() for n, p in named.items()})
    return out | {"adamw.loss": f64(*curve), "adamw.norm": f64(*norms)}
