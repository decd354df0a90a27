"""Priors p(z) that learn: each is a recipe for a distribution, which the objective is given at every step.

A fixed prior needs no recipe: `VAE(prior=DiagonalNormal(mean, log_var))`, or a `Mixture`, is a distribution already.
Add one by subclassing `Prior`.
"""

from typing import Any

from keras_vae import validation
from keras_vae.distributions import (
    OF_ARRAYS,
    DiagonalNormal,
    Distribution,
    Flattened,
    Mixture,
    check_density,
    has_closed_form_kl,
)
from keras_vae.priors.base import DataSpec as DataSpec
from keras_vae.priors.base import Prior as Prior
from keras_vae.priors.base import StandardNormal as StandardNormal
from keras_vae.priors.conditional import Conditional as Conditional
from keras_vae.priors.gaussian_mixture import GaussianMixture as GaussianMixture
from keras_vae.priors.hierarchical import Hierarchical as Hierarchical
from keras_vae.priors.real_nvp import RealNVP as RealNVP
from keras_vae.priors.vamp import VampPrior as VampPrior


def check(prior: Any, latent_shape: tuple[int | None, ...]) -> None:
    """Raises a ValueError unless `prior` is something that a model can have as p(z); of a fixed one also its shape."""
    if not isinstance(prior, (Prior, *OF_ARRAYS)):
        raise ValueError(
            "prior must be a keras_vae.priors.Prior such as GaussianMixture(10), a DiagonalNormal or Mixture, or None "
            f"for N(0, I); got {prior!r}."
        )
    if isinstance(prior, Prior):  # which is told when it is bound
        return
    if isinstance(prior, Mixture):
        validation.fixed_shape(prior, latent_shape)
    shape = tuple(size or 1 for size in latent_shape)
    if prior.event_shape != shape:
        raise ValueError(
            f"The prior is over z of shape {prior.event_shape}, but the encoder gives z of shape {latent_shape}: the "
            f"prior's mean and log_var must have shape {shape}, and event_ndim its number of axes, {len(shape)}."
        )


def checked(distribution: Any, prior: Prior) -> Distribution:
    """p(z) as `prior.distribution` gave it; one of the user's own as a `Flattened`, unless a KL is registered for it.

    Raises:
        TypeError: If it is not of the prior's `distribution_class`, by which an objective is accepted or refused, or
            a class of the user's own lacks what a model needs.
    """
    name, expected, found = type(prior).__name__, prior.distribution_class, type(distribution)
    if not isinstance(distribution, expected):
        raise TypeError(
            f"{name}.distribution returned a {found.__name__}, and its distribution_class is {expected.__name__}: "
            f"return an object of that class, or set {name}.distribution_class to the other."
        )
    check_density(found)
    if not hasattr(distribution, "event_shape"):
        raise TypeError(
            f"The {found.__name__} of {name} has no event_shape: set it to the shape of one z, such as (latent_dim,)."
        )
    is_ours = found in OF_ARRAYS or has_closed_form_kl(DiagonalNormal, found)
    return distribution if is_ours else Flattened(distribution)
