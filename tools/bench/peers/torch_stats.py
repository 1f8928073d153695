"""torch_stats.py MODEL IDS bf16|f32 THREADS BATCH torch|modelopt - the forward pass with hooks that gather importance statistics

torch: mean |a| over each sequence, squared, summed over sequences, at both norms, the heads and the neurons, and block cosines;
modelopt: the hooks of NVIDIA's package on the same modules.  Answers "go" (all batches) or a number of batches.
SPDX-License-Identifier: Apache-2.0
"""
import statistics, sys, time
from common import ids_from, missing, model, peak_mb, serve, torch_with

path, ids, dtype, threads, batch, impl = sys.argv[1:]
torch = torch_with(threads)
net, acc = model(path, torch.bfloat16 if dtype == "bf16" else torch.float32), {}
name = f"torch {torch.__version__}"


def add(key, v):
    acc[key] = acc.get(key, 0) + v


def width(key):
    return lambda mod, args, out=None: add(key, (args[0] if out is None else out).float().abs().mean(1).pow(2).sum(0))


def cosine(i):
    def hook(mod, args, out):
        y = out[0] if isinstance(out, tuple) else out
        add(("bi", i), 1 - torch.cosine_similarity(args[0].float(), y.float(), dim=-1).mean())
    return hook


def hooks():
    for i, block in enumerate(net.model.layers):
        block.input_layernorm.register_forward_hook(width(("norm1", i)))
        block.post_attention_layernorm.register_forward_hook(width(("norm2", i)))
        block.self_attn.o_proj.register_forward_pre_hook(width(("heads", i)))
        block.mlp.down_proj.register_forward_pre_hook(width(("ffn", i)))
        block.register_forward_hook(cosine(i))


def modelopt_hooks():
    """The package's hooks want the sequence first."""
    try:
        import modelopt
        from modelopt.torch.prune.importance_hooks.base_hooks import L2NormHook, LayerNormContributionHook
    except ImportError:
        missing("no package nvidia-modelopt with importance hooks")

    def turned(hook):
        return lambda mod, args, out: hook(mod, (args[0].transpose(0, 1),), out)
    for block in net.model.layers:
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.register_forward_hook(LayerNormContributionHook(norm, {}))
        block.mlp.down_proj.register_forward_hook(turned(L2NormHook()))
        block.self_attn.o_proj.register_forward_hook(turned(L2NormHook()))
    return f"modelopt {modelopt.__version__}, {name}"


rows = ids_from(ids, torch).split(int(batch))
if impl == "modelopt":
    name = modelopt_hooks()
else:
    hooks()


@torch.no_grad()
def answer(word):
    times = []
    for x in rows if word == "go" else rows[:int(word)]:
        t = time.perf_counter()
        net.model(x, use_cache=False)
        times.append(time.perf_counter() - t)
    return {"tok_per_s": rows[0].numel() / statistics.median(times), "peak_mb": peak_mb(), "times": times}


answer("1")
serve(name, answer)
