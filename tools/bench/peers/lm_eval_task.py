"""lm_eval_task.py MODEL TASK.yaml THREADS BATCH - lm-evaluation-harness over one task file, bf16, as its command line runs it

Ready before anything heavy is imported; the first line starts the run.  wall: import, loading and scoring; loop: loglikelihood() alone.
SPDX-License-Identifier: Apache-2.0
"""
import importlib.metadata, os, sys, time
from common import missing, peak_mb, serve

path, task, threads, batch = sys.argv[1:]


def answer(word):
    begin = time.perf_counter()
    from common import torch_with
    torch_with(threads)
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    loop, plain = [0.0], HFLM.loglikelihood

    def timed(self, requests, **kw):
        t = time.perf_counter()
        out = plain(self, requests, **kw)
        loop[0] += time.perf_counter() - t
        return out
    HFLM.loglikelihood = timed
    got = lm_eval.simple_evaluate(model="hf", model_args=f"pretrained={path},dtype=bfloat16", tasks=["mc"], device="cpu", batch_size=int(batch),
                                  task_manager=TaskManager(include_path=os.path.dirname(task)))["results"]["mc"]
    return {"wall": time.perf_counter() - begin, "loop": loop[0], "acc": got["acc,none"], "acc_norm": got["acc_norm,none"], "peak_mb": peak_mb()}


try:
    version = importlib.metadata.version("lm_eval")
except importlib.metadata.PackageNotFoundError:
    missing("no package lm-eval")
serve(f"lm-eval {version}", answer)
