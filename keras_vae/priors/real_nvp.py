"""A flow of affine couplings as the prior."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_vae import validation
from keras_vae.distributions import CouplingFlow, Distribution
from keras_vae.priors.base import DataSpec, Prior


@keras.saving.register_keras_serializable(package="keras_vae")
class RealNVP(Prior):
    """N(0, I) through affine couplings that learn: a density of any form, with exact draws and log p(z).

    Each coupling scales and shifts every second latent as a network of the others says; the next does so with those
    others. It begins as N(0, I) exactly. Latents of several axes are flattened.

    Args:
        depth: Number of couplings, K. At least two move each latent.
        hidden: Numbers of units of the hidden layers of each coupling's network.
        seed: Seed for the networks' weights, an integer, or None.

    Example:

    >>> vae = keras_vae.VAE(encoder, decoder, prior=keras_vae.priors.RealNVP())
    >>> keras_vae.evaluation.fit_prior(vae, x, keras_vae.priors.RealNVP())  # of a model that is trained already

    Reference: Dinh et al. 2017, Density estimation using Real NVP, arXiv:1605.08803, equations 4 to 9; as a prior: Chen
    et al. 2017, Variational Lossy Autoencoder, arXiv:1611.02731, section 3.2.
    """

    distribution_class = CouplingFlow

    def __init__(self, depth: int = 4, hidden: Sequence[int] = (64,), seed: int | None = None):
        super().__init__()
        self.depth = validation.whole_number("depth", depth, least=0)
        self.hidden = [validation.whole_number("hidden", units) for units in hidden]
        self.seed = seed

    def make_weights(self, latent_shape: tuple[int | None, ...], data: DataSpec) -> None:
        latent_dim = math.prod(validation.fixed_shape(self, latent_shape))
        self.networks = [self._network(i, latent_dim) for i in range(self.depth)]

    def _network(self, i, latent_dim):
        seeds = [None] * len(self.hidden)
        if self.seed is not None:  # another for each layer, in which equal shapes would else start equal
            seeds = (np.random.SeedSequence([self.seed, i]).generate_state(len(self.hidden)) >> 2).tolist()
        glorot = keras.initializers.GlorotUniform
        hidden = [
            layers.Dense(n, "tanh", kernel_initializer=glorot(s)) for n, s in zip(self.hidden, seeds, strict=True)
        ]
        # The last layer says 0: the coupling moves nothing.
        network = keras.Sequential([*hidden, layers.Dense(2 * latent_dim, kernel_initializer="zeros")])
        network.build((None, latent_dim))
        return network

    def distribution(self, given: Any = None, encode: Any = None) -> Distribution:
        return CouplingFlow(self.networks, self.latent_shape or ())  # pyright: ignore[reportArgumentType]

    def get_config(self) -> dict[str, Any]:
        return {"depth": self.depth, "hidden": self.hidden, "seed": self.seed}
