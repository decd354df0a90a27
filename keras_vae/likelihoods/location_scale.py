"""Real values around a location, with a scale that is given, learned, measured or predicted.

All three likelihoods here have one location for each dimension, the decoder's output, and differ in the shape of what
lies around it. The question of every user of "MSE", which sigma, has four answers, and they are the same for each:

    a number      fixed: 1 / (2 scale**2) is then the weight of the squared error against the KL
    "learned"     one weight of the model, or one for each column, trained with the others
    "optimal"     the same, but set at each step to its best value for the batch, which is the error measured there
    "predicted"   by the decoder, one for each dimension and example, around one that is "learned"

A scale that is trained from 1 at 0.1 % a step, which is what Adam gives, is far from the data for thousands of steps.
So it starts at the error of the first training batch, and moves ten times as fast:

    log scale = log(error of the first batch) + 10 * weight + log(what the decoder predicts)
"""

import math
from numbers import Real
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_vae import validation
from keras_vae._numerics import beside, straight_through_clip
from keras_vae.likelihoods.base import Likelihood, _as_float32, refuse_activation

SCALES: tuple[str, ...] = ("learned", "optimal", "predicted")

# A density has no upper bound: a pixel that the decoder always gets right would pull its scale to 0 and the loss to
# minus infinity. exp(-6) is the bound of the sigma-VAE authors' code, half a grey level of pixels in [0, 1].
MIN_SCALE: float = math.exp(-6.0)

MAX_LOG_SCALE: float = 30.0  # a scale of 1e13, above which float32 loses what is divided by it

_GAIN = 10.0  # an optimizer of step 0.001 changes a learned scale by up to 1 % a step

MAX_USUAL: float = 20.0  # no column of standardised data has a tenth of its values above

_WINDOW = 100  # training batches that the value kept by "optimal" is averaged over


