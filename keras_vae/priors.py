"""Priors p(z) that learn: each is a recipe for a distribution, which the objective is given at every step.

A fixed prior needs none of this: `VAE(prior=DiagonalNormal(mean, log_var))`, or a `Mixture`, is a distribution already.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_vae import _checks
from keras_vae._config import Configured
from keras_vae._numerics import bounded
from keras_vae.distributions import DiagonalNormal, Mixture

# As of a posterior: a component narrower than this is a point, and one wider is no density that anything is fitted to.
_LOG_VAR_RANGE = (-15.0, 15.0)


class Prior(Configured, keras.layers.Layer):
    """What the model asks of a prior that is not a plain distribution.

    A Keras layer without a call: what a prior learns is a weight of the model like any other, trained, saved, loaded
    and counted.
    """

    has_closed_form_kl = False  # from a diagonal normal; else the KL term is an average over samples

    def __init__(self):
        super().__init__(dtype="float32")  # pyright: ignore[reportCallIssue] # of Layer's, behind the mixin
        self.built = True
        self.latent_dim = None

    def fit_to(self, latent_dim, data_shape, data_range, encoder_wants=None):
        """Makes the weights, once the model knows its shapes.

        Args:
            latent_dim: Dimensions of z.
            data_shape: Shape of one example.
            data_range: The least and the greatest value of the data, or None if they have no bounds.
            encoder_wants: What the encoder takes that made-up examples of floats do not have, in words; or None.

        Raises:
            ValueError: If the prior cannot serve such a model; says why.
        """
        if self.latent_dim not in (None, latent_dim):
            raise ValueError(
                f"{self!r} belongs to a model of {self.latent_dim} latent dimensions, and this one has {latent_dim}: "
                "make a new one."
            )
        if self.latent_dim is None:
            self.latent_dim = latent_dim
            self.make_weights(latent_dim, data_shape, data_range, encoder_wants)

    def make_weights(self, latent_dim, data_shape, data_range, encoder_wants=None):
        """What `fit_to` asks a subclass for, once."""

    def distribution(self, encode):
        """p(z) as it is now.

        Args:
            encode: The model's q(z|x): from a tensor of data, `(n, ...)`, to a `DiagonalNormal`.

        Returns:
            A `DiagonalNormal` or a `Mixture` of tensors, with `log_prob`, `from_noise` and `noise_dim`.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_vae")
class StandardNormal(Prior):
    """N(0, I), which a model has where none is given."""

    has_closed_form_kl = True

    def distribution(self, encode):
        return DiagonalNormal.standard(self.latent_dim)


@keras.saving.register_keras_serializable(package="keras_vae")
class GaussianMixture(Prior):
    """A mixture of normals whose means, variances and weights are learned with the rest of the model.

        p(z) = sum_k w_k N(z; mean_k, diag(exp(log_var_k)))

    Args:
        components: Their number. They begin as N(mean_k, I) with means drawn from N(0, I).
        seed: Of those means, an integer, or None.

    Example:

    >>> vae = keras_vae.VAE(encoder, decoder, prior=keras_vae.priors.GaussianMixture(50))

    Reference: Dilokthanakul et al. 2016, arXiv:1611.02648, and Tomczak & Welling 2018, arXiv:1705.07120, section 4
    ("MoG").
    """

    def __init__(self, components=10, seed=None):
        super().__init__()
        self.components = _checks.whole_number("components", components)
        self.seed = seed

    def make_weights(self, latent_dim, data_shape, data_range, encoder_wants=None):
        def weight(name, shape, initializer="zeros"):
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        # Alone, a component begins as N(0, I).
        start = keras.initializers.RandomNormal(stddev=1.0, seed=self.seed) if self.components > 1 else "zeros"
        self.logits = weight("logits", (self.components,))
        self.mean = weight("mean", (self.components, latent_dim), start)
        self.log_var = weight("log_var", (self.components, latent_dim))

    def distribution(self, encode):
        components = DiagonalNormal(ops.convert_to_tensor(self.mean), bounded(self.log_var, *_LOG_VAR_RANGE))
        return Mixture(components, ops.convert_to_tensor(self.logits))

    def get_config(self):
        return {"components": self.components, "seed": self.seed}


@keras.saving.register_keras_serializable(package="keras_vae")
class VampPrior(Prior):
    """The average of the posteriors of made-up examples ("pseudo-inputs"), which are learned.

        p(z) = 1/K sum_k q(z | u_k)

    The best prior for the bound is the average of q(z|x) over the data; this is one of as many terms as one can afford.
    Each step encodes the pseudo-inputs too, in inference mode (they do not move batch normalisation's averages).

    Args:
        components: K, their number.
        pseudo_inputs: `(components, ...)` examples to start from, such as `x[:500]`: they begin where the data are. If
            None, they begin as noise in the range of the data, about the middle of it, and learn for longer. A model
            that is made from a config, as by `keras.models.clone_model`, begins with such noise too.
        seed: Of that noise, an integer, or None.

    Example:

    >>> prior = keras_vae.priors.VampPrior(500, pseudo_inputs=x_train[:500])
    >>> vae = keras_vae.VAE(encoder, decoder, prior=prior)

    Reference: Tomczak & Welling 2018, VAE with a VampPrior, arXiv:1705.07120, equation 9.
    """

    def __init__(self, components=500, pseudo_inputs=None, seed=None):
        super().__init__()
        self.components = _checks.whole_number("components", components)
        self.seed = seed
        self._start = None if pseudo_inputs is None else np.asarray(_checks.to_numpy(pseudo_inputs), "float32")
        if self._start is not None and len(self._start) != self.components:
            raise ValueError(f"pseudo_inputs holds {len(self._start)} examples for {self.components} components.")

    def make_weights(self, latent_dim, data_shape, data_range, encoder_wants=None):
        if encoder_wants is not None:
            raise ValueError(
                f"A VampPrior encodes made-up examples of floats, and this encoder wants {encoder_wants}: take "
                "priors.GaussianMixture."
            )
        if None in data_shape:
            raise ValueError(f"A VampPrior needs data of one shape; a size of {data_shape} is free.")
        start = self._start
        if start is None:
            low, high = data_range or (-1.0, 1.0)
            low = low if math.isfinite(low) else min(high, 1.0) - 2.0
            high = high if math.isfinite(high) else low + 2.0
            noise = np.random.default_rng(self.seed).standard_normal((self.components, *data_shape))
            start = 0.5 * (low + high) + 0.1 * (high - low) * noise
        elif start.shape[1:] != tuple(data_shape):
            raise ValueError(f"pseudo_inputs must hold examples of shape {data_shape}; they have {start.shape[1:]}.")
        elif not np.isfinite(start).all():
            raise ValueError("pseudo_inputs hold NaN or infinite values: take examples without.")
        self.pseudo_inputs = self.add_weight(name="pseudo_inputs", shape=start.shape, initializer="zeros")
        self.pseudo_inputs.assign(start)
        self._start, self.data_range = None, data_range

    def distribution(self, encode):
        inputs = ops.convert_to_tensor(self.pseudo_inputs)
        return Mixture(encode(inputs if self.data_range is None else bounded(inputs, *self.data_range)))

    def get_config(self):
        return {"components": self.components, "seed": self.seed}


def check(prior):
    """Raises a ValueError unless `prior` is something that a model can have as p(z)."""
    if not isinstance(prior, Prior | DiagonalNormal | Mixture):
        raise ValueError(
            "prior must be a keras_vae.priors.Prior such as GaussianMixture(10), a DiagonalNormal or Mixture, or None "
            f"for N(0, I); got {prior!r}."
        )
