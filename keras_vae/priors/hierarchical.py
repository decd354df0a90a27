"""p(z) over several layers of latents."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_vae.distributions import Chain, DiagonalNormal, Distribution
from keras_vae.posteriors.hierarchical import Layered
from keras_vae.priors.base import DataSpec, Prior


@keras.saving.register_keras_serializable(package="keras_vae", name="HierarchicalPrior")
class Hierarchical(Layered, Prior):
    """p(z) = p(zL) ... p(z1|z2) over layers of latents, z = (z1, ..., zL) side by side in one vector.

    The last layer is N(0, I); each other one is a normal given the next. See `posteriors.Hierarchical`; but any
    posterior over as many latents serves.

    Args:
        networks: Keras models in the order of the layers: the first from z2 to mean and log variance of z1, the second
            from z3 to those of z2, as `keras_vae.networks.normal_mlp` makes them. They run in inference mode.

    Reference: Burda et al. 2016, arXiv:1509.00519, section 2.
    """

    distribution_class = Chain

    def __init__(self, networks: Sequence[keras.Model]):
        super().__init__()
        self._set_networks(networks, step=-1)

    def make_weights(self, latent_shape: tuple[int | None, ...], data: DataSpec) -> None:
        if latent_shape != (sum(self._sizes),):
            raise ValueError(
                f"{self!r} is over z of shape {(sum(self._sizes),)}, and this model's z has shape {latent_shape}."
            )

    def distribution(self, given: Any = None, encode: Any = None) -> Distribution:
        def step(network):
            return lambda z: self._normal.distribution(network(z, training=False), training=True)

        first = DiagonalNormal.standard(self._sizes[-1])
        return Chain(first, [step(network) for network in self.networks[::-1]], self._sizes, reverse=True)
