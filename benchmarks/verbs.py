"""`predict`, `encode`, `reconstruct` and `elbo` beside the same loops written by hand, on each backend.

    python benchmarks/verbs.py

784-500-z20-500-784 with tanh, 10,000 images, 256 at a time, on the CPU. By hand is a loop over batches of a jitted
function (JAX), a `tf.function` (TensorFlow) or plain PyTorch under `no_grad`, on the weights themselves, which gathers
NumPy arrays. Both are measured in turns in one process; the figures are medians, and ratios of them. Keras's `predict`
is called with the same batch size and without its progress bar. Writes benchmarks/verbs.csv and verbs.png.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import types

import numpy as np
from loops.rows import write_dicts

BACKENDS = ("jax", "tensorflow", "torch")
VERBS = ("encode", "reconstruct", "predict", "elbo")
PIXELS, HIDDEN, LATENTS, BATCH = 784, 500, 20, 256


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".csv"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(_measure(options)))
        return
    rows = []
    for backend in options.backends:
        sizes = [f"--images={options.images}", f"--repeats={options.repeats}"]
        environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, "--worker", *sizes]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        for row in json.loads(done.stdout.splitlines()[-1]):
            rows.append({"backend": backend, **row})
            print(
                f"{backend:10s} {row['verb']:12s} {row['ms']:7.1f} ms, by hand {row['by_hand_ms']:7.1f} ms: "
                f"{row['ratio']:.2f} x, largest difference {row['difference']:.0e}",
                flush=True,
            )
    write_dicts(rows, options.output)
    _plot(rows, options.output.with_suffix(".png"))


def _measure(options):
    import keras

    import keras_vae

    network = keras_vae.networks.mlp((PIXELS,), LATENTS, hidden=(HIDDEN,), activation="tanh")
    vae = keras_vae.VAE(*network, seed=0)
    x = (np.random.default_rng(0).random((options.images, PIXELS)) < 0.13).astype("float32")
    backend = keras.backend.backend()
    encode, decode, elbo = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[backend](vae)

    def epsilon():
        return np.random.default_rng(0).standard_normal((len(x), LATENTS), dtype="float32")

    pairs = {
        "encode": (lambda: vae.encode(x, BATCH).mean, lambda: _loop(encode, x)[0]),
        "reconstruct": (lambda: vae.reconstruct(x, batch_size=BATCH), lambda: _loop(decode, _loop(encode, x)[0])[0]),
        "predict": (
            lambda: vae.predict(x, batch_size=BATCH, verbose=0),
            lambda: _loop(lambda part: decode(encode(part)[0]), x)[0],
        ),
        "elbo": (lambda: vae.elbo(x, seed=0, batch_size=BATCH), lambda: _loop(elbo, x, epsilon())[0]),
    }
    return [{"verb": verb, **_in_turns(*pairs[verb], options.repeats)} for verb in VERBS]


def _in_turns(ours, by_hand, repeats):
    difference = float(np.abs(ours() - by_hand()).max())  # which also compiles both
    times = {ours: [], by_hand: []}
    for _ in range(repeats):
        for call, seconds in times.items():
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    ms, by_hand_ms = (1000.0 * statistics.median(seconds) for seconds in times.values())
    return {"ms": ms, "by_hand_ms": by_hand_ms, "ratio": ms / by_hand_ms, "difference": difference}


def _loop(function, *arrays):
    """The outputs of a function of batches, as NumPy arrays."""
    starts = range(0, len(arrays[0]), BATCH)
    outputs = [function(*(array[start : start + BATCH] for array in arrays)) for start in starts]
    return [np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*outputs, strict=True)]


def _formulas(ops, encoder, decoder):
    """Encode, decode and ELBO in the names of one framework, from lists of kernels and biases."""

    def encode(x):
        hidden = ops.tanh(x @ encoder[0] + encoder[1])
        return hidden @ encoder[2] + encoder[3], hidden @ encoder[4] + encoder[5]

    def logits(z):
        return ops.tanh(z @ decoder[0] + decoder[1]) @ decoder[2] + decoder[3]

    def elbo(x, epsilon):
        mean, log_var = encode(x)
        out = logits(mean + ops.exp(0.5 * log_var) * epsilon)
        log_likelihood = ops.sum(x * out - ops.softplus(out), -1)
        return (log_likelihood - 0.5 * ops.sum(mean**2 + ops.expm1(log_var) - log_var, -1),)

    return encode, lambda z: (ops.sigmoid(logits(z)),), elbo


def _jax(vae):
    import jax
    from jax import numpy as jnp

    names = types.SimpleNamespace(
        tanh=jnp.tanh, exp=jnp.exp, expm1=jnp.expm1, sum=jnp.sum, softplus=jax.nn.softplus, sigmoid=jax.nn.sigmoid
    )
    return map(jax.jit, _formulas(names, *_weights(vae, jnp.asarray)))


def _tensorflow(vae):
    import tensorflow as tf

    names = types.SimpleNamespace(
        tanh=tf.tanh, exp=tf.exp, expm1=tf.math.expm1, sum=tf.reduce_sum, softplus=tf.nn.softplus, sigmoid=tf.sigmoid
    )
    return (tf.function(one, reduce_retracing=True) for one in _formulas(names, *_weights(vae, tf.constant)))


def _torch(vae):
    import torch

    names = types.SimpleNamespace(
        tanh=torch.tanh,
        exp=torch.exp,
        expm1=torch.expm1,
        sum=torch.sum,
        softplus=torch.nn.functional.softplus,
        sigmoid=torch.sigmoid,
    )

    def without_gradients(function):
        @torch.no_grad()
        def call(*arrays):
            return function(*(torch.as_tensor(array) for array in arrays))

        return call

    return map(without_gradients, _formulas(names, *_weights(vae, torch.tensor)))


def _weights(vae, tensor):
    """Kernels and biases of the encoder (hidden, mean, log variance) and of the decoder."""
    heads = [vae.encoder.get_layer(name) for name in ("z_mean", "z_log_var")]
    hidden = next(layer for layer in vae.encoder.layers if layer.weights and layer not in heads)
    encoder = [weight for layer in (hidden, *heads) for weight in layer.get_weights()]
    return [[tensor(weight) for weight in weights] for weights in (encoder, vae.decoder.get_weights())]


def _plot(rows, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for i, backend in enumerate(BACKENDS):
        mine = {row["verb"]: row["ratio"] for row in rows if row["backend"] == backend}
        axes.bar(np.arange(len(mine)) + 0.25 * i, mine.values(), width=0.22, label=backend)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(np.arange(len(VERBS)) + 0.25, VERBS)
    axes.set(ylabel="time, as a multiple of the loop by hand")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
