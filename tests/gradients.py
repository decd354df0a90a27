"""Gradients by the backend of this process, for tests that compare them with formulas and between backends."""

import keras
import numpy as np


def of(function, point):
    """The gradient of a scalar function of one tensor at a float32 point, as NumPy."""

    def twice(x):
        value = function(x)
        return value, value

    return with_values(twice, point)[1]


def with_values(function, point):
    """For a function from one tensor to a scalar and other values: those values and the scalar's gradient, NumPy."""
    point = np.asarray(point, "float32")
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                x = tf.convert_to_tensor(point)
                tape.watch(x)
                total, values = function(x)
            gradient = tape.gradient(total, x)
        case "jax":
            import jax

            # Compiled as a whole, which takes half the time of compiling each operation.
            gradient, values = jax.jit(jax.grad(function, has_aux=True))(point)
        case _:
            import torch

            x = torch.tensor(point, requires_grad=True)
            total, values = function(x)
            total.backward()
            gradient = x.grad
    return keras.ops.convert_to_numpy(values), keras.ops.convert_to_numpy(gradient)
