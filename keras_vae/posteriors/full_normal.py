"""q(z|x) with dimensions that depend on each other: the encoder returns a covariance, in full or of low rank."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import distributions, validation
from keras_vae.distributions import Distribution
from keras_vae.posteriors.base import Posterior, check_output_shapes, one_shape
from keras_vae.posteriors.diagonal_normal import bounded_log_var


@keras.saving.register_keras_serializable(package="keras_vae", name="FullNormalPosterior")
class FullNormal(Posterior):
    """q(z|x) = N(mean(x), L(x) L(x)^T): a normal distribution with any covariance.

    It can be exact where the likelihood is Gaussian and the decoder linear, and costs an encoder with d (d + 1) / 2
    more outputs for d elements of z: for tens of them; `LowRankNormal` is for more.

    The encoder returns "z_mean", `(batch, *latent_shape)`, and "z_cholesky", `(batch, d (d + 1) / 2)`: first, for each
    element of flat z, twice the logarithm of L's diagonal, which is `z_log_var` where the rest is 0; then L below its
    diagonal, row by row.

    Reference: Kingma & Welling 2019, arXiv:1906.02691, section 2.5.1 and algorithm 2.
    """

    outputs = ("z_mean", "z_cholesky")
    distribution_class = distributions.FullNormal
    zero_at_start = ("z_cholesky",)  # else d**2 / 2 covariances of any size

    def latent_shape(self, outputs: Any) -> tuple[int | None, ...]:
        mean, cholesky = self.read(outputs)
        shape = validation.fixed_shape(self, one_shape(self, ("z_mean",), (mean,)))
        check_output_shapes(self, shape, {"z_cholesky": cholesky})
        return shape

    def output_shapes(self, latent_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        size = math.prod(validation.fixed_shape(self, latent_shape))
        return {"z_mean": latent_shape, "z_cholesky": (size * (size + 1) // 2,)}

    def distribution(self, outputs: Any, training: bool = False) -> Distribution:
        mean, packed = (ops.cast(output, "float32") for output in self.read(outputs))
        shape = tuple(mean.shape[1:])
        size = math.prod(shape)
        log_var = ops.reshape(bounded_log_var(packed[:, :size], training), (-1, *shape))
        # Place 0 holds a zero, for L above its diagonal and on it, which log_var has.
        places = np.zeros((size, size), "int32")
        places[np.tril_indices(size, -1)] = 1 + np.arange(size * (size - 1) // 2)
        padded = ops.concatenate([ops.zeros_like(packed[:, :1]), packed[:, size:]], axis=-1)
        # Rows are taken, and not columns, whose graph is invalid under torch.onnx (Keras squeezes after index_select).
        below = ops.transpose(ops.take(ops.transpose(padded), places, axis=0), (2, 0, 1))
        return distributions.FullNormal(mean, log_var, below, len(shape))


@keras.saving.register_keras_serializable(package="keras_vae", name="LowRankNormalPosterior")
class LowRankNormal(Posterior):
    """q(z|x) = N(mean(x), diag(exp(log_var(x))) + F(x) F(x)^T): independent dimensions and a few directions beside.

    The encoder returns "z_mean" and "z_log_var", `(batch, *latent_shape)`, and "z_factor", `(batch, *latent_shape,
    rank)`, F. A draw is made of d + rank variates for d elements of z.

    Args:
        rank: Number of columns of F.

    Reference: Ong et al. 2018, Gaussian variational approximation with a factor covariance structure, equation 3.
    """

    outputs = ("z_mean", "z_log_var", "z_factor")
    distribution_class = distributions.LowRankNormal

    def __init__(self, rank: int):
        super().__init__()
        self.rank = validation.whole_number("rank", rank)

    def latent_shape(self, outputs: Any) -> tuple[int | None, ...]:
        mean, log_var, factor = self.read(outputs)
        shape = validation.fixed_shape(self, one_shape(self, ("z_mean", "z_log_var"), (mean, log_var)))
        check_output_shapes(self, shape, {"z_factor": factor})
        return shape

    def noise_shape(self, latent_shape: tuple[Any, ...]) -> tuple[int | None, ...]:
        return (math.prod(latent_shape) + self.rank,)

    def output_shapes(self, latent_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"z_mean": latent_shape, "z_log_var": latent_shape, "z_factor": (*latent_shape, self.rank)}

    def distribution(self, outputs: Any, training: bool = False) -> Distribution:
        mean, log_var, factor = (ops.cast(output, "float32") for output in self.read(outputs))
        shape = tuple(mean.shape[1:])
        factor = ops.reshape(factor, (-1, math.prod(shape), self.rank))
        return distributions.LowRankNormal(mean, bounded_log_var(log_var, training), factor, len(shape))

    def get_config(self) -> dict[str, Any]:
        return {"rank": self.rank}
