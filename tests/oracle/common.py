"""Shared by the oracle scripts: models and token rows in, our tools' output in, comparisons out."""
import json, os, subprocess
import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()


def load(path, dtype=torch.float32, attn="sdpa"):
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=attn).eval()


def artifact(path, bin_dir):
    """(header, records) of an artifact through `artcat`; lists of numbers become float64 or int64 arrays."""
    out = subprocess.run([os.path.join(bin_dir, "artcat"), path], check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [{k: np.array(v) if isinstance(v, list) and v and not isinstance(v[0], (str, dict)) else v
             for k, v in json.loads(line).items()} for line in out.splitlines()]
    return rows[0], rows[1:-1]


def token_rows(path, bin_dir="build/bin", rows=None, seq=None):
    """[rows, seq] ids: from the fixture's tensor `ids` (.safetensors), a JSON list of lists (.json), or a token set."""
    if path.endswith(".safetensors"):
        ids = safe_open(path, "np").get_tensor("ids")
    elif path.endswith(".json"):
        ids = np.array(json.load(open(path)))
    else:
        ids = np.stack([r["ids"] for r in artifact(path, bin_dir)[1]])
    return torch.from_numpy(np.ascontiguousarray(ids[:rows, :seq]).astype(np.int64))


def our_logits(bin_dir, model, ids, vocab, dtype="f32"):
    """`logits` of one row of ids -> [len(ids), vocab] f32."""
    cmd = [os.path.join(bin_dir, "logits"), "-m", model, "--ids", ",".join(str(int(i)) for i in ids), "--dtype", dtype]
    out = subprocess.run(cmd, check=True, stdout=subprocess.PIPE).stdout
    return torch.from_numpy(np.frombuffer(out, "<f4").reshape(len(ids), vocab).copy())


def check(what, value, limit, least=False):
    """One line a comparison; returns whether it holds."""
    ok = bool(value >= limit if least else value <= limit)
    print(f"{'ok  ' if ok else 'FAIL'} {what}: {value:.6g} ({'>=' if least else '<='} {limit:g})")
    return ok
