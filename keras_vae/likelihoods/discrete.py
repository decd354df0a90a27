"""Categories and counts."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import validation
from keras_vae._numerics import beside, straight_through_clip
from keras_vae.likelihoods.base import Likelihood, check_missing_together, refuse_activation

# Outside, the negative binomial is a Poisson or a point at 0 as far as float32 can tell.
_LOG_DISPERSION_RANGE = (-15.0, 15.0)

_MAX_LOG_RATE = 30.0  # a rate of 1e13, whose square, in an optimizer, is still a number of float32

# Above it, log x! is not computed by itself: its largest part x log x, which float32 rounds to whole numbers from
# x = 1e6 on, is cancelled first.
_LARGE = 100.0


@keras.saving.register_keras_serializable(package="keras_vae")
class Categorical(Likelihood):
    """One of K categories: one-hot on the last axis, or as whole numbers from 0 to K - 1.

        p(x|z) = softmax(logits)_x, over all axes of the data

    One-hot, data and decoder output have K channels, and the mean is the K probabilities. With `num_classes` the data
    are codes, `(batch, ...)`, such as words of a vocabulary; the decoder's output has an axis of K more, and `mean` is
    the most likely code, as an average of codes has no meaning. `networks.mlp` encodes them one-hot; an encoder of
    one's own, which may begin with an `Embedding`, receives the codes, and -1 where one is missing.

    Args:
        num_classes: Number of categories K of data that are codes; None: the data are one-hot.

    Example:

    >>> Categorical().log_prob(ops.one_hot([2], 4), ops.zeros((1, 4)))  # -log 4 = -1.386 nats
    >>> Categorical(num_classes=4).log_prob(ops.array([[2.0, 0.0]]), ops.zeros((1, 2, 4)))  # -2 log 4 = -2.773 nats

    Reference: Nazabal et al. 2020, Handling incomplete heterogeneous data using VAEs, arXiv:1807.03653.
    """

    is_discrete: bool = True
    data_range: tuple[float, float] | None = (0.0, 1.0)

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__()
        self.num_classes: int | None = None
        if num_classes is not None:
            self.num_classes = self.num_parameters = validation.whole_number("num_classes", num_classes, least=2)
            self.data_range = (0.0, self.num_classes - 1.0)

    def parameter_shape(self, data_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return super().parameter_shape(data_shape) if self.num_classes is None else (*data_shape, self.num_classes)

    def data_shape(self, parameter_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return super().data_shape(parameter_shape) if self.num_classes is None else parameter_shape[:-1]

    def log_prob_per_dimension(self, x: Any, parameters: Any) -> Any:
        log_p = ops.log_softmax(parameters, axis=-1)
        return x * log_p if self.num_classes is None else ops.sum(ops.where(self._is_class(x), log_p, 0.0), axis=-1)

    def for_encoder(self, x: Any) -> Any:
        return x if self.num_classes is None else ops.cast(self._is_class(x), keras.config.floatx())

    def fill_missing(self, x: Any) -> Any:
        if self.num_classes is None:
            return super().fill_missing(x)
        return ops.where(ops.isnan(x), -ops.ones_like(x), x)  # no class: 0 would be one

    def mean(self, parameters: Any) -> Any:
        if self.num_classes is None:
            return ops.softmax(parameters, axis=-1)
        # The first of the largest, in operators that ONNX has: Keras's argmax on TensorFlow needs one that it lacks.
        codes = np.arange(self.num_parameters, dtype="float32")
        is_largest = ops.equal(parameters, ops.max(parameters, axis=-1, keepdims=True))
        return ops.min(ops.where(is_largest, codes, self.num_classes - 1.0), axis=-1)

    def mixture_mean(self, parameters: Any, weights: Any) -> Any:
        if self.num_classes is None:
            return super().mixture_mean(parameters, weights)
        probabilities = ops.softmax(parameters, axis=-1)
        return self.mean(ops.sum(probabilities * beside(weights, probabilities), axis=0))

    def sample(self, parameters: Any, seed: int | np.random.Generator | None = None) -> np.ndarray:
        logits = validation.to_numpy(parameters)
        # The largest of logits and Gumbel noise is a draw (Gumbel 1954), exact however small a probability is.
        winner = np.argmax(logits + np.random.default_rng(seed).gumbel(size=logits.shape), axis=-1)
        return winner.astype("float32") if self.num_classes else np.eye(logits.shape[-1], dtype="float32")[winner]

    def _drawn_as(self):
        return {"name": "categorical", "num_classes": self.num_classes}

    def draw_parameters(self, parameters: Any) -> Any:
        """The probabilities; of codes too, on an axis more than they have."""
        return ops.softmax(parameters, axis=-1)

    def parameters_at_mean(self, mean: np.ndarray) -> np.ndarray:
        """Of codes: equal probabilities, as their average says nothing of how frequent each is."""
        if self.num_classes is not None:
            return np.zeros((*np.shape(mean), self.num_classes))
        return np.log(np.clip(mean, 0.001, 1.0))

    def validate(self, x: np.ndarray, name: str = "x", missing: bool = False) -> None:
        if missing and self.num_classes is None:
            check_missing_together(x, name, "a category of which only some of the one-hot columns are missing")
            x = np.where(np.isnan(x), np.eye(x.shape[-1])[0], x)
        super().validate(x, name, missing)

    def validate_values(self, x: np.ndarray, name: str) -> None:
        if self.num_classes is not None:
            self._validate_codes(x, name)
            return
        bad = ~(((x == 0) | (x == 1)).all(axis=-1) & (x.sum(axis=-1) == 1))
        if bad.any():
            where = validation.first_index(bad)
            raise ValueError(
                f"The categorical likelihood needs one-hot vectors on the last axis of {name}: a 1 and else 0. At "
                f"index {where} it holds {np.array2string(x[where], threshold=8)}. Encode labels with "
                "keras.utils.to_categorical(labels, num_classes), or pass Categorical(num_classes=...), which takes "
                "them as they are."
            )

    def _validate_codes(self, x, name):
        last = (self.num_classes or 0) - 1
        bad = (x < 0) | (x > last) | (x != np.round(x))
        if bad.any():
            where = validation.first_index(bad)
            raise ValueError(
                f"Categorical(num_classes={last + 1}) needs whole numbers from 0 to {last}, but {name} holds "
                f"{x[where]:g} at index {where}. Number the categories from 0, and set num_classes to how many there "
                "are."
            )

    def get_config(self) -> dict[str, Any]:
        return {"num_classes": self.num_classes}

    def _is_class(self, x):
        """Booleans with an axis of categories more than x; none is True where a value is no code."""
        return ops.equal(ops.expand_dims(x, -1), np.arange(self.num_parameters, dtype="float32"))

    def validate_activation(self, activation: str | None) -> None:
        refused = ("softmax", "sigmoid", "relu", "tanh", "softplus")
        refuse_activation(
            activation, refused, "the categorical likelihood expects logits and applies the softmax itself"
        )


class _Counts(Likelihood):
    """Whole numbers from 0 on; the decoder's first parameter is the logarithm of the mean."""

    is_discrete: bool = True
    data_range: tuple[float, float] | None = (0.0, math.inf)

    def for_encoder(self, x: Any) -> Any:
        return ops.log1p(x)  # counts of thousands are too much for a network that starts at small weights

    def validate_values(self, x: np.ndarray, name: str) -> None:
        bad = (x < 0) | (x != np.round(x))
        if bad.any():
            where = validation.first_index(bad)
            raise ValueError(
                f"The {type(self).__name__} likelihood needs counts, whole numbers from 0 on, but {name} holds "
                f"{x[where]:g} at index {where} of the batch. Pass the counts themselves, neither scaled nor logged, "
                'or use likelihood="gaussian".'
            )

    def validate_activation(self, activation: str | None) -> None:
        refused = ("sigmoid", "tanh", "softmax", "relu", "softplus", "exponential")
        name = type(self).__name__
        refuse_activation(
            activation, refused, f"the {name} likelihood expects the logarithm of the mean, which can be any number"
        )


