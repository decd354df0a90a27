"""Posteriors as users write them, for what export and serving ask of any."""

import keras
from keras import ops

from keras_vae.distributions import LOG_2_PI, Distribution
from keras_vae.posteriors import Posterior


class CholeskyNormal(Distribution):
    """N(location, L L^T) over the last axis, independent elsewhere; it has the density of its own draws."""

    def __init__(self, location, tril):
        self.mean, self.tril = location, tril

    @property
    def event_shape(self):
        return tuple(self.mean.shape[1:])

    def draw(self, noise):
        z = self.mean + ops.squeeze(ops.matmul(self.tril, ops.expand_dims(noise, -1)), -1)
        channels = self.mean.shape[-1]
        diagonal = ops.sum(self.tril * ops.eye(channels), axis=-1)
        log_prob = -0.5 * (ops.square(noise) + LOG_2_PI) - ops.log(diagonal)
        return z, ops.sum(log_prob, axis=tuple(range(2, 2 + len(self.event_shape))))


@keras.saving.register_keras_serializable(package="tests")
class Correlated(Posterior):
    """A normal whose channels are correlated at each place; it has an output more than a normal."""

    outputs = ("mean", "log_scale", "mixing")
    distribution_class = CholeskyNormal

    def latent_shape(self, outputs):
        return tuple(self.read(outputs)[0].shape[1:])

    def output_shapes(self, latent_shape):
        return {"mean": latent_shape, "log_scale": latent_shape, "mixing": (*latent_shape, latent_shape[-1])}

    def distribution(self, outputs, training=False):
        mean, log_scale, mixing = (ops.cast(output, "float32") for output in self.read(outputs))
        channels = mean.shape[-1]
        scale = ops.expand_dims(ops.exp(ops.clip(log_scale, -5.0, 2.0)), -1)
        return CholeskyNormal(mean, scale * ops.eye(channels) + 0.3 * ops.tril(ops.tanh(mixing), -1))


class Levels(Distribution):
    """The one z that the encoder says, of so many levels between -1 and 1 that all are equally likely under p(z)."""

    def __init__(self, z):
        self.z = z

    @property
    def event_shape(self):
        return tuple(self.z.shape[1:])

    noise_shape = ()

    def draw(self, noise):
        z = ops.broadcast_to(self.z, (*ops.shape(noise)[:1], *ops.shape(self.z)))
        return z, ops.zeros_like(noise)


@keras.saving.register_keras_serializable(package="tests")
class Rounded(Posterior):
    """z in levels from -1 to 1, without noise."""

    outputs = ("logits",)
    distribution_class = Levels
    is_discrete = True

    def __init__(self, levels=5):
        super().__init__()
        self.levels = levels

    def latent_shape(self, outputs):
        return tuple(self.read(outputs)[0].shape[1:])

    def noise_shape(self, latent_shape):
        return ()

    def distribution(self, outputs, training=False):
        (logits,) = self.read(outputs)
        half = (self.levels - 1) / 2
        return Levels(ops.round(ops.tanh(ops.cast(logits, "float32")) * half) / half)

    def codes(self, z):
        return ops.cast(ops.round((z + 1.0) * (self.levels - 1) / 2), "int32")

    def get_config(self):
        return {"levels": self.levels}
