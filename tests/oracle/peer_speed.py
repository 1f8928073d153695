"""Speed and memory of act-stats and kd-train against PyTorch (transformers), run in turn: ours, torch, ours, torch ...

    peer_speed.py stats MODEL --tokens TOK [--rows 8] [--seq 1024] [--micro 4]
    peer_speed.py kd MODEL --student DIR --tokens TOK [--micro 4] [--seq 512] [--steps 4] [--impl torch|liger]
        both: [--bin build/bin] [--rounds 2] [--threads 2] [--dtype bf16|f32] [--only ours|torch]

Prints one JSON object per run and the medians with their ratio.  Same model, same tokens, same threads, one process per run.
torch: `stats` = bf16 weights and hooks for Minitron's scores (mean |a| over the sequence, squares over the batch) and block
cosines;  `kd` = bf16 autocast over f32 student weights, bf16 teacher, forward KL on full logits, clipping, fused AdamW;
`liger` = its chunked loss, which never holds full logits.  Its rate is that of the median batch or step after a first untimed
one; act-stats' is the whole process, start-up included; kd-train's is the median of metrics.jsonl without the first step.
Without --tokens only torch can run, on random ids; without --student a random 24-layer 448/1152/6/2 Llama is made;
transformers refuses to load such a shape (hidden % heads != 0) although it computes it well: that rule is lifted here.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time


def arguments():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("what", choices=("stats", "kd"))
    ap.add_argument("model")
    ap.add_argument("--student")
    ap.add_argument("--tokens")
    for name, default in (("rows", 8), ("seq", 1024), ("micro", 4), ("steps", 4), ("rounds", 2), ("threads", 2)):
        ap.add_argument("--" + name, type=int, default=default)
    ap.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    ap.add_argument("--impl", choices=("torch", "liger"), default="torch")
    ap.add_argument("--bin", default="build/bin")
    ap.add_argument("--only", choices=("ours", "torch"))
    ap.add_argument("--worker", help=argparse.SUPPRESS)
    return ap.parse_args()


# ---- torch, in a process of its own
def ids_of(a, rows, vocab):
    import torch
    if a.tokens:
        from common import token_rows
        ids = token_rows(a.tokens, a.bin, None, None).flatten()
        return ids.repeat(-(-rows * a.seq // len(ids)))[:rows * a.seq].view(rows, a.seq)
    return torch.randint(0, vocab, (rows, a.seq), generator=torch.Generator().manual_seed(1))


def any_width():
    from transformers import LlamaConfig
    LlamaConfig.__class_validators__ = [v for v in LlamaConfig.__class_validators__ if v.__name__ != "validate_architecture"]


def torch_stats(a, torch, dtype):
    from common import load
    model, acc = load(a.model, dtype), {}

    def add(key, v):
        acc[key] = acc.get(key, 0) + v

    def width(key, take):
        return lambda mod, args, out=None: add(key, (args[0] if take == "in" else out).float().abs().mean(1).pow(2).sum(0))
    for i, l in enumerate(model.model.layers):
        l.input_layernorm.register_forward_hook(width(("norm1", i), "out"))
        l.post_attention_layernorm.register_forward_hook(width(("norm2", i), "out"))
        l.self_attn.o_proj.register_forward_pre_hook(width(("heads", i), "in"))
        l.mlp.down_proj.register_forward_pre_hook(width(("ffn", i), "in"))
        l.register_forward_hook(lambda mod, args, out, i=i: add(("bi", i), 1 - torch.cosine_similarity(
            args[0].float(), (out[0] if isinstance(out, tuple) else out).float(), dim=-1).mean()))
    ids = ids_of(a, a.rows, model.config.vocab_size)
    with torch.no_grad():
        for rows in [ids[:a.micro]] + list(ids.split(a.micro)):
            t = time.perf_counter()
            model.model(rows, use_cache=False)
            yield rows.numel() / (time.perf_counter() - t)


def torch_kd(a, torch, dtype):
    import torch.nn.functional as F
    from common import load
    any_width()
    teacher, student = load(a.model, dtype), load(a.student).train()
    opt = torch.optim.AdamW(student.parameters(), 1e-4, (0.9, 0.95), weight_decay=0.1, fused=True)
    ids, n = ids_of(a, a.micro * (a.steps + 1), student.config.vocab_size), a.micro * a.seq
    if a.impl == "liger":
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
        fused = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False, chunk_size=256)
    for x in ids.split(a.micro):
        t = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=a.dtype == "bf16"):
            if a.impl == "liger":
                with torch.no_grad():
                    th = teacher.model(x, use_cache=False).last_hidden_state.flatten(0, 1)
                sh = student.model(x, use_cache=False).last_hidden_state.flatten(0, 1)
                loss = fused(sh.to(th.dtype), student.lm_head.weight.to(th.dtype), th, teacher.lm_head.weight, x.flatten())
            else:
                with torch.no_grad():
                    tl = teacher(x, use_cache=False).logits.flatten(0, 1)
                sl = student(x, use_cache=False).logits.flatten(0, 1)
                loss = F.kl_div(F.log_softmax(sl.float(), -1), F.log_softmax(tl.float(), -1), log_target=True, reduction="batchmean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        yield n / (time.perf_counter() - t)


def worker(a):
    import torch
    torch.set_num_threads(a.threads)
    rates = list((torch_stats if a.what == "stats" else torch_kd)(a, torch, torch.bfloat16 if a.dtype == "bf16" else torch.float32))[1:]
    print(json.dumps({"tok_per_s": statistics.median(rates), "best": max(rates)}))


# ---- both, from outside; this process stays small, for a child's peak counts that of the process that started it
def run(cmd):
    """(wall seconds, peak MB, stdout) of one command; its stderr passes through."""
    t = time.perf_counter()
    p = subprocess.Popen(cmd, stdout=subprocess.PIPE, text=True)
    out = p.stdout.read()
    _, status, use = os.wait4(p.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(cmd)}")
    return time.perf_counter() - t, use.ru_maxrss / 1024, out


def ours(a, tmp):
    common = ["--threads", str(a.threads), "--dtype", a.dtype, "--micro", str(a.micro), "-q"]
    if a.what == "stats":
        wall, rss, _ = run([f"{a.bin}/act-stats", "-m", a.model, a.tokens, "-f", "-o", f"{tmp}/stats"] + common)
        lines = run([f"{a.bin}/artcat", a.tokens])[2].splitlines()[1:-1]
        return {"tok_per_s": sum(len(json.loads(line)["ids"]) for line in lines) / wall, "peak_mb": rss}
    _, rss, _ = run([f"{a.bin}/kd-train", "--teacher", a.model, "--student", a.student, "--data", a.tokens, "--seq", str(a.seq),
                     "--batch", str(a.micro), "--steps", str(a.steps + 1), "--lr", "1e-4", "-f", "-o", f"{tmp}/run"] + common)
    rates = [json.loads(line)["tok_per_s"] for line in open(f"{tmp}/run/metrics.jsonl")]
    return {"tok_per_s": statistics.median(rates[1:] or rates), "peak_mb": rss}


def theirs(a):
    wall, rss, out = run([sys.executable, __file__, *sys.argv[1:], "--worker", "yes"] + (["--student", a.student] if a.student else []))
    return json.loads(out.splitlines()[-1]) | {"peak_mb": rss, "wall_s": wall}


def random_student(model, path):
    from transformers import AutoConfig, AutoModelForCausalLM
    any_width()
    c = AutoConfig.from_pretrained(model)
    c.update(dict(num_hidden_layers=24, hidden_size=448, intermediate_size=1152, num_attention_heads=6, num_key_value_heads=2))
    AutoModelForCausalLM.from_config(c).save_pretrained(path)


def main():
    a = arguments()
    if a.worker:
        return worker(a) if a.worker == "yes" else random_student(a.model, a.worker)
    with tempfile.TemporaryDirectory() as tmp:
        if a.what == "kd" and not a.student:
            a.student = f"{tmp}/student"
            run([sys.executable, __file__, a.what, a.model, "--worker", a.student])
        sides = {"ours": lambda: ours(a, tmp), "torch": lambda: theirs(a)}
        sides = {k: f for k, f in sides.items() if a.only in (None, k)}
        runs = {k: [] for k in sides}
        for _ in range(a.rounds):
            for k, f in sides.items():
                runs[k].append(f())
                print(json.dumps({"side": k} | {x: round(v, 1) for x, v in runs[k][-1].items()}), flush=True)
    mid = {k: {x: round(statistics.median(r[x] for r in rs), 1) for x in ("tok_per_s", "peak_mb")} for k, rs in runs.items()}
    if len(mid) == 2:
        mid["ratio"] = round(mid["ours"]["tok_per_s"] / mid["torch"]["tok_per_s"], 3)
    print(json.dumps(mid))


if __name__ == "__main__":
    main()