@keras.saving.register_keras_serializable(package="keras_vae")
class Poisson(_Counts):
    """Counts: p(x|z) = prod_i rate_i**x_i exp(-rate_i) / x_i!. The decoder's output is log rate.

    Example:

    >>> Poisson().log_prob(ops.zeros((1, 3)), ops.zeros((1, 3)))  # no event at rate 1, three times: -3 nats

    Reference: Gronbech et al. 2020, scVAE: variational auto-encoders for single-cell gene expression data,
    Bioinformatics 36 (both likelihoods of counts).
    """

    def log_prob_per_dimension(self, x: Any, parameters: Any) -> Any:
        return _poisson_log_prob(x, straight_through_clip(parameters, high=_MAX_LOG_RATE))

    def mean(self, parameters: Any) -> Any:
        return ops.exp(straight_through_clip(parameters, high=_MAX_LOG_RATE))

    def sample(self, parameters: Any, seed: int | np.random.Generator | None = None) -> np.ndarray:
        rate = np.exp(validation.to_numpy(parameters).astype("float64"))
        return np.random.default_rng(seed).poisson(np.minimum(rate, 1e15)).astype("float32")

    def _drawn_as(self):
        return {"name": "poisson"}

    def parameters_at_mean(self, mean: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(mean, 0.01))


