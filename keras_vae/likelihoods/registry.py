"""Likelihoods by name: a module of its own, so that `Mixed`, whose groups may be named, can import `get` from below."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_vae.likelihoods.base import Likelihood
from keras_vae.likelihoods.discrete import Categorical, Multinomial, NegativeBinomial, Poisson
from keras_vae.likelihoods.location_scale import DiscretizedLogistic, Gaussian, Laplace
from keras_vae.likelihoods.unit_interval import Bernoulli, ContinuousBernoulli

_BY_NAME: dict[str, type[Likelihood]] = {
    "bce": Bernoulli,
    "bernoulli": Bernoulli,
    "mse": Gaussian,
    "gaussian": Gaussian,
    "continuous_bernoulli": ContinuousBernoulli,
    "laplace": Laplace,
    "discretized_logistic": DiscretizedLogistic,
    "categorical": Categorical,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "multinomial": Multinomial,
}
NAMES: tuple[str, ...] = tuple(_BY_NAME)


def get(likelihood: str | Likelihood | Mapping[str, Any]) -> Likelihood:
    """A likelihood from its name ("bce" = "bernoulli", "mse" = "gaussian", ...), its config, or itself.

    A dict of likelihoods by the names of parts of the data is a `Joint`.

    Raises:
        ValueError: If there is no likelihood of that name, or it is a class instead of an object.
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    if isinstance(likelihood, Mapping):
        if "class_name" in likelihood:
            return keras.saving.deserialize_keras_object(likelihood)
        return keras.saving.get_registered_object("keras_vae>Joint")(likelihood)  # which imports this file
    if isinstance(likelihood, str) and likelihood.lower() in _BY_NAME:
        return _BY_NAME[likelihood.lower()]()
    if isinstance(likelihood, type) and issubclass(likelihood, Likelihood):
        raise ValueError(f"likelihood is the class {likelihood.__name__}; pass an object: {likelihood.__name__}(...).")
    names = ", ".join(f'"{name}"' for name in NAMES)
    raise ValueError(f"likelihood must be one of {names}, or a Likelihood object; got {likelihood!r}.")