class LocationScale(Likelihood):
    """x = location + scale * noise, for a noise that a subclass defines.

    Args:
        scale: A positive number in the units of the data, "learned", "optimal" or "predicted".
        initial_scale: Initial value for "learned" and "predicted", which then moves at the pace of the optimizer; value
            used by "optimal" before training. A value far above the spread of the data can leave the posterior
            collapsed (Lucas et al. 2019). None: "learned" and "predicted" start at the error of the first training
            batch, and are `default_scale` before.
        min_scale: Lower bound in the units of the data, approached by a softplus ("optimal": clipped).
        per_column: Whether each channel of the last axis has a scale of its own that is learned or measured. None: in
            `Mixed`, whose columns are different quantities, but not else.
    """

    has_stddev: bool = True
    modes: tuple[str, ...] = SCALES

    def __init__(
        self,
        scale: float | str = 1.0,
        initial_scale: float | None = None,
        min_scale: float = MIN_SCALE,
        per_column: bool | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _positive(name, "min_scale", min_scale)
        if initial_scale is not None:
            _positive(name, "initial_scale", initial_scale)
        if isinstance(scale, str) and scale in self.modes:
            if initial_scale is not None and initial_scale <= min_scale:
                raise ValueError(f"{name} initial_scale must be above min_scale; got {initial_scale} and {min_scale}.")
        elif not _is_positive(scale):
            words = ", ".join(f'"{mode}"' for mode in self.modes)
            raise ValueError(
                f"{name} scale is in the units of the data and must be a positive number, or one of {words}; "
                f"got {scale!r}."
            )
        elif per_column:
            raise ValueError(f"{name} per_column is for a scale that is learned or measured; got scale={scale!r}.")
        self.scale: float | str = scale if isinstance(scale, str) else float(scale)
        if scale == "predicted":
            self.num_parameters = 2
        self.initial_scale: float | None = None if initial_scale is None else float(initial_scale)
        self.min_scale: float = float(min_scale)
        self.per_column: bool | None = None if per_column is None else bool(per_column)
        # Files of older versions have an initial scale and no error: their weights keep their meaning.
        # Nor is there one of a noise of the user's own that does not say what the error is.
        starts_measured = initial_scale is None and type(self).error is not LocationScale.error
        self._is_measured: bool = isinstance(scale, str) and (scale == "optimal" or starts_measured)
        self._columns: int | None = None
        self._make_weights()

    def _make_weights(self):
        start, shape = self._initial_scale(), () if self._columns is None else (self._columns,)
        if self._is_trained():
            raw = 0.0 if self._is_measured else self._unbounded(math.log(start))
            self._raw_log_scale = self._weight("raw_log_scale", raw, shape, trainable=True)
        if self._is_measured:
            # A decoder that predicts is right, and its factor 1, until something is measured.
            factor = 1.0 if self.scale == "predicted" else start
            self._error = self._weight("error", self._error_of(factor), shape, trainable=False)
            self._batches = self._weight("batches", 0.0, shape, trainable=False)

    def bind(self, channels: int | None, is_table: bool = False) -> None:
        """Gives each channel a scale of its own, if it is to have one."""
        columns = channels if (is_table if self.per_column is None else self.per_column) else None
        if self.per_column and channels is None:
            raise ValueError(f"{self!r} needs data whose last axis has a known size.")
        if self._columns not in (None, channels):
            raise ValueError(
                f"{self!r} has the scales of {self._columns} columns, and these data have {channels}: make a new one, "
                "or say per_column=False."
            )
        if columns and self._columns is None and self.weights:
            for variable in self.weights:
                self._untrack_variable(variable)
            self._columns = columns
            self._make_weights()

    @property
    def current_scale(self) -> Any:
        """The scale in use: as given, as learned so far, or as measured over the last batches of training.

        A float, or a NumPy array with one for each column.
        """
        if self.scale == "predicted":
            raise ValueError("The scale is predicted, for each dimension and example: see stddev(parameters).")
        if isinstance(self.scale, float):
            return self.scale
        scale = validation.to_numpy(ops.exp(self._log_scale()))
        return scale if scale.ndim else float(scale)

    def log_density(self, x: Any, location: Any, log_scale: Any) -> Any:
        """log p of each dimension."""
        raise NotImplementedError

    def log_prob_per_dimension(self, x: Any, parameters: Any) -> Any:
        return self.fitted_log_prob_per_dimension(x, parameters, None)

    def fitted_log_prob_per_dimension(self, x: Any, parameters: Any, fitted: Any) -> Any:
        return self.log_density(x, *self._location_and_log_scale(parameters, fitted))

    def update(self, x: Any, parameters: Any, observed: Any = None, weight: Any = None) -> Any:
        """The logarithm of the scale that is measured: of the batch and differentiable for "optimal", else kept."""
        if not self._is_measured:
            return None
        x, parameters = _as_float32(x, observed), ops.convert_to_tensor(parameters, "float32")
        location, raw = self._split(parameters)
        difference = x - location
        if self.scale == "predicted":  # what is measured is a factor of what the decoder says
            difference = difference * ops.exp(-ops.clip(raw, -MAX_LOG_SCALE, MAX_LOG_SCALE))
        errors, counts = self.error(difference), _counts(x, observed, weight)
        axes = tuple(range(len(errors.shape) - len(self._error.shape)))
        if counts is None:
            error, is_usable = ops.mean(errors, axes), True
        else:
            counts = ops.broadcast_to(counts, ops.shape(errors))
            total = ops.sum(counts, axes)
            is_usable = total > 0.0
            error = ops.sum(errors * counts, axes) / ops.where(is_usable, total, 1.0)
        kept = self._keep(ops.stop_gradient(error), is_usable)
        return self._log_scale_at(error if self.scale == "optimal" else kept)

    def mean(self, parameters: Any) -> Any:
        return self._location_and_log_scale(parameters)[0]

    def stddev(self, parameters: Any) -> Any:
        location, log_scale = self._location_and_log_scale(parameters)
        # A given number to its last digit, which a logarithm would cost.
        scale = self.scale if isinstance(self.scale, float) else ops.exp(log_scale)
        return self.standard_stddev * scale + ops.zeros_like(location)

    def sample(self, parameters: Any, seed: int | np.random.Generator | None = None) -> np.ndarray:
        location, log_scale = self._location_and_log_scale(ops.convert_to_tensor(parameters, "float32"))
        location = validation.to_numpy(location)
        noise = self.standard_sample(np.random.default_rng(seed), location.shape)
        return (location + np.exp(validation.to_numpy(log_scale)) * noise).astype("float32")

    def parameters_at_mean(self, mean: np.ndarray) -> np.ndarray:
        location = np.asarray(mean)
        if self.scale != "predicted":
            return location
        raw = self._unbounded(math.log(self._initial_scale()))
        return np.concatenate([location, np.full_like(location, raw * self.raw_per_log_scale)], axis=-1)

    def advice(self, x: np.ndarray, name: str = "x") -> str | None:
        size = np.nan_to_num(np.abs(x.astype("float64"))).reshape(-1, x.shape[-1])
        # Of ten values of a column one may be as large as it likes: tails are no reason to speak.
        usual = np.quantile(size, 0.9, axis=0, method="lower").max(initial=0.0)
        if usual <= MAX_USUAL:
            return None
        likelihood = f'keras_vae.{type(self).__name__}("{self.scale if isinstance(self.scale, str) else "learned"}")'
        pixels = (
            f", or train on {name} / 255 if these are pixels" if np.nanmin(x) >= 0 and 128 <= size.max() <= 255 else ""
        )
        return (
            f"{name} holds numbers such as {usual:g}, far from the 1 at which networks start: training on them is slow "
            "or fails. Standardise them inside the model, whose results stay in their units:\n"
            f"    likelihood = keras_vae.Standardized.fit({likelihood}, {name})\n"
            f"and pass it in the place of this {type(self).__name__}, to networks.mlp or conv and to VAE{pixels}."
        )

    def validate_activation(self, activation: str | None) -> None:
        if self.scale == "predicted":
            refused = ("sigmoid", "tanh", "relu", "softplus", "softmax")
            refuse_activation(activation, refused, "its output is a location and a log scale, which can be any number")

    def get_config(self) -> dict[str, Any]:
        if not isinstance(self.scale, str):
            return {"scale": self.scale}
        names = ("scale", "initial_scale", "min_scale", "per_column")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        is_ours = cls.__module__ == __name__
        if is_ours and isinstance(config["scale"], str):  # in files of older versions one scale is for all columns
            config = {"per_column": False} | config
        return cls(**config)

    # What a subclass says about its noise

    standard_stddev: float  # standard deviation of x at scale 1
    raw_per_log_scale: float = 1.0  # the decoder's second parameter is this times the logarithm of the scale
    default_scale: float = 1.0  # before anything is measured
    error_power: float = 1.0  # the error is the scale to this power: 2 for a mean square, 1 for a mean absolute value

    def error(self, difference: Any) -> Any:
        """The error whose average over the batch is the best scale to the power of `error_power`."""
        raise NotImplementedError

    def standard_sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draws of the noise, NumPy."""
        raise NotImplementedError

    def _initial_scale(self) -> float:
        if isinstance(self.scale, float):
            return self.scale
        return self.default_scale if self.initial_scale is None else self.initial_scale

    def _error_of(self, scale):
        return scale**self.error_power

    def _log_scale_at(self, error):
        return ops.log(ops.maximum(error, self._error_of(self.min_scale))) / self.error_power

    def _keep(self, error, is_usable):
        """The measured error that is kept after this batch: an average for "optimal", else the first."""
        if self.scale == "optimal":
            # A plain mean over the first batches, an exponential one from then on: the initial value causes no bias.
            rate = ops.maximum(1.0 / (self._batches + 1.0), 1.0 / _WINDOW)
        else:
            rate = ops.cast(ops.equal(self._batches, 0.0), "float32")
        is_usable = ops.logical_and(is_usable, ops.isfinite(error))  # no value was there, or half precision overflowed
        kept = ops.where(is_usable, self._error + rate * (error - self._error), self._error.value)
        self._error.assign(kept)
        self._batches.assign_add(ops.cast(is_usable, "float32"))
        return kept

    def _is_trained(self):
        return self.scale == "learned" or (self.scale == "predicted" and self._is_measured)

    def _split(self, parameters):
        """The location, and what the decoder says of the logarithm of the scale."""
        if self.scale != "predicted":
            return parameters, 0.0
        location, raw = ops.split(parameters, 2, axis=-1)
        return location, raw / self.raw_per_log_scale

    def _location_and_log_scale(self, parameters, fitted=None):
        location, raw = self._split(parameters)
        return location, self._log_scale(raw, fitted)

    def _log_scale(self, raw=0.0, fitted=None):
        if not isinstance(self.scale, str):
            return ops.convert_to_tensor(math.log(self.scale), "float32")
        offset = 0.0
        if self._is_measured:
            offset = self._log_scale_at(self._error.value) if fitted is None else fitted
        if self.scale == "optimal":
            return offset
        if self._is_trained():
            raw = raw + (_amplified(self._raw_log_scale.value) if self._is_measured else self._raw_log_scale.value)
        return self._bounded(raw + offset)

    def _bounded(self, raw):
        """The log scale from an unbounded number; far above the smallest scale it is that number."""
        least = math.log(self.min_scale)
        return straight_through_clip(least + ops.softplus(raw - least), high=MAX_LOG_SCALE)

    def _unbounded(self, log_scale):
        least = math.log(self.min_scale)
        return least + math.log(math.expm1(log_scale - least))

    def _weight(self, name, value, shape, trainable):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=keras.initializers.Constant(value),
            trainable=trainable,
            dtype="float32",
            autocast=False,
            aggregation="mean",
        )


@keras.saving.register_keras_serializable(package="keras_vae")
class Gaussian(LocationScale):
    """Real-valued data: p(x|z) = N(x; mean(z), scale**2 I). Its -log p is the squared error, "MSE".

        -log p(x|z) = sum_i (x_i - mean_i)**2 / (2 scale**2)  +  D/2 log(2 pi scale**2)

    so the weight between reconstruction and KL is not free: it is 1 / (2 scale**2). Half the summed squared error is
    scale = 1. A mean over pixels instead of a sum would be scale**2 = D/2, which is why such models collapse.

    Args:
        scale: The standard deviation, in the units of the data: a number; "learned", a weight (the sigma-VAE);
            "optimal", scale**2 = the mean squared error of the batch, which is the value that "learned" would reach, at
            once; it is averaged over the last 100 batches for evaluation and export, so that no reported number looks
            at the data it is about; "predicted", by the decoder, whose output is then the mean and the log-variance
            (the Gaussian MLP).
        initial_scale, min_scale, per_column: See `LocationScale`.

    Example:

    >>> Gaussian().log_prob(ops.zeros((1, 2)), ops.zeros((1, 2)))  # -log(2 pi) = -1.838 nats

    Reference: Kingma & Welling 2014, arXiv:1312.6114, appendix C.2 ("predicted"); Rybkin et al. 2021,
    arXiv:2006.13202 ("learned", "optimal"); Lucas et al. 2019, arXiv:1911.02469 (why a fixed scale collapses).
    """

    standard_stddev: float = 1.0
    raw_per_log_scale: float = 2.0  # a log-variance
    error_power: float = 2.0

    def log_density(self, x: Any, location: Any, log_scale: Any) -> Any:
        constant = -0.5 * math.log(2.0 * math.pi)
        return constant - log_scale - 0.5 * ops.square((x - location) * ops.exp(-log_scale))

    def error(self, difference: Any) -> Any:
        return ops.square(difference)

    def standard_sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape, dtype="float32")

    def _drawn_as(self):
        return {"name": "gaussian"}


@keras.saving.register_keras_serializable(package="keras_vae")
class Laplace(LocationScale):
    """Real-valued data with outliers: p(x|z) = prod_i exp(-|x_i - mean_i| / scale) / (2 scale). Its -log p is the
    absolute error, "MAE", divided by the scale.

    Args:
        scale: The mean absolute deviation, in the units of the data; the standard deviation is sqrt(2) times it. A
            number, "learned", "optimal" (the mean absolute error of the batch) or "predicted" (the decoder's output is
            the mean and the log scale), as in `Gaussian`.
        initial_scale, min_scale, per_column: See `LocationScale`.

    Example:

    >>> Laplace().log_prob(ops.zeros((1, 2)), ops.zeros((1, 2)))  # -2 log 2 = -1.386 nats

    Reference: Kotz et al. 2001, The Laplace Distribution and Generalizations, section 2.1.
    """

    standard_stddev: float = math.sqrt(2.0)

    def log_density(self, x: Any, location: Any, log_scale: Any) -> Any:
        return -math.log(2.0) - log_scale - ops.abs(x - location) * ops.exp(-log_scale)

    def error(self, difference: Any) -> Any:
        return ops.abs(difference)

    def standard_sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.laplace(size=shape)

    def _drawn_as(self):
        return {"name": "laplace"}


@keras.saving.register_keras_serializable(package="keras_vae")
class DiscretizedLogistic(LocationScale):
    """8-bit images, with true bits: the probability that a logistic variable rounds to the pixel.

        p(x|z) = F((x + h - location) / scale) - F((x - h - location) / scale),   F(t) = 1 / (1 + exp(-t))

    with h half the distance between two levels; the outermost levels get the tails. Data are the levels scaled to
    [0, 1]: pixel / 255. As p is a probability, `evaluation.bits_per_dim` of the negative ELBO is what a lossless code
    needs.

    Args:
        scale: Scale of the logistic, in the units of the data: "predicted" (the decoder's output is the location and
            the log scale), "learned" or a number.
        levels: Number of values that a pixel can have.
        initial_scale, min_scale, per_column: See `LocationScale`.

    Example:

    >>> DiscretizedLogistic(scale=0.1).log_prob(ops.zeros((1, 1)), ops.zeros((1, 1)))  # log F(h / 0.1) = -0.683 nats

    Reference: Kingma et al. 2016, arXiv:1606.04934 (one logistic for each pixel); Salimans et al. 2017,
    arXiv:1701.05517, section 2.1 (the tails).
    """

    is_discrete: bool = True
    has_stddev: bool = False
    data_range: tuple[float, float] | None = (0.0, 1.0)
    modes: tuple[str, ...] = ("learned", "predicted")
    default_scale: float = 0.1

    def __init__(
        self,
        scale: float | str = "predicted",
        levels: int = 256,
        initial_scale: float | None = None,
        min_scale: float = 1e-4,
        per_column: bool | None = None,
    ) -> None:
        super().__init__(scale, initial_scale, min_scale, per_column)
        self.levels: int = validation.whole_number("levels", levels, least=2)

    def log_density(self, x: Any, location: Any, log_scale: Any) -> Any:
        # F(a) - F(b) = F(a) F(-b) (1 - exp(b - a)): three factors without cancellation, whose logarithms are exact
        # however far x is from the location. At the ends of the range one of the tails is all that remains.
        half = 0.5 / (self.levels - 1)
        precision = ops.exp(-log_scale)
        log_below = -ops.softplus(-(x + half - location) * precision)
        log_above = -ops.softplus((x - half - location) * precision)
        inside = log_below + log_above + ops.log(-ops.expm1(-2.0 * half * precision))
        return ops.where(x < half, log_below, ops.where(x > 1.0 - half, log_above, inside))

    def mean(self, parameters: Any) -> Any:
        """E[x|z] of the logistic, clipped to [0, 1], before it is rounded; within half a level of that after."""
        location, log_scale = self._location_and_log_scale(parameters)
        # scale (softplus(a) - softplus(a - 1 / scale)) at a = location / scale: where the scale is large, that is a
        # small difference of two numbers, and written as one logarithm.
        wide = log_scale > 0.0
        scale = ops.exp(ops.where(wide, 0.0, log_scale))
        narrow_mean = scale * (ops.softplus(location / scale) - ops.softplus((location - 1.0) / scale))
        scale = ops.exp(ops.where(wide, log_scale, 0.0))
        wide_mean = -scale * ops.log1p(ops.sigmoid(location / scale) * ops.expm1(-1.0 / scale))
        return ops.where(wide, wide_mean, narrow_mean)

    def sample(self, parameters: Any, seed: int | np.random.Generator | None = None) -> np.ndarray:
        x = np.clip(super().sample(parameters, seed), 0.0, 1.0)
        return (np.round(x * (self.levels - 1)) / (self.levels - 1)).astype("float32")

    def _drawn_as(self):
        return {"name": "discretized_logistic", "levels": self.levels}

    def draw_parameters(self, parameters: Any) -> Any:
        """The location and the scale."""
        location, log_scale = self._location_and_log_scale(parameters)
        return ops.concatenate([location, ops.exp(log_scale) + ops.zeros_like(location)], axis=-1)

    def error(self, difference: Any) -> Any:
        return ops.abs(difference) / (2.0 * math.log(2.0))  # the mean absolute value of a logistic is 2 log 2 scales

    def standard_sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.logistic(size=shape)

    def parameters_at_mean(self, mean: np.ndarray) -> np.ndarray:
        scale = self._initial_scale()
        mean = np.clip(mean, 0.001, 0.999)
        # The inverse of `mean`, for the given scale.
        location = scale * (_log_expm1(mean / scale) - np.log(-np.expm1((mean - 1.0) / scale)))
        return super().parameters_at_mean(location)

    def validate_values(self, x: np.ndarray, name: str) -> None:
        steps = x.astype("float64") * (self.levels - 1)
        off = np.abs(steps - np.round(steps)) > 0.01
        if float(np.min(x)) >= 0.0 and float(np.max(x)) <= 1.0 and not off.any():
            return
        low, high = float(np.min(x)), float(np.max(x))
        if low >= 0.0 and 1.0 < high <= self.levels - 1 and (x == np.round(x)).all():
            fix = f"divide {name} by {self.levels - 1}"
        elif -1.0 <= low < 0.0 and high <= 1.0:
            fix = f"map {name} from [-1, 1] to [0, 1] with ({name} + 1) / 2"
        elif low >= 0.0 and high <= 1.0:
            found = next((n for n in range(3, 257) if np.abs(x * (n - 1) - np.round(x * (n - 1))).max() < 1e-3), None)
            fix = f"pass levels={found}" if found else "its values are none of them, so round them first"
        else:
            fix = f"scale the levels to [0, 1], and set levels= to how many there are (now {self.levels})"
        raise ValueError(
            f"The discretized logistic likelihood needs one of {self.levels} evenly spaced levels from 0 to 1, but "
            f"{name} ranges from {np.min(x):g} to {np.max(x):g}: {fix}."
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "levels": self.levels}


def _amplified(weight):
    """`_GAIN` times a weight, with the gradient of a plain one as gradient descent sees it.

    Adam divides a gradient by its size, so that its step becomes `_GAIN` times as long. Gradient descent multiplies its
    step by the gradient: with that of the product it would be `_GAIN`**2 times as long, and diverge.
    """
    return ops.stop_gradient((_GAIN - 1.0 / _GAIN) * weight) + weight / _GAIN


def _counts(x, observed, weight):
    """Weight of each value in what is measured, float32, shaped like x; None: all weigh the same."""
    if weight is None:
        return None if observed is None else ops.cast(observed, "float32")
    weight = beside(weight, x) + ops.zeros_like(x)
    return weight if observed is None else weight * ops.cast(observed, "float32")


def _log_expm1(t):
    """log(exp(t) - 1) for positive t, NumPy."""
    return t + np.log(-np.expm1(-t))


def _is_positive(value):
    return isinstance(value, Real) and not isinstance(value, bool) and 0.0 < float(value) < math.inf


def _positive(likelihood, name, value):
    if not _is_positive(value):
        raise ValueError(f"{likelihood} {name} must be a positive number; got {value!r}.")
