"""Distributions of z: noise in, density out.

`DiagonalNormal` is the usual q(z|x) and p(z); `FullNormal`, `LowRankNormal` and `Transformed` are others of q(z|x);
`Mixture` is what other priors are made of; `PointMass` and `UniformCodes` are q(z|x) and p(z) of discrete z;
`kl_divergence` is in closed form where one is registered (`kl.py`) and an average over samples elsewhere.

They compute with whatever they hold. Given NumPy arrays they return NumPy arrays and draw from NumPy's generator, so
that a posterior returned by `VAE.encode` gives the same sample for the same seed on every backend. Given backend
tensors they compute with `keras.ops`, inside the training step and under jit.
"""

from keras_vae.distributions.base import Distribution as Distribution
from keras_vae.distributions.base import Factorised as Factorised
from keras_vae.distributions.base import Flattened as Flattened
from keras_vae.distributions.base import check_density as check_density
from keras_vae.distributions.base import flatten_event as flatten_event
from keras_vae.distributions.chain import Chain as Chain
from keras_vae.distributions.codes import PointMass as PointMass
from keras_vae.distributions.codes import UniformCodes as UniformCodes
from keras_vae.distributions.coupling_flow import CouplingFlow as CouplingFlow
from keras_vae.distributions.full_mixture import FullMixture as FullMixture
from keras_vae.distributions.full_normal import FullNormal as FullNormal
from keras_vae.distributions.full_normal import LowRankNormal as LowRankNormal
from keras_vae.distributions.kl import has_closed_form_kl as has_closed_form_kl
from keras_vae.distributions.kl import kl_divergence as kl_divergence
from keras_vae.distributions.kl import monte_carlo_kl as monte_carlo_kl
from keras_vae.distributions.kl import register_kl as register_kl
from keras_vae.distributions.mixture import Mixture as Mixture
from keras_vae.distributions.normal import LOG_2_PI as LOG_2_PI
from keras_vae.distributions.normal import ConditionalNormal as ConditionalNormal
from keras_vae.distributions.normal import DiagonalNormal as DiagonalNormal
from keras_vae.distributions.transformed import Transformed as Transformed

# Those that compute with NumPy arrays too; of any other the arrays go through a compiled function of the model.
OF_ARRAYS = (DiagonalNormal, Mixture, FullMixture, UniformCodes)
