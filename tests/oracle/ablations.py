"""What models lose when layers or halves of layers are left out, by forward hooks: the judge of `ablate`.

fixture(model, ids) -> tensors for METRIC in loss, kl, mse and PART in block, attn, ffn:
  ablate.METRIC.PART  [layers]     sum over tokens that have a next one: growth of the cross-entropy, KL(full || ablated), mean
                                   squared difference of the logits over the vocabulary
  ablate.task.PART    [layers + 1, B]  log-likelihood of each row, of the full model in the last row
  ablate.angular.N    [layers - N + 1, 2]  arccos(cos(what enters block l, what enters block l + N)) / pi, summed over last
                                   tokens and over all tokens
A half that is left out adds nothing to the residual stream.
"""
import math
import torch


def without(model, layer, parts):
    """Hooks that make these parts of a layer add nothing."""
    l = model.model.layers[layer]

    def nothing(mod, args, out):
        return (torch.zeros_like(out[0]), *out[1:]) if isinstance(out, tuple) else torch.zeros_like(out)
    return [m.register_forward_hook(nothing) for p, m in (("attn", l.self_attn), ("ffn", l.mlp)) if p in parts]


def streams(model, ids):
    """What enters each block, and what leaves the last one."""
    out = {}
    hooks = [l.register_forward_pre_hook(lambda mod, args, i=i: out.update({i: args[0].double()})) for i, l in enumerate(model.model.layers)]
    hooks.append(model.model.norm.register_forward_pre_hook(lambda mod, args: out.update({len(model.model.layers): args[0].double()})))
    model.model(ids, use_cache=False)
    for h in hooks:
        h.remove()
    return [out[i] for i in range(len(out))]


@torch.no_grad()
def fixture(model, ids):
    L, t = len(model.model.layers), {}
    logits = lambda: model(ids, use_cache=False).logits.double()[:, :-1]
    logp = lambda x: x.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    full = logits()
    for part, halves in (("block", ("attn", "ffn")), ("attn", ("attn",)), ("ffn", ("ffn",))):
        rows = {m: [] for m in ("loss", "kl", "mse", "task")}
        for l in range(L):
            hooks = without(model, l, halves)
            x = logits()
            for h in hooks:
                h.remove()
            p = full.log_softmax(-1)
            rows["loss"].append((logp(full) - logp(x)).sum())
            rows["kl"].append((p.exp() * (p - x.log_softmax(-1))).sum())
            rows["mse"].append((full - x).pow(2).mean(-1).sum())
            rows["task"].append(logp(x).sum(1))
        rows["task"].append(logp(full).sum(1))
        t.update({f"ablate.{m}.{part}": torch.stack(v) for m, v in rows.items()})
    h = streams(model, ids)
    for n in (1, 2):
        a = torch.stack([torch.cosine_similarity(h[l], h[l + n], dim=-1).clamp(-1, 1).acos() / math.pi for l in range(L - n + 1)])
        t[f"ablate.angular.{n}"] = torch.stack([a[:, :, -1].sum(1), a.sum((1, 2))], 1)
    return t
