"""The event file of tests/golden/tensorboard by TensorBoard's own classes, and any event file read back by them.

    tensorboard_events.py METRICS.jsonl EVENTS --store      writes EVENTS: what `tensorboard-events METRICS.jsonl` has to write
    tensorboard_events.py METRICS.jsonl LOGDIR              reads LOGDIR as TensorBoard does and compares every scalar

Wants the package tensorboard; nothing of torch or transformers.
"""
import argparse, json, math
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def store(lines, path):
    with open(path, "wb") as f:
        w = RecordWriter(f)
        w.write(Event(file_version="brain.Event:2").SerializeToString())
        for line in lines:
            values = [Summary.Value(tag=k, simple_value=math.nan if v is None else v) for k, v in line.items() if k != "step"]
            w.write(Event(wall_time=line.get("seconds", 0), step=line["step"], summary=Summary(value=values)).SerializeToString())
        w.flush()


def compare(lines, logdir):
    got = EventAccumulator(logdir, size_guidance={"scalars": 0, "tensors": 0}).Reload()
    want = {}
    for line in lines:
        for k, v in line.items():
            if k != "step":
                want.setdefault(k, []).append((line["step"], np.float32(np.nan if v is None else v)))
    assert sorted(got.Tags()["scalars"]) == sorted(want), (got.Tags()["scalars"], sorted(want))
    for k, points in want.items():
        have = [(s.step, np.float32(s.value)) for s in got.Scalars(k)]
        assert len(have) == len(points) and all(a[0] == b[0] and (a[1] == b[1] or np.isnan(a[1]) and np.isnan(b[1]))
                                                for a, b in zip(have, points)), k
    print(f"ok   {len(want)} tags, {sum(map(len, want.values()))} scalars as TensorBoard reads them")


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("metrics")
    ap.add_argument("path")
    ap.add_argument("--store", action="store_true")
    a = ap.parse_args()
    lines = [json.loads(x) for x in open(a.metrics)]
    (store if a.store else compare)(lines, a.path)


if __name__ == "__main__":
    main()
