"""What the model asks of a prior that learns, and what it tells the prior about the data."""

import dataclasses
from typing import Any

import keras

from keras_vae._config import Configured
from keras_vae._typing import Layer
from keras_vae.distributions import DiagonalNormal, Distribution


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What a prior may need to know about the data.

    Args:
        shape: Shape of one example; None is a free size.
        dtype: Type of the encoder's input.
        range: Least and greatest value that x may have; None: no bounds.
        condition_shape: Shape of the condition that the encoder takes with each example; None: it takes none.
        posterior: Class of q(z|x).
    """

    shape: tuple[int | None, ...]
    dtype: str = "float32"
    range: tuple[float, float] | None = None
    condition_shape: tuple[int | None, ...] | None = None
    posterior: type[Distribution] = DiagonalNormal


class Prior(Configured, Layer):
    """What the model asks of a prior that is not a plain distribution.

    A Keras layer without a call: what a prior learns is a weight of the model like any other, trained, saved, loaded
    and counted. A subclass defines `distribution`, `distribution_class`, and `make_weights` if it learns. A
    distribution may be of a class of one's own, with `event_shape`, and `log_prob` and `from_noise` of tensors.
    """

    distribution_class: type[Distribution] = Distribution  # of what `distribution` returns

    def __init__(self):
        super().__init__(dtype="float32")
        self.built = True
        self.latent_shape: tuple[int | None, ...] | None = None

    def bind(self, latent_shape: tuple[int | None, ...], data: DataSpec) -> None:
        """Makes the weights, once the model knows its shapes.

        Args:
            latent_shape: Shape of one z.
            data: What the model is built for.

        Raises:
            ValueError: If the prior cannot serve such a model; says why.
        """
        if self.latent_shape not in (None, latent_shape):
            raise ValueError(
                f"{self!r} belongs to a model with latents of shape {self.latent_shape}, and this one has "
                f"{latent_shape}: make a new prior."
            )
        if self.latent_shape is None:
            self.make_weights(latent_shape, data)
            self.latent_shape = latent_shape

    def make_weights(self, latent_shape: tuple[int | None, ...], data: DataSpec) -> None:
        """Makes the weights with `add_weight`; called once, by `bind`, with its arguments."""

    def distribution(self, given: Any = None, encode: Any = None) -> Distribution:
        """p(z) as it is now.

        Args:
            given: The condition of a batch, `(batch, ...)`, or None.
            encode: The model's q(z|x): from a tensor of data, `(n, ...)`, to a distribution of n z.

        Returns:
            A distribution of tensors, of class `distribution_class`.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_vae")
class StandardNormal(Prior):
    """N(0, I) as a prior by name; it is what a model without a prior has too."""

    distribution_class = DiagonalNormal

    def distribution(self, given: Any = None, encode: Any = None) -> Distribution:
        return DiagonalNormal.standard(*self.latent_shape or (0,))
