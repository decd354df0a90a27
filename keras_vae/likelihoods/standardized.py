"""Data in their own units under a likelihood of the standardised data.

A network trains well on numbers near 1, and a Gaussian that starts at scale 1 fits such numbers; a table has columns of
thousands beside columns of thousandths. Here the likelihood does the arithmetic of units, so that data go in and come
out as they are, and every number of nats is one of the data's own units.
"""

import warnings
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_vae import _containers, validation
from keras_vae.likelihoods.base import Likelihood, check_finite
from keras_vae.likelihoods.location_scale import LocationScale
from keras_vae.likelihoods.mixed import Mixed
from keras_vae.likelihoods.registry import get


@keras.saving.register_keras_serializable(package="keras_vae")
class Standardized(Likelihood):
    """The density of x whose standardised values (x - mean) / stddev have the density of another likelihood.

        log p(x|z) = log p_likelihood((x - mean) / stddev | z) - sum_i log stddev_i

    in nats of the original units; `mean`, `stddev`, draws and `current_scale` are in these units too. The scale of the
    likelihood inside is that of the standardised data. `networks.mlp` and `conv` standardise the encoder's input, in
    which the mean stands for a missing value.

    Args:
        likelihood: Density over the real numbers, such as `Gaussian("learned")`, or a `Mixed` of such; or its name.
        mean: Mean of the data: a number, or one for each channel of the last axis.
        stddev: Standard deviation of the data, above 0: a number, or one for each channel of the last axis.

    Raises:
        ValueError: If the likelihood is not one of real numbers, or the numbers do not fit together.

    Example:

    >>> likelihood = Standardized.fit(Gaussian("learned"), x)
    >>> vae = VAE(*networks.mlp(x.shape[1:], 8, likelihood=likelihood), likelihood=likelihood)
    """

    def __init__(self, likelihood: str | Likelihood | dict[str, Any], mean: Any = 0.0, stddev: Any = 1.0) -> None:
        super().__init__()
        self.likelihood: Likelihood = get(likelihood)
        if not is_real(self.likelihood):
            raise ValueError(
                "Standardized needs a likelihood of real numbers, such as Gaussian or Laplace, but "
                f"{self.likelihood!r} is one of other data. In a table standardise the real columns alone: "
                'Mixed([(Standardized(Gaussian("learned"), mean, stddev), 3), ("categorical", 4)]).'
            )
        self._mean, self._stddev = _numbers("mean", mean), _numbers("stddev", stddev)
        sizes = {len(numbers) for numbers in (self._mean, self._stddev) if numbers.ndim}
        if len(sizes) > 1:
            raise ValueError(
                f"mean and stddev must be for as many channels; got {len(self._mean)}, {len(self._stddev)}."
            )
        if not np.all(self._stddev > 0.0):
            raise ValueError(
                f"stddev must be above 0; got {np.min(self._stddev):g}. For a constant column it is 1, as "
                "Standardized.fit has it."
            )
        self.has_stddev = self.likelihood.has_stddev
        self.num_parameters = self.likelihood.num_parameters
        self._channels: int | None = sizes.pop() if sizes else None

    @classmethod
    def fit(cls, likelihood: str | Likelihood, x: Any) -> Self:
        """Standardised by the mean and the standard deviation of each channel of the last axis.

        Args:
            likelihood: Likelihood of the standardised data.
            x: `(n, ..., channels)` data in memory, such as an array or a DataFrame; NaN is a missing value, and is left
                out. A channel that is constant, or missing everywhere, gets stddev 1.
        """
        x = _containers.in_memory(x)
        check_finite(x, missing=True)
        axes, observed = tuple(range(x.ndim - 1)), ~np.isnan(x)
        if x.ndim < 2:
            raise ValueError(f"x must have an axis of examples and one of channels; got shape {x.shape}.")
        count = np.maximum(observed.sum(axis=axes), 1)
        mean = np.sum(x, axis=axes, dtype="float64", where=observed) / count
        variance = np.sum(np.square(x - mean, where=observed, out=np.zeros(x.shape)), axis=axes) / count
        # The values of a constant column lie off their mean by its rounding.
        is_constant = np.sqrt(variance) <= 1e-12 * np.abs(mean)
        if np.any(np.sqrt(variance[~is_constant]) < 1e-5 * np.abs(mean[~is_constant])):
            warnings.warn(
                "A column varies by less than a hundred thousandth of its mean, which is more than float32 can tell "
                "apart: subtract its mean, x - x.mean(axis=0), in float64 first.",
                stacklevel=2,
            )
        return cls(likelihood, mean, np.where(is_constant, 1.0, np.sqrt(variance)))

    def parameter_channels(self, channels: int) -> int:
        self._check_channels(channels)
        return self.likelihood.parameter_channels(channels)

    def data_channels(self, parameter_channels: int) -> int:
        return self.likelihood.data_channels(parameter_channels)

    def bind(self, channels: int | None, is_table: bool = False) -> None:
        self.likelihood.bind(channels, is_table)

    def update(self, x: Any, parameters: Any, observed: Any = None, weight: Any = None) -> Any:
        return self.likelihood.update(self._standardized(x), parameters, observed, weight)

    def log_prob_per_dimension(self, x: Any, parameters: Any) -> Any:
        return self.fitted_log_prob_per_dimension(x, parameters, None)

    def fitted_log_prob_per_dimension(self, x: Any, parameters: Any, fitted: Any) -> Any:
        terms = self.likelihood.fitted_log_prob_per_dimension(self._standardized(x), parameters, fitted)
        return ops.subtract(terms, np.log(self._stddev))

    def for_encoder(self, x: Any) -> Any:
        self._check_channels(x.shape[-1])
        return self.likelihood.for_encoder(ops.divide(ops.subtract(x, self._mean), self._stddev))

    def fill_missing(self, x: Any) -> Any:
        return ops.where(ops.isnan(x), ops.cast(self._mean, x.dtype), x)

    def mean(self, parameters: Any) -> Any:
        return ops.add(ops.multiply(self.likelihood.mean(parameters), self._stddev), self._mean)

    def stddev(self, parameters: Any) -> Any:
        return ops.multiply(self.likelihood.stddev(parameters), self._stddev)

    def sample(self, parameters: Any, seed: int | np.random.Generator | None = None) -> np.ndarray:
        return self.likelihood.sample(parameters, seed) * self._stddev + self._mean

    def _drawn_as(self):
        found = self.likelihood.drawn_as()
        if found is None or self._is_drawn_in_own_units:
            return found
        return {"name": "standardized", "of": found, "mean": self._mean.tolist(), "stddev": self._stddev.tolist()}

    def draw_parameters(self, parameters: Any) -> Any:
        """Mean and standard deviation in the units of the data; of a `Mixed` what its groups have, standardised."""
        of = super() if self._is_drawn_in_own_units else self.likelihood
        return of.draw_parameters(parameters)

    @property
    def current_scale(self) -> Any:
        """The scale in use, in the units of the data: a float, or a NumPy array with one for each channel.

        Raises:
            AttributeError: If the likelihood has no scale, as a `Mixed` has none: its parts have.
        """
        if not isinstance(self.likelihood, LocationScale):
            raise AttributeError(f"{self.likelihood!r} has no scale of its own: its parts have.")
        scale = self.likelihood.current_scale * self._stddev
        return scale if np.ndim(scale) else float(scale)

    @property
    def _is_drawn_in_own_units(self):
        return isinstance(self.likelihood, LocationScale)

    def parameters_at_mean(self, mean: np.ndarray) -> np.ndarray:
        return self.likelihood.parameters_at_mean((mean - self._mean) / self._stddev)

    def ranges(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        self._check_channels(channels)
        return self.likelihood.ranges(channels)

    def validate(self, x: np.ndarray, name: str = "x", missing: bool = False) -> None:
        self._check_channels(x.shape[-1])
        self.likelihood.validate(x, name, missing)

    def validate_activation(self, activation: str | None) -> None:
        self.likelihood.validate_activation(activation)

    def caveat(self, x: np.ndarray) -> str | None:
        return self.likelihood.caveat((x - self._mean) / self._stddev)

    def get_config(self) -> dict[str, Any]:
        numbers = {"mean": self._mean.tolist(), "stddev": self._stddev.tolist()}
        return {"likelihood": keras.saving.serialize_keras_object(self.likelihood), **numbers}

    def __repr__(self) -> str:
        mean, stddev = (np.array2string(numbers, threshold=8) for numbers in (self._mean, self._stddev))
        return f"Standardized({self.likelihood!r}, mean={mean}, stddev={stddev})"

    def _check_channels(self, channels):
        if self._channels not in (None, channels):
            raise ValueError(
                f"Standardized has mean and stddev for {self._channels} channels, but the last axis of the data has "
                f"{channels}."
            )

    def _standardized(self, x):
        return ops.divide(ops.subtract(ops.cast(x, "float32"), self._mean), self._stddev)


def is_real(likelihood):
    """Whether every channel may be any real number."""
    if isinstance(likelihood, Mixed):
        return all(is_real(part) for part in likelihood.parts)
    return not likelihood.is_discrete and likelihood.data_range is None


def _numbers(name, value):
    """A float32 array, of no axis or of one, from a number, an array or a list of numbers."""
    numbers = np.asarray(validation.to_numpy(value), "float32")
    if numbers.ndim > 1 or numbers.size == 0 or not np.isfinite(numbers).all():
        raise ValueError(
            f"{name} must be a finite number, or one for each channel of the last axis; got "
            f"{np.array2string(numbers, threshold=8)} of shape {numbers.shape}."
        )
    return numbers
