"""What every likelihood p(x|z) is asked for, and the checks of data that they share."""

import keras
import numpy as np
from keras import ops

from keras_vae._config import Configured


class Likelihood(Configured, keras.layers.Layer):
    """What the model asks of p(x|z).

    A Keras layer without a call: what a likelihood learns, such as one standard deviation for all of the data, is a
    weight of the model like any other, trained, saved, loaded and counted.

    `parameters` are the decoder's output in float32, shaped like the data but with `parameter_channels` on the last
    axis, and possibly with a leading axis of samples of z. Where a dimension has several parameters, they come in
    blocks: first the first parameter of every channel, then the second.
    """

    num_parameters: int = 1  # decoder channels for each channel of the data
    is_discrete = False  # whether log_prob is a probability, so that bits per dimension count real bits
    has_stddev = False  # whether `stddev` is defined: where it says something that the mean does not
    data_range: tuple[float, float] | None = None  # the least and the greatest value that x may have

    def __init__(self):
        super().__init__(dtype="float32")  # pyright: ignore[reportCallIssue] # of Layer's, behind the mixin
        self.built = True

    def parameter_channels(self, channels):
        """The decoder's output channels for data with `channels` on the last axis."""
        return channels * self.num_parameters

    def data_channels(self, parameter_channels):
        """The channels of the data that a decoder with so many output channels describes."""
        return parameter_channels // self.num_parameters

    def log_prob(self, x, parameters, observed=None, training=False, weight=None):
        """log p(x|z) in nats, summed over the data's dimensions.

        Args:
            x: `(batch, ...)` data.
            parameters: `(batch, ...)` or `(num_samples, batch, ...)`.
            observed: Booleans, shaped like x: False where a value is missing and does not count. None: all count.
            training: Whether this is a training step, for a likelihood that learns from the batch.
            weight: `(batch,)`, how much each example counts in what is learned from the batch. None: all the same.

        Returns:
            `(batch,)` or `(num_samples, batch)`.
        """
        x, parameters = ops.convert_to_tensor(x, "float32"), ops.convert_to_tensor(parameters, "float32")
        if observed is not None:
            # Both: a missing value is NaN, and NaN times zero, as in a gradient, is NaN.
            x = ops.where(observed, x, 0.0)
        terms = self.batch_log_prob(x, parameters, _counts(x, observed, weight), training)
        if observed is not None:
            terms = ops.where(observed, terms, 0.0)
        return ops.sum(terms, axis=tuple(range(1 - len(x.shape), 0)))

    def log_prob_per_dimension(self, x, parameters):
        """The terms that `log_prob` sums, shaped like the data."""
        raise NotImplementedError

    def batch_log_prob(self, x, parameters, counts, training):
        """The same for a batch that a likelihood may learn from.

        Args:
            x, parameters, training: As in `log_prob`.
            counts: How much each value counts in what is learned, float32, shaped like x; None: all the same.
        """
        return self.log_prob_per_dimension(x, parameters)

    def for_encoder(self, x):
        """What an encoder should be shown of x, where x itself is of no use to a network; `networks` apply it."""
        return x

    def mean(self, parameters):
        """E[x|z], shaped like the data."""
        raise NotImplementedError

    def stddev(self, parameters):
        """The standard deviation of x given z, shaped like the data; only where `has_stddev` says so."""
        raise NotImplementedError

    def sample(self, parameters, seed=None):
        """Draws x from p(x|z), shaped like the data: float32, NumPy, the same on every backend.

        Args:
            parameters: As in `mean`; an array or a tensor.
            seed: An integer, a `numpy.random.Generator`, or None for fresh randomness.
        """
        raise NotImplementedError

    def parameters_at_mean(self, mean):
        """Parameters (NumPy) whose mean is `mean`: the start for a decoder's output bias."""
        raise NotImplementedError

    def ranges(self, channels) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest value of each of the data's channels, two arrays of shape `(channels,)`."""
        low, high = self.data_range or (-np.inf, np.inf)
        return np.full(channels, low), np.full(channels, high)

    def validate(self, x, name="x", missing=False):
        """Raises a ValueError that says what is wrong with the data and what to do.

        Args:
            x: A NumPy batch of data.
            name: What to call it in the message.
            missing: Whether NaN stands for a missing value.
        """
        check_finite(x, name, missing)
        if missing and x.dtype.kind == "f":
            x = np.where(np.isnan(x), 0.0, x)
        self.validate_values(x, name)

    def validate_values(self, x, name):
        """As `validate`, for finite data; 0 stands where a value is missing."""

    def validate_activation(self, activation):
        """Raises a ValueError if the decoder's last activation, a name or None if unknown, contradicts us."""

    def caveat(self, x) -> str | None:
        """Why log_prob of such data is not a log-likelihood, and what to use instead, in words; None where it is."""
        return


def _counts(x, observed, weight):
    if weight is None:
        return None if observed is None else ops.cast(observed, "float32")
    weight = ops.reshape(weight, (-1, *(1 for _ in x.shape[1:]))) + ops.zeros_like(x)
    return weight if observed is None else weight * ops.cast(observed, "float32")


def first_index(mask):
    """Where a NumPy mask is first True, as a tuple of ints to show and to index with."""
    return tuple(int(i) for i in np.argwhere(mask)[0])


def check_finite(x, name="x", missing=False):
    """Raises a ValueError if there are no data, or values that are not finite; NaN is one unless it means missing."""
    if x.size == 0:
        raise ValueError(f"{name} is empty: its shape is {x.shape}.")
    bad = np.isinf(x) if missing else ~np.isfinite(x)
    if bad.any():
        what = "NaN" if np.isnan(x[bad]).any() else "infinite values"
        if what == "NaN":
            fix = "Remove or fill in such examples, or, where it means missing, say so with VAE(allow_missing=True)."
        else:
            fix = "Remove or fill in such examples."
        raise ValueError(f"{name} contains {what}, first at index {first_index(bad)} of the batch. {fix}")


def check_unit_interval(x, name, likelihood, otherwise):
    """Raises a ValueError unless the data lie in [0, 1]; `otherwise` is what to use for data that do not."""
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


def refuse_activation(activation, refused, why):
    """Raises a ValueError if the decoder's last activation is one of those that contradict a likelihood."""
    if activation in refused:
        raise ValueError(
            f'The decoder ends in a {activation}, but {why}. Remove the last activation (activation="linear").'
        )
