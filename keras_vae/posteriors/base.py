"""What the model asks of a posterior family."""

from typing import Any

from keras_vae._config import Configured
from keras_vae._typing import Layer
from keras_vae.distributions import DiagonalNormal, Distribution


class Posterior(Configured, Layer):
    """A map from the encoder's outputs to q(z|x).

    A Keras layer without a call: what a posterior learns beside the encoder is a weight of the model like any other.
    Every verb, evaluation and an exported encoder give the q(z|x) that it makes of the encoder's outputs.
    """

    outputs: tuple[str, ...]  # Names of what the encoder returns.
    distribution_class: type[Distribution] = DiagonalNormal  # of what `distribution` returns; no other, for now

    def __init__(self):
        super().__init__(dtype="float32")
        self.built = True

    def read(self, outputs: Any) -> tuple[Any, ...]:
        """The encoder's outputs in the order of `outputs`.

        Raises:
            ValueError: If the encoder returned something else; says what it must return.
        """
        raise NotImplementedError

    def latent_shape(self, outputs: Any) -> tuple[int, ...]:
        """Shape of one z for symbolic outputs of the encoder.

        Raises:
            ValueError: If their shapes do not fit together; says how to change the encoder.
        """
        raise NotImplementedError

    def distribution(self, outputs: Any, training: bool = False) -> Distribution:
        """q(z|x) in float32 for the encoder's outputs of a batch."""
        raise NotImplementedError
