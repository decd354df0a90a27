"""The prior of a conditional model that depends on the condition."""

from typing import Any, Self

import keras

from keras_vae import validation
from keras_vae.distributions import ConditionalNormal, Distribution
from keras_vae.posteriors import Normal
from keras_vae.priors.base import DataSpec, Prior


@keras.saving.register_keras_serializable(package="keras_vae")
class Conditional(Prior):
    """A normal distribution for each condition, p(z|c) = N(mean(c), diag(exp(log_var(c)))), which learns.

    With p(z) = N(0, I) a decoder must tell the conditions apart although z looks the same in each; what z says about
    the condition is then wrong in samples. Here z is drawn from where the codes of that condition lie. A model with
    such a prior is conditional, whether or not its encoder and decoder take the condition.

    Args:
        network: Keras model or layer from the condition, labels or any tensor, to the mean and the log variance, both
            `(batch, *latent_shape)`, as an encoder returns them: a pair, or a dict with keys "z_mean" and "z_log_var".
            `keras_vae.networks.normal_mlp` makes one. It always runs in inference mode: no dropout.

    Example:

    >>> network = keras_vae.networks.normal_mlp(10, latent_dim=16)  # from a label of 10 classes
    >>> vae = keras_vae.VAE(encoder, decoder, prior=keras_vae.priors.Conditional(network))
    >>> vae.fit({"x": x, "condition": labels})
    >>> vae.sample(16, condition=7)

    Reference: Sohn et al. 2015, Learning structured output representation using deep conditional generative models,
    section 4.1.
    """

    distribution_class = ConditionalNormal

    def __init__(self, network: Any):
        super().__init__()
        if not isinstance(network, keras.layers.Layer):
            raise ValueError(
                "network must be a Keras model or layer from the condition to the mean and the log variance of z; "
                f"got {network!r}."
            )
        inputs = getattr(network, "inputs", None) or [None]
        if len(inputs) != 1:
            raise ValueError(
                f"The network of p(z|c) takes the condition alone; {network.name} has {len(inputs)} inputs."
            )
        self.condition_network = network
        self._normal = Normal()  # which reads and bounds what an encoder returns

    def make_weights(self, latent_shape: tuple[int | None, ...], data: DataSpec) -> None:
        validation.fixed_shape(self, latent_shape)
        if getattr(self.condition_network, "outputs", None):
            self._check(self.condition_network.output, latent_shape)

    def distribution(self, given: Any = None, encode: Any = None) -> Distribution:
        if given is None:
            raise ValueError('This model has a prior p(z|c): pass {"x": x, "condition": c}, or condition=c.')
        outputs = self.condition_network(given, training=False)
        self._check(outputs, self.latent_shape)
        normal = self._normal.distribution(outputs, training=True)
        return ConditionalNormal(normal.mean, normal.log_var, normal.event_ndim)

    def _check(self, outputs, latent_shape):
        try:
            found = self._normal.latent_shape(outputs)
        except ValueError as error:
            raise ValueError(f"The network of p(z|c) must return what an encoder returns. {error}") from None
        if found != latent_shape:
            raise ValueError(
                f"The network of p(z|c) gives z of shape {found}, and the encoder z of shape {latent_shape}: give "
                "both the same number of units."
            )

    def get_config(self) -> dict[str, Any]:
        return {"network": keras.saving.serialize_keras_object(self.condition_network)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(keras.saving.deserialize_keras_object(config["network"]))

    def __repr__(self) -> str:
        return f"Conditional({self.condition_network.name})"
