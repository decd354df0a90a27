"""What the latents hold: where the KL term goes, and how the codes of the data lie under the prior."""

import math
from typing import Any, NamedTuple

import numpy as np

from keras_vae._latent_statistics import LatentStatistics
from keras_vae.distributions import (
    LOG_2_PI,
    DiagonalNormal,
    Distribution,
    Mixture,
    UniformCodes,
    has_closed_form_kl,
    kl_divergence,
)
from keras_vae.evaluation import _model
from keras_vae.model import VAE

_DRAWS = 64  # of which the moments of a posterior are taken that has them in no closed form


def kl_per_unit(vae: VAE, x: Any, batch_size: int = 256) -> np.ndarray:
    """The analytic KL of each latent dimension to the prior, averaged over examples.

    Its sum is the `kl` of the logs; a dimension at 0 is one that the posterior leaves at the prior. If the dimensions
    of the prior depend on each other, it says which latents are in use, but does not add up to the `kl`: for a mixture
    it is the KL to each dimension's marginal, estimated from 16 draws of each posterior; for a prior of your own it is
    the KL to the normal distribution with the mean and the variance that the prior has in each dimension. A posterior
    whose dimensions depend on each other is treated so too, with the moments of 64 draws. Of uniform codes it is the
    constant log(levels).

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data, n >= 1, or their posterior, as `vae.encode` returns it; of a model with a conditional
            prior, to whose p(z|c) the KL then is, the data.
        batch_size: Number of examples at a time.

    Returns:
        `(*latent_shape,)` float64, nats.

    Raises:
        ValueError: If there is no example, x does not fit the model, or q(z|x) is a single point.

    Example:

    >>> keras_vae.evaluation.kl_per_unit(vae, data.test)
    array([2.113, 0.004, 1.874])
    """
    posterior, prior = _model.encoded(vae, x, batch_size)
    if isinstance(prior, UniformCodes):
        _model.require_examples(posterior)
        return np.broadcast_to(np.log(prior.levels), posterior.event_shape).copy()
    return _mean_kl(_as_normal(posterior), prior)


def active_units(vae: VAE, x: Any, threshold: float = 0.01, batch_size: int = 256) -> np.ndarray:
    """Which latent dimensions tell examples apart: the variance of the posterior's location over examples > threshold.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data, n >= 2, or their posterior, as `vae.encode` returns it.
        threshold: Smallest variance of an active unit, in the squared units of z; the paper's 0.01 is meant for the
            prior N(0, I).
        batch_size: Number of examples at a time.

    Returns:
        `(*latent_shape,)` bool; its sum is the number of active units.

    Raises:
        ValueError: If there are fewer than two examples, or x does not fit the model.

    Reference: Burda et al. 2016, arXiv:1509.00519, section 5.2.
    """
    return _is_active(_posterior(vae, x, batch_size), threshold)


class Surgery(NamedTuple):
    """The KL term of the ELBO, taken apart: `kl` = `mutual_information` + `marginal_kl`. Floats, in nats."""

    kl: float  # the mean over examples of KL(q(z|x) || p(z))
    mutual_information: float  # between an example's index and its z: what the latents say about which x it was
    marginal_kl: float  # KL(q(z) || p(z)): the distance of the codes of all data together from the prior
    max_mutual_information: float  # the logarithm of the number of examples, which the information cannot exceed


def elbo_surgery(vae: VAE, x: Any, seed: int | None = 0, batch_size: int = 256) -> Surgery:
    """Where the KL term goes: into information about x, or into a mismatch of codes and prior.

    q(z) is the average of q(z|x) over the examples. A large marginal KL means that prior samples fall outside the
    region of the codes; it is the only part that a better prior can remove. The mutual information is estimated
    with one draw of z per example, against all examples: its work grows with their square (10,000 take seconds). Near
    `max_mutual_information` it says that z tells all of these examples apart, and the marginal KL is then what a prior
    would gain that knows their codes by heart: one that does not gains less.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data.
        seed: Seed for the draws.
        batch_size: Number of examples encoded at a time.

    Returns:
        A `Surgery`.

    Raises:
        ValueError: If the posterior is no `DiagonalNormal`, or the prior is conditional.

    Reference: Hoffman & Johnson 2016, ELBO surgery: yet another way to carve up the variational evidence lower bound.
    """
    if vae.has_conditional_prior:
        raise ValueError(
            "The surgery measures how far the codes of all data lie from one prior, and this model has one for each "
            "condition, p(z|c): kl_per_unit says where its KL goes."
        )
    encoded = vae.encode(x, batch_size)
    _model.require_examples(encoded)
    if not isinstance(encoded, DiagonalNormal):
        raise ValueError(
            f"The mutual information compares each z with q(z|x) of all examples, and {vae.posterior_family!r} has the "
            'density of its own draws only, or at great cost: it is for the posterior "normal".'
        )
    shape = encoded.event_shape
    posterior = DiagonalNormal(encoded.mean.astype("float64"), encoded.log_var.astype("float64"), len(shape)).flat()
    z = posterior.sample(seed=seed)
    # The density of the draw itself and not its known average, the entropy: the noise of both terms is the same and
    # falls out, and no draw can say more than the logarithm of the number of examples.
    information = float(np.mean(posterior.log_prob(z) - _log_mixture(z, posterior.mean, posterior.log_var)))
    kl = float(np.mean(kl_divergence(encoded, vae.numpy_prior(), z.reshape(1, -1, *shape))))
    return Surgery(kl, information, kl - information, math.log(len(z)))


