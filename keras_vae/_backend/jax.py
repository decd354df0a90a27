"""JAX: Keras's lists of values go in and come out (`stateless.py`), because a jitted function may change nothing."""

import jax
import keras

from keras_vae._backend.jax_state import KerasState
from keras_vae._backend.stateless import stateless_loss
from keras_vae.data import Batch


class Steps(KerasState):
    def train_step(self, state, data):
        trainable, non_trainable, optimizer_state, metrics = state

        def scaled_loss(trainable):
            loss, _, *others = stateless_loss(
                self, trainable, non_trainable, metrics, Batch.read(data, self._fields), None, True
            )
            with keras.StatelessScope(zip(self.optimizer.variables, optimizer_state, strict=True)):
                return self.optimizer.scale_loss(loss), others

        gradients, (non_trainable, metrics, logs) = jax.grad(scaled_loss, has_aux=True)(trainable)
        trainable, optimizer_state = self.optimizer.stateless_apply(optimizer_state, gradients, trainable)
        return logs, (trainable, non_trainable, optimizer_state, metrics)

    def test_step(self, state, data):
        outputs = stateless_loss(
            self, state[0], state[1], state[2], Batch.read(data, self._fields), None, training=False
        )
        return outputs[-1], (state[0], *outputs[2:4])


def compile(model, function):
    """`function(*arrays)` under jit; the weights of `model` are an argument, not constants of the program."""

    @jax.jit
    def stateless(values, *arrays):
        with keras.StatelessScope(zip(model.variables, values, strict=True)):
            return function(*arrays)

    def call(*arrays):
        model.jax_state_sync()  # inside `fit` the values are in Keras's state until they are asked for
        return stateless([variable.value for variable in model.variables], *arrays)

    return call


def value_and_grad(model, function):
    """`function(z, *arrays)`, one value per row of z, and the gradient of each with respect to its row, under jit."""

    def both(z, *arrays):
        def total(z):
            each = function(z, *arrays)
            return each.sum(), each

        gradient, each = jax.grad(total, has_aux=True)(z)
        return each, gradient

    return compile(model, both)


def random_normal(shape, seed):
    """Draws from N(0, I); seed is a Keras `SeedGenerator`."""
    return keras.random.normal(shape, dtype="float32", seed=seed)
