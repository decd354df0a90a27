"""The diagonal normal distribution, which is both q(z|x) and p(z) of a variational autoencoder.

One class serves both roles, because the KL divergence between two diagonal normals is closed form and the
standard normal prior is the case mean = 0, log_var = 0.

It computes with whatever it holds. Given NumPy arrays it returns NumPy arrays and draws from NumPy's generator, so
that a posterior returned by `VAE.encode` gives the same sample for the same seed on every backend. Given backend
tensors it computes with `keras.ops`, inside the training step and under jit.
"""

import math

import keras
import numpy as np

LOG_2_PI = math.log(2.0 * math.pi)


@keras.saving.register_keras_serializable(package="keras_vae")
class DiagonalNormal:
    """N(mean, diag(exp(log_var))): a normal distribution with independent dimensions.

    Args:
        mean: `(..., latent_dim)`-dim array or tensor.
        log_var: The logarithm of the variance, of the same shape.

    Example:

    >>> prior = DiagonalNormal.standard(2)
    >>> posterior = DiagonalNormal(np.array([[1.0, 0.0]]), np.zeros((1, 2)))
    >>> posterior.kl_divergence(prior)
    array([0.5])
    """

    def __init__(self, mean, log_var):
        if isinstance(mean, list | tuple):
            mean, log_var = np.asarray(mean, "float32"), np.asarray(log_var, "float32")
        if tuple(np.shape(mean)) != tuple(np.shape(log_var)):
            raise ValueError(
                f"mean and log_var must have the same shape; got {tuple(np.shape(mean))} and "
                f"{tuple(np.shape(log_var))}."
            )
        self.mean = mean
        self.log_var = log_var

    @classmethod
    def standard(cls, dim):
        """N(0, I) in `dim` dimensions, the usual prior."""
        return cls(np.zeros(dim, "float32"), np.zeros(dim, "float32"))

    def reparameterize(self, epsilon):
        """z = mean + exp(log_var / 2) * epsilon, differentiable in mean and log_var.

        Args:
            epsilon: Draws from N(0, I), of a shape that broadcasts with the mean, such as
                `(num_samples, batch, latent_dim)`.

        Returns:
            Draws from this distribution, of epsilon's shape.

        Reference: Kingma & Welling 2014, arXiv:1312.6114, section 2.4.
        """
        xp = _namespace(self.mean, epsilon)
        scale = xp.exp(xp.multiply(self.log_var, 0.5))
        return xp.add(self.mean, xp.multiply(scale, epsilon))

    def sample(self, num_samples=None, seed=None):
        """Draws from the distribution.

        Args:
            num_samples: If given, the result has a leading axis of this length.
            seed: An integer, or None for fresh randomness; where the distribution holds backend tensors, also a
                `keras.random.SeedGenerator`, which is what code under jit must use.

        Returns:
            `(..., latent_dim)` or `(num_samples, ..., latent_dim)`; a NumPy array if the distribution holds those.
        """
        leading = () if num_samples is None else (num_samples,)
        if isinstance(self.mean, np.ndarray):
            shape = leading + self.mean.shape
            epsilon = np.random.default_rng(seed).standard_normal(shape, dtype="float32")
        else:
            shape = leading + tuple(keras.ops.shape(self.mean))
            epsilon = keras.random.normal(shape, dtype="float32", seed=seed)
        return self.reparameterize(epsilon)

    def log_prob(self, z):
        """log N(z; mean, diag(exp(log_var))) in nats, summed over the last axis: `(..., latent_dim)` to `(...)`."""
        xp = _namespace(self.mean, z)
        squared_error = xp.square(xp.subtract(z, self.mean))
        precision = xp.exp(xp.negative(self.log_var))
        log_density = -0.5 * (xp.multiply(squared_error, precision) + self._as(xp, self.log_var) + LOG_2_PI)
        return xp.sum(log_density, axis=-1)

    def kl_divergence(self, other, per_dimension=False):
        """KL(self || other) in nats, in closed form.

        With d = log_var - other.log_var it is, per dimension,

            0.5 * ((mean - other.mean)**2 * exp(-other.log_var) + expm1(d) - d),

        the textbook's 0.5 * (mean**2 + var - 1 - log_var) when `other` is N(0, I). `expm1` because the textbook form
        subtracts 1 from a variance that is nearly 1: for a nearly collapsed unit, say log_var = 1e-4, float32
        returns 0 where the KL is 2.5e-9, and the gradient goes the same way.

        Args:
            other: A `DiagonalNormal` over the same dimensions.
            per_dimension: If True, the latent axis is kept instead of summed.

        Returns:
            `(...)`, or `(..., latent_dim)` with `per_dimension`.

        Reference: Kingma & Welling 2014, arXiv:1312.6114, appendix B.
        """
        xp = _namespace(self.mean, other.mean)
        squared_distance = xp.square(xp.subtract(self.mean, other.mean))
        precision = xp.exp(xp.negative(other.log_var))
        difference = xp.subtract(self.log_var, other.log_var)
        kl = 0.5 * (xp.multiply(squared_distance, precision) + xp.expm1(difference) - difference)
        return kl if per_dimension else xp.sum(kl, axis=-1)

    @staticmethod
    def _as(xp, value):
        return value if xp is np else keras.ops.convert_to_tensor(value)

    def get_config(self):
        return {
            "mean": keras.ops.convert_to_numpy(self.mean).tolist(),
            "log_var": keras.ops.convert_to_numpy(self.log_var).tolist(),
        }

    @classmethod
    def from_config(cls, config):
        return cls(np.asarray(config["mean"], "float32"), np.asarray(config["log_var"], "float32"))


def _namespace(*arrays):
    """NumPy if everything is NumPy, else `keras.ops`: the functions used here have the same names in both."""
    return np if all(isinstance(array, np.ndarray | np.generic | float) for array in arrays) else keras.ops
