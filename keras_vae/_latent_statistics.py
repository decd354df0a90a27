"""The scale of a model's codes: what a second model, such as a diffusion model, wants of its input."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of the codes of all data; `evaluation.latent_statistics` makes one.

    Args:
        mean, std: Float32 arrays of one shape, which broadcasts with z: `(channels,)` or `(*latent_shape,)`.

    Raises:
        ValueError: If a standard deviation is not positive and finite.
    """

    mean: np.ndarray
    std: np.ndarray

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), "float32"))
        if self.mean.shape != self.std.shape or not np.isfinite(self.mean).all():
            raise ValueError(f"mean and std must be finite and of one shape; got {self.mean} and {self.std}.")
        if not (np.isfinite(self.std) & (self.std > 0.0)).all():
            raise ValueError(f"Every std must be above 0; got {self.std}: a latent that never changes has no scale.")

    def standardize(self, z: Any) -> Any:
        """z in standard deviations from the mean."""
        return (z - self.mean) / self.std

    def restore(self, z: Any) -> Any:
        """The inverse of `standardize`."""
        return z * self.std + self.mean

    def get_config(self) -> dict[str, Any]:
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}
