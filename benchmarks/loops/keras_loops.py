"""`model.fit` of Keras models: ours, and the variational autoencoder of Keras's own example, made to this problem.

The example, "Variational AutoEncoder" by F. Chollet (keras.io/examples/generative/vae), trains on TensorFlow; its
`train_step` for JAX and PyTorch follows Keras's guides "Customizing what happens in fit()" for these two.
"""

import keras
from keras import ops
from loop import Epoch, Loop, Stopwatch
from problem import LEARNING_RATE

import keras_vae


def ours(problem, x, epochs=1, **compile):
    """keras_vae, with the arguments of `compile`. Of several epochs in one `fit` the last is timed."""
    return _loop(problem, x, lambda *pair: keras_vae.VAE(*pair, "bce", seed=0), keras_vae.FusedAdam, epochs, **compile)


def example(problem, x):
    """A plain `keras.Model` with a `train_step` of its own."""
    return _loop(problem, x, Example)


def networks(problem):
    """Encoder and decoder, both ours: every Keras model here has the same."""
    if problem.filters:
        return keras_vae.networks.conv(problem.data_shape, problem.latents, filters=problem.filters, hidden=())
    return keras_vae.networks.mlp(problem.data_shape, problem.latents, hidden=(problem.hidden,), activation="tanh")


def _loop(problem, x, make, adam=keras.optimizers.Adam, epochs=1, **compile):
    keras.config.set_dtype_policy("float32" if problem.dtype == "float32" else f"mixed_{problem.dtype}")
    model, clock = make(*networks(problem)), Clock()
    model.compile(optimizer=adam(LEARNING_RATE), **compile)

    def epoch():
        history = model.fit(x, batch_size=problem.batch_size, epochs=epochs, verbose=0, callbacks=[clock]).history
        return Epoch(history["loss"][-1], *clock.epochs.pop())

    return Loop(epoch, lambda: [variable.value for variable in model.trainable_variables])


class Clock(keras.callbacks.Callback):
    """Times the epochs themselves: what `fit` does before them is paid once in a training, however many there are."""

    def __init__(self):
        super().__init__()
        self.watch, self.epochs = Stopwatch(), []

    def on_epoch_begin(self, epoch, logs=None):
        self.watch.start()

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.watch.stop())


class Sampling(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        mean, log_var = inputs
        epsilon = keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_var) * epsilon


class TensorFlowStep:
    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            losses = self.losses_of(data, self(data, training=True))
        gradients = tape.gradient(losses[0], self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        for metric, loss in zip(self.metrics, losses, strict=True):
            metric.update_state(loss)
        return {metric.name: metric.result() for metric in self.metrics}


class TorchStep:
    def train_step(self, data):
        import torch

        self.zero_grad()
        losses = self.losses_of(data, self(data, training=True))
        losses[0].backward()
        with torch.no_grad():
            self.optimizer.apply([weight.value.grad for weight in self.trainable_weights], self.trainable_weights)
            for metric, loss in zip(self.metrics, losses, strict=True):
                metric.update_state(loss)
        return {metric.name: metric.result() for metric in self.metrics}


class JaxStep:
    def loss_and_updates(self, trainable, non_trainable, data):
        outputs, non_trainable = self.stateless_call(trainable, non_trainable, data, training=True)
        losses = self.losses_of(data, outputs)
        return losses[0], (losses, non_trainable)

    def train_step(self, state, data):
        import jax

        trainable, non_trainable, optimizer, metrics = state
        gradient = jax.grad(self.loss_and_updates, has_aux=True)
        gradients, (losses, non_trainable) = gradient(trainable, non_trainable, data)
        trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
        logs, updated = {}, []
        for metric, loss in zip(self.metrics, losses, strict=True):
            values = metrics[len(updated) : len(updated) + len(metric.variables)]
            values = metric.stateless_update_state(values, loss)
            logs[metric.name] = metric.stateless_result(values)
            updated += values
        return logs, (trainable, non_trainable, optimizer, updated)


STEPS = {"tensorflow": TensorFlowStep, "torch": TorchStep, "jax": JaxStep}


class Example(STEPS[keras.backend.backend()], keras.Model):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder, self.sampling = encoder, decoder, Sampling()
        self.trackers = [keras.metrics.Mean(name=name) for name in ("loss", "reconstruction_loss", "kl_loss")]

    @property
    def metrics(self):
        return self.trackers

    def call(self, x, training=False):
        outputs = self.encoder(x, training=training)
        mean, log_var = outputs["z_mean"], outputs["z_log_var"]
        return mean, log_var, self.decoder(self.sampling([mean, log_var]), training=training)

    def losses_of(self, x, outputs):
        mean, log_var, logits = (ops.cast(output, "float32") for output in outputs)
        losses = ops.binary_crossentropy(x, logits, from_logits=True)
        reconstruction = ops.mean(ops.sum(losses, axis=tuple(range(1, len(x.shape)))))
        kl = ops.mean(ops.sum(-0.5 * (1.0 + log_var - ops.square(mean) - ops.exp(log_var)), axis=1))
        return reconstruction + kl, reconstruction, kl
