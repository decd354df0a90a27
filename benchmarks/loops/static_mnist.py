"""What the comparisons of models on static binarised MNIST share: the data, the figures of a model, their lines."""

import numpy as np

from keras_vae import evaluation


def load(path):
    """Train, valid and test, `(n, 784)` of 0 and 1 each, of a file that has rows of 98 bytes (`np.packbits`)."""
    with np.load(path) as file:
        return tuple(np.unpackbits(file[name], axis=1).astype("float32") for name in ("train", "valid", "test"))


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

    def add(self, name, vae, logs, seconds):
        """Measures a trained model and prints its line."""
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
