"""Posteriors q(z|x): what the encoder returns, by name, and the distribution that it stands for.

The mirror of `likelihoods/` on the encoder's side. Add one by subclassing `Posterior`.
"""

from typing import Any

import keras

from keras_vae.distributions import DiagonalNormal, Distribution, UniformCodes
from keras_vae.posteriors.base import Posterior as Posterior
from keras_vae.posteriors.diagonal_normal import Normal as Normal
from keras_vae.posteriors.flow import Flow as Flow
from keras_vae.posteriors.fsq import FSQ as FSQ
from keras_vae.posteriors.full_normal import FullNormal as FullNormal
from keras_vae.posteriors.full_normal import LowRankNormal as LowRankNormal
from keras_vae.posteriors.hierarchical import Hierarchical as Hierarchical

_BY_NAME = {"normal": Normal, "full": FullNormal, "full_normal": FullNormal}


def checked(distribution: Any, family: Posterior, model: type) -> Distribution:
    """q(z|x) as a method of a model, or a `Posterior`, gave it.

    Raises:
        TypeError: If it is not of the family's `distribution_class`, by which an objective is accepted or refused; or
            of a subclass of `DiagonalNormal`, whose density and draws the closed form of the KL would not know.
    """
    expected, found = family.distribution_class, type(distribution)
    if not isinstance(distribution, expected) or (isinstance(distribution, DiagonalNormal) and found is not expected):
        raise TypeError(
            f"The posterior of this {model.__name__} is a {found.__name__}, and {type(family).__name__}'s "
            f"distribution_class is {expected.__name__}: return one of that class, and no subclass of DiagonalNormal, "
            "or write a keras_vae.posteriors.Posterior of your own."
        )
    return distribution


def check_prior(family: Posterior, prior: Any) -> None:
    """Raises a ValueError unless a prior, a distribution or a `Prior`, is over the z of a posterior family."""
    kind = getattr(prior, "distribution_class", type(prior))
    levels = getattr(family, "levels", None)
    if family.distribution_class.is_discrete and not kind.is_discrete:
        raise ValueError(
            f"{family!r} gives z that are codes, which have probabilities, and a {kind.__name__} is a density: leave "
            "the prior at None, which is uniform over the codes."
        )
    if kind.is_discrete and not family.distribution_class.is_discrete:
        raise ValueError(
            f"The prior {type(prior).__name__} is over codes, and {family!r} draws z from a density: leave the prior "
            "at None, or choose the posterior FSQ(levels)."
        )
    if isinstance(prior, UniformCodes) and levels is not None and prior.levels != levels:
        raise ValueError(f"The prior is over codes of the levels {prior.levels}, and {family!r} has others.")


def get(posterior: Any) -> Posterior:
    """A posterior from its name ("normal", "full"), its config, or itself."""
    if isinstance(posterior, Posterior):
        return posterior
    if isinstance(posterior, dict):
        return keras.saving.deserialize_keras_object(posterior)
    if isinstance(posterior, str) and posterior.lower() in _BY_NAME:
        return _BY_NAME[posterior.lower()]()
    raise ValueError(
        'posterior must be "normal", "full" or a Posterior object, such as keras_vae.posteriors.Flow(); got '
        f"{posterior!r}."
    )
