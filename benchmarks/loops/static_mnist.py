"""What the comparisons on static binarised MNIST share: options, data, how a model is trained, figures, their lines."""

import argparse
import pathlib
import time

import keras
import numpy as np

import keras_vae
from keras_vae import evaluation


def parser(script, description, epochs=30, draws=1000):
    """The options that all have; the CSV is written beside the script."""
    found = argparse.ArgumentParser(description=description.split("\n")[0])
    found.add_argument("file")
    found.add_argument("--epochs", type=int, default=epochs)
    found.add_argument("--images", type=int, default=1000, help="of the test set, at random, default 1000")
    found.add_argument("--draws", type=int, default=draws, help="of z per image, for log p(x)")
    found.add_argument("--output", type=pathlib.Path, default=pathlib.Path(script).with_suffix(".csv"))
    return found


def load(path, *names):
    """Parts of a file, `(n, 784)` of 0 and 1 each, that has rows of 98 bytes (`np.packbits`)."""
    with np.load(path) as file:
        return tuple(np.unpackbits(file[name], axis=1).astype("float32") for name in names)


def some_of(images, count, rng):
    """Random images: the file is sorted by class."""
    return images[rng.permutation(len(images))[:count]]


class Comparison:
    """Figures of models on the same images, each with the gain in log p(x) over the first.

    Args:
        what: Name of what the models differ in.
        images: `(n, 784)` test images.
        draws: Number of z per image, for log p(x).
    """

    def __init__(self, what, images, draws):
        self.what, self.images, self.draws = what, images, draws
        self.rows, self.first = [], None

    def add(self, name, train, valid, epochs, seed, posterior="normal", prior=None):
        """Trains a model, 784-300-300-z40 and back, measures it and prints its line; returns it with its logs."""
        keras.utils.set_random_seed(seed)
        networks = keras_vae.networks.mlp((784,), latent_dim=40, hidden=(300, 300), posterior=posterior)
        warm_up = keras_vae.schedules.Linear(steps=max(1, epochs * len(train) // 100 // 3))
        objective = keras_vae.ELBO(beta=warm_up)
        vae = keras_vae.VAE(*networks, "bce", objective=objective, prior=prior, seed=seed, posterior=posterior)
        vae.compile(keras_vae.FusedAdam(1e-3), steps_per_execution=50)
        started = time.perf_counter()
        logs = vae.fit(train, batch_size=100, epochs=epochs, validation_data=(valid,), verbose=2).history
        self._measure(name, vae, logs, time.perf_counter() - started)
        return vae, logs

    def _measure(self, name, vae, logs, seconds):
        found = evaluation.log_likelihood(vae, self.images, num_samples=self.draws)
        bound = evaluation.held_out(vae, self.images)
        self.first = found.log_likelihood if self.first is None else self.first
        gain = found.log_likelihood - self.first
        row = {
            self.what: name,
            "train_elbo": -logs["negative_elbo"][-1],
            "test_elbo": -bound["negative_elbo"],
            "test_kl": bound["kl"],
            "test_log_p": found.mean,
            "monte_carlo_error": found.mean_standard_error,
            "gain": gain.mean(),
            "gain_standard_error": gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0,
            "seconds": seconds,
        }
        self.rows.append(row)
        print(
            f"{name:22s} ELBO {row['test_elbo']:.2f} (training {row['train_elbo']:.2f}), KL {row['test_kl']:.2f}; log "
            f"p(x) {row['test_log_p']:.2f} +- {row['monte_carlo_error']:.2f} ({self.draws} draws, {len(self.images)} "
            f"images), {row['gain']:+.2f} +- {row['gain_standard_error']:.2f} to {self.rows[0][self.what]}; "
            f"{seconds:.0f} s",
            flush=True,
        )
