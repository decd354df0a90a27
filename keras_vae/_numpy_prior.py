"""p(z) with NumPy arrays going in and coming out, for a prior whose distribution knows tensors only.

`DiagonalNormal` and `Mixture` compute with NumPy themselves. Of a prior of the user's own the model knows `log_prob`
and `from_noise` of tensors, so they are compiled, batched and given arrays as every verb is.
"""

from typing import Any

import numpy as np
from keras import ops

from keras_vae import validation
from keras_vae.distributions import DiagonalNormal, Distribution
from keras_vae.distributions.base import standard_normal

_ROWS = 4096  # of z at a time
_DRAWS = 4096  # of which the moments are taken


class NumpyPrior(Distribution):
    """The prior of a model as it is at each call. Not a Keras object: it is not tracked.

    Args:
        model: Built `VAE`; it holds the one `NumpyPrior` that it has, so that each function is compiled once.
    """

    def __init__(self, model: Any):
        self._model = model

    @property
    def event_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(self._model.prior_distribution().event_shape)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return tuple(self._model.prior_distribution().noise_shape)

    def from_noise(self, noise: Any) -> np.ndarray:
        return self._run(self._draw, noise, len(self.noise_shape))

    def sample(self, num_samples: int | None = None, seed: Any = None) -> np.ndarray:
        """Draws `event_shape`, or `(num_samples, *event_shape)`; as `DiagonalNormal.sample`."""
        shape = (1 if num_samples is None else num_samples, *self.noise_shape)
        z = self.from_noise(standard_normal(shape, seed, np.zeros(0)))
        return z[0] if num_samples is None else z

    def log_prob(self, z: Any) -> np.ndarray:
        return self._run(self._log_prob, z, len(self.event_shape))

    def log_prob_and_gradient(self, z: Any) -> tuple[np.ndarray, np.ndarray]:
        """`log_prob` and its gradient with respect to z, of the shape of z."""
        z = np.asarray(z, "float32")
        both = self._model._batched.value_and_grad(self._log_prob)(ops.convert_to_tensor(z))
        value, gradient = (validation.to_numpy(part) for part in both)
        return value, gradient

    def grad_log_prob(self, z: Any) -> np.ndarray:
        """The gradient of `log_prob` with respect to z, of the shape of z."""
        return self.log_prob_and_gradient(z)[1]

    def moment_matched(self) -> DiagonalNormal:
        """The `DiagonalNormal` with the means and variances of 4,096 draws, the same at each call."""
        z = self.sample(_DRAWS, seed=0).astype("float64")
        log_var = np.log(z.var(axis=0) + 1e-30).astype("float32")
        return DiagonalNormal(z.mean(axis=0).astype("float32"), log_var, z.ndim - 1)

    def _draw(self, noise):
        return self._model.prior_distribution().draw(noise)[0]

    def _log_prob(self, z):
        return self._model.prior_distribution().log_prob(z)

    def _run(self, function, array, ndim):
        """`function` of an array whose last `ndim` axes are one z, or the noise of one, in batches of these."""
        array = np.asarray(array, "float32")
        leading = array.shape[: array.ndim - ndim]
        rows = self._model._batched(function, array.reshape(-1, *array.shape[len(leading) :]), batch_size=_ROWS)
        return rows.reshape(*leading, *rows.shape[1:])
