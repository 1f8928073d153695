"""Every loss on logits and its gradient by PyTorch autograd, from plain definitions: fixtures of tests/train.

mk_fixtures.py calls fixture() for two tiny pairs, and writes what it gives.

ids as in kd_step.py.  Of each case in CASES (losses and their weights, tau, beta, K best tokens and tail rule, wsl):
    CASE.loss F64 [1]      sum of weight * (tau^2 for kl, rkl, jsd, tvd) * loss, means over the tokens
    CASE.norm F64 [1]      L2 norm of all gradients
    CASE.grad.NAME F32     of the parameters in SHOWN (with --grads)
"""
import torch
import torch.nn.functional as F

CASES = {
    "rkl": dict(w={"rkl": 1}), "rkl2": dict(w={"rkl": 1}, tau=2), "jsd": dict(w={"jsd": 1}),
    "jsd3": dict(w={"jsd": 0.8, "ce": 0.2}, tau=2, beta=0.3), "tvd": dict(w={"tvd": 1}, tau=1.5), "mse": dict(w={"mse": 1}),
    "cos": dict(w={"cos": 1}), "wsl": dict(w={"kl": 1}, wsl=True), "wsl2": dict(w={"kl": 0.5, "jsd": 0.5, "ce": 0.1}, tau=2, wsl=True),
    "all": dict(w={"kl": .1, "rkl": .2, "jsd": .3, "tvd": .4, "mse": .05, "cos": .6, "ce": .7}, tau=1.5, beta=0.6),
    "renorm": dict(w={"kl": 1}, best=8, tail="renorm"), "zero": dict(w={"kl": 1}, best=8, tail="zero"),
    "ghost": dict(w={"kl": 1}, best=8, tail="ghost"), "renorm2": dict(w={"kl": 0.7, "ce": 0.3}, tau=2, best=5, tail="renorm"),
    "zero2": dict(w={"kl": 0.7, "ce": 0.3}, tau=2, best=5, tail="zero"), "ghost2": dict(w={"kl": 0.7, "ce": 0.3}, tau=2, best=5, tail="ghost"),
}
SHOWN = ("mlp.down_proj", "q_proj", "model.norm.weight")
SCALED = ("kl", "rkl", "jsd", "tvd")


def best_kl(s, t, K, tail):
    """s, t: log-probabilities [N, V] -> KL [N] on the teacher's K best."""
    ids = t.topk(K, -1).indices
    qs, qt = s.gather(1, ids), t.gather(1, ids)
    if tail == "renorm":
        qs, qt = F.log_softmax(qs, -1), F.log_softmax(qt, -1)
    elif tail == "zero":
        qt = F.log_softmax(qt, -1)
    else:
        rest = torch.ones_like(s).scatter(1, ids, 0.0)
        qs, qt = (torch.cat([q, (x.exp() * rest).sum(-1, keepdim=True).log()], -1) for q, x in ((qs, s), (qt, t)))
    return (qt.exp() * (qt - qs)).sum(-1)


def losses(s, t, y, tau=1, beta=0.5, best=0, tail=None, wsl=False, w=None):
    """Per token [N]: a dict of every loss."""
    ls, lt = F.log_softmax(s / tau, -1), F.log_softmax(t / tau, -1)
    m = (beta * lt.exp() + (1 - beta) * ls.exp()).log()
    out = {
        "kl": best_kl(ls, lt, best, tail) if best else (lt.exp() * (lt - ls)).sum(-1),
        "rkl": (ls.exp() * (ls - lt)).sum(-1),
        "jsd": beta * (lt.exp() * (lt - m)).sum(-1) + (1 - beta) * (ls.exp() * (ls - m)).sum(-1),
        "tvd": (ls.exp() - lt.exp()).abs().sum(-1) / 2,
        "mse": ((s - t) ** 2).mean(-1),
        "cos": 1 - F.cosine_similarity(s, t, dim=-1),
    }
    ce = F.cross_entropy(s, y, reduction="none")
    if wsl:
        trust = 1 - (-ce / F.cross_entropy(t, y, reduction="none")).exp()
        out = {k: v * trust.detach() for k, v in out.items()}
    return out | {"ce": ce}


def total(s, t, y, case):
    tau = case.get("tau", 1)
    l = losses(s, t, y, **case)
    return sum(w * (tau ** 2 if k in SCALED else 1) * l[k].mean() for k, w in case["w"].items())


def fixture(teacher, student, ids, grads=True):
    x, y = ids[:, :-1], ids[:, 1:].reshape(-1)
    named, out = dict(student.named_parameters()), {"ids": ids.int()}
    with torch.no_grad():
        t = teacher(x, use_cache=False).logits.flatten(0, 1)
    for name, case in CASES.items():
        student.zero_grad()
        loss = total(student(x, use_cache=False).logits.flatten(0, 1), t, y, case)
        loss.backward()
        norm = torch.stack([p.grad.double().norm() for p in named.values()]).norm()
        out[f"{name}.loss"], out[f"{name}.norm"] = loss.detach().double().reshape(1), norm.reshape(1)
        if grads:
            out.update({f"{name}.grad.{n}": p.grad.clone() for n, p in named.items() if any(s in n for s in SHOWN)})
    return out
