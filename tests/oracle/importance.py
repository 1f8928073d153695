"""Importance scores and rankings of Minitron by PyTorch forward hooks, to judge `act-stats` and `rank`.

    importance.py MODEL TOKENS --stats STATS --rank RANK [--agg batch=l2,seq=mean] [--neuron post] [--head channel-first] [--every]
compares the sums of a stats artifact and the scores and order of a ranking with PyTorch's (relative 1e-3; order equal
wherever neighbours differ by more).  Without --stats and --rank it prints the scores as JSON.

Per hooked tensor a[b,t,u] (a head of norm-first: the L2 norm of its columns) the sequence is reduced first, m = mean|a|,
l2 = sqrt(sum a^2) or var (biased), then the batch by the same three.  neuron = input of down_proj (post) or of the
activation (pre; in a gated MLP the stored columns are gate | up and the score of a neuron is its gate's); head = input of
o_proj; hidden = outputs of both norms, summed over all layers; layers = 1 - mean cos(block input, block output).
FFN is ranked per layer, heads inside each query group, hidden and layers over the whole model; ties: lower index first.
"""
import argparse, itertools, json, subprocess, sys, tempfile
import torch
from common import artifact, check, load, token_rows

AGGS = ("mean", "l2", "var")
REDUCE = {"mean": lambda a, d: a.abs().mean(d), "l2": lambda a, d: a.pow(2).sum(d).sqrt(), "var": lambda a, d: a.var(d, correction=0)}


# ---- the oracle
def capture(model, rows):
    """{(site, layer): [B,T,units] f64} of one batch, and per layer and half the cosines [B,T] of what enters and leaves it."""
    acts, cosines, mid, hooks = {}, {}, {}, []

    def keep(module, site, i, output):
        def hook(mod, args, out=None):
            acts[site, i] = (out if output else args[0]).double()
        hooks.append(module.register_forward_hook(hook) if output else module.register_forward_pre_hook(hook))

    def middle(i):
        return lambda mod, args: mid.update({i: args[0].double()})

    def block(i):
        def hook(mod, args, out):
            x, y = args[0].double(), (out[0] if isinstance(out, tuple) else out).double()
            for part, a, b in (("block", x, y), ("attn", x, mid[i]), ("ffn", mid[i], y)):
                cosines[part, i] = torch.cosine_similarity(a, b, dim=-1)
        return hook
    for i, l in enumerate(model.model.layers):
        keep(l.input_layernorm, "attn_in", i, True)
        before_mlp = getattr(l, "pre_feedforward_layernorm", l.post_attention_layernorm)
        keep(before_mlp, "ffn_in", i, True)
        hooks.append(before_mlp.register_forward_pre_hook(middle(i)))
        keep(l.self_attn.o_proj, "attn_out", i, False)
        keep(l.mlp.down_proj, "ffn_act", i, False)
        for part in ("gate", "up"):
            if hasattr(l.mlp, part + "_proj"):
                keep(getattr(l.mlp, part + "_proj"), part, i, True)
        hooks.append(l.register_forward_hook(block(i)))
    with torch.no_grad():
        model.model(rows, use_cache=False)
    for h in hooks:
        h.remove()
    for i in range(len(model.model.layers)):
        up = acts.pop(("up", i))
        acts["ffn_pre", i] = torch.cat([acts.pop(("gate", i)), up], -1) if ("gate", i) in acts else up
        acts["attn_norm", i] = acts["attn_out", i].unflatten(-1, (model.config.num_attention_heads, -1)).norm(dim=-1)
    return acts, cosines