@keras.saving.register_keras_serializable(package="keras_vae")
class Multinomial(_Counts):
    """Counts of one example over categories, given their total N: the words of a document, the purchases of a customer.

        log p(x|z) = log N! - sum_i log x_i! + sum_i x_i log softmax(logits)_i,   N = sum_i x_i

    over the last axis, with its coefficient. N is read from x: the bound is one of log p(x) given N.

    Args:
        total: Number of counts in what `mean` and `sample` return, which the decoder does not know. None: `mean` is
            the probabilities, and drawing x is refused.

    Raises:
        ValueError: By `sample`, if there is no total.

    Example:

    >>> Multinomial().log_prob(ops.ones((1, 2)), ops.zeros((1, 2)))  # 2 ways of 4: -log 2 = -0.693 nats

    Reference: Liang et al. 2018, Variational Autoencoders for Collaborative Filtering, arXiv:1802.05814, equation 2.
    """

    def __init__(self, total: int | None = None) -> None:
        super().__init__()
        self.total: int | None = None if total is None else validation.whole_number("total", total)

    def log_prob_per_dimension(self, x: Any, parameters: Any) -> Any:
        # Independent Poisson counts of rates N p_i, given their sum, whose own probability is Poisson(N; N): in this
        # form, large counts are cancelled before they are rounded. That term is shared out evenly.
        total = ops.sum(x, axis=-1, keepdims=True)
        log_total = ops.log(ops.maximum(total, 1.0))
        counts = _poisson_log_prob(x, log_total + ops.log_softmax(parameters, axis=-1))
        of_total = _poisson_log_prob(total, log_total)
        return ops.where(total > 0.0, counts - of_total / x.shape[-1], 0.0)

    def mean(self, parameters: Any) -> Any:
        """E[x|z] for `total` counts; for one, which are the probabilities, if there is none."""
        return ops.softmax(parameters, axis=-1) * float(self.total or 1)

    def sample(self, parameters: Any, seed: int | np.random.Generator | None = None) -> np.ndarray:
        if self.total is None:
            raise ValueError(
                "A draw from the multinomial likelihood needs the number of counts: pass Multinomial(total=...)."
            )
        logits = validation.to_numpy(parameters).astype("float64")
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        return np.random.default_rng(seed).multinomial(self.total, p).astype("float32")

    def _drawn_as(self):
        return None if self.total is None else {"name": "multinomial", "total": self.total}

    def parameters_at_mean(self, mean: np.ndarray) -> np.ndarray:
        share = mean / np.maximum(np.sum(mean, axis=-1, keepdims=True), 1e-12)
        return np.log(np.maximum(share, 1e-6))

    def validate(self, x: np.ndarray, name: str = "x", missing: bool = False) -> None:
        if missing:
            check_missing_together(x, name, "an example of which only some counts are missing, and so its total")
        super().validate(x, name, missing)

    def get_config(self) -> dict[str, Any]:
        return {"total": self.total}


