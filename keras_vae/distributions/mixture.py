"""Mixtures of diagonal normals: priors whose KL has no closed form."""

import math
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_vae.distributions.base import Distribution, as_float32, convert, flatten_event, namespace, standard_normal
from keras_vae.distributions.normal import LOG_2_PI, DiagonalNormal


@keras.saving.register_keras_serializable(package="keras_vae")
class Mixture(Distribution):
    """sum_k w_k N(mean_k, diag(exp(log_var_k))): a mixture of normals with independent dimensions.

    Args:
        components: A `DiagonalNormal` whose mean has shape `(components, *event_shape)`.
        logits: `(components,)`: the logarithms of the weights, up to a constant; None weighs all the same.

    Example:

    >>> two = Mixture(DiagonalNormal(np.array([[-2.0], [2.0]]), np.zeros((2, 1))))
    >>> two.sample(100, seed=0).shape
    (100, 1)
    """

    def __init__(self, components: DiagonalNormal, logits: Any = None):
        shape = tuple(np.shape(components.mean))
        if len(shape) != 1 + components.event_ndim or shape[0] == 0:
            raise ValueError(f"The components' mean must have shape (components, *event_shape); got {shape}.")
        logits = np.zeros(shape[0], "float32") if logits is None else logits
        logits = np.asarray(logits, "float32") if isinstance(logits, list | tuple) else logits
        if tuple(np.shape(logits)) != shape[:1]:
            raise ValueError(f"logits must have shape {shape[:1]}, one per component; got {tuple(np.shape(logits))}.")
        if isinstance(logits, np.ndarray) and not np.isfinite(logits).all():
            raise ValueError("logits must be finite: leave out a component that has no weight.")
        self.components = components
        self.logits = logits

    @property
    def event_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.components.event_shape

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Number of standard-normal variates of a draw, `(latent_dim + 1,)`; the first selects the component."""
        return (math.prod(self.event_shape) + 1,)

    def from_noise(self, noise: Any) -> Any:
        """Draws of z as a function of noise: differentiable in the components' parameters, not in their weights.

        Args:
            noise: `(..., latent_dim + 1)` draws from N(0, 1).

        Returns:
            `(..., *event_shape)` draws from the mixture.
        """
        xp = namespace(self.components.mean, self.logits, noise)
        index = self._selected(xp, noise)
        parts = (self.components.mean, self.components.log_var)
        mean, log_var = (xp.take(convert(xp, part), index, axis=0) for part in parts)
        epsilon = noise[..., 1:]
        if self.components.event_ndim > 1:
            epsilon = xp.reshape(epsilon, xp.shape(mean))
        return mean + xp.exp(0.5 * log_var) * epsilon

    def sample(self, num_samples: int | None = None, seed: Any = None) -> Any:
        """Draws `event_shape`, or `(num_samples, *event_shape)`; as `DiagonalNormal.sample`."""
        leading = () if num_samples is None else (num_samples,)
        return self.from_noise(standard_normal((*leading, *self.noise_shape), seed, self.components.mean))

    def log_prob(self, z: Any, per_dimension: bool = False) -> Any:
        """The log density in nats, `(..., *event_shape)` to `(...)`.

        With `per_dimension` it is that of each dimension's marginal; their sum is not the log density.
        """
        xp = namespace(self.components.mean, self.logits, z)
        ndim = self.components.event_ndim
        if not per_dimension and ops.is_tensor(self.components.mean):
            components, flat = self.components.flat(), flatten_event(ops.convert_to_tensor(z), ndim)
            leading = ops.shape(flat)[:-1]
            # The digits are those of the distances, wherever the components lie. Differences also because the gradient
            # is one of tensors, and on TensorFlow a weight would be a variable.
            centre = ops.stop_gradient(ops.mean(components.mean, axis=0))
            rows, mean = ops.reshape(flat - centre, (-1, flat.shape[-1])), components.mean - centre
            found: Any = _log_mixture(rows, mean, ops.negative(components.log_var), self._log_weights(xp))
            return ops.reshape(found, leading)
        log_prob = self.components.log_prob(xp.expand_dims(z, -1 - ndim), per_dimension)
        log_weights = self._log_weights(xp)
        if per_dimension:  # (..., components, *event_shape)
            return log_sum_exp(xp, log_prob + xp.reshape(log_weights, (-1, *[1] * ndim)), axis=-1 - ndim)
        return log_sum_exp(xp, log_prob + log_weights, axis=-1)

    def grad_log_prob(self, z: Any) -> Any:
        """The gradient of `log_prob` with respect to z, of the shape of z."""
        xp = namespace(self.components.mean, self.logits, z)
        components, shape = self.components.flat(), xp.shape(z)
        z = flatten_event(z, self.components.event_ndim)
        log_prob = components.log_prob(z[..., None, :]) + self._log_weights(xp)
        share = xp.exp(log_prob - xp.expand_dims(log_sum_exp(xp, log_prob, axis=-1), -1))  # p(component|z)
        precision = xp.exp(xp.negative(components.log_var))
        pull = xp.matmul(share, xp.multiply(components.mean, precision))
        return xp.reshape(pull - xp.multiply(z, xp.matmul(share, precision)), shape)

    def moment_matched(self) -> DiagonalNormal:
        """The `DiagonalNormal` with the same means and variances."""
        xp = namespace(self.components.mean, self.logits)
        weights = xp.reshape(xp.exp(self._log_weights(xp)), (-1, *[1] * self.components.event_ndim))
        mean = xp.sum(xp.multiply(weights, self.components.mean), axis=0)
        variance = xp.exp(self.components.log_var) + xp.square(xp.subtract(self.components.mean, mean))
        log_var = xp.log(xp.sum(xp.multiply(weights, variance), axis=0))
        return DiagonalNormal(mean, log_var, self.components.event_ndim)

    def to_numpy(self) -> "Mixture":
        """The same distribution, of NumPy arrays."""
        return Mixture(self.components.to_numpy(), ops.convert_to_numpy(self.logits))

    def as_float32(self) -> "Mixture":
        """The same distribution, in float32."""
        return Mixture(self.components.as_float32(), as_float32(self.logits))

    def _selected(self, xp, noise):
        """The index of the component that the first of the noise selects."""
        uniform = 0.5 * (1.0 + _erf(xp, noise[..., :1] * math.sqrt(0.5)))
        # The last component takes what is left, whatever the rounding of the sum.
        below = convert(xp, self._cumulative_weights())
        return xp.sum(xp.cast(uniform > below, "int32") if xp is ops else uniform > below, axis=-1)

    def _log_weights(self, xp):
        logits = convert(xp, self.logits)
        return logits - log_sum_exp(xp, logits, axis=0)

    def _cumulative_weights(self):
        # In NumPy if the weights are: at a tie, such as noise of 0 and equal weights, rounding must not decide.
        xp = namespace(self.logits)
        return xp.cumsum(xp.exp(self._log_weights(xp)))[:-1]

    def get_config(self) -> dict[str, Any]:
        return {"components": self.components.get_config(), "logits": ops.convert_to_numpy(self.logits).tolist()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(DiagonalNormal.from_config(config["components"]), np.asarray(config["logits"], "float32"))


@ops.custom_gradient
def _log_mixture(z, mean, log_precision, log_weights):
    """The log density of a mixture that learns: z `(n, d)`, components `(k, d)`, normalised log weights `(k,)`.

    Automatic differentiation goes through several arrays of `(n, k, d)`, this gradient through products of matrices and
    one sum. Value and gradient of 500 components, 100 z and 40 dimensions, on one core: 5.8 ms for 53 on JAX, 18 for 61
    on PyTorch, 7.3 for 9.8 on TensorFlow. The variance's part is summed over squares of differences, as it was: a
    difference of products has no digits left where components are narrow.
    """
    precision = ops.exp(log_precision)
    squares = ops.sum(ops.square(z[:, None] - mean) * precision, axis=-1)
    log_norm = ops.sum(log_precision, axis=-1) - z.shape[-1] * LOG_2_PI
    log_joint = log_weights + 0.5 * (log_norm - squares)
    log_prob = ops.logsumexp(log_joint, axis=-1)

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        share = ops.exp(log_joint - log_prob[:, None]) * upstream[:, None]  # p(component|z) times upstream
        total = ops.sum(share, axis=0)
        of_z = ops.matmul(share, mean * precision) - z * ops.matmul(share, precision)
        of_mean = precision * (ops.matmul(ops.transpose(share), z) - mean * total[:, None])
        spread = ops.sum(share[..., None] * ops.square(z[:, None] - mean), axis=0)
        return of_z, of_mean, 0.5 * (total[:, None] - precision * spread), total

    return log_prob, gradient


def log_sum_exp(xp, values, axis):
    if xp is ops:
        return ops.logsumexp(values, axis=axis)
    largest = values.max(axis=axis, keepdims=True)
    return np.squeeze(largest, axis) + np.log(np.exp(values - largest).sum(axis=axis))


def _erf(xp, values):
    """NumPy has no error function."""
    return ops.erf(values) if xp is ops else np.vectorize(math.erf, otypes=["float32"])(values)
