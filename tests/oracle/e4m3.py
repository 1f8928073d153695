#!/usr/bin/env python3
"""e4m3.py - tests/golden/e4m3.tsv: what PyTorch's float8_e4m3fn makes of f32 numbers

Lines of hexadecimal bits: of an f32 number, of its code, of the f32 number that the code stands for.  Numbers: every code's own,
the middle between neighbours and one step to either side of it, and random ones of all sizes up to 448 (beyond 464 PyTorch
gives NaN, we 448).

SPDX-License-Identifier: Apache-2.0
"""
import os

import torch

codes = torch.arange(256, dtype=torch.uint8)
own = codes.view(torch.float8_e4m3fn).float()
finite = own[torch.isfinite(own)].unique()
middle = (finite[1:] + finite[:-1]) / 2
inf = torch.tensor(float('inf'))
torch.manual_seed(5)
some = torch.randn(200) * torch.exp2(torch.randint(-12, 9, (200,)).float())
x = torch.cat([own, middle, middle.nextafter(inf), middle.nextafter(-inf), some.clamp(-448, 448)])
code = x.to(torch.float8_e4m3fn)
bits = lambda v: [n & 0xffffffff for n in v.view(torch.int32).tolist()]
with open(os.path.join(os.path.dirname(__file__), '../golden/e4m3.tsv'), 'w') as f:
    for a, c, v in zip(bits(x), code.view(torch.uint8).tolist(), bits(code.float())):
        f.write(f'{a:08x}\t{c:02x}\t{v:08x}\n')