@keras.saving.register_keras_serializable(package="keras_vae")
class NegativeBinomial(_Counts):
    """Counts that vary more than a Poisson's, such as those of genes in single cells.

        p(x|z) = prod_i G(x_i + r_i) / (G(r_i) x_i!) (r_i / (r_i + m_i))**r_i (m_i / (r_i + m_i))**x_i

    with G the gamma function: the mean is m and the variance m + m**2 / r. The decoder's output is log m and, in
    a second block of channels, the log of the inverse dispersion r, kept in [-15, 15].

    Example:

    >>> NegativeBinomial().log_prob(ops.zeros((1, 1)), ops.zeros((1, 2)))  # m = r = 1: log(1/2) = -0.693 nats

    Reference: Lopez et al. 2018, Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (the
    parametrisation).
    """

    num_parameters: int = 2
    has_stddev: bool = True

    def log_prob_per_dimension(self, x: Any, parameters: Any) -> Any:
        log_mean, log_r = self._split(parameters)
        logit = log_mean - log_r  # of m / (r + m)
        r = ops.exp(log_r)
        is_large = x > _LARGE
        small, large = ops.where(is_large, 0.0, x), ops.where(is_large, x, _LARGE)
        y = r + 8.0
        # log(G(x + r) / G(r)) by Stirling's series at y, of whose parts each meets what cancels it before it is
        # multiplied with r or x.
        both = (
            r * (ops.log1p(x / y) - ops.softplus(logit))
            + 7.5 * ops.log1p(x / y)
            - sum(ops.log1p(x / (r + float(i))) for i in range(8))
            + _stirling(x + y)
            - _stirling(y)
        )
        per_event = ops.softplus(-logit)
        few = small * (ops.log(small + y) - per_event) - small - log_gamma(small + 1.0)
        many = large * (ops.log1p(y / large) - per_event) - _log_factorial_excess(large)
        return both + ops.where(is_large, many, few)

    def mean(self, parameters: Any) -> Any:
        return ops.exp(self._split(parameters)[0])

    def stddev(self, parameters: Any) -> Any:
        log_mean, log_r = self._split(parameters)
        return ops.exp(0.5 * (log_mean + ops.softplus(log_mean - log_r)))  # m + m**2 / r = m (1 + m / r)

    def sample(self, parameters: Any, seed: int | np.random.Generator | None = None) -> np.ndarray:
        log_mean, log_r = (validation.to_numpy(part).astype("float64") for part in self._split(parameters))
        rng, r = np.random.default_rng(seed), np.exp(log_r)
        return rng.poisson(np.minimum(rng.gamma(r, np.exp(log_mean) / r), 1e15)).astype("float32")

    def _drawn_as(self):
        return {"name": "negative_binomial"}

    def draw_parameters(self, parameters: Any) -> Any:
        """The mean and the inverse dispersion."""
        return ops.concatenate([ops.exp(part) for part in self._split(parameters)], axis=-1)

    def parameters_at_mean(self, mean: np.ndarray) -> np.ndarray:
        log_mean = np.log(np.maximum(mean, 0.01))
        return np.concatenate([log_mean, np.zeros_like(log_mean)], axis=-1)

    def _split(self, parameters):
        log_mean, log_r = ops.split(parameters, 2, axis=-1)
        return straight_through_clip(log_mean, high=_MAX_LOG_RATE), straight_through_clip(log_r, *_LOG_DISPERSION_RANGE)


def _poisson_log_prob(x, parameters):
    """log p(x) at log rate `parameters`, of any size that float32 can hold."""
    is_large = x > _LARGE
    # Each formula gets only its own values, as an infinity in the other would be NaN in the gradient.
    small, log_rate = ops.where(is_large, 0.0, x), ops.where(is_large, 0.0, parameters)
    direct = small * log_rate - ops.exp(log_rate) - log_gamma(small + 1.0)
    large = ops.where(is_large, x, _LARGE)
    distance = ops.where(is_large, parameters - ops.log(large), 0.0)
    return ops.where(is_large, -large * (ops.expm1(distance) - distance) - _log_factorial_excess(large), direct)


def log_gamma(x: Any) -> Any:
    """log G(x) for 0 < x <= 101: Stirling's series at x + 8, and back by G(x + 1) = x G(x). Keras has none."""
    y = x + 8.0
    back = ops.log(x * (x + 1.0) * (x + 2.0) * (x + 3.0)) + ops.log((x + 4.0) * (x + 5.0) * (x + 6.0) * (x + 7.0))
    return (y - 0.5) * ops.log(y) - y + 0.5 * math.log(2.0 * math.pi) + _stirling(y) - back


def _log_factorial_excess(x):
    """log x! - (x log x - x), for x >= 8."""
    return 0.5 * ops.log(2.0 * math.pi * x) + _stirling(x)


def _stirling(y):
    """The series in 1/y of log G(y), to float32's last digit from y = 8 on."""
    inverse = 1.0 / y
    squared = ops.square(inverse)
    return inverse * (1.0 / 12.0 - squared * (1.0 / 360.0 - squared / 1260.0))
