"""Draws x from p(x|z): the numbers of `keras_vae`'s `Likelihood.sample` from the same seed, without Keras.

The manifest names the distribution, in `draws`, as the likelihood's `drawn_as` said at export: `{"name": "gaussian"}`.
The decoder gives its parameters: the mean and the standard deviation where these are all, else the output
`x_parameters`. Several parameters of each channel are blocks of channels on the last axis.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_MOST = 1e15  # the greatest rate that NumPy's Poisson takes is a little less than 2**63


def draw(
    spec: dict[str, Any], parameters: np.ndarray, rng: np.random.Generator | Sequence[np.random.Generator]
) -> np.ndarray:
    """Draws x, float32.

    Args:
        spec: Entry `draws` of the manifest.
        parameters: `(..., channels)`; of codes `(..., num_classes)`, an axis more than x has.
        rng: Generator, or one for each example; the draws of the groups of a table follow each other.
    """
    if not isinstance(rng, np.random.Generator):
        return np.concatenate([draw(spec, parameters[i : i + 1], each) for i, each in enumerate(rng)])
    name = spec["name"]
    if name == "standardized":
        mean, stddev = (np.asarray(spec[part], "float32") for part in ("mean", "stddev"))
        return draw(spec["of"], parameters, rng) * stddev + mean
    if name == "mixed":
        ends = np.cumsum([_channels(part, count) for part, count in spec["groups"]])[:-1]
        pieces = zip(spec["groups"], np.split(parameters, ends, axis=-1), strict=True)
        return np.concatenate([draw(part, _shaped(part, piece), rng) for (part, _), piece in pieces], axis=-1)
    return _DRAWS[name](spec, parameters, rng).astype("float32", copy=False)


def needs_parameters(spec: dict[str, Any]) -> bool:
    """Whether more than the mean and the standard deviation must be known."""
    return spec["name"] not in _OF_MOMENTS or spec.get("num_classes") is not None


def parameter_shape(spec: dict[str, Any], data_shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shape of `parameters` for data of this shape, whose free sizes are names."""
    if spec.get("num_classes"):
        return (*data_shape, spec["num_classes"])
    *rest, columns = data_shape
    return (*rest, _channels(spec, columns) if isinstance(columns, int) else f"x_parameters_{len(rest)}")


def check(spec: dict[str, Any]) -> None:
    """Raises a ValueError if the distribution is not one of these."""
    parts = [part for part, _ in spec["groups"]] if spec["name"] == "mixed" else [spec["of"]] if "of" in spec else []
    for part in parts:
        check(part)
    if not parts and spec["name"] not in _DRAWS:
        raise ValueError(f"it draws from {spec['name']!r}, and this keras_vae_serving knows {', '.join(_DRAWS)}")


def _channels(spec, columns):
    if spec["name"] == "standardized":
        return _channels(spec["of"], columns)
    if spec["name"] == "mixed":
        return sum(_channels(part, count) for part, count in spec["groups"])
    return columns * (spec.get("num_classes") or (2 if spec["name"] in _OF_TWO else 1))


def _shaped(spec, parameters):
    classes = spec.get("num_classes")
    return parameters.reshape(*parameters.shape[:-1], -1, classes) if classes else parameters


def _bernoulli(spec, p, rng):
    return rng.random(p.shape, dtype="float32") < p


def _continuous_bernoulli(spec, logits, rng):
    # The inverse of 1 minus the distribution function, for |logit|; that of -logit is its mirror image.
    logits = logits.astype("float64")
    size = np.maximum(np.abs(logits), 1e-9)
    x = 1.0 + np.log1p(rng.random(logits.shape) * np.expm1(-size)) / size
    return np.where(logits < 0.0, 1.0 - x, x)


def _gaussian(spec, parameters, rng):
    mean, stddev = np.split(parameters, 2, axis=-1)
    return mean + stddev * rng.standard_normal(mean.shape, dtype="float32")


def _laplace(spec, parameters, rng):
    mean, stddev = np.split(parameters, 2, axis=-1)
    return mean + stddev / np.sqrt(2.0) * rng.laplace(size=mean.shape)


def _discretized_logistic(spec, parameters, rng):
    location, scale = np.split(parameters, 2, axis=-1)
    steps = spec["levels"] - 1
    return np.round(np.clip(location + scale * rng.logistic(size=location.shape), 0.0, 1.0) * steps) / steps


def _categorical(spec, p, rng):
    with np.errstate(divide="ignore"):  # the largest of log p and Gumbel noise is a draw, and never one of p = 0
        winner = np.argmax(np.log(p) + rng.gumbel(size=p.shape), axis=-1)
    return winner if spec["num_classes"] else np.eye(p.shape[-1])[winner]


def _poisson(spec, rate, rng):
    return rng.poisson(np.minimum(rate.astype("float64"), _MOST))


def _negative_binomial(spec, parameters, rng):
    mean, r = np.split(parameters.astype("float64"), 2, axis=-1)
    return rng.poisson(np.minimum(rng.gamma(r, mean / r), _MOST))


def _multinomial(spec, mean, rng):
    p = mean.astype("float64")
    return rng.multinomial(spec["total"], p / p.sum(axis=-1, keepdims=True))


_DRAWS: dict[str, Callable[[dict[str, Any], np.ndarray, np.random.Generator], np.ndarray]] = {
    "bernoulli": _bernoulli,
    "continuous_bernoulli": _continuous_bernoulli,
    "gaussian": _gaussian,
    "laplace": _laplace,
    "discretized_logistic": _discretized_logistic,
    "categorical": _categorical,
    "poisson": _poisson,
    "negative_binomial": _negative_binomial,
    "multinomial": _multinomial,
}
_OF_MOMENTS = ("bernoulli", "gaussian", "laplace", "categorical", "poisson", "multinomial")
_OF_TWO = ("gaussian", "laplace", "discretized_logistic", "negative_binomial")
