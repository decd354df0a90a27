"""Priors p(z) that learn: each is a recipe for a distribution, which the objective is given at every step.

A fixed prior needs no recipe: `VAE(prior=DiagonalNormal(mean, log_var))`, or a `Mixture`, is a distribution already.
Add one by subclassing `Prior`.
"""

from typing import Any

from keras_vae.distributions import DiagonalNormal, Mixture
from keras_vae.priors.base import DataSpec as DataSpec
from keras_vae.priors.base import Prior as Prior
from keras_vae.priors.base import StandardNormal as StandardNormal
from keras_vae.priors.gaussian_mixture import GaussianMixture as GaussianMixture
from keras_vae.priors.vamp import VampPrior as VampPrior


def check(prior: Any) -> None:
    """Raises a ValueError unless `prior` is something that a model can have as p(z)."""
    if not isinstance(prior, Prior | DiagonalNormal | Mixture):
        raise ValueError(
            "prior must be a keras_vae.priors.Prior such as GaussianMixture(10), a DiagonalNormal or Mixture, or None "
            f"for N(0, I); got {prior!r}."
        )
