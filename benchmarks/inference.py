"""How much faster onnxruntime runs the encoder and the decoder than `keras.Model.predict`, on each backend.

    python benchmarks/inference.py

Prints medians measured in one run, in microseconds, and their ratios; writes benchmarks/inference.csv. One call is one
batch. `predict` is Keras's, whose loop and callbacks a service would pay for too; `compiled` is our `VAE.encode` and
`VAE.decode`; the rest are `keras_vae_serving.Pipeline`, its `Session` and onnxruntime without either.
"""

import argparse
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

BACKENDS = ("jax", "tensorflow", "torch")
FIELDS = ("backend", "network", "graph", "batch", "predict", "compiled", "pipeline", "session", "onnxruntime")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(_measure()))
        return
    rows = []
    print("microseconds a call          " + " | ".join(f"{name:>11s}" for name in (*FIELDS[4:], "predict/pipeline")))
    for backend in options.backends:
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, "--worker"]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        for row in json.loads(done.stdout.splitlines()[-1]):
            rows.append({"backend": backend, **row})
            figures = " | ".join(f"{row[name]:11.0f}" for name in FIELDS[4:])
            where = f"{backend} {row['network']} {row['graph']} b{row['batch']}"
            print(f"{where:28s} {figures} | {row['predict'] / row['pipeline']:16.1f}", flush=True)
    with open(pathlib.Path(__file__).with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def _measure():
    import keras
    import numpy as np
    import onnxruntime

    import keras_vae
    import keras_vae_export
    from keras_vae_serving import Pipeline, Session

    keras.utils.set_random_seed(0)
    pairs = {
        "mlp": keras_vae.networks.mlp((28, 28, 1), 20, hidden=(500,)),
        "conv": keras_vae.networks.conv((28, 28, 1), 16, filters=(32, 64), hidden=(128,)),
    }
    rng, rows = np.random.default_rng(0), []
    for network, pair in pairs.items():
        vae = keras_vae.VAE(*pair)
        with tempfile.TemporaryDirectory() as folder:
            manifest = keras_vae_export.export(vae, folder + "/bundle")
            pipeline = Pipeline.load(folder + "/bundle", providers="cpu")
            for name in ("encoder", "decoder"):
                graph = manifest.graphs[name]
                session = Session(folder + "/bundle", graph, providers="cpu")
                bare = onnxruntime.InferenceSession(f"{folder}/bundle/{graph.file}", providers=["CPUExecutionProvider"])
                for batch in (1, 64):
                    tensor = graph.inputs[0]
                    value = rng.random((batch, *tensor.shape[1:]), dtype="float32")
                    model = vae.encoder if name == "encoder" else vae.decoder
                    verb, served = (vae.encode, pipeline.encode) if name == "encoder" else (vae.decode, pipeline.decode)
                    calls = {
                        "predict": lambda m=model, v=value: m.predict(v, verbose=0),
                        "compiled": lambda f=verb, v=value: f(v),
                        "pipeline": lambda f=served, v=value: f(v),
                        "session": lambda s=session, n=tensor.name, v=value: s.run({n: v}),
                        "onnxruntime": lambda s=bare, n=tensor.name, v=value: s.run(None, {n: v}),
                    }
                    medians = {key: _median(call) for key, call in calls.items()}
                    rows.append({"network": network, "graph": name, "batch": batch, **medians})
    return rows


def _median(call, seconds=1.0, least=20):
    """The median duration of a call in microseconds, after a warm-up."""
    for _ in range(5):
        call()
    durations = []
    ends = time.perf_counter() + seconds
    while len(durations) < least or time.perf_counter() < ends:
        started = time.perf_counter()
        call()
        durations.append(time.perf_counter() - started)
    return 1e6 * statistics.median(durations)


if __name__ == "__main__":
    main()
