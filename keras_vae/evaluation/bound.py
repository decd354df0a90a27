"""log p(x), and the bound below it.

How far the ELBO lies below log p(x) differs from model to model; `log_likelihood` estimates log p(x) itself.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from keras_vae import _containers, validation
from keras_vae.evaluation import _model
from keras_vae.evaluation._importance import importance_estimate, progress_bar
from keras_vae.model import VAE


def bits_per_dim(nats: float, num_dimensions: float) -> float:
    """Nats per example as bits per data dimension: nats / (num_dimensions * log 2).

    For a discrete likelihood a negative ELBO becomes an upper bound of the bits that a lossless code needs for each
    dimension; for a density the result depends on the units of the data and can be negative.
    """
    return nats / (num_dimensions * math.log(2.0))


def held_out(vae: VAE, x: Any, num_samples: int = 16, seed: int | None = 0, batch_size: int = 256) -> dict[str, float]:
    """The terms of the bound on data, averaged over examples, the same noise on every backend.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data.
        num_samples: Number of samples of z per example.
        seed: Seed for the noise.
        batch_size: Number of examples at a time.

    Returns:
        A dict with `reconstruction`, `kl` and `negative_elbo` in nats per example, and `bits_per_dim`.
    """
    terms = _model.elbo_terms(vae, x, num_samples, seed, batch_size)
    reconstruction, kl, dimensions = (float(np.mean(term, dtype="float64")) for term in terms)
    return {
        "reconstruction": reconstruction,
        "kl": kl,
        "negative_elbo": reconstruction + kl,
        "bits_per_dim": bits_per_dim(reconstruction + kl, dimensions),
    }


class LogLikelihood(NamedTuple):
    """What `log_likelihood` and `annealed_log_likelihood` estimate, in nats; arrays of shape `(n,)`, float64."""

    log_likelihood: np.ndarray  # of each example
    standard_error: np.ndarray  # of that, over the draws of z; NaN for a single draw
    effective_sample_size: np.ndarray  # (sum w)**2 / sum w**2: number of draws that carry the estimate
    num_samples: int

    @property
    def mean(self) -> float:
        """The average over examples, a float: what papers report, with its sign changed, as NLL."""
        return float(np.mean(self.log_likelihood))

    @property
    def mean_standard_error(self) -> float:
        """The Monte-Carlo error of `mean` for these examples, a float; not that of having drawn them."""
        return float(np.sqrt(np.sum(np.square(self.standard_error))) / len(self.standard_error))


def log_likelihood(
    vae: VAE,
    x: Any,
    num_samples: int = 5000,
    seed: int | None = 0,
    max_bytes: int = 2**25,
    verbose: int | str = "auto",
) -> LogLikelihood:
    """log p(x) by importance sampling with q(z|x), the estimate that papers report.

        log p(x) ~ log 1/k sum_i w_i,   w_i = p(x|z_i) p(z_i) / q(z_i|x),   z_i ~ q(z|x)

    It is a lower bound in expectation, and approaches log p(x) from below as k grows: by about half the square of
    `standard_error`, where that is small. An effective sample size of a few says that it is not there yet.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data.
        num_samples: Number of draws of z per example, k.
        seed: Seed for the draws.
        max_bytes: Number of bytes held at a time of the decoder's widest layer, as far as its structure tells.
        verbose: 1 shows a progress bar, 0 does not, "auto" does on a terminal.

    Returns:
        A `LogLikelihood`.

    Raises:
        ValueError: If the model's loss is not a log-likelihood of such data, there is no example, or z are codes, of
            which q(z|x) is one (`vae.elbo` is then all there is); says why.

    Example:

    >>> found = evaluation.log_likelihood(vae, x_test, num_samples=1000)
    >>> print(found.mean, found.mean_standard_error)

    Reference: Burda et al. 2016, arXiv:1509.00519, section 5 (k = 5000); Kong 1992 (effective sample size).
    """
    num_samples = validation.whole_number("num_samples", num_samples)
    _model.require_continuous(vae)
    generator = np.random.default_rng(seed)
    x = _containers.as_arrays(x)  # once: a table or a list is copied
    bar, found = progress_bar(_model.size(x), verbose), []
    for part, rows in _model.pieces(vae, x, max_bytes, num_samples):
        log_weights = []
        for first in range(0, num_samples, rows):
            shape = (len(part[0]), min(rows, num_samples - first), *vae.noise_shape(part[0].shape[1:]))
            epsilon = generator.standard_normal(shape, dtype="float32")
            log_weights.append(_model.log_weights(vae, part, epsilon))
        found.append(importance_estimate(np.concatenate(log_weights, axis=1, dtype="float64")))
        bar.add(len(part[0]))
    estimate, standard_error, effective = (np.concatenate(column) for column in zip(*found, strict=True))
    return LogLikelihood(estimate, standard_error, effective, num_samples)
