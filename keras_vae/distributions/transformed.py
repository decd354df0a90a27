"""A distribution whose draws are moved by maps of which only the forward direction is cheap."""

from collections.abc import Callable, Sequence
from typing import Any

from keras_vae.distributions.base import Distribution


class Transformed(Distribution):
    """The distribution of t_n(... t_1(z)) for z of a base distribution: it has the density of its own draws only.

        log q(t(z)) = log q(z) - log |det dt/dz|

    Args:
        base: Distribution of the z that is moved.
        transforms: Functions from z, `(..., *event_shape)`, to its image and the log determinant, `(...)`.

    Reference: Rezende & Mohamed 2015, Variational Inference with Normalizing Flows, arXiv:1505.05770, equation 13.
    """

    def __init__(self, base: Distribution, transforms: Sequence[Callable[[Any], tuple[Any, Any]]]):
        self.base, self.transforms = base, transforms
        self.event_shape = base.event_shape

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.base.noise_shape

    def draw(self, noise: Any) -> tuple[Any, Any]:
        z, log_prob = self.base.draw(noise)
        for transform in self.transforms:
            z, log_determinant = transform(z)
            log_prob = log_prob - log_determinant
        return z, log_prob
