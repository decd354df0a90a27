"""A density made of N(0, I) by couplings: each moves some dimensions as the others say, and is undone exactly."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_vae.distributions.base import Distribution, flatten_event
from keras_vae.distributions.normal import DiagonalNormal

_LOG_SCALE = 3.0  # bound of a coupling's log scale: a factor of 20, beyond which noise would overflow in a few


class CouplingFlow(Distribution):
    """N(0, I) through affine couplings, z' = z * exp(s(kept)) + t(kept) in every second dimension, in turn.

    Args:
        networks: Functions, one for each coupling, from `(n, latent_dim)`, in which the moved dimensions are 0, to
            `(n, 2 * latent_dim)`: log scales and shifts. log scale = 3 tanh(s / 3).
        event_shape: Shape of one z, which is flattened, the last axis fastest.

    Reference: Dinh et al. 2017, Density estimation using Real NVP, arXiv:1605.08803, equations 4 to 9.
    """

    def __init__(self, networks: Sequence[Any], event_shape: tuple[int, ...]):
        self.networks, self.event_shape = networks, event_shape

    def draw(self, noise: Any) -> tuple[Any, Any]:
        shape = ops.shape(noise)
        z = flatten_event(noise, len(self.event_shape))
        log_prob = _standard_log_prob(z)
        for i in range(len(self.networks)):
            log_scale, shift = self._coupling(i, z)
            z = z * ops.exp(log_scale) + shift
            log_prob = log_prob - ops.sum(log_scale, axis=-1)
        return ops.reshape(z, shape), log_prob

    def log_prob(self, z: Any) -> Any:
        z = flatten_event(z, len(self.event_shape))
        log_volume = 0.0
        for i in reversed(range(len(self.networks))):
            log_scale, shift = self._coupling(i, z)
            z = (z - shift) * ops.exp(-log_scale)
            log_volume = log_volume + ops.sum(log_scale, axis=-1)
        return _standard_log_prob(z) - log_volume

    def _coupling(self, i, z):
        moved = np.arange(z.shape[-1]) % 2 == i % 2
        both = ops.cast(self.networks[i](ops.where(moved, 0.0, z)), "float32")  # of half precision there is no inverse
        log_scale, shift = ops.split(both, 2, axis=-1)
        log_scale = _LOG_SCALE * ops.tanh(log_scale / _LOG_SCALE)
        return ops.where(moved, log_scale, 0.0), ops.where(moved, shift, 0.0)


def _standard_log_prob(z):
    return DiagonalNormal.standard(z.shape[-1]).log_prob(z)
