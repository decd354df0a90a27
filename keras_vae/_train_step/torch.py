"""PyTorch: eager, as Keras runs it, in `train_step` and `test_step`; in `fit` the same without the Python in between.

Gradients are left on the variables by `backward` and handed to Keras's optimizer. What `fit` runs is `_gradients`, a
function of values, which `torch_replay` can write down as a list of operations; a model with a `train_step` of its own
gets that one.
"""

import functools

import keras
import torch

from keras_vae._train_step import fused, torch_parallel
from keras_vae._train_step.pure import loss_and_state
from keras_vae._train_step.torch_adam import tune as tune
from keras_vae._train_step.torch_replay import Replay


class BackendTrainer:
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
            self.train_function = _ForEach(self._step("train_step"), self.trainable_variables)

    def make_test_function(self, force=False):
        if force or self._is_stale(self.test_function):
            self.test_function = _ForEach(self._step("test_step"), self.trainable_variables)

    def _is_stale(self, function):
        """Whether there is none, or a layer was frozen or thawed since it was made."""
        weights = [id(variable) for variable in self.trainable_variables]
        return function is None or [id(variable) for variable in getattr(function, "weights", [])] != weights

    def make_predict_function(self, force=False):
        if self.predict_function is None or force:
            is_plain = not self.run_eagerly and type(self).predict_step is keras.Model.predict_step
            self.predict_function = _concatenated(Prediction(self) if is_plain else self.predict_step)

    def takes_indices(self):
        """Whether `fit` and the `evaluate` inside it can look batches up in `device_data`."""
        return self.steps_per_execution > 1 and self._is_plain("train_step") and self._is_plain("test_step")

    def _step(self, name):
        if self._is_plain(name):
            return Step(self, training=name == "train_step")
        if torch_parallel.is_active():
            raise ValueError(
                f"Several processes train one model with the library's own {name}: neither with run_eagerly=True nor "
                "with a subclass that has another, which would leave every process with a model of its own."
            )
        return getattr(self, name)

    def _is_plain(self, name):
        return not self.run_eagerly and getattr(type(self), name) is getattr(BackendTrainer, name)


class _ForEach:
    """What Keras calls with a list of `steps_per_execution` batches, of which it wants the last logs."""

    def __init__(self, step, weights):
        self.step, self.weights = step, weights

    def __call__(self, batches):
        logs = {}
        for batch in batches:
            logs = self.step(batch)
        return logs


def _concatenated(step):
    @torch.no_grad()
    def function(batches):
        outputs = [step(batch) for batch in batches]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    return function


class Prediction:
    """`predict_step` without the Python in between."""

    def __init__(self, model):
        self.call = compiled(model, model)

    def __call__(self, data):
        return self.call(_three(data)[0])


