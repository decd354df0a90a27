"""Discrete z: each element takes one of a few values, evenly spaced from -1 to 1. Probabilities, and no densities."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import validation
from keras_vae.distributions.base import Distribution, namespace, standard_normal, sum_event
from keras_vae.distributions.kl import register_kl
from keras_vae.distributions.mixture import _erf
from keras_vae.distributions.normal import DiagonalNormal


class PointMass(Distribution):
    """All probability at one z: it draws nothing.

    Args:
        z: `(..., *event_shape)` tensor.
        event_ndim: Number of axes of one z.
    """

    is_discrete = True
    noise_shape = ()  # pyright: ignore[reportAssignmentType,reportIncompatibleMethodOverride]

    def __init__(self, z: Any, event_ndim: int = 1):
        self.z, self.event_ndim = z, event_ndim

    @property
    def event_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(self.z.shape[-self.event_ndim :])

    @property
    def location(self) -> Any:
        return self.z

    def draw(self, noise: Any) -> tuple[Any, Any]:
        """z for each element of the noise, which only says how many, and the logarithm of its probability, 0."""
        extra = len(noise.shape) - len(self.z.shape) + self.event_ndim
        copies = (*ops.shape(noise)[:extra], *[1] * len(self.z.shape))
        return ops.tile(ops.expand_dims(self.z, tuple(range(extra))), copies), ops.zeros_like(noise)


@keras.saving.register_keras_serializable(package="keras_vae")
class UniformCodes(Distribution):
    """All codes with the same probability: the prior of `posteriors.FSQ`.

    Element i of the last axis of z is one of the `levels[i]` values -1, -1 + 2 / (levels[i] - 1), ..., 1, so that each
    place of z is one of prod(levels) codes, numbered from 0. Tensors and NumPy arrays.

    Args:
        levels: Number of values of each element of the last axis, two or more.
        places: Shape of z without its last axis; a size of 1 stands for any.

    Raises:
        ValueError: If there are no levels, one is below 2, or they make more codes than an int32 can number.

    Example:

    >>> UniformCodes((8, 5, 5, 5)).sample(3, seed=0).shape
    (3, 4)
    """

    is_discrete = True

    def __init__(self, levels: Sequence[int], places: Sequence[int] = ()):
        self.levels = tuple(validation.whole_number("Each of levels", level, least=2) for level in levels)
        if not self.levels or math.prod(self.levels) > 2**31 - 1:
            raise ValueError(
                f"levels must be the numbers of values of each channel, such as (8, 5, 5, 5), whose product is below "
                f"2**31; got {self.levels}."
            )
        self.event_shape = (*places, len(self.levels))

    @property
    def size(self) -> int:
        """Number of codes that a place may have."""
        return math.prod(self.levels)

    def log_prob(self, z: Any) -> Any:
        """The logarithm of the probability of z, in nats: `(..., *event_shape)` to `(...)`, for z that are codes."""
        xp = namespace(z)
        log_prob = xp.subtract(xp.zeros_like(z), np.log(self.levels).astype("float32"))
        return sum_event(xp, log_prob, len(self.event_shape))

    def from_noise(self, noise: Any) -> Any:
        """z of which each element is chosen by one N(0, 1) variate."""
        xp, levels = namespace(noise), np.asarray(self.levels, "float32")
        digits = xp.floor(xp.multiply(0.5 * (1.0 + _erf(xp, noise * math.sqrt(0.5))), levels))
        return self.values(xp.minimum(digits, levels - 1.0))

    def sample(self, num_samples: int | None = None, seed: Any = None) -> np.ndarray:
        """Draws `event_shape`, or `(num_samples, *event_shape)`; as `DiagonalNormal.sample`."""
        leading = () if num_samples is None else (num_samples,)
        return self.from_noise(standard_normal((*leading, *self.event_shape), seed, np.zeros(0)))

    def values(self, digits: Any) -> Any:
        """z of the number of each element's value, float32 from 0 to its level - 1."""
        return namespace(digits).multiply(digits, 2.0 / (np.asarray(self.levels, "float32") - 1.0)) - 1.0

    def codes(self, z: Any) -> Any:
        """The numbers of the codes, int32 from 0 to prod(levels) - 1: `(..., *event_shape)` to `(..., *places)`.

        The first element counts ones, the second steps of `levels[0]`, and so on.

        Raises:
            ValueError: If z is a NumPy array or a list, and has another last axis or values beyond -1 to 1.
        """
        z = np.asarray(z, "float32") if isinstance(z, list | tuple) else z
        xp = namespace(z)
        if xp is np and z.shape[-1:] != self.event_shape[-1:]:
            raise ValueError(
                f"z must have a last axis of {len(self.levels)}, one for each of its levels; got {z.shape}."
            )
        digits = xp.round(xp.multiply(z + 1.0, 0.5 * (np.asarray(self.levels, "float32") - 1.0)))
        if xp is np:
            _refuse("z must have values from -1 to 1", z, (digits < 0) | (digits >= self.levels) | np.isnan(digits))
        return _cast(xp, xp.sum(xp.multiply(_cast(xp, digits, "int32"), self._strides()), axis=-1), "int32")

    def from_codes(self, codes: Any) -> Any:
        """z of the numbers of codes; the inverse of `codes`.

        Raises:
            ValueError: If the codes are a NumPy array or a list, and one is no whole number from 0 to prod(levels) - 1.
        """
        codes = np.asarray(codes) if isinstance(codes, list | tuple | int) else codes
        xp = namespace(codes)
        if xp is np:
            wrong = (codes != np.floor(codes)) | (codes < 0) | (codes >= self.size)
            _refuse(f"codes must be whole numbers from 0 to {self.size - 1}", codes, wrong)
            codes = codes.astype("int32")
        steps = xp.floor_divide(codes[..., None], self._strides())
        digits = xp.mod(steps, np.asarray(self.levels, "int32"))
        return self.values(_cast(xp, digits, "float32"))

    def moment_matched(self) -> DiagonalNormal:
        """The `DiagonalNormal` with the same means and variances."""
        levels = np.asarray(self.levels, "float32")
        log_var = np.broadcast_to(np.log((levels + 1.0) / (levels - 1.0) / 3.0), self.event_shape)
        return DiagonalNormal(np.zeros_like(log_var), log_var, len(self.event_shape))

    def as_float32(self) -> "UniformCodes":
        return self

    def to_numpy(self) -> "UniformCodes":
        return self

    def _strides(self):
        return np.cumprod((1, *self.levels[:-1])).astype("int32")

    def get_config(self) -> dict[str, Any]:
        return {"levels": list(self.levels), "places": list(self.event_shape[:-1])}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "UniformCodes":
        return cls(**config)


def _refuse(what, values, wrong):
    if wrong.any():
        at = validation.first_index(wrong)
        raise ValueError(f"{what}; got {values[at]}, first at {at}.")


def _cast(xp, values, dtype):
    return values.astype(dtype) if xp is np else ops.cast(values, dtype)


@register_kl(PointMass, UniformCodes)
def _kl(q: PointMass, p: UniformCodes, per_dimension: bool = False) -> Any:
    """The sum of log(levels) over all elements, whatever the code."""
    log_levels = ops.add(ops.zeros_like(q.z), np.log(p.levels).astype("float32"))
    return log_levels if per_dimension else sum_event(ops, log_levels, q.event_ndim)
