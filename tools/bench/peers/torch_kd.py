"""torch_kd.py TEACHER STUDENT IDS bf16|f32 THREADS BATCH torch|chunked - a distillation step a line

torch: full logits of both, log_softmax, kl_div.  chunked: Liger's fused linear loss (forward KL), 256 rows of logits at a time with
the gradient in the forward pass; without the package the same written out below.  bf16 is autocast over f32 student weights.
SPDX-License-Identifier: Apache-2.0
"""
import sys, time
from common import ids_from, model, peak_mb, serve, torch_with

teacher, student, ids, dtype, threads, batch, impl = sys.argv[1:]
torch = torch_with(threads)
import torch.nn.functional as F

low = torch.bfloat16 if dtype == "bf16" else torch.float32
teacher, student = model(teacher, low), model(student, torch.float32).train()
optimizer = torch.optim.AdamW(student.parameters(), 1e-4, (0.9, 0.95), weight_decay=0.1, fused=True)
batches = ids_from(ids, torch).split(int(batch))
name, CHUNK, done = f"torch {torch.__version__}", 256, 0


class Chunked(torch.autograd.Function):
    """mean over rows of KL(softmax(th Wt') || softmax(sh Ws')), gradients of sh and Ws formed chunk by chunk"""
    @staticmethod
    def forward(ctx, sh, ws, th, wt):
        n, total, dh, dw = len(sh), 0.0, torch.empty_like(sh), torch.zeros(ws.shape)
        for k in range(0, n, CHUNK):
            s = F.log_softmax((sh[k:k + CHUNK] @ ws.T).float(), -1)
            t = F.log_softmax((th[k:k + CHUNK] @ wt.T).float(), -1)
            p = t.exp()
            total += float((p * (t - s)).sum())
            d = ((s.exp() - p) / n).to(sh.dtype)
            dh[k:k + CHUNK] = d @ ws
            dw += d.T @ sh[k:k + CHUNK]
        ctx.save_for_backward(dh, dw)
        return torch.tensor(total / n)

    @staticmethod
    def backward(ctx, g):
        dh, dw = ctx.saved_tensors
        return g * dh, g * dw, None, None


def own_chunked(sh, th, labels):
    return Chunked.apply(sh.to(low), student.lm_head.weight.to(low), th, teacher.lm_head.weight)


fused = own_chunked
if impl == "chunked":
    try:
        import liger_kernel.chunked_loss as chunked
        liger = chunked.LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False, chunk_size=CHUNK)
        name = f"Liger's chunked loss, {name}"

        def fused(sh, th, labels):
            return liger(sh.to(low), student.lm_head.weight.to(low), th, teacher.lm_head.weight, labels)
    except Exception as e:  # no package, or one that wants a GPU
        name = f"chunked loss in PyTorch (Liger's: {type(e).__name__}), {name}"


def answer(word):
    global done
    x = batches[done % len(batches)]
    done += 1
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        if impl == "chunked":
            with torch.no_grad():
                th = teacher.model(x, use_cache=False).last_hidden_state.flatten(0, 1)
            loss = fused(student.model(x, use_cache=False).last_hidden_state.flatten(0, 1), th, x.flatten())
        else:
            with torch.no_grad():
                t = F.log_softmax(teacher(x, use_cache=False).logits.flatten(0, 1).float(), -1)
            s = F.log_softmax(student(x, use_cache=False).logits.flatten(0, 1).float(), -1)
            loss = F.kl_div(s, t, log_target=True, reduction="batchmean")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": float(loss.detach()), "peak_mb": peak_mb()}


def timed(word):
    t = time.perf_counter()
    fields = answer(word)
    return fields | {"tok_per_s": batches[0].numel() / (time.perf_counter() - t)}


answer("")
serve(name, timed)