class Step:
    """A training or test step without the Python in between; the same numbers as `train_step` and `test_step`."""

    def __init__(self, model, training):
        self.model, self.training = model, training
        self.weights = model.trainable_variables
        self.state = model.non_trainable_variables + model.metrics_variables
        self.replay = Replay(model, self._gradients, model.jit_compile)
        self.names = []  # of the logs, once known
        self.is_plain = False  # whether a layer assigns to its weights, which only the plain step does as Keras does

    def __call__(self, data):
        data = fused.look_up(self.model.device_data.arrays, data, take=_rows)
        if self.is_plain:
            return self._plain(data)
        x, *others = _three(data)
        x, others = _tensor(x), [None if part is None else _tensor(part) for part in others]
        scale = self.model.optimizer.scale_loss(torch.ones(())) if self.training else None
        weights = [variable.value for variable in self.weights]
        state = [variable.value for variable in self.state]
        try:
            outputs = self.replay(x, *others, scale, *weights, *state)
        except _AssignsToWeights:
            self.is_plain = True
            return self._plain(data)
        gradients, new_state, logs = (
            outputs[: len(weights)],
            outputs[len(weights) : len(weights) + len(state)],
            outputs[len(weights) + len(state) :],
        )
        if torch_parallel.is_active():
            gradients, new_state = self._over_processes(len(x), gradients, state, new_state)
        # A new value may be the memory of another variable, which is about to be written.
        memory = {tensor.data_ptr() for tensor in state}
        new_state = [
            new.clone() if new is not old and new.data_ptr() in memory else new
            for old, new in zip(state, new_state, strict=True)
        ]
        with torch.no_grad():
            torch._foreach_copy_(state, new_state)  # pyright: ignore[reportPrivateImportUsage]
            if self.training:
                self.model.optimizer.apply(gradients, self.weights)
        if torch_parallel.is_active():
            return self.model.get_metrics_result()
        return dict(zip(self.names, logs, strict=True))

    def _plain(self, data):
        if torch_parallel.is_active():
            raise ValueError(
                "A layer of this model assigns to its own trainable weights, which several processes cannot share."
            )
        return self.model.train_step(data) if self.training else self.model.test_step(data)

    @torch.no_grad()
    def _over_processes(self, count, gradients, state, new_state):
        """Gradients and moving averages of the global batch; what the metrics sum up, summed up over all."""
        first = len(self.model.non_trainable_variables)
        averaged = [i for i in range(first) if new_state[i].is_floating_point()]
        summed = range(first, len(state))
        averages, sums = torch_parallel.combine(
            count,
            [*gradients, *(new_state[i] for i in averaged)],
            [new_state[i] - state[i] for i in summed],
        )
        new_state = list(new_state)
        for i, value in zip(averaged, averages[len(gradients) :], strict=True):
            new_state[i] = value
        for i, value in zip(summed, sums, strict=True):
            new_state[i] = state[i] + value
        return averages[: len(gradients)], new_state

    def _gradients(self, x, y, sample_weight, scale, *values):
        """Gradients (None in a test step), what the state became, and the logs, in one flat list."""
        weights, state = values[: len(self.weights)], values[len(self.weights) :]
        non_trainable = len(self.model.non_trainable_variables)
        with torch.set_grad_enabled(self.training):
            loss, after, *state, logs = loss_and_state(
                self.model, weights, state[:non_trainable], state[non_trainable:], (x, y, sample_weight), self.training
            )
            if any(new is not old for new, old in zip(after, weights, strict=True)):
                raise _AssignsToWeights
            gradients = [None] * len(weights)
            if self.training:
                gradients = torch.autograd.grad(loss * scale, weights, allow_unused=True)
        self.names = list(logs)
        return [*gradients, *state[0], *state[1], *logs.values()]


class _AssignsToWeights(Exception):
    """As spectral normalisation does."""


def _tensor(part):
    """A tensor in the order of its axes, which a list of operations relies on."""
    return keras.ops.convert_to_tensor(part).contiguous()


def _rows(array, indices, axis):
    return array.index_select(axis, indices.to(array.device))


def _three(data):
    return keras.utils.unpack_x_y_sample_weight(data)


def compiled(model, function):
    """`function(*arrays)` without gradients, on the device where Keras keeps the weights of `model`."""
    count, single = 0, True  # of the arrays; of what `function` returns

    @torch.no_grad()
    def pure(*tensors):
        nonlocal single
        with keras.StatelessScope(zip(model.variables, tensors[count:], strict=True)):
            outputs = function(*tensors[:count])
        single = not isinstance(outputs, tuple | list)
        return [outputs] if single else list(outputs)

    replay = Replay(model, pure)

    def call(*arrays):
        nonlocal count
        count = len(arrays)
        tensors = [_tensor(array) for array in arrays]
        outputs = replay(*tensors, *(variable.value for variable in model.variables))
        return outputs[0] if single else outputs

    return call


def normal(shape, seed):
    """Draws from N(0, I); seed is a Keras `SeedGenerator`. Processes that train together draw different noise."""
    if torch_parallel.is_active():
        generator = torch.Generator().manual_seed(torch_parallel.seed(seed.next()))
        return torch.randn(shape, generator=generator).to(seed.state.value.device)
    return keras.random.normal(shape, dtype="float32", seed=seed)


def auto_jit(model, steps_per_execution):
    return "auto"
