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


@torch.no_grad()
def compensated(model, ids):
    """compensate.heads, .ffn [layers, kept] units that stay, .logits [B, T, V] with the inputs of o_proj and down_proj that belong to
    all others replaced by their means over the tokens of ids."""
    c, t, hooks = model.config, {}, []
    g, H, F = c.num_attention_heads // c.num_key_value_heads, c.num_attention_heads, c.intermediate_size
    heads = [[h for h in range(H) if (h % 2 == l % 2 if g == 1 else h % g != l % g)] for l in range(c.num_hidden_layers)]
    ffn = [sorted((7 * j + l) % F for j in range(F // 2)) for l in range(c.num_hidden_layers)]
    means = {}

    def see(key):
        return lambda mod, args: means.update({key: args[0].double().mean((0, 1)).float()})

    def replace(key, kept):
        z = torch.zeros_like(means[key])
        z.view(-1, c.head_dim if key[0] == "o" else 1)[kept] = 1
        return lambda mod, args: (args[0] * z + means[key] * (1 - z),)
    layers = list(enumerate(model.model.layers))
    hooks = [m.register_forward_pre_hook(see((k, i))) for i, l in layers for k, m in (("o", l.self_attn.o_proj), ("down", l.mlp.down_proj))]
    model(ids, use_cache=False)
    for h in hooks:
        h.remove()
    hooks = [m.register_forward_pre_hook(replace((k, i), kept[i])) for i, l in layers
             for k, m, kept in (("o", l.self_attn.o_proj, heads), ("down", l.mlp.down_proj, ffn))]
    t["compensate.logits"] = model(ids, use_cache=False).logits
    for h in hooks:
        h.remove()
    t["compensate.heads"], t["compensate.ffn"] = torch.tensor(heads).int(), torch.tensor(ffn).int()
    return t
