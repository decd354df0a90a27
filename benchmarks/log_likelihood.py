"""Images per second of `evaluation.log_likelihood`, on each backend, beside pythae's `VAE.get_nll`.

    python benchmarks/log_likelihood.py --pythae pythae_venv/bin/python

Importance sampling with 1,000 draws of z for each image and one model, 784-500-z20-500-784 with ReLU and the same
weights, so that everybody estimates the same number. Medians of several passes in one run, and their ratios; writes
benchmarks/log_likelihood.csv. `limit` is what the machine could do if the decoder's matrix products, 0.8 GFLOP an
image, were all there is, at the speed that this backend multiplies such matrices. `cpu` is processor time an image,
over all threads, which other work on the machine disturbs less.

pythae is best kept in an environment of its own, `pip install torch==2.13.0 pythae==0.1.2`; without `--pythae` it is
left out. It is measured inside `torch.no_grad()`, with its default of 100 draws at a time and with all draws at once.
"""

import argparse
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np

BACKENDS = ("jax", "tensorflow", "torch")
FIELDS = ("who", "images_per_second", "limit", "cpu_ms", "log_likelihood")
PIXELS, HIDDEN, LATENTS = 784, 500, 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--pythae", metavar="PYTHON", help="the Python of an environment that has pythae")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".csv"))
    parser.add_argument("--worker", choices=("keras_vae", "pythae"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        measure = _keras_vae if options.worker == "keras_vae" else _pythae
        print(json.dumps(measure(options)))
        return
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before the run")
    rows = _run("pythae", options.pythae, options) if options.pythae else []
    for backend in options.backends:
        rows += _run("keras_vae", sys.executable, options, KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="3")
    rivals = [row["images_per_second"] for row in rows if row["who"].startswith("pythae")]
    for row in rows:
        times = f"   {row['images_per_second'] / max(rivals):5.1f} times pythae" if rivals else ""
        print(
            f"{row['who']:26s} {row['images_per_second']:6.1f} images/s, limit {row['limit']:6.1f}, cpu "
            f"{row['cpu_ms']:6.2f} ms, log p(x) {row['log_likelihood']:.2f}{times}"
        )
    with open(options.output, "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def _run(worker, python, options, **environment):
    sizes = [f"--{name}={getattr(options, name)}" for name in ("images", "draws", "repeats")]
    command = [python, __file__, "--worker", worker, *sizes]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _problem(options):
    """Images, and the weights in Keras's order, (in, out) and bias for each layer; the same in every process."""
    rng = np.random.default_rng(0)
    x = (rng.random((options.images, PIXELS)) < 0.13).astype("float32")
    sizes = [(PIXELS, HIDDEN), (HIDDEN, LATENTS), (HIDDEN, LATENTS), (LATENTS, HIDDEN), (HIDDEN, PIXELS)]
    weights = []
    for inputs, outputs in sizes:
        kernel = rng.normal(0.0, 0.3 * inputs**-0.5, (inputs, outputs))
        weights += [kernel.astype("float32"), np.zeros(outputs, "float32")]
    return x, weights


def _timed(call, options):
    """Medians of the seconds and of the processor seconds of a call that has been warmed up, and what it returns."""
    value, seconds, cpu_seconds = call(), [], []
    for _ in range(options.repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        call()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return statistics.median(seconds), statistics.median(cpu_seconds), value


def _row(who, limit, call, options):
    seconds, cpu_seconds, value = _timed(call, options)
    speed, cpu = options.images / seconds, 1000.0 * cpu_seconds / options.images
    return {"who": who, "images_per_second": speed, "limit": limit, "cpu_ms": cpu, "log_likelihood": float(value)}


def _limit(multiply, options):
    """Images per second of the decoder's two products alone, for 10,000 rows."""
    return 10_000 / options.draws / _timed(multiply, options)[0]


def _keras_vae(options):
    import keras

    import keras_vae
    from keras_vae import _backend

    x, weights = _problem(options)
    vae = keras_vae.VAE(*keras_vae.networks.mlp((PIXELS,), LATENTS, hidden=(HIDDEN,)))
    vae.encoder.set_weights(weights[:6])
    vae.decoder.set_weights(weights[6:])

    products = _backend.compile(vae, lambda z: keras.ops.sum(z @ vae.decoder.weights[0] @ vae.decoder.weights[2]))
    z = np.ones((10_000, LATENTS), "float32")
    limit = _limit(lambda: float(products(z)), options)
    who = f"keras_vae {keras.backend.backend()}"
    return [
        _row(who, limit, lambda: keras_vae.evaluation.log_likelihood(vae, x, num_samples=options.draws).mean, options)
    ]


def _pythae(options):
    import torch
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    x, weights = _problem(options)
    weights = iter(weights)

    def linear():
        kernel, bias = next(weights), next(weights)
        layer = torch.nn.Linear(*kernel.shape)
        layer.weight.data, layer.bias.data = torch.from_numpy(kernel.T.copy()), torch.from_numpy(bias)
        return layer

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.hidden, self.mean, self.log_var = linear(), linear(), linear()

        def forward(self, x):
            h = torch.relu(self.hidden(x))
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.hidden, self.output = linear(), linear()

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.output(torch.relu(self.hidden(z)))))

    config = VAEConfig(input_dim=(PIXELS,), latent_dim=LATENTS, reconstruction_loss="bce")
    model = VAE(config, Encoder(), Decoder()).eval()
    x, z = torch.from_numpy(x), torch.ones((10_000, LATENTS))
    with torch.no_grad():
        one, two = model.decoder.hidden.weight.T, model.decoder.output.weight.T
        limit = _limit(lambda: float((z @ one @ two).sum()), options)
        return [
            _row(f"pythae, {n} at a time", limit, lambda n=n: model.get_nll(x, options.draws, n), options)
            for n in sorted({min(100, options.draws), options.draws})
        ]


if __name__ == "__main__":
    main()
