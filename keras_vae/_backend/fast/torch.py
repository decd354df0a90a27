"""PyTorch: what `fit`, `evaluate` and `predict` run: steps as functions of values, which `traced.py` traces.

Weights, state and noise go in and gradients and new state come out, as on JAX, because a traced graph must be told
everything that changes; the new state is then copied into the variables.
"""

import keras
import torch

from keras_vae._backend import processes
from keras_vae._backend.fast import many_steps
from keras_vae._backend.fast.traced import TracedFunction, TracedStep, to_tensor
from keras_vae._backend.stateless import stateless_loss
from keras_vae.data import Batch


class ManySteps(many_steps.ManySteps):
    def _make_step(self, name):
        if name == "predict_step":
            is_builtin = not self.run_eagerly and type(self).predict_step is keras.Model.predict_step
            return _predict_loop(_traced_predict(self) if is_builtin else self.predict_step)
        if self._is_traced(name):
            step = StatelessStep(self, training=name == "train_step")
        elif processes.is_active():
            raise ValueError(
                f"Several processes train one model with the library's own {name}: neither with run_eagerly=True nor "
                "with a subclass that has another, which would leave every process with a model of its own."
            )
        else:
            step = getattr(self, name)
        return StepLoop(step)

    def _before_fit(self, x):
        if processes.is_active():
            processes.start(self, x)

    def _is_traced(self, name):
        is_free = self.built and None in self.noise_shape()  # a trace would hold the noise that it was made with
        return not self.run_eagerly and not is_free and self._uses_builtin_step(name)

    def _is_fused(self, name):
        return self.steps_per_execution > 1 and self._is_traced(name)


class StepLoop:
    """What Keras calls with a list of `steps_per_execution` batches, of which it wants the last logs."""

    def __init__(self, step):
        self.step = step

    def __call__(self, batches):
        logs = {}
        for batch in batches:
            logs = self.step(batch)
        return logs


def _predict_loop(step):
    """The same for predictions, of which Keras wants all."""

    @torch.no_grad()
    def loop(batches):
        outputs = [step(batch) for batch in batches]
        return keras.tree.map_structure(lambda *parts: torch.cat(parts), *outputs)

    return loop


def _traced_predict(model):
    def predict(x, *condition):
        found = model(model._joined_with_condition(x, *condition))
        return tuple(found.values()) if isinstance(found, dict) else found

    call = TracedFunction(model, predict)

    def step(data):
        batch = Batch.read((keras.utils.unpack_x_y_sample_weight(data)[0],), model._fields)
        found = call(batch.x) if batch.given is None else call(batch.x, batch.given)
        return dict(zip(model.likelihood.part_names, found, strict=True)) if model.likelihood.part_names else found

    return step


class StatelessStep:
    """A training or test step as a function of values, traced; the same numbers as `train_step` and `test_step`."""

    def __init__(self, model, training):
        self.model, self.training = model, training
        self.weights = model.trainable_variables
        self.state = model.non_trainable_variables + model.metrics_variables
        self.traced = TracedStep(self._gradients, bool(model.jit_compile))
        self.log_names = []
        self.assigns_to_weights = False  # as spectral normalisation does; only the plain step treats it as Keras does

    def __call__(self, data):
        data = self.model._device_data.gather(data, _rows)
        if self.assigns_to_weights:
            return self._plain(data)
        batch = Batch.read(data, self.model._fields)
        parts = (batch.x, batch.given, None if batch.target is batch.x else batch.target, batch.weight)
        seed = self.model.seed_generator.state.value.clone()
        noise = self.model.noise(batch.size)
        scale = self.model.optimizer.scale_loss(torch.ones(())) if self.training else None
        weights = [variable.value for variable in self.weights]
        state = [variable.value for variable in self.state]
        tensors = [None if part is None else to_tensor(part) for part in (*parts, noise, scale)]
        try:
            outputs = self.traced(*tensors, *weights, *state)
        except _AssignsToWeights:
            self.assigns_to_weights = True
            self.model.seed_generator.state.assign(seed)  # the plain step draws its noise itself
            return self._plain(data)
        gradients, new_state = outputs[: len(weights)], outputs[len(weights) : len(weights) + len(state)]
        if processes.is_active():
            gradients, new_state = self._over_processes(batch.size, gradients, state, new_state)
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
        if processes.is_active():
            return self.model.get_metrics_result()
        return dict(zip(self.log_names, outputs[len(weights) + len(state) :], strict=True))

    def _plain(self, data):
        if processes.is_active():
            raise ValueError(
                "A layer of this model assigns to its own trainable weights, which several processes cannot share."
            )
        return self.model.train_step(data) if self.training else self.model.test_step(data)

    def _gradients(self, x, condition, target, weight, noise, scale, *values):
        """Gradients (None in a test step), what the state became, and the logs, in one flat list."""
        weights, state = values[: len(self.weights)], values[len(self.weights) :]
        non_trainable = len(self.model.non_trainable_variables)
        batch = Batch(x, condition, x if target is None else target, weight)
        with torch.set_grad_enabled(self.training):
            loss, after, *state, logs = stateless_loss(
                self.model, weights, state[:non_trainable], state[non_trainable:], batch, noise, self.training
            )
            if any(new is not old for new, old in zip(after, weights, strict=True)):
                raise _AssignsToWeights
            gradients = [None] * len(weights)
            if self.training:
                gradients = torch.autograd.grad(loss * scale, weights, allow_unused=True)
        self.log_names = list(logs)
        return [*gradients, *state[0], *state[1], *logs.values()]

    @torch.no_grad()
    def _over_processes(self, count, gradients, state, new_state):
        """Gradients and moving averages of the global batch; the metrics' sums over all processes."""
        first = len(self.model.non_trainable_variables)
        averaged = [i for i in range(first) if new_state[i].is_floating_point()]
        summed = range(first, len(state))
        averages, sums = processes.combine(
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


class _AssignsToWeights(Exception):
    pass


def _rows(array, indices, axis):
    return array.index_select(axis, indices.to(array.device))
