"""Likelihoods p(x|z): this is where "BCE" and "MSE" live, and nowhere else.

A likelihood reads the decoder's output as the parameters of a distribution over x. It knows the log-probability, the
mean, how to draw, and which data are allowed; it knows neither latents nor the KL term. The two losses everybody
starts with are likelihoods under other names:

    BCE:  log p(x|z) = sum_i x_i log p_i + (1 - x_i) log(1 - p_i) = -BCE, summed over dimensions: `Bernoulli`
    MSE:  log p(x|z) = -1/2 sum_i (x_i - mean_i)**2 / scale**2 + constant:                         `Gaussian`

Every log-probability keeps its normalising constant, is in nats, and is summed over the data's dimensions. Which one?

    binary                          Bernoulli
    grey values in [0, 1]           ContinuousBernoulli, or DiscretizedLogistic for true bits of 8-bit images
    real numbers                    Gaussian, Laplace with outliers; see `location_scale` for which scale
    one-hot categories              Categorical
    counts                          Poisson, NegativeBinomial
    a table of all of these         Mixed

Add one by subclassing `Likelihood` and, if it deserves a short name, naming it in `_BY_NAME`.
"""

import keras

from keras_vae.likelihoods.base import Likelihood as Likelihood
from keras_vae.likelihoods.base import check_finite as check_finite
from keras_vae.likelihoods.discrete import Categorical as Categorical
from keras_vae.likelihoods.discrete import NegativeBinomial as NegativeBinomial
from keras_vae.likelihoods.discrete import Poisson as Poisson
from keras_vae.likelihoods.location_scale import SCALES as SCALES
from keras_vae.likelihoods.location_scale import DiscretizedLogistic as DiscretizedLogistic
from keras_vae.likelihoods.location_scale import Gaussian as Gaussian
from keras_vae.likelihoods.location_scale import Laplace as Laplace
from keras_vae.likelihoods.location_scale import LocationScale as LocationScale
from keras_vae.likelihoods.mixed import Mixed as Mixed
from keras_vae.likelihoods.unit_interval import Bernoulli as Bernoulli
from keras_vae.likelihoods.unit_interval import ContinuousBernoulli as ContinuousBernoulli

_BY_NAME = {
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
}
NAMES = tuple(_BY_NAME)


def get(likelihood) -> Likelihood:
    """A likelihood from its name ("bce" = "bernoulli", "mse" = "gaussian", ...), its config, or itself."""
    if isinstance(likelihood, Likelihood):
        return likelihood
    if isinstance(likelihood, dict):
        return keras.saving.deserialize_keras_object(likelihood)
    if isinstance(likelihood, str) and likelihood.lower() in _BY_NAME:
        return _BY_NAME[likelihood.lower()]()
    if isinstance(likelihood, type) and issubclass(likelihood, Likelihood):
        raise ValueError(f"likelihood is the class {likelihood.__name__}; pass one of it: {likelihood.__name__}(...).")
    names = ", ".join(f'"{name}"' for name in NAMES)
    raise ValueError(f"likelihood must be one of {names}, or a Likelihood object; got {likelihood!r}.")
