"""What onnxruntime does without a server, and what `Pipeline` adds to it, for `benchmarks/serving.py`.

    python bare.py BUNDLE

Prints rows of JSON: who, what, the quantity and its value. onnxruntime has one thread, as in the servers.
"""

import functools
import json
import pathlib
import statistics
import sys
import time

import numpy as np
import onnxruntime

from keras_vae_serving import Pipeline


def main(bundle, seconds=0.4):
    pipeline, rng, rows = Pipeline.load(bundle, providers="cpu", threads=1), np.random.default_rng(0), []
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for name, verb in (("decoder", pipeline.decode), ("encoder", pipeline.encode)):
        graph = pipeline.manifest.graphs[name]
        session = onnxruntime.InferenceSession(str(bundle / graph.file), options, providers=["CPUExecutionProvider"])
        tensor = graph.inputs[0]
        for batch in (1, 16, 64):
            value = rng.random((batch, *tensor.shape[1:]), dtype="float32")
            bare, what = functools.partial(session.run, None, {tensor.name: value}), f"{name}, batch {batch}"
            (alone,) = _durations([bare], seconds)
            rows.append(("session.run", what, "rows/s", batch * len(alone) / sum(alone)))
            rows.append(("session.run", what, "p50 ms", 1e3 * statistics.median(alone)))
            rows.append(("session.run", what, "p99 ms", 1e3 * float(np.quantile(alone, 0.99))))
            in_turns = _durations([bare, functools.partial(verb, value)], seconds)
            for who, durations in zip(("session.run", "Pipeline"), in_turns, strict=True):
                rows.append((who, what, "us in turns", 1e6 * statistics.median(durations)))
    print(json.dumps(rows))


def _durations(calls, seconds):
    """Of each call, made in turns after a warm-up."""
    for call in calls * 20:
        call()
    durations, ends = [[] for _ in calls], time.perf_counter() + seconds
    while time.perf_counter() < ends:
        for call, kept in zip(calls, durations, strict=True):
            started = time.perf_counter()
            call()
            kept.append(time.perf_counter() - started)
    return durations


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
