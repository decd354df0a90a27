"""The normal distribution with independent dimensions: q(z|x), and the usual prior p(z).

One class serves as posterior and prior, because the KL divergence between two diagonal normals is closed form and the
standard normal prior is the case mean = 0, log_var = 0.
"""

import math
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_vae.distributions.base import (
    Factorised,
    as_float32,
    convert,
    flatten_event,
    namespace,
    standard_normal,
    sum_event,
)

LOG_2_PI = math.log(2.0 * math.pi)


@keras.saving.register_keras_serializable(package="keras_vae")
class DiagonalNormal(Factorised):
    """N(mean, diag(exp(log_var))): a normal distribution with independent dimensions.

    Args:
        mean: `(..., *event_shape)` array or tensor. A size of 1 in the event stands for any: it broadcasts with z.
        log_var: The logarithm of the variance, of the same shape.
        event_ndim: Number of axes of one z: 1 for a vector, 3 for a map of features.

    Example:

    >>> prior = DiagonalNormal.standard(2)
    >>> posterior = DiagonalNormal(np.array([[1.0, 0.0]]), np.zeros((1, 2)))
    >>> posterior.kl_divergence(prior)
    array([0.5])
    """

    def __init__(self, mean: Any, log_var: Any, event_ndim: int = 1):
        if isinstance(mean, list | tuple):
            mean, log_var = np.asarray(mean, "float32"), np.asarray(log_var, "float32")
        if tuple(np.shape(mean)) != tuple(np.shape(log_var)):
            raise ValueError(
                f"mean and log_var must have the same shape; got {tuple(np.shape(mean))} and "
                f"{tuple(np.shape(log_var))}."
            )
        self.mean = mean
        self.log_var = log_var
        self.event_ndim = event_ndim

    @property
    def event_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(self.mean.shape[-self.event_ndim :])

    @property
    def location(self) -> Any:
        return self.mean

    @classmethod
    def standard(cls, *shape: int | None) -> "DiagonalNormal":
        """N(0, I) over z of this shape, the usual prior; None is a free size."""
        zeros = np.zeros([size or 1 for size in shape], "float32")
        return cls(zeros, zeros, len(shape))

    def reparameterize(self, epsilon: Any) -> Any:
        """z = mean + exp(log_var / 2) * epsilon, differentiable in mean and log_var.

        Args:
            epsilon: Draws from N(0, I), of a shape that broadcasts with the mean, such as
                `(num_samples, batch, latent_dim)`.

        Returns:
            Draws from this distribution, of epsilon's shape.

        Reference: Kingma & Welling 2014, arXiv:1312.6114, section 2.4.
        """
        # `+`, not ops.add, which on TensorFlow takes the operand of lower rank for a bias.
        xp = namespace(self.mean, epsilon)
        scale = xp.exp(xp.multiply(self.log_var, 0.5))
        return convert(xp, self.mean) + xp.multiply(scale, epsilon)

    def sample(self, num_samples: int | None = None, seed: Any = None) -> Any:
        """Draws from the distribution.

        Args:
            num_samples: Length of a leading axis of the result; None: the result has no such axis.
            seed: An integer, or None for fresh randomness; where the distribution holds backend tensors, also a
                `keras.random.SeedGenerator`, which is what code under jit must use.

        Returns:
            `(..., latent_dim)` or `(num_samples, ..., latent_dim)`; a NumPy array if the distribution holds those.
        """
        leading = () if num_samples is None else (num_samples,)
        shape = leading + tuple(np.shape(self.mean) if isinstance(self.mean, np.ndarray) else ops.shape(self.mean))
        return self.reparameterize(standard_normal(shape, seed, self.mean))

    def from_noise(self, noise: Any) -> Any:
        """`reparameterize`, under the name that every distribution has."""
        return self.reparameterize(noise)

    def log_prob(self, z: Any, per_dimension: bool = False) -> Any:
        """log N(z; mean, diag(exp(log_var))) in nats, summed over the event: `(..., *event_shape)` to `(...)`.

        With `per_dimension` the axes of the event are kept instead.
        """
        xp = namespace(self.mean, z)
        squared_error = xp.square(xp.subtract(z, self.mean))
        precision = xp.exp(xp.negative(self.log_var))
        log_density = -0.5 * (xp.multiply(squared_error, precision) + convert(xp, self.log_var) + LOG_2_PI)
        return log_density if per_dimension else sum_event(xp, log_density, self.event_ndim)

    def grad_log_prob(self, z: Any) -> Any:
        """The gradient of `log_prob` with respect to z, of the shape of z."""
        xp = namespace(self.mean, z)
        return xp.multiply(xp.subtract(self.mean, z), xp.exp(xp.negative(self.log_var)))

    def without_gradient(self) -> "DiagonalNormal":
        """The same distribution of tensors, with parameters that pass no gradient on."""
        return self._map(ops.stop_gradient)

    def moment_matched(self) -> "DiagonalNormal":
        """The `DiagonalNormal` with the same means and variances: itself."""
        return self

    def as_float32(self) -> "DiagonalNormal":
        """The same distribution, in float32."""
        return self._map(as_float32)

    def to_numpy(self) -> "DiagonalNormal":
        """The same distribution, of NumPy arrays."""
        return self._map(ops.convert_to_numpy)

    def flat(self) -> "DiagonalNormal":
        """The same distribution of vectors: `(..., *event_shape)` becomes `(..., latent_dim)`."""
        return self._map(lambda part: flatten_event(part, self.event_ndim), 1)

    def _map(self, function, event_ndim=None):
        return DiagonalNormal(function(self.mean), function(self.log_var), event_ndim or self.event_ndim)

    def kl_divergence(self, other: "DiagonalNormal", per_dimension: bool = False) -> Any:
        """KL(self || other) in nats, in closed form.

        With d = log_var - other.log_var it is, per dimension,

            0.5 * ((mean - other.mean)**2 * exp(-other.log_var) + expm1(d) - d),

        the textbook's 0.5 * (mean**2 + var - 1 - log_var) when `other` is N(0, I). `expm1` because the textbook form
        subtracts 1 from a variance that is nearly 1: for a nearly collapsed unit, say log_var = 1e-4, float32
        returns 0 where the KL is 2.5e-9, and the gradient goes the same way.

        Args:
            other: A `DiagonalNormal` over the same dimensions.
            per_dimension: Whether to keep the axes of the event instead of summing over them.

        Returns:
            `(...)`, or `(..., *event_shape)` with `per_dimension`.

        Raises:
            TypeError: If `other` is another distribution; `distributions.kl_divergence` takes any.

        Reference: Kingma & Welling 2014, arXiv:1312.6114, appendix B.
        """
        if not isinstance(other, DiagonalNormal):
            raise TypeError(
                f"The KL divergence of a normal to a {type(other).__name__} has no closed form; "
                "distributions.kl_divergence(posterior, prior, z) estimates it from samples."
            )
        xp = namespace(self.mean, other.mean)
        squared_distance = xp.square(xp.subtract(self.mean, other.mean))
        precision = xp.exp(xp.negative(other.log_var))
        difference = xp.subtract(self.log_var, other.log_var)
        kl = 0.5 * (xp.multiply(squared_distance, precision) + xp.expm1(difference) - difference)
        return kl if per_dimension else sum_event(xp, kl, self.event_ndim)

    def get_config(self) -> dict[str, Any]:
        parts = {name: ops.convert_to_numpy(getattr(self, name)).tolist() for name in ("mean", "log_var")}
        return parts if self.event_ndim == 1 else {**parts, "event_ndim": self.event_ndim}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(
            np.asarray(config["mean"], "float32"),
            np.asarray(config["log_var"], "float32"),
            config.get("event_ndim", 1),
        )


class ConditionalNormal(DiagonalNormal):
    """p(z|c): a `DiagonalNormal` for each example of a batch, which depends on its condition."""
