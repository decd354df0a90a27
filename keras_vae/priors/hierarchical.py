"""p(z) over several layers of latents."""

from collections.abc import Sequence
from typing import Any, Self

import keras

from keras_vae.distributions import Chain, DiagonalNormal, Distribution
from keras_vae.posteriors import Normal
from keras_vae.posteriors.hierarchical import chain_sizes
from keras_vae.priors.base import DataSpec, Prior


@keras.saving.register_keras_serializable(package="keras_vae", name="HierarchicalPrior")
class Hierarchical(Prior):
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
        self.networks = list(networks)
        self._normal = Normal()  # which reads and bounds mean and log variance
        last = len(self.networks) - 1
        names = {last - i: f"networks[{i}]" for i in range(len(self.networks))}
        self._sizes = chain_sizes(self.networks[::-1], self._normal, names)[::-1]

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

    def get_config(self) -> dict[str, Any]:
        return {"networks": [keras.saving.serialize_keras_object(network) for network in self.networks]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls([keras.saving.deserialize_keras_object(network) for network in config["networks"]])

    def __repr__(self) -> str:
        return f"Hierarchical({len(self.networks)} networks, of {' and '.join(map(str, self._sizes))} latents)"
