"""Variational autoencoders for Keras 3, on TensorFlow, JAX and PyTorch, with the evidence lower bound in nats.

Start with `VAE`. The likelihoods ("bce", "mse" and more) are in `likelihoods/`, the bound in `objectives/`, the KL in
`distributions/`; the backends differ in `_backend/` and nowhere else.
"""

try:
    import keras as _keras  # noqa: F401
except (ModuleNotFoundError, ValueError) as error:  # ValueError: a name that Keras does not know
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else None
    if missing == "keras":
        raise ModuleNotFoundError(
            'keras_vae needs Keras and a backend: pip install "keras-vae[jax]", or [tensorflow], or [torch].',
            name="keras",
        ) from None
    if missing not in (None, "tensorflow", "jax", "torch"):
        raise
    raise ImportError(
        f"Keras has no usable backend ({error}). Choose an installed one before the import, KERAS_BACKEND=jax, torch "
        'or tensorflow, which Keras takes if nothing is chosen; or install one: pip install "keras-vae[jax]".'
    ) from None

from keras_vae import callbacks as callbacks
from keras_vae import datasets as datasets
from keras_vae import distributions as distributions
from keras_vae import evaluation as evaluation
from keras_vae import likelihoods as likelihoods
from keras_vae import networks as networks
from keras_vae import objectives as objectives
from keras_vae import plotting as plotting
from keras_vae import posteriors as posteriors
from keras_vae import priors as priors
from keras_vae import schedules as schedules
from keras_vae import sequences as sequences
from keras_vae import tables as tables
from keras_vae._backend import FusedAdam as FusedAdam
from keras_vae.distributions import DiagonalNormal as DiagonalNormal
from keras_vae.distributions import Mixture as Mixture
from keras_vae.likelihoods import Bernoulli as Bernoulli
from keras_vae.likelihoods import Categorical as Categorical
from keras_vae.likelihoods import ContinuousBernoulli as ContinuousBernoulli
from keras_vae.likelihoods import DiscretizedLogistic as DiscretizedLogistic
from keras_vae.likelihoods import Gaussian as Gaussian
from keras_vae.likelihoods import Laplace as Laplace
from keras_vae.likelihoods import Mixed as Mixed
from keras_vae.likelihoods import Multinomial as Multinomial
from keras_vae.likelihoods import NegativeBinomial as NegativeBinomial
from keras_vae.likelihoods import Poisson as Poisson
from keras_vae.likelihoods import Standardized as Standardized
from keras_vae.model import VAE as VAE
from keras_vae.objectives import ELBO as ELBO
from keras_vae.objectives import IWAE as IWAE
from keras_vae.objectives import BetaTC as BetaTC
from keras_vae.objectives import InfoVAE as InfoVAE

__version__ = "0.3.0"
