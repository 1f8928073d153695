"""Low-rank adapters and their gradients by PyTorch autograd, with forward hooks: fixtures of tests/train.

mk_fixtures.py calls fixture() for two tiny pairs, and writes what it gives.

ids as in kd_step.py.  Every weight of the student is frozen; y = W x + alpha/rank B A x in the linears whose names end in one
of the case's words.  A and B are random, so that neither gradient is zero.  Of each case in CASES:
    CASE.loss F64 [1]        sum of weight * loss, means over tokens;      CASE.norm F64 [1]   L2 norm of all gradients
    CASE.A.MODULE F32, CASE.B.MODULE F32        the adapters;     CASE.gA.MODULE, CASE.gB.MODULE    their gradients
    CASE.merged F64 [1]      the loss of the model with W + alpha/rank B A, no adapters
"""
import torch
from kd_losses import losses

CASES = {
    "attn": dict(words=("q_proj", "v_proj"), rank=3, alpha=6.0, w={"kl": 1}),
    "all": dict(words=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), rank=2, alpha=5.0, w={"kl": 0.7, "ce": 0.3}),
    "down": dict(words=("layers.0.mlp.down_proj",), rank=4, alpha=1.0, w={"ce": 1}),
}


def total(student, x, t, y, w):
    one = losses(student(x, use_cache=False).logits.flatten(0, 1), t, y)
    return sum(v * one[k].mean() for k, v in w.items())


def fixture(teacher, student, ids):
    x, y = ids[:, :-1], ids[:, 1:].reshape(-1)
    student.requires_grad_(False)
    with torch.no_grad():
        t = teacher(x, use_cache=False).logits.flatten(0, 1)
    out = {"ids": ids.int()}
    for n, (name, case) in enumerate(CASES.items()):
        g, hooks, ab, s = torch.Generator().manual_seed(300 + n), [], {}, case["alpha"] / case["rank"]
        for module, m in student.named_modules():
            if isinstance(m, torch.nn.Linear) and module.endswith(case["words"]):
                a = (torch.randn(case["rank"], m.in_features, generator=g) * 0.3).requires_grad_()
                b = (torch.randn(m.out_features, case["rank"], generator=g) * 0.3).requires_grad_()
                ab[module] = (a, b)
                hooks.append(m.register_forward_hook(lambda m, i, o, a=a, b=b: o + s * (i[0] @ a.T) @ b.T))
        loss = total(student, x, t, y, case["w"])
        loss.backward()
        for h in hooks:
            h.remove()
        every = [p.grad for pair in ab.values() for p in pair]
        out[f"{name}.loss"] = loss.detach().double().reshape(1)
        out[f"{name}.norm"] = torch.stack([q.double().norm() for q in every]).norm().reshape(1)
        with torch.no_grad():
            for module, (a, b) in ab.items():
                student.get_submodule(module).weight += s * b @ a
            out[f"{name}.merged"] = total(student, x, t, y, case["w"]).double().reshape(1)
            for module, (a, b) in ab.items():
                student.get_submodule(module).weight -= s * b @ a
        for module, (a, b) in ab.items():
            out.update({f"{name}.A.{module}": a.detach(), f"{name}.B.{module}": b.detach(),
                        f"{name}.gA.{module}": a.grad, f"{name}.gB.{module}": b.grad})
    return out
