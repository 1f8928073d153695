"""mm.py - matrix products of every kind and shape against oneDNN with prepacked weights, pair by pair in one process (gemm.c)

SPDX-License-Identifier: Apache-2.0
"""
from bench import gemm, line, med

SHAPES = ((512, 576, 1536), (2048, 576, 1536), (2048, 576, 576), (2048, 1536, 576), (2048, 448, 2304), (4096, 576, 3072), (2048, 384, 448), (512, 576, 49152),
          (2048, 4096, 14336))


def listed(ctx):
    runs, lines = {}, []
    shapes = [(64, 64, 96)] if ctx.small else SHAPES
    for dtype in ("bf16", "f32"):
        specs = [(form, *s) for form in ("fwd", "dx", "dw") for s in (shapes if dtype == "bf16" else shapes[:5])]
        rounds = [gemm(ctx, specs, dtype, 7) for _ in range(ctx.rounds)]
        rows = [{**r[0], **{k: med([x[k] for x in r]) for k in ("ours", "onednn", "ratio")}} for r in zip(*rounds)]
        runs[dtype] = rows
        for forms, said, target in ((("fwd", "dx"), "forward and dX", 0.95), (("dw",), "the weight gradient", 1.25)):
            some = [r for r in rows if r["form"] in forms]
            low, mid = min(some, key=lambda r: r["ratio"]), med([r["ratio"] for r in some])
            lines.append(line(f"products {dtype}, {said}: the least of {len(some)} ({low['form']} {low['rows']} x {low['in']} -> {low['out']})",
                              low["ours"], low["onednn"], low["ratio"], target, True, "GFLOP/s"))
            lines.append(line(f"products {dtype}, {said}: median ratio", None, None, mid, None))
    return {"lines": lines, "runs": runs, "peers": {"onednn": "oneDNN, weights prepacked"}}
