"""Losses between hidden states and their gradients by PyTorch autograd, with forward hooks: fixtures of tests/train.

mk_fixtures.py calls fixture() for two tiny pairs, and writes what it gives.

ids as in kd_step.py.  loss = KL + alpha L_is, L_is = sum of terms w * mean over pairs of mean over tokens of cosine or MSE
between P h_student and h_teacher, or between the relations of queries, keys or values (kernels.h, no P, these cases in f64); alpha = KL / L_is without gradient (dynamic) or 1.  Of each case in CASES:
    CASE.loss F64 [3]       total, L_is, alpha;     CASE.norm F64 [1]   L2 norm of all gradients, projections included
    CASE.proj.I F32         the projections used;   CASE.pgrad.I F32    their gradients
    CASE.grad.NAME F32      of the parameters that kd_losses.SHOWN names
"""
import torch
import torch.nn.functional as F
from kd_losses import SHOWN, losses

# terms: (kind, weight, [(place, student block, teacher block)]); emb has no blocks.  Negative blocks count from the end.
CASES = {
    "last": dict(terms=[("cosine", 1, [("norm", -1, -1), ("emb", 0, 0)])], dynamic=True),
    "mixed": dict(terms=[("mse", 0.5, [("out", 0, 1), ("mlp", 0, 0)]), ("cosine", 2, [("in", 0, 1)])], each=True),
    "rel": dict(terms=[("relation", 1, [("q", -1, -1), ("k", -1, -1), ("v", -1, -1)]), ("cosine", 0.5, [("norm", -1, -1)])], dynamic=True, heads=4, exact=True),
    "relv": dict(terms=[("relation", 2, [("v", 0, 1), ("q", 0, 0)])], heads=2, exact=True),
    "uniform": dict(terms=[("mse", 1, "uniform")], dynamic=True),
}


def watch(model):
    """Hooks that fill a dict: (place, block) -> hidden states [B, T, C] of the next forward pass."""
    got, m = {}, model.model
    keep = lambda key: lambda mod, i, o: got.__setitem__(key, o[0] if isinstance(o, tuple) else o)
    m.embed_tokens.register_forward_hook(keep(("emb", 0)))
    for l, layer in enumerate(m.layers):
        layer.register_forward_hook(keep(("out", l)))
        layer.mlp.register_forward_hook(keep(("mlp", l)))
        for x in "qkv":
            getattr(layer.self_attn, x + "_proj").register_forward_hook(keep((x, l)))
        if l:
            layer.input_layernorm.register_forward_hook(keep(("norm", l - 1)))
    m.norm.register_forward_hook(keep(("norm", len(m.layers) - 1)))
    return got


def find(got, place, block, layers):
    block %= layers
    if place == "in":
        return got[("out", block - 1)] if block else got[("emb", 0)]
    return got[(place, block)]


def relation(x, heads):
    """[B, T, C] -> log of the causal relations of each piece [B, heads, T, T]; -inf after a row's own position."""
    x = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    s = x @ x.transpose(-1, -2) / x.shape[-1] ** 0.5
    return s.masked_fill(torch.ones_like(s, dtype=torch.bool).triu(1), float("-inf")).log_softmax(-1)


def relation_loss(a, c, heads):
    ra, rc = relation(a, heads), relation(c, heads)
    seen = rc > float("-inf")
    return torch.where(seen, rc.exp() * (rc.masked_fill(~seen, 0) - ra.masked_fill(~seen, 0)), 0).sum(-1).mean(1)


def fixture(teacher, student, ids, cases=tuple(CASES)):
    x, y = ids[:, :-1], ids[:, 1:].reshape(-1)
    S, T = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    out, hs, ht = {"ids": ids.int()}, watch(student), watch(teacher)
    for n, name in enumerate(cases):
        case, named = CASES[name], dict(student.named_parameters())
        kind_of = torch.float64 if case.get("exact") else torch.float32
        student.to(kind_of), teacher.to(kind_of)
        terms = [(k, w, [("norm", s, round((s + 1) * T / S + 1e-9) - 1) for s in range(S)] if pairs == "uniform" else pairs)
                 for k, w, pairs in case["terms"]]
        g = torch.Generator().manual_seed(n)
        count = sum(len(p) for _, _, p in terms) if case.get("each") else int(any(k != "relation" for k, _, _ in terms))
        proj = [(torch.randn(teacher.config.hidden_size, student.config.hidden_size, generator=g).to(kind_of) * 0.3).requires_grad_() for _ in range(count)]
        student.zero_grad()
        with torch.no_grad():
            t = teacher(x, use_cache=False).logits.flatten(0, 1)
        kl = losses(student(x, use_cache=False).logits.flatten(0, 1), t, y)["kl"].mean()
        inner, i = 0, 0
        for kind, w, pairs in terms:
            for place, s, b in pairs:
                a, c = find(hs, place, s, S), find(ht, place, b, T).detach()
                if kind == "relation":
                    inner = inner + w / len(pairs) * relation_loss(a, c, case["heads"]).mean()
                    continue
                a = a @ proj[i if case.get("each") else 0].T
                l = 1 - F.cosine_similarity(a, c, dim=-1) if kind == "cosine" else ((a - c) ** 2).mean(-1)
                inner, i = inner + w / len(pairs) * l.mean(), i + 1
        alpha = (kl / inner).detach() if case.get("dynamic") else torch.ones((), dtype=kind_of)
        loss = kl + alpha * inner
        loss.backward()
        every = [p.grad for p in list(named.values()) + proj]
        out[f"{name}.loss"] = torch.stack([loss, inner, alpha]).detach().double()
        out[f"{name}.norm"] = torch.stack([q.double().norm() for q in every]).norm().reshape(1)
        out.update({f"{name}.proj.{k}": p.detach().float() for k, p in enumerate(proj)})
        out.update({f"{name}.pgrad.{k}": p.grad.float() for k, p in enumerate(proj)})
        out.update({f"{name}.grad.{k}": p.grad.clone().float() for k, p in named.items() if any(s in k for s in SHOWN)})
    student.float(), teacher.float()
    return out
