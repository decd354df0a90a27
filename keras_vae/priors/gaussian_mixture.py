"""A mixture of normals as the prior."""

from typing import Any

import keras
from keras import ops

from keras_vae import validation
from keras_vae._numerics import straight_through_clip
from keras_vae.distributions import DiagonalNormal, Distribution, Mixture
from keras_vae.priors.base import DataSpec, Prior

# A component below this range is a point; a component above it is fitted to nothing.
_LOG_VAR_RANGE = (-15.0, 15.0)


@keras.saving.register_keras_serializable(package="keras_vae")
class GaussianMixture(Prior):
    """A mixture of normals whose means, variances and weights are learned with the rest of the model.

        p(z) = sum_k w_k N(z; mean_k, diag(exp(log_var_k)))

    Args:
        components: Number of components. They begin as N(mean_k, I) with means drawn from N(0, I).
        seed: Seed for those means, an integer, or None.

    Example:

    >>> vae = keras_vae.VAE(encoder, decoder, prior=keras_vae.priors.GaussianMixture(50))

    Reference: Dilokthanakul et al. 2016, arXiv:1611.02648, and Tomczak & Welling 2018, arXiv:1705.07120, section 4
    ("MoG").
    """

    distribution_class = Mixture

    def __init__(self, components: int = 10, seed: int | None = None):
        super().__init__()
        self.components = validation.whole_number("components", components)
        self.seed = seed

    def make_weights(self, latent_shape: tuple[int | None, ...], data: DataSpec) -> None:
        validation.fixed_shape(self, latent_shape)

        def weight(name, shape, initializer="zeros"):
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        # Alone, a component begins as N(0, I).
        start = keras.initializers.RandomNormal(stddev=1.0, seed=self.seed) if self.components > 1 else "zeros"
        self.logits = weight("logits", (self.components,))
        self.mean = weight("mean", (self.components, *latent_shape), start)
        self.log_var = weight("log_var", (self.components, *latent_shape))

    def distribution(self, given: Any = None, encode: Any = None) -> Distribution:
        log_var = straight_through_clip(self.log_var, *_LOG_VAR_RANGE)
        components = DiagonalNormal(ops.convert_to_tensor(self.mean), log_var, len(self.mean.shape) - 1)
        return Mixture(components, ops.convert_to_tensor(self.logits))

    def get_config(self) -> dict[str, Any]:
        return {"components": self.components, "seed": self.seed}
