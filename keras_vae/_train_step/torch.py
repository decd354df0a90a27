"""PyTorch: gradients are left on the variables by `backward` and handed to Keras's optimizer.

That is `train_step`, as Keras would run it, and as it runs with `run_eagerly=True`. What `fit` runs otherwise is the
same step without the Python in between, in torch_steps.py; a subclass with a `train_step` of its own gets that one.
"""

import functools

import keras
import torch

from keras_vae._train_step import fused, torch_parallel
from keras_vae._train_step.torch_adam import tune as tune
from keras_vae._train_step.torch_steps import Concatenated, ForEach, Prediction, Step
from keras_vae._train_step.torch_steps import compiled as compiled
from keras_vae._train_step.torch_steps import compiled_gradient as compiled_gradient


class BackendTrainer(fused.Trainer):
    def train_step(self, data):
        self.zero_grad()
        loss = self.step_loss(data, training=True)
        self.optimizer.scale_loss(loss).backward()
        variables = self.trainable_variables
        gradients = [variable.value.grad for variable in variables]
        with torch.no_grad():
            self.optimizer.apply(gradients, variables)
        return self.get_metrics_result()

    def test_step(self, data):
        with torch.no_grad():
            self.step_loss(data, training=False)
        return self.get_metrics_result()

    @functools.wraps(keras.Model.fit)
    def fit(self, x=None, *args, **kwargs):
        if torch_parallel.is_active():
            torch_parallel.start(self, x)
        return super().fit(x, *args, **kwargs)

    def make_train_function(self, force=False):
        if force or self._is_stale(self.train_function):
            self.train_function = ForEach(self._step("train_step"), self.trainable_variables)

    def make_test_function(self, force=False):
        if force or self._is_stale(self.test_function):
            self.test_function = ForEach(self._step("test_step"), self.trainable_variables)

    def _is_stale(self, function):
        """Whether there is none, or a layer was frozen or thawed since it was made."""
        weights = [id(variable) for variable in self.trainable_variables]
        return function is None or [id(variable) for variable in getattr(function, "weights", [])] != weights

    def make_predict_function(self, force=False):
        if self.predict_function is None or force:
            is_plain = not self.run_eagerly and type(self).predict_step is keras.Model.predict_step
            self.predict_function = Concatenated(Prediction(self) if is_plain else self.predict_step)

    def is_fused(self, name):
        return self.steps_per_execution > 1 and self._is_replayed(name)

    def _step(self, name):
        if self._is_replayed(name):
            return Step(self, training=name == "train_step")
        if torch_parallel.is_active():
            raise ValueError(
                f"Several processes train one model with the library's own {name}: neither with run_eagerly=True nor "
                "with a subclass that has another, which would leave every process with a model of its own."
            )
        return getattr(self, name)

    def _is_replayed(self, name):
        return not self.run_eagerly and self.is_library_s(name)


def normal(shape, seed):
    """Draws from N(0, I); seed is a Keras `SeedGenerator`. Processes that train together draw different noise."""
    if torch_parallel.is_active():
        generator = torch.Generator().manual_seed(torch_parallel.seed(seed.next()))
        return torch.randn(shape, generator=generator).to(seed.state.value.device)
    return keras.random.normal(shape, dtype="float32", seed=seed)
