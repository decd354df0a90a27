"""What everybody trains: the same networks and data, and so the same work a step."""

import dataclasses
import math

import numpy as np

LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Problem:
    """A variational autoencoder of binary images: Bernoulli, one sample, Adam(1e-3), the mean over the batch.

    Without `filters` a hidden layer of `hidden` units with tanh, as in Kingma & Welling 2014 (arXiv:1312.6114); with
    `filters` 3x3 convolutions that halve the image, with ReLU, and in the decoder their mirror, transposed.
    """

    data_shape: tuple  # (pixels,) or (height, width, channels)
    latents: int
    batch_size: int
    hidden: int = 500
    filters: tuple = ()
    dtype: str = "float32"  # of the arithmetic; the weights are float32 in any case

    @property
    def smallest(self):
        """The shape between convolutions and dense layers."""
        height, width, _ = self.data_shape
        return height >> len(self.filters), width >> len(self.filters), self.filters[-1]

    def kernels(self):
        """The shape of each kernel by layer: `(inputs, outputs)` or `(3, 3, inputs, outputs)`."""
        if not self.filters:
            pixels = math.prod(self.data_shape)
            return {
                "hidden": (pixels, self.hidden),
                "mean": (self.hidden, self.latents),
                "log_var": (self.hidden, self.latents),
                "decoder": (self.latents, self.hidden),
                "logits": (self.hidden, pixels),
            }
        units, channels = math.prod(self.smallest), self.data_shape[-1]
        downwards, upwards = (channels, *self.filters), (self.filters[-1], *reversed(self.filters))
        return {
            **{f"down{i}": (3, 3, *downwards[i : i + 2]) for i in range(len(self.filters))},
            "mean": (units, self.latents),
            "log_var": (units, self.latents),
            "decoder": (self.latents, units),
            **{f"up{i}": (3, 3, *upwards[i : i + 2]) for i in range(len(self.filters))},
            "logits": (3, 3, self.filters[0], channels),
        }

    def weights(self):
        """Glorot-uniform kernels and zero biases, by layer."""
        rng, made = np.random.default_rng(1), {}
        for name, shape in self.kernels().items():
            limit = (6.0 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1]))) ** 0.5
            made[name] = rng.uniform(-limit, limit, shape).astype("float32"), np.zeros(shape[-1], "float32")
        return made

    def images(self, n):
        """Binary noise as dense as binarised MNIST, `(n, *data_shape)` float32: what the pixels show costs nothing."""
        return (np.random.default_rng(0).random((n, *self.data_shape), dtype="float32") < 0.13).astype("float32")


MLP = Problem(data_shape=(784,), latents=20, batch_size=100)
CONV = Problem(data_shape=(28, 28, 1), latents=16, batch_size=128, filters=(32, 64))
