"""torch_cut.py MODEL OUT THREADS HIDDEN FFN HIDDEN' FFN' - cuts scattered channels and neurons out of a Llama model, tensor by tensor

Answers "warm" or "cold" (the source dropped from the page cache before, all written to the disk behind).
SPDX-License-Identifier: Apache-2.0
"""
import glob, os, sys, time
from common import peak_mb, serve, torch_with

path, out, threads, hidden, ffn, to_hidden, to_ffn = (int(x) if x.isdigit() else x for x in sys.argv[1:])
torch = torch_with(threads)
import safetensors
from safetensors.torch import safe_open, save_file

g = torch.Generator().manual_seed(0)
H = torch.randperm(hidden, generator=g)[:to_hidden].sort().values
F = torch.randperm(ffn, generator=g)[:to_ffn].sort().values
ROWS = {"gate_proj": F, "up_proj": F, "down_proj": H, "o_proj": H}          # axis 0 of the weights; norms are vectors of channels
COLS = {"gate_proj": H, "up_proj": H, "down_proj": F, "q_proj": H, "k_proj": H, "v_proj": H, "embed_tokens": H, "lm_head": H}


def cut(name, x):
    kind = next((k for k in name.split(".") if k in ROWS or k in COLS), None)
    if x.dim() == 1:
        return x.index_select(0, H)
    if kind in ROWS:
        x = x.index_select(0, ROWS[kind])
    return x.index_select(1, COLS[kind]) if kind in COLS else x


def answer(word):
    files = sorted(glob.glob(path + "/*.safetensors"))
    if os.path.exists(out):
        os.remove(out)
    os.sync()
    for p in files if word == "cold" else ():
        fd = os.open(p, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    t, made, private = time.perf_counter(), {}, 0
    for p in files:
        with safe_open(p, "pt") as f:
            for k in f.keys():
                made[k] = cut(k, f.get_tensor(k)).contiguous()
    private = peak_mb("RssAnon")
    save_file(made, out)
    if word == "cold":
        os.sync()
    seconds = time.perf_counter() - t
    os.remove(out)
    return {"seconds": seconds, "peak_mb": peak_mb(), "private_mb": private}


serve(f"torch {torch.__version__}, safetensors {safetensors.__version__}", answer)
