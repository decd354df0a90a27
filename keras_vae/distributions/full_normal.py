"""Normal distributions whose dimensions depend on each other, of tensors: a full covariance, and one of low rank.

Both are a diagonal normal and a matrix beside it, so that a matrix of zeros is the diagonal normal, and the KL is
that of the diagonal normal and what the matrix adds. z may have any shape; the matrix is that of flat z.
"""

import functools
from typing import Any, Self

from keras import ops

from keras_vae.distributions.base import Distribution, flatten_event
from keras_vae.distributions.kl import register_kl
from keras_vae.distributions.normal import LOG_2_PI, DiagonalNormal


class CorrelatedNormal(Distribution):
    """What the two have in common.

    Args:
        mean: `(..., *event_shape)` tensor.
        log_var: The logarithm of the variance of each dimension's own noise, of the same shape.
        matrix: `(..., latent_dim, columns)` tensor.
        event_ndim: Number of axes of one z.
    """

    def __init__(self, mean: Any, log_var: Any, matrix: Any, event_ndim: int = 1):
        self.mean, self.log_var, self.matrix, self.event_ndim = mean, log_var, matrix, event_ndim
        self._diagonal = DiagonalNormal(mean, log_var, event_ndim).flat()

    @property
    def event_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(self.mean.shape[-self.event_ndim :])

    @property
    def location(self) -> Any:
        return self.mean

    def without_gradient(self) -> Self:
        """The same distribution, with parameters that pass no gradient on."""
        mean, log_var, matrix = (ops.stop_gradient(part) for part in (self.mean, self.log_var, self.matrix))
        return type(self)(mean, log_var, matrix, self.event_ndim)

    def _log_volume(self) -> Any:
        """Half the logarithm of the determinant of the covariance, less that of the diagonal normal; `(...)`."""
        return 0.0

    def _log_density(self, standardized: Any) -> Any:
        """The log density where the distance from the mean is `standardized`, of which the squares count."""
        log_var = ops.sum(self._diagonal.log_var + LOG_2_PI, axis=-1)
        return -0.5 * (ops.sum(ops.square(standardized), axis=-1) + log_var) - self._log_volume()

    def _with_event_shape(self, flat: Any) -> Any:
        return flat if self.event_ndim == 1 else ops.reshape(flat, (*ops.shape(flat)[:-1], *self.event_shape))


class FullNormal(CorrelatedNormal):
    """N(mean, L L^T) with any covariance: z = mean + L noise.

    Args:
        mean: `(..., *event_shape)` tensor.
        log_var: Twice the logarithm of L's diagonal, of the same shape.
        matrix: `(..., latent_dim, latent_dim)`, L below its diagonal, and zeros elsewhere.
        event_ndim: Number of axes of one z.

    Reference: Kingma & Welling 2019, An Introduction to Variational Autoencoders, arXiv:1906.02691, section 2.5.1.
    """

    def draw(self, noise: Any) -> tuple[Any, Any]:
        noise = flatten_event(noise, self.event_ndim)
        z = self._diagonal.from_noise(noise) + _of_columns(ops.matmul, self.matrix, noise)
        return self._with_event_shape(z), self._log_density(noise)

    def log_prob(self, z: Any) -> Any:
        scale = ops.exp(0.5 * self._diagonal.log_var)
        cholesky = self.matrix + scale[..., None] * ops.eye(scale.shape[-1])
        distance = flatten_event(z, self.event_ndim) - self._diagonal.mean
        return self._log_density(_of_columns(_solve, cholesky, distance))


