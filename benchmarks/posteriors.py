"""What a richer posterior is worth: diagonal, low-rank and full covariance, and a flow, on static binarised MNIST.

    KERAS_BACKEND=jax python benchmarks/posteriors.py binarized_mnist.npz [--epochs 30]

The file holds `train`, `valid` and `test`, each row 784 pixels in 98 bytes (`np.packbits`). Four models that differ in
nothing but q(z|x) are trained for as many steps: 784-300-300-z40-300-300-784, ReLU, Adam 1e-3, batch 100, beta rising
from 0 to 1 in the first third. Of random test images it prints the ELBO, log p(x) by importance sampling, and how much
the latter differs from that of the diagonal normal on the same images, with the standard error of that difference over
images. It writes a CSV.

Reference: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow, arXiv:1606.04934.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from loops import static_mnist
from loops.rows import write_dicts

import keras_vae
from keras_vae import posteriors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--images", type=int, default=1000, help="of the test set, at random, default 1000")
    parser.add_argument("--draws", type=int, default=1000, help="of z per image, for log p(x)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()

    train, valid, test = static_mnist.load(options.file)
    print(f"{keras.backend.backend()}, {options.epochs} epochs; nats per image")
    images = static_mnist.some_of(test, options.images, np.random.default_rng(0))
    comparison = static_mnist.Comparison("posterior", images, options.draws)
    for posterior in (
        posteriors.Normal(),
        posteriors.LowRankNormal(8),
        posteriors.FullNormal(),
        posteriors.Flow(depth=2, hidden=(320,), context=64),
    ):
        keras.utils.set_random_seed(options.seed)
        encoder, decoder = keras_vae.networks.mlp((784,), latent_dim=40, hidden=(300, 300), posterior=posterior)
        warm_up = keras_vae.schedules.Linear(steps=max(1, options.epochs * len(train) // 100 // 3))
        objective = keras_vae.ELBO(beta=warm_up)
        vae = keras_vae.VAE(encoder, decoder, "bce", objective=objective, posterior=posterior, seed=options.seed)
        vae.compile(keras_vae.FusedAdam(1e-3), steps_per_execution=50)
        started = time.perf_counter()
        logs = vae.fit(train, batch_size=100, epochs=options.epochs, validation_data=(valid,), verbose=2).history
        comparison.add(repr(posterior), vae, logs, time.perf_counter() - started)
    write_dicts(comparison.rows, options.output)


if __name__ == "__main__":
    main()
