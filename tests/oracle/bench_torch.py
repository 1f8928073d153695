#!/usr/bin/env python3
"""bench_torch.py TEACHER STUDENT SEQ MICRO BATCH eager|compile - a distillation step in PyTorch, for make bench DEVICE=cuda

Forward KL on the logits, bf16 weights' forward with f32 master weights under autocast, fused AdamW, scaled_dot_product_attention.
Prints one JSON line: tok_per_s, peak_bytes.

SPDX-License-Identifier: Apache-2.0
"""
import json
import sys
import time

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

teacher_dir, student_dir, seq, micro, batch, how = sys.argv[1:]
seq, micro, batch = int(seq), int(micro), int(batch)
device = 'cuda' if torch.cuda.is_available() else 'cpu'
torch.backends.cuda.matmul.allow_tf32 = True
teacher = AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.bfloat16, attn_implementation='sdpa').to(device).eval().requires_grad_(False)
student = AutoModelForCausalLM.from_pretrained(student_dir, dtype=torch.float32, attn_implementation='sdpa').to(device).train()
if how == 'compile':
    teacher, student = torch.compile(teacher), torch.compile(student)
opt = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=device == 'cuda')
vocab = student.config.vocab_size


def step():
    for _ in range(batch // micro):
        ids = torch.randint(vocab, (micro, seq), device=device)
        with torch.no_grad():
            goal = teacher(ids, use_cache=False).logits
        with torch.autocast(device, torch.bfloat16):
            own = student(ids, use_cache=False).logits
        loss = F.kl_div(F.log_softmax(own.float(), -1).flatten(0, 1), F.log_softmax(goal.float(), -1).flatten(0, 1), log_target=True, reduction='batchmean')
        (loss * micro / batch).backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    opt.step()
    opt.zero_grad(set_to_none=True)


def now():
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter()


for _ in range(3):
    step()
times = []
for _ in range(3):
    t0 = now()
    step()
    times.append(now() - t0)
peak = torch.cuda.max_memory_allocated() if device == 'cuda' else 0
print(json.dumps({'tok_per_s': batch * seq / min(times), 'peak_bytes': peak}).replace(' ', ''))
