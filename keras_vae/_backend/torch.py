"""PyTorch: `backward` leaves the gradients on the variables, and they are handed to Keras's optimizer.

That is the step as Keras would run it, and as it runs with `run_eagerly=True`; `fast/torch.py` says what `fit` runs
otherwise.
"""

import keras
import torch

from keras_vae._backend import processes
from keras_vae._backend.fast.traced import TracedFunction
from keras_vae.data import Batch


class Steps:
    _updates_subsets = True  # whether the optimizer takes some of the variables that it was built for

    def train_step(self, data):
        batch = Batch.read(data, self._fields)
        self.zero_grad()
        loss = self.step_loss(batch, self.noise(batch.size), training=True)
        self.optimizer.scale_loss(loss).backward()
        variables = self.trainable_variables
        with torch.no_grad():
            self.optimizer.apply([variable.value.grad for variable in variables], variables)
        return self.get_metrics_result()

    def test_step(self, data):
        batch = Batch.read(data, self._fields)
        with torch.no_grad():
            self.step_loss(batch, self.noise(batch.size), training=False)
        return self.get_metrics_result()


def compile(model, function):
    """`function(*arrays)` without gradients, traced, on the device where Keras keeps the weights of `model`."""
    return TracedFunction(model, function)


def value_and_grad(model, function):
    """`function(z, *arrays)`, one value per row of z, and the gradient of each with respect to its row, traced."""

    def both(z, *arrays):
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            each = function(z, *arrays)
            (gradient,) = torch.autograd.grad(each.sum(), z, allow_unused=True, materialize_grads=True)
        return each.detach(), gradient

    return compile(model, both)


def random_normal(shape, seed):
    """Draws from N(0, I); seed is a Keras `SeedGenerator`. Processes that train together draw different noise."""
    if processes.is_active():
        generator = torch.Generator().manual_seed(processes.seed(seed.next()))
        return torch.randn(shape, generator=generator).to(seed.state.value.device)
    return keras.random.normal(shape, dtype="float32", seed=seed)
