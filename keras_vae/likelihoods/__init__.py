"""Likelihoods p(x|z): this is where "BCE" and "MSE" live, and nowhere else.

A likelihood reads the decoder's output as the parameters of a distribution over x. It knows the log-probability, the
mean, how to draw, and which data are allowed; it knows neither latents nor the KL term. The two most common losses are
likelihoods under other names:

    BCE:  log p(x|z) = sum_i x_i log p_i + (1 - x_i) log(1 - p_i) = -BCE, summed over dimensions: `Bernoulli`
    MSE:  log p(x|z) = -1/2 sum_i (x_i - mean_i)**2 / scale**2 + constant:                         `Gaussian`

Every log-probability keeps its normalising constant, is in nats, and is summed over the data's dimensions. Which one?

    binary                          Bernoulli
    grey values in [0, 1]           ContinuousBernoulli, or DiscretizedLogistic for true bits of 8-bit images
    real numbers                    Gaussian, Laplace with outliers; see `location_scale` for which scale
    categories, one-hot or numbered Categorical
    counts                          Poisson, NegativeBinomial; Multinomial, given their total
    a table of all of these         Mixed
    several tensors by name         Joint, which a dict becomes
    numbers far from 1              Standardized, around one of real numbers

Add one by subclassing `Likelihood` and, if it deserves a short name, naming it in `registry.py`.
"""

from keras_vae.likelihoods.base import Likelihood as Likelihood
from keras_vae.likelihoods.base import check_finite as check_finite
from keras_vae.likelihoods.discrete import Categorical as Categorical
from keras_vae.likelihoods.discrete import Multinomial as Multinomial
from keras_vae.likelihoods.discrete import NegativeBinomial as NegativeBinomial
from keras_vae.likelihoods.discrete import Poisson as Poisson
from keras_vae.likelihoods.joint import Joint as Joint
from keras_vae.likelihoods.location_scale import MAX_USUAL as MAX_USUAL
from keras_vae.likelihoods.location_scale import SCALES as SCALES
from keras_vae.likelihoods.location_scale import DiscretizedLogistic as DiscretizedLogistic
from keras_vae.likelihoods.location_scale import Gaussian as Gaussian
from keras_vae.likelihoods.location_scale import Laplace as Laplace
from keras_vae.likelihoods.location_scale import LocationScale as LocationScale
from keras_vae.likelihoods.mixed import Mixed as Mixed
from keras_vae.likelihoods.registry import NAMES as NAMES
from keras_vae.likelihoods.registry import get as get
from keras_vae.likelihoods.standardized import Standardized as Standardized
from keras_vae.likelihoods.unit_interval import Bernoulli as Bernoulli
from keras_vae.likelihoods.unit_interval import ContinuousBernoulli as ContinuousBernoulli