class LowRankNormal(CorrelatedNormal):
    """N(mean, diag(exp(log_var)) + F F^T): z = mean + exp(log_var / 2) noise + F noise', with as few noise' as columns.

    With G = F exp(-log_var / 2) the density needs the inverse and the determinant of I + G G^T. The textbook has them
    of the small I + G^T G (Woodbury, the matrix determinant lemma), whose Cholesky factor float32 loses where G is
    large. Here that factor is the R of [G; I] = Q R, by modified Gram-Schmidt: no column of it is ever shorter than 1,
    so nothing is divided by a number near 0, and

        |w|**2 in the metric of (I + G G^T)^-1 = min_u |w - G u|**2 + |u|**2 = |(I - Q Q^T) [w; 0]|**2

    is a sum of squares from which nothing large is subtracted.

    Args:
        mean, log_var: `(..., *event_shape)` tensors.
        matrix: `(..., latent_dim, rank)` tensor, F.
        event_ndim: Number of axes of one z.

    Reference: Ong et al. 2018, Gaussian variational approximation with a factor covariance structure, equation 3.
    """

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """`(latent_dim + rank,)`: first the noise of each dimension, then that which they share."""
        return (sum(self.matrix.shape[-2:]),)

    def draw(self, noise: Any) -> tuple[Any, Any]:
        own, shared = noise[..., : self.matrix.shape[-2]], noise[..., self.matrix.shape[-2] :]
        z = self._diagonal.from_noise(own) + _of_columns(ops.matmul, self.matrix, shared)
        # w = own + G shared, and [w; 0] differs from [own; -shared] by a combination of the columns of [G; I].
        residual = self._without_columns(ops.concatenate([own, -shared], axis=-1))
        return self._with_event_shape(z), self._log_density(residual)

    def log_prob(self, z: Any) -> Any:
        w = (flatten_event(z, self.event_ndim) - self._diagonal.mean) * ops.exp(-0.5 * self._diagonal.log_var)
        zeros = ops.repeat(ops.zeros_like(w[..., :1]), self.matrix.shape[-1], axis=-1)
        return self._log_density(self._without_columns(ops.concatenate([w, zeros], axis=-1)))

    def _without_columns(self, vector):
        """`(..., latent_dim + rank)` less its part in the span of [G; I]."""
        for column in self._orthonormal[0]:
            vector = vector - column * ops.sum(column * vector, axis=-1, keepdims=True)
        return vector

    def _log_volume(self):
        return sum(ops.log(length) for length in self._orthonormal[1])

    @functools.cached_property
    def _orthonormal(self):
        """The columns of Q, each `(..., latent_dim + rank)`, and R's diagonal, each `(...)`."""
        rank = self.matrix.shape[-1]
        g = self.matrix * ops.exp(-0.5 * self._diagonal.log_var)[..., None]
        rest = ops.concatenate([g, ops.zeros_like(g[..., :1, :]) + ops.eye(rank)], axis=-2)
        columns, lengths = [], []
        for _ in range(rank):
            lengths.append(ops.sqrt(ops.sum(ops.square(rest[..., 0]), axis=-1)))
            columns.append(rest[..., 0] / lengths[-1][..., None])
            rest, column = rest[..., 1:], columns[-1][..., None]
            rest = rest - column * ops.sum(column * rest, axis=-2, keepdims=True)
        return columns, lengths


@register_kl(CorrelatedNormal, DiagonalNormal)
def _kl(q: Any, p: Any, per_dimension: bool = False) -> Any:
    """KL(N(m, D + M M^T) || N(n, S)) = KL(N(m, D) || N(n, S)) + 1/2 tr(S^-1 M M^T) - 1/2 log(det / det D)."""
    if per_dimension:
        raise TypeError(f"The KL divergence of a {type(q).__name__} is not a sum over dimensions.")
    p = p.flat()
    added = ops.sum(ops.square(q.matrix), axis=-1) * ops.exp(-ops.convert_to_tensor(p.log_var))
    return q._diagonal.kl_divergence(p) + 0.5 * ops.sum(added, axis=-1) - q._log_volume()


def _solve(lower, right):
    return ops.solve_triangular(lower, right, lower=True)


def _of_columns(function, matrix, vectors):
    """`function(matrix, columns)` of vectors `(n, ..., k)` that stand beside a matrix `(..., d, k)`, as its columns.

    What stands beside the matrix is not copied for each of the n, as it would be if they were matrices of one column.
    """
    extra = len(vectors.shape) - len(matrix.shape) + 1
    leading = ops.shape(vectors)[:extra]
    if extra != 1:
        vectors = ops.reshape(vectors, (-1, *ops.shape(vectors)[extra:]))
    found = ops.moveaxis(function(matrix, ops.moveaxis(vectors, 0, -1)), -1, 0)
    return found if extra == 1 else ops.reshape(found, (*leading, *ops.shape(found)[1:]))