def aggregate_posterior(vae: VAE, x: Any, batch_size: int = 256) -> DiagonalNormal:
    """Mean and variance of q(z), the average of q(z|x) over the examples, in each latent dimension.

    If the codes match the prior, they are those of the prior; `kl_divergence(vae.numpy_prior(), True)` of the result
    says which dimensions do not match.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data.
        batch_size: Number of examples at a time.

    Returns:
        A `DiagonalNormal` of NumPy arrays of shape `latent_shape`.
    """
    encoded = vae.encode(x, batch_size)
    _model.require_examples(encoded)
    mean, variance = _moments(encoded)
    total = mean.var(axis=0) + variance.mean(axis=0)
    return DiagonalNormal(mean.mean(axis=0).astype("float32"), np.log(total).astype("float32"), total.ndim)


def latent_statistics(vae: VAE, x: Any, per: str = "channel", batch_size: int = 256) -> LatentStatistics:
    """The scale of the codes of data: mean and standard deviation of q(z), the average of q(z|x) over the examples.

    A model of the codes, such as a diffusion model, wants them near N(0, I), which the codes of most VAEs are not.
    Assigned to `vae.latent_statistics` they are saved and exported with the model, and `encode(standardized=True)` and
    `decode(standardized=True)` apply and undo them.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data, those of training.
        per: "channel", one scale for each element of z's last axis, at all places; or "element", one for each of z.
        batch_size: Number of examples at a time.

    Returns:
        A `LatentStatistics` of arrays `(channels,)` or `(*latent_shape,)`.

    Raises:
        ValueError: If a latent never changes.

    Example:

    >>> vae.latent_statistics = evaluation.latent_statistics(vae, x_train)
    >>> z = vae.encode(x_train, standardized=True).location

    Reference: Rombach et al. 2022, arXiv:2112.10752, appendix G (one scale for all of z there).
    """
    if per not in ("channel", "element"):
        raise ValueError(f'per must be "channel" or "element"; got {per!r}.')
    encoded = vae.encode(x, batch_size)
    _model.require_examples(encoded)
    mean, variance = _moments(encoded)
    axes = tuple(range(mean.ndim - 1)) if per == "channel" else 0
    return LatentStatistics(mean.mean(axis=axes), np.sqrt(mean.var(axis=axes) + variance.mean(axis=axes)))


def _posterior(vae, x, batch_size):
    return x if isinstance(x, Distribution) else vae.encode(x, batch_size)


def _moments(posterior):
    """Mean and variance of q(z|x) in each dimension, float64: of 64 draws where no closed form is known."""
    if isinstance(posterior, DiagonalNormal):
        return posterior.mean.astype("float64"), np.exp(posterior.log_var.astype("float64"))
    location = posterior.location
    total, squares = np.zeros(location.shape), np.zeros(location.shape)
    for draw in range(_DRAWS):
        distance = posterior.sample(seed=np.random.SeedSequence([0, draw])) - location
        total += distance
        squares += np.square(distance, dtype="float64")
    mean = total / _DRAWS
    return location + mean, (squares - _DRAWS * np.square(mean)) / (_DRAWS - 1)


def _as_normal(posterior):
    """The posterior, or the `DiagonalNormal` with its moments."""
    if isinstance(posterior, DiagonalNormal):
        return posterior
    mean, variance = _moments(posterior)
    if not variance.all():
        raise ValueError(
            "q(z|x) is a single point, whose KL to a density is infinite: this is for posteriors that draw z."
        )
    return DiagonalNormal(mean.astype("float32"), np.log(variance).astype("float32"), mean.ndim - 1)


def _mean_kl(posterior: Any, prior: Any) -> np.ndarray:
    _model.require_examples(posterior)
    if not isinstance(prior, Mixture):
        prior = prior.moment_matched()
    if has_closed_form_kl(posterior, prior):
        return np.mean(kl_divergence(posterior, prior, per_dimension=True), axis=0, dtype="float64")
    ndim, at_a_time = len(posterior.event_shape), max(1, 2**22 // np.size(prior.components.mean))
    total = np.zeros(posterior.event_shape)
    for start in range(0, len(posterior.mean), at_a_time):
        mean, log_var = (each[start : start + at_a_time] for each in (posterior.mean, posterior.log_var))
        part = DiagonalNormal(mean, log_var, ndim)
        for draw in range(16):
            z = part.sample(seed=np.random.SeedSequence([start, draw]))
            total += np.sum(part.log_prob(z, True) - prior.log_prob(z, True), axis=0, dtype="float64")
    return total / (16 * len(posterior.mean))


def _is_active(posterior: Any, threshold: float = 0.01) -> np.ndarray:
    location = posterior.location
    n = len(location)
    if n < 2:
        raise ValueError(f"Active units are found by a variance over examples: x needs at least two, and has {n}.")
    return np.var(location, axis=0, dtype="float64") > threshold


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
