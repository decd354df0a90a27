"""Numbers about a trained model: what is log p(x), and what do the latents hold?

The ELBO is a bound, and how far below log p(x) it lies differs from model to model. `log_likelihood` estimates log p(x)
itself. All noise comes from NumPy: the same seed gives the same numbers on every backend, however the work is cut up.
"""

import dataclasses
import math
import sys
from numbers import Real
from typing import NamedTuple

import keras
import numpy as np

from keras_vae import _checks
from keras_vae.distributions import LOG_2_PI, DiagonalNormal


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
    negative_elbo = -float(np.mean(vae.elbo(x, num_samples, seed, batch_size), dtype="float64"))
    kl = float(np.mean(vae.encode(x, batch_size).kl_divergence(vae.prior), dtype="float64"))
    return {
        "reconstruction": negative_elbo - kl,
        "kl": kl,
        "negative_elbo": negative_elbo,
        "bits_per_dim": bits_per_dim(negative_elbo, math.prod(x.shape[1:])),
    }


class LogLikelihood(NamedTuple):
    """What `log_likelihood` estimates, in nats; arrays of shape `(n,)`, float64."""

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


def log_likelihood(vae, x, num_samples=5000, seed=0, max_bytes=2**25, verbose="auto"):
    """log p(x) by importance sampling with q(z|x), the estimate that papers report.

        log p(x) ~ log 1/k sum_i w_i,   w_i = p(x|z_i) p(z_i) / q(z_i|x),   z_i ~ q(z|x)

    It is a lower bound in expectation, and approaches log p(x) from below as k grows: by about half the square of
    `standard_error`, where that is small. An effective sample size of a few says that it is not there yet.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data.
        num_samples: k, draws of z per example.
        seed: Of the draws.
        max_bytes: How much decoder output is held at a time.
        verbose: 1 shows a progress bar, 0 does not, "auto" does on a terminal.

    Returns:
        A `LogLikelihood`.

    Raises:
        ValueError: If the data are such that the model's loss is no log-likelihood; says why.

    Example:

    >>> found = evaluation.log_likelihood(vae, x_test, num_samples=1000)
    >>> print(found.mean, found.mean_standard_error)

    Reference: Burda et al. 2016, arXiv:1509.00519, section 5 (k = 5000); Kong 1992 (effective sample size).
    """
    x = vae._checked(x)
    vae.likelihood.validate(x, missing=vae.allow_missing)
    caveat = vae.likelihood.caveat(x)
    if caveat:
        raise ValueError(f"log p(x) is not defined here. {caveat}")
    num_samples = _checks.whole_number("num_samples", num_samples)
    values = math.prod(_checks.parameter_shape(x.shape[1:], vae.likelihood))  # of the decoder, for each z
    rows = max(1, _checks.whole_number("max_bytes", max_bytes) // (4 * values))
    at_a_time = max(1, rows // num_samples)
    generator = np.random.default_rng(seed)
    bar = keras.utils.Progbar(
        len(x), verbose=sys.stdout.isatty() if verbose == "auto" else verbose, unit_name="example"
    )
    found = []
    for start in range(0, len(x), at_a_time):
        part = x[start : start + at_a_time]
        log_weights = []
        for first in range(0, num_samples, rows):
            shape = (len(part), min(rows, num_samples - first), vae.latent_dim)
            epsilon = generator.standard_normal(shape, dtype="float32")
            log_weights.append(vae._in_batches(vae._log_weights, part, epsilon, batch_size=at_a_time))
        found.append(_importance_estimate(np.concatenate(log_weights, axis=1, dtype="float64")))
        bar.update(start + len(part))
    estimate, standard_error, effective = (np.concatenate(column) for column in zip(*found, strict=True))
    return LogLikelihood(estimate, standard_error, effective, num_samples)


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


class Surgery(NamedTuple):
    """The KL term of the ELBO, taken apart: `kl` = `mutual_information` + `marginal_kl`. Floats, in nats."""

    kl: float  # the mean over examples of KL(q(z|x) || p(z))
    mutual_information: float  # between an example's index and its z: what the latents say about which x it was
    marginal_kl: float  # KL(q(z) || p(z)): how far the codes of all data together are from the prior
    max_mutual_information: float  # the logarithm of the number of examples, which the information cannot exceed


def elbo_surgery(vae, x, seed=0, batch_size=256):
    """Where the KL term goes: into information about x, or into a mismatch of codes and prior.

    With q(z) the average of q(z|x) over the examples. Samples of the prior fall where no code is as far as the
    marginal KL is large; and it is the only part that a better prior could save. The mutual information is estimated
    with one draw of z per example, against all examples: its work and memory grow with their square (10,000 take
    seconds).

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data.
        seed: Of the draws.
        batch_size: Examples encoded at a time.

    Returns:
        A `Surgery`.

    Reference: Hoffman & Johnson 2016, ELBO surgery: yet another way to carve up the variational evidence lower bound.
    """
    posterior = vae.encode(x, batch_size)
    z = posterior.sample(seed=seed).astype("float64")
    mean, log_var = posterior.mean.astype("float64"), posterior.log_var.astype("float64")
    entropy = 0.5 * (log_var + 1.0 + LOG_2_PI).sum(axis=1)
    information = float(np.mean(-_log_mixture(z, mean, log_var) - entropy))
    kl = float(np.mean(posterior.kl_divergence(vae.prior), dtype="float64"))
    return Surgery(kl, information, kl - information, math.log(len(z)))


def _log_mixture(z, mean, log_var):
    """log of the average over rows n of N(z; mean_n, exp(log_var_n)), float64: `(m, latent_dim)` to `(m,)`."""
    precision = np.exp(-log_var)
    constant = (np.square(mean) * precision + log_var + LOG_2_PI).sum(axis=1)
    step = max(1, 2**24 // len(mean))
    found = []
    for start in range(0, len(z), step):
        part = z[start : start + step]
        # The square written out, so that all pairs are two products of matrices.
        log_prob = -0.5 * (np.square(part) @ precision.T - 2.0 * part @ (mean * precision).T + constant)
        largest = log_prob.max(axis=1)
        found.append(largest + np.log(np.exp(log_prob - largest[:, None]).mean(axis=1)))
    return np.concatenate(found)


def aggregate_posterior(vae, x, batch_size=256):
    """Mean and variance of q(z), the average of q(z|x) over the examples, in each latent dimension.

    In a model whose codes match its prior they are those of the prior; `kl_divergence(vae.prior, per_dimension=True)`
    of the result says which dimensions do not.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data.
        batch_size: Examples at a time.

    Returns:
        A `DiagonalNormal` of NumPy arrays of shape `(latent_dim,)`.
    """
    posterior = vae.encode(x, batch_size)
    mean, variance = posterior.mean.astype("float64"), np.exp(posterior.log_var.astype("float64"))
    total = mean.var(axis=0) + variance.mean(axis=0)
    return DiagonalNormal(mean.mean(axis=0).astype("float32"), np.log(total).astype("float32"))


@dataclasses.dataclass(frozen=True)
class Threshold:
    """The score above which an example is called anomalous; `fit_threshold` makes one.

    Args:
        nats: A negative ELBO, nats per example.
        quantile: The share of normal data meant to lie at or below it.
        num_samples, seed: Of the draws of z behind the scores; those to be compared with it take the same.
        examples: How many it was fitted on.
    """

    nats: float
    quantile: float
    num_samples: int
    seed: int
    examples: int

    @property
    def standard_error(self):
        """How far the share of normal data that is called anomalous may be from 1 - quantile.

        Whatever the distribution of the scores, the share of it above a quantile of n of them is Beta distributed; its
        standard deviation is near sqrt(quantile * (1 - quantile) / n).
        """
        return math.sqrt(self.quantile * (1.0 - self.quantile) / self.examples)

    def is_anomaly(self, scores):
        """Whether negative ELBOs, an array in nats, lie above the threshold; a score that is NaN does, too."""
        return ~(np.asarray(scores) <= self.nats)


def fit_threshold(vae, x, quantile=0.99, num_samples=16, seed=0, batch_size=256):
    """The negative ELBO that a share `quantile` of normal data does not exceed.

    Of x itself at most the share 1 - quantile lies above it, and of other normal data about as much: how near, says
    `Threshold.standard_error`. What lies below it need not be normal: the bound can be high for data that are simpler
    than those of training (Nalisnick et al.).

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data known to be normal and held out: those of training score lower than new ones do.
        quantile: Between 0 and 1; 0.99 calls 1% of normal data anomalous.
        num_samples: Samples of z that each score is averaged over.
        seed: Of their noise.
        batch_size: Decoded examples at a time, counting samples.

    Returns:
        A `Threshold`. Give it to `keras_vae_export.export`, and the bundle's scores come with a verdict.

    Raises:
        ValueError: If x holds fewer than 1 / (1 - quantile) examples, of which none would lie above the threshold, or
            if a score is not finite.

    Example:

    >>> threshold = fit_threshold(vae, held_out, quantile=0.99)
    >>> anomalies(vae, x, threshold)  # (n,) bool

    Reference: An & Cho 2015, Variational Autoencoder based Anomaly Detection using Reconstruction Probability,
    SNUDM-TR-2015-03 (a threshold on a score of the VAE, there without the KL term). Nalisnick et al. 2019, Do Deep
    Generative Models Know What They Don't Know?, arXiv:1810.09136.
    """
    if isinstance(quantile, bool) or not isinstance(quantile, Real) or not 0.0 < quantile < 1.0:
        raise ValueError(f"quantile must be a number between 0 and 1, such as 0.99; got {quantile!r}.")
    seed = _checks.whole_number("seed", seed, least=0)
    needed = math.ceil(round(1.0 / (1.0 - quantile), 6))  # without the rounding, 11 for 0.9
    if len(x) < needed:
        raise ValueError(
            f"The quantile {quantile:g} needs at least {needed} examples, or none of them lies beyond it; x has "
            f"{len(x)}. Give more, or a smaller quantile."
        )
    scores = -vae.elbo(x, num_samples, seed, batch_size)
    if not np.isfinite(scores).all():
        raise ValueError(
            f"The ELBO of {np.sum(~np.isfinite(scores))} of {len(scores)} examples is not finite: look for NaN in the "
            "model's weights, or for data that it was not made for."
        )
    # "higher" takes a score that occurs: one interpolated below it could call more of x anomalous than was promised.
    nats = float(np.quantile(scores, quantile, method="higher"))
    return Threshold(nats, float(quantile), int(num_samples), seed, len(scores))


def anomalies(vae, x, threshold, batch_size=256):
    """Whether each example of x is anomalous, scored as the threshold was fitted.

    Args:
        vae: The `VAE` that the threshold was fitted with.
        x: `(n, ...)` data.
        threshold: A `Threshold`.
        batch_size: Decoded examples at a time, counting samples.

    Returns:
        `(n,)` bool, NumPy.
    """
    return threshold.is_anomaly(-vae.elbo(x, threshold.num_samples, threshold.seed, batch_size))
