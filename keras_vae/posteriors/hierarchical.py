"""q(z|x) over several layers of latents."""

from collections.abc import Sequence
from typing import Any, Self

import keras

from keras_vae.distributions import Chain
from keras_vae.posteriors.base import Posterior
from keras_vae.posteriors.diagonal_normal import Normal


class Layered:
    """Mixed into the posterior and the prior over several layers of latents: the networks that lead between layers."""

    def _set_networks(self, networks: Sequence[keras.Model], step: int) -> None:
        """Keeps the networks; with a `step` of -1 the last of them leads away from the first layer that is drawn."""
        self.networks = list(networks)
        self._normal = Normal()  # which reads and bounds mean and log variance
        named = [(f"networks[{i}]", network) for i, network in enumerate(self.networks)]
        self._sizes = _chain_sizes(named[::step], self._normal)[::step]

    def get_config(self) -> dict[str, Any]:
        return {"networks": [keras.saving.serialize_keras_object(network) for network in self.networks]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls([keras.saving.deserialize_keras_object(network) for network in config["networks"]])  # pyright: ignore[reportCallIssue]

    def __repr__(self) -> str:
        return f"Hierarchical({len(self.networks)} networks, of {' and '.join(map(str, self._sizes))} latents)"


@keras.saving.register_keras_serializable(package="keras_vae", name="HierarchicalPosterior")
class Hierarchical(Layered, Posterior):
    """q(z|x) = q(z1|x) q(z2|z1) ... over layers of latents, z = (z1, z2, ...) side by side in one vector.

    The encoder returns mean and log variance of z1, as for the posterior "normal"; each further layer is a normal given
    the one before. With `priors.Hierarchical` these are the models with two stochastic layers of Burda et al. The
    decoder is given all of z: one of z1 alone is `keras_vae.networks.of_first_latents(decoder, latent_dim)`.

    Args:
        networks: Keras models, the first from z1 to mean and log variance of z2, and so on, as
            `keras_vae.networks.normal_mlp` makes them.

    Example:

    >>> normal_mlp = keras_vae.networks.normal_mlp
    >>> encoder, decoder = keras_vae.networks.mlp((784,), latent_dim=100, hidden=(200, 200), activation="tanh")
    >>> vae = keras_vae.VAE(
    ...     encoder,
    ...     keras_vae.networks.of_first_latents(decoder, 150),
    ...     posterior=keras_vae.posteriors.Hierarchical([normal_mlp((100,), 50, (100, 100), "tanh")]),
    ...     prior=keras_vae.priors.Hierarchical([normal_mlp((50,), 100, (100, 100), "tanh")]),
    ...     objective=keras_vae.IWAE(5),
    ... )

    Reference: Burda et al. 2016, arXiv:1509.00519, section 2 and appendix C.
    """

    outputs = ("z_mean", "z_log_var")
    distribution_class = Chain

    def __init__(self, networks: Sequence[keras.Model]):
        super().__init__()
        self._set_networks(networks, step=1)

    def read(self, outputs: Any) -> tuple[Any, ...]:
        return self._normal.read(outputs)

    def latent_shape(self, outputs: Any) -> tuple[int | None, ...]:
        found = self._normal.latent_shape(outputs)
        if found != (self._sizes[0],):
            raise ValueError(
                f"The encoder gives z1 of shape {found}, and the first network of {self!r} takes "
                f"{(self._sizes[0],)}: let them agree."
            )
        return (sum(self._sizes),)

    def output_shapes(self, latent_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.outputs, (self._sizes[0],))

    def distribution(self, outputs: Any, training: bool = False) -> Chain:
        def step(network):
            return lambda z: self._normal.distribution(network(z, training=training), training)

        first = self._normal.distribution(outputs, training)
        return Chain(first, [step(network) for network in self.networks], self._sizes)


def _chain_sizes(networks, normal):
    """Numbers of latents of the layers that networks lead through, pairs of a name and a network, in this order.

    Raises:
        ValueError: If one is no network from one vector to mean and log variance of a vector, or they do not fit.
    """
    if not networks:
        raise ValueError("networks must hold at least one network, from a layer of latents to the next.")
    sizes = []
    for name, network in networks:
        inputs = getattr(network, "inputs", None)
        if not inputs or len(inputs) != 1 or len(inputs[0].shape) != 2:
            raise ValueError(
                f"{name} must be a Keras model with one input (batch, latents) that it knows, as "
                "keras_vae.networks.normal_mlp makes it."
            )
        try:
            found = normal.latent_shape(network.output)
        except ValueError as error:
            raise ValueError(f"{name} must return what an encoder returns. {error}") from None
        if sizes and sizes[-1] != inputs[0].shape[1]:
            raise ValueError(f"{name} takes {inputs[0].shape[1]} latents, and the layer before has {sizes[-1]}.")
        sizes += [inputs[0].shape[1], *found] if not sizes else found
    return sizes
