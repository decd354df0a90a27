"""Several layers of latents, each a normal given the one before, as one distribution of all of them side by side."""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from keras_vae.distributions.base import Distribution
from keras_vae.distributions.normal import DiagonalNormal


class Chain(Distribution):
    """p(z1) p(z2|z1) ... p(zL|zL-1) over z = (z1, ..., zL), concatenated; or from the last layer to the first.

    Args:
        first: `DiagonalNormal` of the layer that is drawn first, `(latents,)` or `(batch, latents)`.
        steps: Functions, one for each further layer in the order in which they are drawn, from `(n, latents)` of the
            layer before to the `DiagonalNormal` of that layer, `(n, latents)`.
        sizes: Number of latents of each layer, in the order in which they lie in z.
        reverse: Whether the last layer in z is drawn first, as in a prior.
    """

    def __init__(
        self,
        first: DiagonalNormal,
        steps: Sequence[Callable[[Any], DiagonalNormal]],
        sizes: Sequence[int],
        reverse: bool = False,
    ):
        self.first, self.steps, self.sizes, self.reverse = first, steps, tuple(sizes), reverse
        self.event_shape = (sum(sizes),)

    def draw(self, noise: Any) -> tuple[Any, Any]:
        epsilon = self._layers(noise)
        z = [self.first.from_noise(epsilon[0])]
        log_prob = self.first.log_prob(z[0])
        for step, part in zip(self.steps, epsilon[1:], strict=True):
            normal = _given(step, z[-1])
            z.append(normal.from_noise(part))
            log_prob = log_prob + normal.log_prob(z[-1])
        return ops.concatenate(z[::-1] if self.reverse else z, axis=-1), log_prob

    def log_prob(self, z: Any) -> Any:
        layers = self._layers(z)
        log_prob = self.first.log_prob(layers[0])
        for step, before, layer in zip(self.steps, layers[:-1], layers[1:], strict=True):
            log_prob = log_prob + _given(step, before).log_prob(layer)
        return log_prob

    def _layers(self, z):
        """The parts of z, or of its noise, that are the layers, in the order in which they are drawn."""
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
        parts = [z[..., end - size : end] for size, end in zip(self.sizes, ends, strict=True)]
        return parts[::-1] if self.reverse else parts


def _given(step, z):
    """The normal of a layer given the one before, `(..., latents)`: networks take one leading axis."""
    leading = ops.shape(z)[:-1]
    normal = step(ops.reshape(z, (-1, z.shape[-1])))
    return DiagonalNormal(*(ops.reshape(part, (*leading, part.shape[-1])) for part in (normal.mean, normal.log_var)))
