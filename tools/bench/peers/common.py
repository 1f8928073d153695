"""common.py - shared by the peers: the line protocol with the driver, and models in PyTorch

A peer prints {"peer": name and version} when it is ready, or {"missing": why}; then it answers every line of its input with one
JSON line.  SPDX-License-Identifier: Apache-2.0
"""
import json, os, sys, time

OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever a library prints is not an answer


def say(**fields):
    OUT.write(json.dumps(fields) + "\n")
    OUT.flush()


def missing(why):
    say(missing=why)
    sys.exit(0)


def peak_mb(key="VmHWM"):
    with open("/proc/self/status") as f:
        return next(int(x.split()[1]) / 1024 for x in f if x.startswith(key + ":"))


def serve(peer, answer):
    """Says that `peer` is ready, then answer(word) -> fields for each line."""
    say(peer=peer)
    for word in sys.stdin:
        t = time.perf_counter()
        fields = answer(word.strip())
        say(**({"seconds": time.perf_counter() - t} | fields))


def torch_with(threads):
    import torch
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    return torch


def model(path, dtype):
    """transformers' model of a directory; its rule that hidden is a multiple of heads is lifted, its code does not need it."""
    from transformers import AutoModelForCausalLM, LlamaConfig
    from transformers.utils import logging
    logging.disable_progress_bar()
    rules = getattr(LlamaConfig, "__class_validators__", [])
    LlamaConfig.__class_validators__ = [v for v in rules if v.__name__ != "validate_architecture"]
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa").eval()


def ids_from(path, torch):
    with open(path) as f:
        return torch.tensor(json.load(f), dtype=torch.int64)
