"""What the model asks of a distribution of z, and the arithmetic that works on NumPy arrays and tensors alike."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae._config import require_method


class Distribution:
    """A distribution of z; leading axes of its parameters are batch axes.

    A subclass defines `event_shape`, `log_prob` and `from_noise`, or `draw` in its place where the density of a draw
    is cheaper than the density of any z.
    """

    event_shape: tuple[int, ...]  # of one draw, such as (16,) or (8, 8, 4)
    is_discrete: bool = False  # whether log_prob is the logarithm of a probability, and not of a density

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the N(0, 1) variates that one draw is made of."""
        return self.event_shape

    def from_noise(self, noise: Any) -> Any:
        """Draws of z as a differentiable function of noise.

        Args:
            noise: `(..., *noise_shape)` draws from N(0, 1).

        Returns:
            `(..., *event_shape)`.
        """
        return self.draw(noise)[0]

    def draw(self, noise: Any) -> tuple[Any, Any]:
        """Draws of z and the log density of each, in nats: all that an objective may need of a posterior."""
        z = self.from_noise(noise)
        return z, self.log_prob(z)

    @property
    def location(self) -> Any:
        """Where inference looks without noise: the draw of which all noise is 0, which is the mean of a normal."""
        zeros = ops.zeros((1, 1, *self.noise_shape))  # one sample, of a batch that broadcasts
        return self.from_noise(zeros)[0]

    def log_prob(self, z: Any) -> Any:
        """The log density in nats, summed over the event: `(..., *event_shape)` to `(...)`."""
        raise NotImplementedError(f"{type(self).__name__} has the density of its own draws only: call draw(noise).")


def check_density(kind: type[Distribution]) -> None:
    """Raises a TypeError if a class of the user's own lacks what a prior needs."""
    require_method(kind, Distribution, ("log_prob",), "(z), of which the KL is made")
    require_method(kind, Distribution, ("from_noise", "draw"), "(noise), with which z is drawn")


class Factorised(Distribution):
    """A distribution whose dimensions are independent: `log_prob` takes `per_dimension=True`.

    Free bits, the total correlation and the activity of each unit have a meaning for these only.
    """


class Flattened(Distribution):
    """Another distribution, of tensors, that is given one leading axis whatever there are: a Keras network takes one.

    Args:
        distribution: A distribution of the user's own.
    """

    def __init__(self, distribution: Distribution):
        self.distribution = distribution
        self.event_shape = tuple(distribution.event_shape)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return tuple(self.distribution.noise_shape)

    def draw(self, noise: Any) -> tuple[Any, Any]:
        leading, rows = _rows(noise, self.noise_shape)
        z, log_prob = self.distribution.draw(rows)
        return ops.reshape(z, (*leading, *self.event_shape)), ops.reshape(log_prob, leading)

    def log_prob(self, z: Any) -> Any:
        leading, rows = _rows(z, self.event_shape)
        return ops.reshape(self.distribution.log_prob(rows), leading)


def _rows(tensor, shape):
    """The leading axes of a tensor of things of a shape, and the tensor with one leading axis in their place."""
    return ops.shape(tensor)[: -len(shape)], ops.reshape(tensor, (-1, *shape))


def sum_event(xp: Any, values: Any, event_ndim: int) -> Any:
    """The sum over the last `event_ndim` axes."""
    return xp.sum(values, axis=tuple(range(-event_ndim, 0)))


def flatten_event(array: Any, event_ndim: int) -> Any:
    """`(..., *event_shape)` as `(..., latent_dim)`; sizes that only running tells are read then."""
    if event_ndim == 1:
        return array
    xp = namespace(array)
    shape = array.shape if xp is np else ops.shape(array)
    known = array.shape[-event_ndim:]
    return xp.reshape(array, (*shape[:-event_ndim], -1 if None in known else math.prod(known)))


def namespace(*arrays: Any) -> Any:
    """NumPy if all arrays are NumPy, else `keras.ops`: the functions used here have the same names in both."""
    return np if all(isinstance(array, np.ndarray | np.generic | float) for array in arrays) else ops


def convert(xp: Any, value: Any) -> Any:
    """`value` as an array of the namespace `xp`."""
    return value if xp is np else ops.convert_to_tensor(value)


def as_float32(value: Any) -> Any:
    return np.asarray(value, "float32") if isinstance(value, np.ndarray) else ops.cast(value, "float32")


def standard_normal(shape: tuple[Any, ...], seed: Any, like: Any) -> Any:
    """Draws from N(0, I): NumPy's if `like` is a NumPy array, else the backend's."""
    if isinstance(like, np.ndarray):
        return np.random.default_rng(seed).standard_normal(shape, dtype="float32")
    return keras.random.normal(shape, dtype="float32", seed=seed)
