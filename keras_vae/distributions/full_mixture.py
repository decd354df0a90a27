"""Mixtures of normals whose dimensions depend on each other: what is fitted to the codes of trained models."""

import math
from typing import Any, Self

import keras
import numpy as np

from keras_vae.distributions.base import flatten_event, namespace
from keras_vae.distributions.mixture import Mixture, log_sum_exp
from keras_vae.distributions.normal import LOG_2_PI, DiagonalNormal


@keras.saving.register_keras_serializable(package="keras_vae")
class FullMixture(Mixture):
    """sum_k w_k N(mean_k, L_k L_k^T): a fixed mixture of normals with any covariance.

    `components` are its marginals, one normal for each dimension, with the variances of L_k L_k^T.

    Args:
        mean: `(components, *event_shape)` NumPy array.
        factors: `(components, latent_dim, latent_dim)` NumPy array, the lower Cholesky factors L_k of the covariances
            of z, flattened, the last axis fastest.
        logits: `(components,)`: the logarithms of the weights, up to a constant; None weighs all the same.

    Raises:
        ValueError: If the shapes do not fit, or a factor is not lower triangular with a positive diagonal.
    """

    def __init__(self, mean: Any, factors: Any, logits: Any = None):
        mean, factors = np.asarray(mean), np.asarray(factors)
        latent_dim = math.prod(mean.shape[1:])
        if factors.shape != (len(mean), latent_dim, latent_dim):
            raise ValueError(
                f"The mean has shape {mean.shape}, so that the factors must have shape "
                f"{(len(mean), latent_dim, latent_dim)}; got {factors.shape}."
            )
        diagonal = np.diagonal(factors, axis1=1, axis2=2)
        if not (diagonal > 0.0).all() or np.triu(factors, 1).any():
            raise ValueError(
                "Each factor must be lower triangular with a positive diagonal: np.linalg.cholesky(covariance)."
            )
        variance = np.sum(np.square(factors), axis=-1).reshape(mean.shape)
        super().__init__(DiagonalNormal(mean, np.log(variance), mean.ndim - 1), logits)
        self.factors = factors
        self._means = mean.reshape(len(mean), latent_dim)
        self._inverses = np.linalg.inv(factors.astype("float64")).astype(factors.dtype)
        self._log_norms = -np.sum(np.log(diagonal), axis=1) - 0.5 * factors.dtype.type(latent_dim * LOG_2_PI)

    def from_noise(self, noise: Any) -> Any:
        xp = namespace(noise)
        index, epsilon = self._selected(xp, noise)[..., None], noise[..., 1:]
        z = xp.zeros_like(epsilon)
        parts = zip(self._means.astype("float32"), self.factors.astype("float32"), strict=True)
        for k, (mean, factor) in enumerate(parts):  # in turn: a factor for each draw would fill the memory
            z = xp.where(index == k, xp.add(xp.matmul(epsilon, factor.T), mean), z)
        return xp.reshape(z, (*xp.shape(z)[:-1], *self.event_shape))

    def log_prob(self, z: Any, per_dimension: bool = False) -> Any:
        if per_dimension:
            return super().log_prob(z, True)
        if tuple(z.shape[-len(self.event_shape) :]) != self.event_shape:
            raise ValueError(f"z must have shape (..., {', '.join(map(str, self.event_shape))}); got {tuple(z.shape)}.")
        xp = namespace(z)
        return log_sum_exp(xp, self._log_joint(xp, self._whitened(xp, z)), axis=-1)

    def grad_log_prob(self, z: Any) -> Any:
        xp = namespace(z)
        noise = self._whitened(xp, z)
        log_joint = self._log_joint(xp, noise)
        share = xp.exp(log_joint - log_sum_exp(xp, log_joint, axis=-1)[..., None])  # p(component|z)
        pull = xp.matmul(noise[..., None, :], self._inverses)[..., 0, :]
        return xp.reshape(-xp.sum(share[..., None] * pull, axis=-2), xp.shape(z))

    def _whitened(self, xp, z):
        """L_k^-1 (z - mean_k), `(..., components, latent_dim)`."""
        centred = xp.subtract(flatten_event(z, len(self.event_shape))[..., None, :], self._means)
        return xp.matmul(centred[..., None, :], np.swapaxes(self._inverses, 1, 2))[..., 0, :]

    def _log_joint(self, xp, noise):
        return xp.add(-0.5 * xp.sum(xp.square(noise), axis=-1), self._log_norms + self._log_weights(np))

    def as_float32(self) -> "FullMixture":
        arrays = (self.components.mean, self.factors, self.logits)
        return FullMixture(*(np.asarray(array, "float32") for array in arrays))

    def to_numpy(self) -> "FullMixture":
        return self

    def get_config(self) -> dict[str, Any]:
        arrays = {"mean": self.components.mean, "factors": self.factors, "logits": self.logits}
        return {name: array.tolist() for name, array in arrays.items()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**{name: np.asarray(value, "float32") for name, value in config.items()})
