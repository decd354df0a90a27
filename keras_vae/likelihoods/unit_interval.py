"""Data in [0, 1]: binary values are Bernoulli, grey values are continuous Bernoulli.

The two have the same exponent, x log p + (1 - x) log(1 - p). What is missing from the cross-entropy for it to be a
density over [0, 1] is the constant C(p), which depends on p and so cannot be left out.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import validation
from keras_vae.likelihoods.base import Likelihood, check_unit_interval, refuse_activation

_BOUNDED = ("relu", "tanh", "softplus", "softmax")


@keras.saving.register_keras_serializable(package="keras_vae")
class Bernoulli(Likelihood):
    """Binary data: p(x|z) = prod_i p_i**x_i (1 - p_i)**(1 - x_i). Its -log p is the binary cross-entropy, "BCE".

    Data must lie in [0, 1]. For grey values strictly between 0 and 1 the sum is still the cross-entropy, but no
    longer a log-probability: its minimum is the entropy of the pixels (45.5 nats per MNIST digit), not 0. `fit` says
    so once; `ContinuousBernoulli` is the density.

    Args:
        from_logits: Whether the decoder's output is log(p / (1 - p)), from a linear last layer. If False it is p
            itself, from a sigmoid; p is then clipped to [1e-7, 1 - 1e-7], which caps the loss at 16.1
            nats per pixel and stops its gradient there. Prefer logits.

    Example:

    >>> Bernoulli().log_prob(ops.ones((1, 784)), ops.zeros((1, 784)))  # 784 fair coins: -784 log 2 = -543.4 nats

    Reference: Kingma & Welling 2014, arXiv:1312.6114, appendix C.1, equation 11.
    """

    is_discrete: bool = True
    data_range: tuple[float, float] | None = (0.0, 1.0)

    def __init__(self, from_logits: bool = True) -> None:
        super().__init__()
        self.from_logits: bool = bool(from_logits)

    def log_prob_per_dimension(self, x: Any, parameters: Any) -> Any:
        if self.from_logits:
            # x log p + (1 - x) log(1 - p), with log p = -softplus(-l) and log(1 - p) = -softplus(l), and softplus(l) =
            # (l + |l|) / 2 + log(1 + exp(-|l|)). Exact at any logit; at 0, where |l| has a corner and autodiff takes
            # its slope for 0, the gradient x - 1/2 is that of the first term, which relu(l) - l x would lose. One
            # exponential and one logarithm: two softplus took half of the time of `evaluation.log_likelihood`.
            size = ops.abs(parameters)
            return (x - 0.5) * parameters - 0.5 * size - ops.log1p(ops.exp(-size))
        p = ops.clip(parameters, 1e-7, 1.0 - 1e-7)
        return x * ops.log(p) + (1.0 - x) * ops.log1p(-p)

    def mean(self, parameters: Any) -> Any:
        return ops.sigmoid(parameters) if self.from_logits else parameters

    def sample(self, parameters: Any, seed: int | np.random.Generator | None = None) -> np.ndarray:
        p = validation.to_numpy(self.mean(parameters))
        return (np.random.default_rng(seed).random(p.shape, dtype="float32") < p).astype("float32")

    def _drawn_as(self):
        return {"name": "bernoulli"}

    def parameters_at_mean(self, mean: np.ndarray) -> np.ndarray:
        # Clipped as in Burda et al. 2016: a pixel that is never on would start at minus infinity.
        p = np.clip(mean, 0.001, 0.999)
        return np.log(p / (1.0 - p)) if self.from_logits else p

    def validate_values(self, x: np.ndarray, name: str) -> None:
        check_unit_interval(x, name, 'Bernoulli ("bce")', 'likelihood="mse" for real-valued data')

    def caveat(self, x: np.ndarray) -> str | None:
        grey = x[(x > 0) & (x < 1)]
        if grey.size == 0:
            return None
        return (
            f"{100 * grey.size / x.size:.0f} % of these data lie strictly between 0 and 1, and for grey values the "
            "Bernoulli likelihood gives a cross-entropy, not a log-likelihood: its minimum is not 0, and the loss does "
            'not bound -log p(x). Use likelihood="continuous_bernoulli", which has the constant that is missing, '
            "or make the data binary."
        )

    def validate_activation(self, activation: str | None) -> None:
        if self.from_logits and activation in ("sigmoid", "hard_sigmoid"):
            raise ValueError(
                f"The decoder ends in a {activation}, but the Bernoulli likelihood expects logits and would apply "
                "another: the loss could never get near its minimum. Either remove the last activation (recommended: "
                "more accurate), or pass likelihood=keras_vae.Bernoulli(from_logits=False)."
            )
        if self.from_logits:
            refuse_activation(
                activation, _BOUNDED, "logits must be able to take any value: some probabilities could never be reached"
            )
        if not self.from_logits and activation in ("linear", "relu", "tanh", "softplus", "elu", "gelu", "leaky_relu"):
            raise ValueError(
                f"The decoder ends in a {activation} activation, which leaves [0, 1], but Bernoulli(from_logits=False) "
                'reads its output as probabilities. Either end the decoder in a sigmoid, or use likelihood="bce", '
                "which takes logits."
            )

    def get_config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package="keras_vae")
class ContinuousBernoulli(Likelihood):
    """Grey values in [0, 1]: the density p(x|z) = prod_i C(p_i) p_i**x_i (1 - p_i)**(1 - x_i).

    The decoder's output is the logit l = log(p / (1 - p)), in which the density is an exponential family:

        log p(x|z) = sum_i x_i l_i - A(l_i),   A(l) = log((exp(l) - 1) / l),   C(p) = l / tanh(l / 2)

    p is not the mean, which is A'(l) and nearer to 1/2. At x exactly 0 or 1 the density grows without bound, like
    log|l|: of 8-bit pixels add the noise that rounding took away, (pixel + uniform) / 256, as the authors do.

    Example:

    >>> ContinuousBernoulli().log_prob(ops.ones((1, 784)) / 3, ops.zeros((1, 784)))  # the uniform density: 0 nats

    Reference: Loaiza-Ganem & Cunningham 2019, The continuous Bernoulli, arXiv:1907.06845.
    """

    data_range: tuple[float, float] | None = (0.0, 1.0)

    def log_prob_per_dimension(self, x: Any, parameters: Any) -> Any:
        # A(l) = l/2 + log(sinh(t)/t) with t = |l|/2. At l = 0 that is 0/0: near it the Taylor series, in t**2, whose
        # next term is 1e-7; beyond it, sinh without overflow. Each branch gets only values it can handle, as a NaN in
        # the branch not chosen would reach the gradient.
        squared = 0.25 * ops.square(parameters)
        near = squared < 0.25
        series = squared * (1.0 / 6.0 - squared * (1.0 / 180.0 - squared / 2835.0))
        t = 0.5 * ops.abs(ops.where(near, 1.0, parameters))
        far = t + ops.log1p(-ops.exp(-2.0 * t)) - ops.log(2.0 * t)
        series = ops.where(near, series, 0.0)
        return (x - 0.5) * parameters - ops.where(near, series, far)

    def mean(self, parameters: Any) -> Any:
        """E[x|z] = A'(l) = 1/2 + (coth(l/2) - 2/l) / 2."""
        parameters = ops.convert_to_tensor(parameters)
        squared = ops.square(parameters)
        near = squared < 1.0
        series = parameters * (1.0 / 12.0 - squared * (1.0 / 720.0 - squared / 30240.0))
        half = 0.5 * ops.where(near, 1.0, parameters)
        return 0.5 + ops.where(near, series, 0.5 / ops.tanh(half) - 0.5 / half)

    def sample(self, parameters: Any, seed: int | np.random.Generator | None = None) -> np.ndarray:
        logits = validation.to_numpy(parameters).astype("float64")
        # The inverse of 1 minus the distribution function, (exp(l) - exp(l x)) / (exp(l) - 1), for |l|; that of -l is
        # its mirror image.
        u = np.random.default_rng(seed).random(logits.shape)
        size = np.maximum(np.abs(logits), 1e-9)
        x = 1.0 + np.log1p(u * np.expm1(-size)) / size
        return np.where(logits < 0.0, 1.0 - x, x).astype("float32")

    def _drawn_as(self):
        return {"name": "continuous_bernoulli"}

    def draw_parameters(self, parameters: Any) -> Any:
        """The logits."""
        return parameters

    def parameters_at_mean(self, mean: np.ndarray) -> np.ndarray:
        mean = np.clip(mean, 0.02, 0.98)
        low, high = np.full(np.shape(mean), -60.0), np.full(np.shape(mean), 60.0)
        for _ in range(50):  # the mean grows with the logit: bisection
            middle = 0.5 * (low + high)
            below = validation.to_numpy(self.mean(ops.convert_to_tensor(middle, "float32"))) < mean
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return 0.5 * (low + high)

    def validate_values(self, x: np.ndarray, name: str) -> None:
        check_unit_interval(x, name, "continuous Bernoulli", 'likelihood="mse" for real-valued data')

    def caveat(self, x: np.ndarray) -> str | None:
        if ((x > 0) & (x < 1)).any():
            return None
        return (
            "These data are binary, and the continuous Bernoulli is a density over [0, 1], which grows without "
            'bound at both ends: so does its log-likelihood of these data. Use likelihood="bernoulli".'
        )

    def validate_activation(self, activation: str | None) -> None:
        refused = ("sigmoid", "hard_sigmoid", *_BOUNDED)
        refuse_activation(
            activation, refused, "the continuous Bernoulli expects logits, which must be able to take any value"
        )