class Measured:
    """Per-sample reductions of all rows: seq[agg][site, layer] is [samples, units]; sums as the stats artifact has them."""
    def __init__(self, model, ids, batch=4):
        c = model.config
        self.layers, self.heads, self.groups = c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads
        self.ffn, self.n, self.tokens = c.intermediate_size, len(ids), ids.numel()
        parts, self.sum_x, self.cos = {}, {}, {}
        for rows in ids.split(batch):
            acts, cosines = capture(model, rows)
            for key, a in acts.items():
                self.sum_x[key] = self.sum_x.get(key, 0) + a.sum((0, 1))
                for agg in AGGS:
                    parts.setdefault((agg, key), []).append(REDUCE[agg](a, 1))
            for key, c in cosines.items():
                self.cos[key] = self.cos.get(key, 0) + (1 - c).sum().item()
        self.seq = {k: torch.cat(v) for k, v in parts.items()}

    def sums(self, key):
        rows = [self.sum_x[key]]
        for agg in AGGS:
            s = self.seq[agg, key]
            rows += [s.sum(0), s.pow(2).sum(0)]
        return torch.stack(rows)

    def score(self, site, layer, batch, seq):
        return REDUCE[batch](self.seq[seq, (site, layer)], 0)

    def scores(self, batch, seq, neuron="post", head="channel-first"):
        s = lambda site, i: self.score(site, i, batch, seq)
        each = range(self.layers)
        return {"ffn": [s("ffn_act" if neuron == "post" else "ffn_pre", i)[:self.ffn] for i in each],
                "heads": [s("attn_out", i).view(self.heads, -1).norm(dim=1) if head == "channel-first" else s("attn_norm", i) for i in each],
                "hidden": [sum(s("attn_in", i) + s("ffn_in", i) for i in each)],
                "layers": [torch.tensor([self.cos["block", i] / self.tokens for i in each], dtype=torch.float64)]}

    def order(self, axis, score):
        """Best first; heads group by group."""
        g = self.groups if axis == "heads" else 1
        by_group = score.view(g, -1).argsort(dim=1, descending=True, stable=True)
        return (by_group + torch.arange(g)[:, None] * (len(score) // g)).flatten()


def others(model, ids):
    """{metric: {axis: [layers, units]}} of the metrics beside Minitron's, from their definitions on the activations of all
    rows: T tokens in n samples, x the input of matrix W [rows, columns], column c
      magnitude ||W_c||    wanda-sp mean|W_c| sqrt(sum x_c^2 / n)    wifv var(x_c) ||W_c||^2    wnorm-absmean ||W_c|| mean|x_c|
    neurons: down_proj; heads: o_proj, sum over their columns (wifv: mean of squares standardised within the layer); hidden:
    sum over q, k, v stacked and gate, up stacked of all layers (magnitude: the embedding's columns); kv: mean of a group's
    heads, and kv-contrib: mean over tokens of ||W_o,g x_g||."""
    acts, _ = capture(model, ids)
    c, n, out = model.config, len(ids), {}
    H, G = c.num_attention_heads, c.num_key_value_heads
    metrics = {"magnitude": lambda W, x: W.norm(dim=0),
               "wanda-sp": lambda W, x: W.abs().mean(0) * (x.pow(2).sum((0, 1)) / n).sqrt(),
               "wifv": lambda W, x: x.flatten(0, 1).var(0, correction=0) * W.pow(2).sum(0),
               "wnorm-absmean": lambda W, x: W.norm(dim=0) * x.abs().mean((0, 1))}
    with torch.no_grad():
        for name, f in metrics.items():
            heads, ffn, hidden = [], [], 0
            for i, l in enumerate(model.model.layers):
                a, m, w = l.self_attn, l.mlp, lambda *ps: torch.cat([p.weight.double() for p in ps])
                v = f(w(a.o_proj), acts["attn_out", i])
                if name == "wifv":
                    v = (v ** 2 - (v ** 2).mean()) / (v ** 2).std(correction=0)
                heads.append(v.view(H, -1).mean(1) if name == "wifv" else v.view(H, -1).sum(1))
                ffn.append(f(w(m.down_proj), acts["ffn_act", i]))
                up = [m.gate_proj, m.up_proj] if hasattr(m, "gate_proj") else [m.up_proj]
                hidden = hidden + f(w(a.q_proj, a.k_proj, a.v_proj), acts["attn_in", i]) + f(w(*up), acts["ffn_in", i])
            if name == "magnitude":
                hidden = model.model.embed_tokens.weight.double().norm(dim=0)
            heads = torch.stack(heads)
            out[name] = {"heads": heads, "ffn": torch.stack(ffn), "hidden": hidden[None], "kv": heads.unflatten(1, (G, -1)).mean(2)}
        kv = []
        for i, l in enumerate(model.model.layers):
            x, W = acts["attn_out", i], l.self_attn.o_proj.weight.double()
            e = x.shape[-1] // G
            kv.append(torch.stack([(x[..., g * e:(g + 1) * e] @ W[:, g * e:(g + 1) * e].T).norm(dim=-1).mean() for g in range(G)]))
    out["kv-contrib"] = {"kv" if G < H else "heads": torch.stack(kv)}
    return out
# ---- end of the oracle


def fixture(model, ids):
    """stat.SITE.LAYER (sums; attn_norm = heads by their norm), score.AXIS.LAYER [9, units] and order.AXIS.LAYER [9, units],
    rows = batch mean,l2,var x seq mean,l2,var; heads also as heads_norm, neurons also as ffn_pre; layers: stat.block [L,2], and of
    its halves stat.attn, stat.ffn; the other metrics as METRIC.AXIS [layers, units]."""
    m, t = Measured(model, ids), {}
    for part in ("block", "attn", "ffn"):
        t[f"stat.{part}"] = torch.tensor([[m.cos[part, i], m.tokens] for i in range(m.layers)], dtype=torch.float64)
    for site, i in sorted({key for _, key in m.seq}):
        t[f"stat.{site}.{i}"] = m.sums((site, i))
    for suffix, kw in (("", {}), ("alt", dict(neuron="pre", head="norm-first"))):
        rows = {}
        for batch, seq in itertools.product(AGGS, AGGS):
            for axis, layers in m.scores(batch, seq, **kw).items():
                for i, s in enumerate(layers):
                    rows.setdefault((axis, i), []).append(s)
        for (axis, i), s in rows.items():
            name = {"": axis, "alt": {"ffn": "ffn_pre", "heads": "heads_norm"}.get(axis)}[suffix]
            if name:
                t[f"score.{name}.{i}"] = torch.stack(s)
                t[f"order.{name}.{i}"] = torch.stack([m.order(axis, x) for x in s]).int()
    t["score.layers.0"], t["order.layers.0"] = t["score.layers.0"][:1], t["order.layers.0"][:1]
    t.update({f"{metric}.{axis}": s for metric, axes in others(model, ids).items() for axis, s in axes.items()})
    return t


def relative(a, b):
    """Largest |a-b| over the size of the row's values: near-zero sums of signed numbers count by what surrounds them."""
    return ((a - b).abs() / (b.abs() + 1e-3 * b.abs().max() + 1e-30)).max().item()


def misplaced(ours, oracle, score, tol=1e-3):
    """Places where the two orders put units whose scores differ by more than tol; everywhere if ours is no permutation."""
    if sorted(ours) != sorted(oracle.tolist()):
        return len(score)
    a, b = score[torch.tensor(ours)], score[oracle]
    return int(((a - b).abs() > tol * b.abs()).sum())


def judge_ranking(m, path, bin_dir, scores, what):
    worst, places = {}, {}
    for r in artifact(path, bin_dir)[1]:
        axis, i = {"layer": "layers", "head": "heads", "mlp": "ffn", "emb": "hidden"}.get(r["axis"]), max(r["layer"], 0)
        if not axis:
            continue
        ref, order, size = scores[axis][i], r["order"].tolist(), m.heads // m.groups
        if axis == "heads":   # what counts is the order inside each query group
            order = [h for g in range(m.groups) for h in order if h // size == g]
        worst[axis] = max(worst.get(axis, 0), relative(torch.from_numpy(r["score"]).double(), ref))
        places[axis] = places.get(axis, 0) + misplaced(order, m.order(axis, ref), ref)
    good = check(f"{what}: axes ranked", len(worst), 4, least=True)
    for axis in worst:
        good &= check(f"{what}: scores of {axis}", worst[axis], 1e-3)
        good &= check(f"{what}: units of {axis} out of order beyond ties", places[axis], 0)
    return good


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("model")
    ap.add_argument("tokens", help="token set, JSON list of rows, or fixture with a tensor `ids`")
    ap.add_argument("--rows", type=int, help="only the first N rows")
    ap.add_argument("--seq", type=int, help="only the first N tokens of each")
    ap.add_argument("--stats")
    ap.add_argument("--rank")
    ap.add_argument("--every", action="store_true", help="with --stats: run `rank` for all nine aggregations, both kinds of heads and neurons")
    ap.add_argument("--agg", default="batch=l2,seq=mean")
    ap.add_argument("--neuron", choices=("post", "pre"), default="post")
    ap.add_argument("--head", choices=("channel-first", "norm-first"), default="channel-first")
    ap.add_argument("--bin", default="build/bin")
    a = ap.parse_args()
    model = load(a.model)
    m = Measured(model, token_rows(a.tokens, a.bin, a.rows, a.seq))
    agg, good = dict(kv.split("=") for kv in a.agg.split(",")), True
    if a.stats:
        worst = {}
        for r in artifact(a.stats, a.bin)[1]:
            site = r["site"].replace("attn_out_norm", "attn_norm")
            if "one_minus_cos" in r:
                ours, ref = torch.tensor([r["one_minus_cos"], r["tokens"]]), torch.tensor([m.cos[site, r["layer"]], m.tokens])
                worst[site + " cosine"] = max(worst.get(site + " cosine", 0), ((ours - ref).abs() / ref).max().item())
            key = (site, r["layer"])
            if "sums" in r and ("mean", key) in m.seq:
                ours = torch.from_numpy(r["sums"]).double().view(7, -1)
                for row in range(7):
                    worst[key[0]] = max(worst.get(key[0], 0), relative(ours[row], m.sums(key)[row]))
        good &= all([check(f"sums of {site}", w, 1e-3) for site, w in sorted(worst.items())]) and len(worst) >= 4
    if a.rank:
        good &= judge_ranking(m, a.rank, a.bin, m.scores(agg["batch"], agg["seq"], a.neuron, a.head), a.agg)
    if a.every:
        with tempfile.TemporaryDirectory() as tmp:
            for batch, seq, (neuron, head) in itertools.product(AGGS, AGGS, (("post", "channel-first"), ("pre", "norm-first"))):
                cmd = [f"{a.bin}/rank", a.stats, "-q", "-f", "-o", f"{tmp}/rank", "--agg", f"batch={batch},seq={seq}",
                       "--neuron", neuron, "--head", head]
                subprocess.run(cmd, check=True)
                good &= judge_ranking(m, f"{tmp}/rank", a.bin, m.scores(batch, seq, neuron, head), f"{batch},{seq} {neuron} {head}")
    if not (a.stats or a.rank):
        print(json.dumps({axis: [s.tolist() for s in layers] for axis, layers in m.scores(agg["batch"], agg["seq"], a.neuron, a.head).items()}))
    sys.exit(not good)


if __name__ == "__main__":
    main()
