"""The interface of every likelihood p(x|z), and the checks of data that they share."""

from typing import Any

import numpy as np
from keras import ops

from keras_vae import validation
from keras_vae._config import Configured
from keras_vae._numerics import beside
from keras_vae._typing import Layer


class Likelihood(Configured, Layer):
    """What the model asks of p(x|z).

    A Keras layer without a call: what a likelihood learns, such as one standard deviation for all of the data, is a
    weight of the model like any other, trained, saved, loaded and counted. It holds nothing else that changes after
    construction, so that a compiled step cannot miss a change. A subclass defines
    `log_prob_per_dimension`, `mean`, `sample` and `parameters_at_mean`, and `update` if it learns from batches.

    `parameters` are the decoder's output in float32, shaped like the data but with `parameter_channels` on the last
    axis, and possibly with a leading axis of samples of z. Where a dimension has several parameters, they come in
    blocks: first the first parameter of every channel, then the second.
    """

    num_parameters: int = 1  # decoder channels for each channel of the data
    is_discrete: bool = False  # whether log_prob is a probability, so that bits per dimension count real bits
    has_stddev: bool = False  # whether `stddev` is defined: where it says something that the mean does not
    data_range: tuple[float, float] | None = None  # the smallest and the largest value that x may have

    def __init__(self) -> None:
        super().__init__(dtype="float32")
        self.built = True

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts of the data, of which each has a likelihood of its own; none of one tensor."""
        return ()

    def parameter_channels(self, channels: int) -> int:
        """Number of output channels of the decoder for data with `channels` on the last axis."""
        return channels * self.num_parameters

    def data_channels(self, parameter_channels: int) -> int:
        """Number of channels of the data that a decoder with that many output channels describes."""
        return parameter_channels // self.num_parameters

    def bind(self, channels: int | None, is_table: bool = False) -> None:
        """Makes the weights whose number depends on the data; called by the model that holds the likelihood.

        Args:
            channels: Size of the last axis of the data; None if it is free.
            is_table: Whether the channels are columns of a table, each another quantity.

        Raises:
            ValueError: If the likelihood cannot serve such data; says why.
        """

    def parameter_shape(self, data_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape of the decoder's output, without the batch, for data of this shape."""
        *rest, channels = data_shape
        return (*rest, None if channels is None else self.parameter_channels(channels))

    def data_shape(self, parameter_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Inverse of `parameter_shape`; axes may stand before."""
        *rest, channels = parameter_shape
        return (*rest, None if channels is None else self.data_channels(channels))

    def log_prob(self, x: Any, parameters: Any, observed: Any = None, fitted: Any = None) -> Any:
        """log p(x|z) in nats, summed over the data's dimensions: a pure function of its arguments and the weights.

        Args:
            x: `(batch, ...)` data.
            parameters: `(batch, ...)` or `(num_samples, batch, ...)`.
            observed: Booleans, shaped like x: False where a value is missing and does not count. None: all count.
            fitted: Result of `update` for this batch, or None to use what was learned from earlier batches.

        Returns:
            `(batch,)` or `(num_samples, batch)`.
        """
        terms = self.log_prob_terms(x, parameters, observed, fitted)
        return ops.sum(terms, axis=tuple(range(1 - len(ops.shape(x)), 0)))

    @property
    def is_factorised(self) -> bool:
        """Whether `log_prob` is the sum of `log_prob_terms`: not of a class of one's own that overrides it."""
        return type(self).log_prob is Likelihood.log_prob

    def log_prob_terms(self, x: Any, parameters: Any, observed: Any = None, fitted: Any = None) -> Any:
        """As `log_prob`, not summed: shaped like x, with the axis of samples if there is one; 0 where x is missing."""
        x, parameters = _as_float32(x, observed), ops.convert_to_tensor(parameters, "float32")
        terms = self.fitted_log_prob_per_dimension(x, parameters, fitted)
        # Both x and the terms are replaced: a missing value is NaN, and NaN times zero, as in a gradient, is NaN.
        return terms if observed is None else ops.where(observed, terms, 0.0)

    def update(self, x: Any, parameters: Any, observed: Any = None, weight: Any = None) -> Any:
        """Learns from a training batch what is measured instead of trained, and assigns it to the weights.

        Args:
            x, parameters, observed: As in `log_prob`.
            weight: `(batch,)` weight of each example in what is measured. None: all weigh the same.

        Returns:
            What `log_prob` needs to know of this batch, as its argument `fitted`; None if nothing is measured.
        """
        return

    def log_prob_per_dimension(self, x: Any, parameters: Any) -> Any:
        """The terms that `log_prob` sums, shaped like the data."""
        raise NotImplementedError

    def fitted_log_prob_per_dimension(self, x: Any, parameters: Any, fitted: Any) -> Any:
        """As `log_prob_per_dimension`, with the result of `update`; for a likelihood that has one."""
        return self.log_prob_per_dimension(x, parameters)

    def for_encoder(self, x: Any) -> Any:
        """The input of the encoder, where x itself is of no use to a network; `networks` apply it."""
        return x

    def fill_missing(self, x: Any) -> Any:
        """x for the encoder, with a number in the place of each NaN: 0, or what means as little in these units."""
        return ops.where(ops.isnan(x), ops.zeros_like(x), x)

    def mean(self, parameters: Any) -> Any:
        """E[x|z], shaped like the data."""
        raise NotImplementedError

    def mixture_mean(self, parameters: Any, weights: Any) -> Any:
        """E[x] where z is one of several, or what `mean` gives in its place: the average of `mean` over them.

        Args:
            parameters: `(num_samples, batch, ...)`.
            weights: `(num_samples, batch)` probability of each z.

        Returns:
            `(batch, ...)`.
        """
        mean = self.mean(parameters)
        return ops.sum(mean * beside(weights, mean), axis=0)

    def stddev(self, parameters: Any) -> Any:
        """The standard deviation of x given z, shaped like the data; defined only if `has_stddev`."""
        raise NotImplementedError

    def sample(self, parameters: Any, seed: int | np.random.Generator | None = None) -> np.ndarray:
        """Draws x from p(x|z), shaped like the data: float32, NumPy, the same on every backend.

        Args:
            parameters: As in `mean`; an array or a tensor.
            seed: Seed for the draws: an integer, a `numpy.random.Generator`, or None for fresh randomness.
        """
        raise NotImplementedError

    def drawn_as(self) -> dict[str, Any] | None:
        """How an exported bundle draws what `sample` draws, without this class; None if it cannot.

        `{"name": "gaussian"}` names a function of `keras_vae_serving.draws`, which is given `draw_parameters`, and what
        else it must know. A likelihood of one's own is not drawn, unless it says here as which it is.
        """
        is_ours = type(self).__module__.startswith("keras_vae.")
        return self._drawn_as() if is_ours else None

    def _drawn_as(self) -> dict[str, Any] | None:
        return None

    def draw_parameters(self, parameters: Any) -> Any:
        """The tensor that x is drawn of as `drawn_as` says: the mean and, in a block of channels after it, `stddev`."""
        mean = self.mean(parameters)
        return ops.concatenate([mean, self.stddev(parameters)], axis=-1) if self.has_stddev else mean

    def parameters_at_mean(self, mean: np.ndarray) -> np.ndarray:
        """Parameters (NumPy) whose mean is `mean`: the initial output bias of a decoder."""
        raise NotImplementedError

    def ranges(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest value of each of the data's channels, two arrays of shape `(channels,)`."""
        low, high = self.data_range or (-np.inf, np.inf)
        return np.full(channels, low), np.full(channels, high)

    def validate(self, x: np.ndarray, name: str = "x", missing: bool = False) -> None:
        """Raises a ValueError that says what is wrong with the data and what to do.

        Args:
            x: A NumPy batch of data.
            name: Name of the data in the message.
            missing: Whether NaN stands for a missing value.
        """
        check_finite(x, name, missing)
        if missing and x.dtype.kind == "f":
            x = np.where(np.isnan(x), 0.0, x)
        self.validate_values(x, name)

    def validate_values(self, x: np.ndarray, name: str) -> None:
        """As `validate`, for finite data; 0 stands where a value is missing."""

    def validate_activation(self, activation: str | None) -> None:
        """Raises a ValueError if the decoder's last activation, a name or None if unknown, contradicts this."""

    def caveat(self, x: np.ndarray) -> str | None:
        """A warning if log_prob of these data is not a log-likelihood, with the alternative; else None."""
        return None

    def advice(self, x: np.ndarray, name: str = "x") -> str | None:
        """What to change if log_prob of these data is right but training on them is slow or fails; else None.

        Args:
            x: A NumPy batch of data; NaN where a value is missing.
            name: Name of the data in the words, also where they are code.
        """
        return None


def _as_float32(x, observed):
    """x as a tensor, 0 where a value is missing."""
    x = ops.convert_to_tensor(x, "float32")
    return x if observed is None else ops.where(observed, x, 0.0)


def check_finite(x: np.ndarray, name: str = "x", missing: bool = False) -> None:
    """Raises a ValueError if there are no data, or values that are not finite; `missing` allows NaN."""
    if x.size == 0:
        raise ValueError(f"{name} is empty: its shape is {x.shape}.")
    bad = np.isinf(x) if missing else ~np.isfinite(x)
    if bad.any():
        what = "NaN" if np.isnan(x[bad]).any() else "infinite values"
        if what == "NaN":
            fix = "Remove or fill in such examples, or, where it means missing, say so with VAE(allow_missing=True)."
        else:
            fix = "Remove or fill in such examples."
        raise ValueError(f"{name} contains {what}, first at index {validation.first_index(bad)} of the batch. {fix}")


def check_missing_together(x: np.ndarray, name: str, what: str) -> None:
    """Raises a ValueError if only some of the values along the last axis are missing; `what` says what this is."""
    nan = np.isnan(x)
    partly = nan.any(axis=-1) & ~nan.all(axis=-1)
    if partly.any():
        raise ValueError(
            f"{name} has {what}, at index {validation.first_index(partly)}: if one is missing, make all of them NaN."
        )


def check_unit_interval(x: np.ndarray, name: str, likelihood: str, otherwise: str) -> None:
    """Raises a ValueError unless the data lie in [0, 1]; `otherwise` is the alternative that the message names."""
    low, high = float(np.min(x)), float(np.max(x))
    if low >= 0.0 and high <= 1.0:
        return
    if low >= 0.0 and high <= 255.0:
        fix = f"divide {name} by {16 if high <= 16 else 255}"
    elif low >= -1.0 and high <= 1.0:
        fix = f"map {name} from [-1, 1] to [0, 1] with ({name} + 1) / 2"
    else:
        fix = f"scale {name} to [0, 1]"
    raise ValueError(
        f"The {likelihood} likelihood needs [0, 1], but {name} ranges from {low:g} to {high:g}: {fix}, or use "
        f"{otherwise}."
    )


def refuse_activation(activation: str | None, refused: tuple[str, ...], why: str) -> None:
    """Raises a ValueError if the decoder's last activation is one of those that contradict a likelihood."""
    if activation in refused:
        raise ValueError(
            f'The decoder ends in a {activation}, but {why}. Remove the last activation (activation="linear").'
        )
