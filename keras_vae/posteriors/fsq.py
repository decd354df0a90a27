"""q(z|x) of one code: the encoder's output, rounded. z is discrete, and there is no noise."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae.distributions import Distribution, PointMass, UniformCodes
from keras_vae.posteriors.base import Posterior, one_shape


@keras.saving.register_keras_serializable(package="keras_vae", name="FSQPosterior")
class FSQ(Posterior):
    """Finite scalar quantization: each channel of z is bounded and rounded to one of a few values from -1 to 1.

    The encoder returns "z_continuous", `(batch, *places, channels)`, with a channel for each of `levels`; z has its
    shape, also where sizes are free. Each place has one of prod(levels) codes: `vae.encode(x).codes` has their numbers,
    and `from_codes` gives z. In training rounding passes the gradient on as if it were not there.

    q(z|x) has all probability at one code and p(z) is uniform over all, so the KL is the sum of log(levels), for every
    x, and nothing to train; the bound is one of log p(x), and what it says of different `levels` compares.

    The values are symmetric, as the paper's are for odd levels; for even ones they are the paper's, shifted and scaled.

    Args:
        levels: Number of values of each channel, two or more: (8, 5, 5, 5) makes 1,000 codes.

    Reference: Mentzer et al. 2023, Finite Scalar Quantization: VQ-VAE Made Simple, arXiv:2309.15505, section 3.1 and
    appendix A.1; table 1 has `levels` for 2**8 to 2**16 codes.
    """

    outputs = ("z_continuous",)
    distribution_class = PointMass

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        self.levels = UniformCodes(levels).levels

    def latent_shape(self, outputs: Any) -> tuple[int | None, ...]:
        return self._checked(one_shape(self, self.outputs, self.read(outputs)))

    def noise_shape(self, latent_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return ()

    def output_shapes(self, latent_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"z_continuous": self._checked(latent_shape)}

    def usual_prior(self, latent_shape: tuple[int | None, ...]) -> UniformCodes:
        """p(z) of a model that is given none: all codes have the same probability."""
        return UniformCodes(self.levels, [size or 1 for size in latent_shape[:-1]])

    def distribution(self, outputs: Any, training: bool = False) -> Distribution:
        (continuous,) = self.read(outputs)
        levels = np.asarray(self.levels, "float32")
        # An encoder's 0 is in the middle of a value's interval; with two values there is none.
        shift = [math.atanh(1.0 / (level - 1)) if level % 2 == 0 and level > 2 else 0.0 for level in self.levels]
        bounded = ops.tanh(ops.add(ops.cast(continuous, "float32"), np.asarray(shift, "float32")))
        z = UniformCodes(self.levels).values(ops.round(ops.multiply(bounded + 1.0, 0.5 * (levels - 1.0))))
        return PointMass(ops.stop_gradient(z) + (bounded - ops.stop_gradient(bounded)), len(z.shape) - 1)

    def codes(self, z: Any) -> Any:
        """The numbers of the codes, int32 from 0: z `(..., *places, channels)` to `(..., *places)`."""
        return UniformCodes(self.levels).codes(z)

    def from_codes(self, codes: Any) -> Any:
        """z, `(..., *places, channels)`, of the numbers of codes; the inverse of `codes`."""
        return UniformCodes(self.levels).from_codes(codes)

    def _checked(self, shape):
        if shape[-1] != len(self.levels):
            raise ValueError(
                f"{self!r} has {len(self.levels)} channels, one for each of its levels, and z of shape {shape} has "
                f"{shape[-1]}: give z_continuous {len(self.levels)} units or filters."
            )
        return shape

    def get_config(self) -> dict[str, Any]:
        return {"levels": list(self.levels)}
