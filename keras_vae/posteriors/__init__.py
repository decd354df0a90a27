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
    if not issubclass(posterior.distribution_class, DiagonalNormal):
        raise ValueError(
            f"{posterior!r} gives a {posterior.distribution_class.__name__}; a VAE takes posteriors that give a "
            "DiagonalNormal."
        )


def get(posterior: Any) -> Posterior:
    """A posterior from its name ("normal"), its config, or itself."""
    if isinstance(posterior, Posterior):
        return posterior
    if isinstance(posterior, dict):
        return keras.saving.deserialize_keras_object(posterior)
    if isinstance(posterior, str) and posterior.lower() in _BY_NAME:
        return _BY_NAME[posterior.lower()]()
    raise ValueError(f'posterior must be "normal" or a Posterior object; got {posterior!r}.')
