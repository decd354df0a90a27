"""Posteriors q(z|x): what the encoder returns, by name, and the distribution that it stands for.

The mirror of `likelihoods/` on the encoder's side. Add one by subclassing `Posterior`; its distribution is a
`DiagonalNormal`.
"""

from typing import Any

import keras

from keras_vae.distributions import DiagonalNormal
from keras_vae.posteriors.base import Posterior as Posterior
from keras_vae.posteriors.diagonal_normal import Normal as Normal

_BY_NAME = {"normal": Normal}


def check(posterior: Posterior) -> None:
    """Raises a ValueError unless a VAE can use what the posterior gives."""
    kind = posterior.distribution_class
    if kind is not DiagonalNormal:
        raise ValueError(f"{posterior!r} gives a {kind.__name__}; a VAE takes posteriors that give a DiagonalNormal.")


def checked(distribution: Any, model: type) -> DiagonalNormal:
    """q(z|x) as a method of a model, or a `Posterior`, gave it.

    Raises:
        TypeError: If it is something else, or of a class of its own, whose density and draws the closed form of the
            KL, `encode`, evaluation and an exported bundle would not know.
    """
    if type(distribution) is not DiagonalNormal:
        raise TypeError(
            f"The posterior of this {model.__name__} is a {type(distribution).__name__}; a VAE takes one that is a "
            "keras_vae.DiagonalNormal, of whatever mean and log_var, and no subclass of it."
        )
    return distribution


def get(posterior: Any) -> Posterior:
    """A posterior from its name ("normal"), its config, or itself."""
    if isinstance(posterior, Posterior):
        return posterior
    if isinstance(posterior, dict):
        return keras.saving.deserialize_keras_object(posterior)
    if isinstance(posterior, str) and posterior.lower() in _BY_NAME:
        return _BY_NAME[posterior.lower()]()
    raise ValueError(f'posterior must be "normal" or a Posterior object; got {posterior!r}.')
