"""q(z|x) with NumPy arrays going in and coming out, for a posterior whose distribution knows tensors only."""

from typing import Any

import numpy as np

from keras_vae import validation
from keras_vae.distributions import Distribution


class NumpyPosterior(Distribution):
    """q(z|x) of n examples, as `VAE.encode` returns it of a model whose posterior is no `DiagonalNormal`.

    Args:
        model: Built `VAE`, whose posterior family reads the outputs as it is at each call.
        outputs: What the encoder returned, arrays `(n, ...)` by name.
        batch_size: Number of examples at a time.
        statistics: `LatentStatistics` by which z is standardized, or None.
    """

    def __init__(self, model: Any, outputs: dict[str, np.ndarray], batch_size: int = 256, statistics: Any = None):
        self._model, self.outputs, self._batch_size, self._statistics = model, outputs, batch_size, statistics

    def __len__(self) -> int:
        return len(next(iter(self.outputs.values())))

    @property
    def event_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.location.shape[1:]

    @property
    def noise_shape(self) -> tuple[int, ...]:
        shapes = [output.shape[1:] for output in self.outputs.values()]
        family = self._model.posterior_family
        return tuple(family.noise_shape(family.latent_shape(tuple(_Shape(shape) for shape in shapes))))

    @property
    def location(self) -> np.ndarray:
        """The draw of which all noise is 0, `(n, *latent_shape)`: the mean of a normal."""
        return self.from_noise(np.zeros((1, len(self), *self.noise_shape), "float32"))[0]

    @property
    def codes(self) -> np.ndarray:
        """The numbers of the codes, `(n, *places)` int32, of a posterior that has them, as `posteriors.FSQ` has.

        Raises:
            TypeError: If z of this posterior are no codes.
        """
        family = self._model.posterior_family
        if not hasattr(family, "codes"):
            raise TypeError(f"The z of {family!r} are no codes: .location and .sample(seed=...) give them.")
        z = self.location
        return family.codes(z if self._statistics is None else self._statistics.restore(z))

    def sample(self, num_samples: int | None = None, seed: Any = None) -> np.ndarray:
        """Draws `(n, *latent_shape)`, or `(num_samples, n, *latent_shape)`; the same on every backend.

        Args:
            num_samples: Length of a leading axis of the result; None: the result has no such axis.
            seed: An integer, a NumPy generator, or None for fresh randomness.
        """
        shape = (1 if num_samples is None else num_samples, len(self), *self.noise_shape)
        z = self.from_noise(np.random.default_rng(seed).standard_normal(shape, dtype="float32"))
        return z[0] if num_samples is None else z

    def from_noise(self, noise: Any) -> np.ndarray:
        return self.draw(noise)[0]

    def draw(self, noise: Any) -> tuple[np.ndarray, np.ndarray]:
        """z `(draws, n, *latent_shape)` and log q(z|x) `(draws, n)`, of noise `(draws, n, *noise_shape)`."""
        model = self._model
        rows = np.ascontiguousarray(np.swapaxes(validation.to_numpy(noise), 0, 1), "float32")
        z, log_prob = model._batched(
            model._draw_posterior, rows, *self.outputs.values(), batch_size=max(1, self._batch_size // rows.shape[1])
        )
        if self._statistics is not None:
            is_density = not model.posterior_family.distribution_class.is_discrete
            log_scale = np.log(np.broadcast_to(self._statistics.std, z.shape[2:]))
            z, log_prob = self._statistics.standardize(z), log_prob + is_density * log_scale.sum()
        return np.swapaxes(z, 0, 1), np.swapaxes(log_prob, 0, 1)


class _Shape:
    """What `Posterior.latent_shape` asks of an output: its shape."""

    def __init__(self, shape):
        self.shape = (None, *shape)
