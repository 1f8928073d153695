"""Does the PEFT library read what kd-train --lora-adapter wrote, and does it compute what the merged model computes?

    peft_load.py STUDENT RUNDIR [--tolerance 1e-4]

STUDENT is the model the run started from, RUNDIR/adapter is loaded upon it and compared with RUNDIR/student on random ids:
largest difference of logits, relative to their largest value.  Store the result in f32 (--save-dtype f32) for a sharp comparison.
Needs peft beside the other packages.
"""
import argparse, os, sys
import torch
from peft import PeftModel
from common import check, load


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("student")
    ap.add_argument("rundir")
    ap.add_argument("--tolerance", type=float, default=1e-4)
    a = ap.parse_args()
    base, merged = load(a.student), load(os.path.join(a.rundir, "student"))
    ids = torch.randint(0, base.config.vocab_size, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain, want = base(ids).logits.clone(), merged(ids).logits
        got = PeftModel.from_pretrained(base, os.path.join(a.rundir, "adapter")).eval()(ids).logits
    top = want.abs().max()
    ok = check("adapter against merged", ((got - want).abs().max() / top).item(), a.tolerance)
    ok &= check("adapter against none", ((got - plain).abs().max() / top).item(), 10 * a.tolerance, least=True)
    sys.exit(not ok)


if __name__ == "__main__":
    main()
