"""What PyTorch runs in `fit`, `evaluate` and `predict`: steps as functions of values, which `torch_replay` writes down.

Weights and state go in and gradients and new state come out, as on JAX, because a list of operations can only be run
again if it is told everything that changes; the new state is then copied into the variables.
"""

import keras
import torch

from keras_vae._conditions import split_condition
from keras_vae._train_step import fused, torch_parallel
from keras_vae._train_step.pure import loss_and_state
from keras_vae._train_step.torch_replay import Replay


class ForEach:
    """What Keras calls with a list of `steps_per_execution` batches, of which it wants the last logs."""

    def __init__(self, step, weights):
        self.step, self.weights = step, weights

    def __call__(self, batches):
        logs = {}
        for batch in batches:
            logs = self.step(batch)
        return logs


class Concatenated:
    """The same for predictions, of which it wants all."""

    def __init__(self, step):
        self.step = step

    @torch.no_grad()
    def __call__(self, batches):
        outputs = [self.step(batch) for batch in batches]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class Prediction:
    """`predict_step` without the Python in between."""

    def __init__(self, model):
        self.call = compiled(model, lambda x, *condition: model(_with_condition(x, *condition)))

    def __call__(self, data):
        x, condition = split_condition(_three(data)[0])
        return self.call(x) if condition is None else self.call(x, condition)


class Step:
    """A training or test step without the Python in between; the same numbers as `train_step` and `test_step`."""

    def __init__(self, model, training):
        self.model, self.training = model, training
        self.weights = model.trainable_variables
        self.state = model.non_trainable_variables + model.metrics_variables
        self.replay = Replay(self._gradients, model, model.jit_compile)
        self.names = []  # of the logs, once known
        self.is_plain = False  # whether a layer assigns to its weights, which only the plain step does as Keras does

    def __call__(self, data):
        data = fused.look_up(self.model.device_data.arrays, data, take=_rows)
        if self.is_plain:
            return self._plain(data)
        x, *others = _three(data)
        x, condition = split_condition(x)
        x, others = _tensor(x), [None if part is None else _tensor(part) for part in (condition, *others)]
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

    def _gradients(self, x, condition, y, sample_weight, scale, *values):
        """Gradients (None in a test step), what the state became, and the logs, in one flat list."""
        weights, state = values[: len(self.weights)], values[len(self.weights) :]
        non_trainable = len(self.model.non_trainable_variables)
        data = (_with_condition(x, condition), y, sample_weight)
        with torch.set_grad_enabled(self.training):
            loss, after, *state, logs = loss_and_state(
                self.model, weights, state[:non_trainable], state[non_trainable:], data, self.training
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


def _with_condition(x, condition=None):
    return x if condition is None else {"x": x, "condition": condition}


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

    replay = Replay(pure)  # which draws no noise: inference is given it

    def call(*arrays):
        nonlocal count
        count = len(arrays)
        tensors = [_tensor(array) for array in arrays]
        outputs = replay(*tensors, *(variable.value for variable in model.variables))
        return outputs[0] if single else outputs

    return call


def compiled_gradient(model, function):
    """`function(z, *arrays)`, one value per row of z, and the gradient of each with respect to its row."""
    count = 0  # of the arrays

    def pure(*tensors):
        with torch.enable_grad(), keras.StatelessScope(zip(model.variables, tensors[count:], strict=True)):
            z = tensors[0].detach().requires_grad_()
            each = function(z, *tensors[1:count])
            (gradient,) = torch.autograd.grad(each.sum(), z, allow_unused=True, materialize_grads=True)
        return [each.detach(), gradient]

    replay = Replay(pure)

    def call(*arrays):
        nonlocal count
        count = len(arrays)
        tensors = [_tensor(array) for array in arrays]
        return replay(*tensors, *(variable.value.detach() for variable in model.variables))

    return call
