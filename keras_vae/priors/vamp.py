"""The variational mixture of posteriors as the prior."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import validation
from keras_vae._numerics import straight_through_clip
from keras_vae.distributions import DiagonalNormal, Distribution, Mixture
from keras_vae.priors.base import DataSpec, Prior


@keras.saving.register_keras_serializable(package="keras_vae")
class VampPrior(Prior):
    """The average of the posteriors of K learned "pseudo-inputs".

        p(z) = 1/K sum_k q(z | u_k)

    The prior that maximises the ELBO is the aggregate posterior; VampPrior approximates it with K pseudo-inputs. Each
    step encodes the pseudo-inputs too, in inference mode: batch normalisation's averages do not see them.

    Args:
        components: Number of pseudo-inputs, K.
        pseudo_inputs: `(components, ...)` examples to start from, such as `x[:500]`. None: they start as noise around
            the middle of the data's range and learn for longer. A model that is made from a config, as by
            `keras.models.clone_model`, starts from such noise too.
        seed: Seed for that noise, an integer, or None.

    Example:

    >>> prior = keras_vae.priors.VampPrior(500, pseudo_inputs=x_train[:500])
    >>> vae = keras_vae.VAE(encoder, decoder, prior=prior)

    Reference: Tomczak & Welling 2018, VAE with a VampPrior, arXiv:1705.07120, equation 9.
    """

    distribution_class = Mixture

    def __init__(self, components: int = 500, pseudo_inputs: Any = None, seed: int | None = None):
        super().__init__()
        self.components = validation.whole_number("components", components)
        self.seed = seed
        self.pseudo_inputs: Any = None  # a weight, once the model knows its shapes
        self._start = None if pseudo_inputs is None else np.asarray(validation.to_numpy(pseudo_inputs), "float32")
        if self._start is not None and len(self._start) != self.components:
            raise ValueError(f"pseudo_inputs holds {len(self._start)} examples for {self.components} components.")

    def bind(self, latent_shape: tuple[int | None, ...], data: DataSpec) -> None:
        if data.condition_shape is not None or "int" in data.dtype:
            takes = "whole numbers" if data.condition_shape is None else "a condition with each example"
            raise ValueError(
                f"A VampPrior encodes pseudo-inputs of floats, and this encoder takes {takes}: use "
                "priors.GaussianMixture instead."
            )
        if not issubclass(data.posterior, DiagonalNormal):
            raise ValueError(
                f"A VampPrior is a mixture of normals with independent dimensions, and q(z|x) is a "
                f'{data.posterior.__name__}: choose the posterior "normal", or priors.GaussianMixture.'
            )
        if None in data.shape:
            raise ValueError(f"A VampPrior needs data of one shape; a size in {data.shape} is free.")
        held = self._start if self.pseudo_inputs is None else self.pseudo_inputs
        if held is not None and tuple(held.shape[1:]) != tuple(data.shape):
            raise ValueError(
                f"pseudo_inputs must hold examples of shape {data.shape}; they have {tuple(held.shape[1:])}: make a "
                "prior with others."
            )
        super().bind(latent_shape, data)
        self.data_range = data.range  # of the likelihood that the model has now

    def make_weights(self, latent_shape: tuple[int | None, ...], data: DataSpec) -> None:
        start = self._start
        if start is None:
            low, high = data.range or (-1.0, 1.0)
            low = low if math.isfinite(low) else min(high, 1.0) - 2.0
            high = high if math.isfinite(high) else low + 2.0
            shape: Any = (self.components, *data.shape)
            noise = np.random.default_rng(self.seed).standard_normal(shape)
            start = 0.5 * (low + high) + 0.1 * (high - low) * noise
        elif not np.isfinite(start).all():
            raise ValueError("pseudo_inputs hold NaN or infinite values: take examples without.")
        self.pseudo_inputs = self.add_weight(name="pseudo_inputs", shape=start.shape, initializer="zeros")
        self.pseudo_inputs.assign(start)
        self._start = None

    def distribution(self, given: Any = None, encode: Any = None) -> Distribution:
        inputs = ops.convert_to_tensor(self.pseudo_inputs)
        return Mixture(encode(inputs if self.data_range is None else straight_through_clip(inputs, *self.data_range)))

    def get_config(self) -> dict[str, Any]:
        return {"components": self.components, "seed": self.seed}
