"""log p(x), and the bound below it.

How far the ELBO lies below log p(x) differs from model to model; `log_likelihood` estimates log p(x) itself.
"""

import math
import sys
from typing import NamedTuple

import keras
import numpy as np

from keras_vae import _checks


def bits_per_dim(nats, num_dimensions):
    """Nats per example as bits per data dimension: nats / (num_dimensions * log 2).

    Of a negative ELBO it is an upper bound of the bits that a lossless code needs for each dimension, where the
    likelihood is discrete; for a density it depends on the units of the data and can be negative.
    """
    return nats / (num_dimensions * math.log(2.0))


def held_out(vae, x, num_samples=16, seed=0, batch_size=256):
    """The terms of the bound on data, averaged over examples, the same noise on every backend.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data.
        num_samples: Samples of z per example.
        seed: Of the noise.
        batch_size: Examples at a time.

    Returns:
        A dict with `reconstruction`, `kl` and `negative_elbo` in nats per example, and `bits_per_dim`.
    """
    terms = vae._elbo_terms(x, num_samples, seed, batch_size)
    reconstruction, kl = (float(np.mean(term, dtype="float64")) for term in terms)
    return {
        "reconstruction": reconstruction,
        "kl": kl,
        "negative_elbo": reconstruction + kl,
        "bits_per_dim": bits_per_dim(reconstruction + kl, math.prod(vae.data_shape)),
    }


class LogLikelihood(NamedTuple):
    """What `log_likelihood` and `annealed_log_likelihood` estimate, in nats; arrays of shape `(n,)`, float64."""

    log_likelihood: np.ndarray  # of each example
    standard_error: np.ndarray  # of that, over the draws of z; NaN for a single draw
    effective_sample_size: np.ndarray  # (sum w)**2 / sum w**2: of `num_samples` draws, how many carry the estimate
    num_samples: int

    @property
    def mean(self):
        """The average over examples, a float: what papers report, with its sign changed, as NLL."""
        return float(np.mean(self.log_likelihood))

    @property
    def mean_standard_error(self):
        """The Monte-Carlo error of `mean` for these examples, a float; not that of having drawn them."""
        return float(np.sqrt(np.sum(np.square(self.standard_error))) / len(self.standard_error))


def log_likelihood(vae, x, num_samples=5000, seed=0, max_bytes=2**25, verbose: int | str = "auto"):
    """log p(x) by importance sampling with q(z|x), the estimate that papers report.

        log p(x) ~ log 1/k sum_i w_i,   w_i = p(x|z_i) p(z_i) / q(z_i|x),   z_i ~ q(z|x)

    It is a lower bound in expectation, and approaches log p(x) from below as k grows: by about half the square of
    `standard_error`, where that is small. An effective sample size of a few says that it is not there yet.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data.
        num_samples: k, draws of z per example.
        seed: Of the draws.
        max_bytes: How much is held at a time of the decoder's widest layer, as far as its structure tells.
        verbose: 1 shows a progress bar, 0 does not, "auto" does on a terminal.

    Returns:
        A `LogLikelihood`.

    Raises:
        ValueError: If the data are such that the model's loss is no log-likelihood, or there is no example; says why.

    Example:

    >>> found = evaluation.log_likelihood(vae, x_test, num_samples=1000)
    >>> print(found.mean, found.mean_standard_error)

    Reference: Burda et al. 2016, arXiv:1509.00519, section 5 (k = 5000); Kong 1992 (effective sample size).
    """
    x, *condition = _data(vae, x)
    num_samples = _checks.whole_number("num_samples", num_samples)
    rows = max(1, _checks.whole_number("max_bytes", max_bytes) // (4 * _widest(vae)))
    at_a_time = max(1, rows // num_samples)
    generator = np.random.default_rng(seed)
    bar = _progress_bar(len(x), verbose)
    found = []
    for start in range(0, len(x), at_a_time):
        part, *given = (each[start : start + at_a_time] for each in (x, *condition))
        log_weights = []
        for first in range(0, num_samples, rows):
            shape = (len(part), min(rows, num_samples - first), vae.latent_dim)
            epsilon = generator.standard_normal(shape, dtype="float32")
            log_weights.append(vae._in_batches(vae._log_weights, part, epsilon, *given, batch_size=at_a_time))
        found.append(_importance_estimate(np.concatenate(log_weights, axis=1, dtype="float64")))
        bar.update(start + len(part))
    estimate, standard_error, effective = (np.concatenate(column) for column in zip(*found, strict=True))
    return LogLikelihood(estimate, standard_error, effective, num_samples)


def _data(vae, x):
    """x and, of a conditional model, the condition, as NumPy arrays of which log p(x) is defined."""
    x, *condition = vae._checked(x)
    if len(x) == 0:
        raise ValueError("log p(x) is estimated for each example, and x has none.")
    vae.likelihood.validate(x, missing=vae.allow_missing)
    caveat = vae.likelihood.caveat(x)
    if caveat:
        raise ValueError(f"log p(x) is not defined here. {caveat}")
    return x, *condition


def _progress_bar(examples, verbose):
    return keras.utils.Progbar(
        examples, verbose=sys.stdout.isatty() if verbose == "auto" else verbose, unit_name="example"
    )


def _widest(vae):
    """How many values are held at once for each z: in the decoder's widest layer, or by a mixture as the prior."""
    nodes = [node for layer in vae.decoder._flatten_layers() for node in layer._inbound_nodes]
    shapes = [tensor.shape[1:] for node in nodes for tensor in node.output_tensors]
    sizes = [math.prod(shape) for shape in shapes if None not in shape]
    prior = vae.numpy_prior()
    of_prior = vae.latent_dim if prior.has_closed_form_kl else np.size(prior.components.mean)
    return max(of_prior, math.prod(_checks.parameter_shape(vae.data_shape, vae.likelihood)), *sizes)


def _importance_estimate(log_weights):
    """log of the mean weight, its standard error and the effective sample size: `(n, k)` to three of `(n,)`."""
    k = log_weights.shape[1]
    largest = log_weights.max(axis=1)
    weights = np.exp(log_weights - largest[:, None])  # the largest is 1, whatever the scale
    total = weights.sum(axis=1)
    effective = np.square(total) / np.square(weights).sum(axis=1)
    # The relative error of the mean weight, which is the error of its logarithm (delta method).
    variance = np.maximum(1.0 / effective - 1.0 / k, 0.0) * (k / (k - 1.0) if k > 1 else np.nan)
    return largest + np.log(total / k), np.sqrt(variance), effective
