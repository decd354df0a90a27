"""`compile(steps_per_execution=N)`: N batches are stacked, and one compiled loop trains on them.

Gain: a step of a small model is over before Python has prepared the next. Time of a step, as a multiple of the fastest
hand-written loop (784-500-z20, batch 100, two cores, benchmarks/train_step.py), one by one and with N=20: JAX 1.19 and
1.11, TensorFlow 2.04 and 1.04.
"""

import contextlib
import itertools
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from keras_vae._backend.fast import automatic
from keras_vae._backend.fast.device_data import are_arrays, fits_on_device


class ManySteps:
    """What the backends share. Each defines

    _is_fused(name)     whether the step of that name, "train_step" or "test_step", is run many at a time
    _fused(step)        what Keras calls in its place (but on PyTorch, whose loop is its own)
    """

    # What `compile` was told, and (`steps_per_execution`, `jit_compile`) as last set by us; these are before `compile`.
    _told: Mapping[str, Any] = MappingProxyType({"steps_per_execution": 1, "jit_compile": "auto"})
    _chosen: tuple[int, Any] = (1, None)
    _keras_jit_compile: Any = None  # what "auto" is to Keras

    def _make_step(self, name):
        """What Keras calls for one execution of "train_step", "test_step" or "predict_step"."""
        if name != "predict_step" and self._is_fused(name):
            return self._fused(getattr(self, name))
        attribute = name.replace("step", "function")
        setattr(self, attribute, None)
        getattr(super(), f"make_{attribute}")(force=True)
        return getattr(self, attribute)

    def _sync_variables(self):
        """Returns to the variables what Keras holds of them while `fit` runs."""

    def _before_fit(self, x):
        """What is done once before training; x is the data, in any form."""

    def _accepts_indices(self):
        """Whether `fit` and the `evaluate` inside it can gather index batches."""
        return self._is_fused("train_step") and self._is_fused("test_step")

    def _uses_builtin_step(self, name):
        """Whether a step is the library's, and not one that a subclass defines."""
        return getattr(type(self), name).__module__.startswith("keras_vae._backend.")

    def _auto_jit(self, steps_per_execution) -> bool | str:
        """What jit_compile="auto" means to Keras."""
        return "auto"

    @contextlib.contextmanager
    def _steps(self, number, keep):
        """Sets `steps_per_execution`, where neither `compile` nor an assignment did, and what follows from it.

        Args:
            number: A function without arguments that gives it; asked where many steps can be one program.
            keep: Whether it stays so afterwards, which spares the next `fit` a compilation.
        """
        before = self.steps_per_execution, self.jit_compile, self._chosen, self._device_data.arrays
        try:
            if self._told["steps_per_execution"] == "auto" and self.steps_per_execution == self._chosen[0]:
                self._set_steps(self._possible_steps(number))
            if self.steps_per_execution != before[0]:
                self._device_data.arrays = None  # of a `fit` that waits meanwhile
            yield
        finally:
            if not keep and self.steps_per_execution != before[0]:
                self.steps_per_execution, self.jit_compile, self._chosen = before[:3]
            self._device_data.arrays = before[3]

    def _possible_steps(self, number):
        """`number()` if many steps can be one program, else 1."""
        steps = self.steps_per_execution
        try:
            self.steps_per_execution = automatic.MOST  # as what is asked next takes for granted
            can = self._accepts_indices() and not has_convolutions(self)
        finally:
            self.steps_per_execution = steps
        return number() if can and not self.run_eagerly else 1

    def _set_steps(self, steps):
        jit_compile = self._chosen[1]
        if self._told["jit_compile"] == "auto" and self.jit_compile == jit_compile:
            auto = self._auto_jit(steps)
            self.jit_compile = jit_compile = self._keras_jit_compile if auto == "auto" else auto
        self.steps_per_execution = steps
        self._chosen = steps, jit_compile

    def _steps_for(self, arguments):
        """Keeps `steps_per_execution` as `fit` chose it, if it suits these arguments of `evaluate` or `predict`."""
        now, given = self.steps_per_execution, (arguments.get("callbacks"), arguments.get("steps"))
        return self._steps(lambda: now if automatic.suits(now, *given) else automatic.common_steps(*given), keep=False)

    def _put_on_device(self, arguments, when):
        """Puts data that should live on the device there, and index batches in their place in `fit`'s arguments.

        Args:
            arguments: The bound arguments of `fit`, by name.
            when: "auto", True or False, as in `compile(data_on_device=)`.
        """
        x, y, weight = data = [arguments.get(name) for name in ("x", "y", "sample_weight")]
        if not when or x is None or not self._accepts_indices() or not are_arrays(*data):
            return
        if when == "auto" and not fits_on_device(*data):
            return
        if any(array is not None and len(array) != len(x) for array in data) or len(x) == 0:
            return  # Keras says what is wrong
        if self._build_like(x, y, weight):
            arguments.update(x=self._device_data.put(x, y, weight), y=None, sample_weight=None)


def has_convolutions(model):
    """Whether a layer convolves: XLA runs a convolution inside a loop on one thread of a CPU, 2,050 ms for 55."""
    return any("Conv" in type(layer).__name__ for layer in model._flatten_layers())


@contextlib.contextmanager
def suppress_out_of_data_warning(model, steps):
    """Suppresses Keras's "ran out of data" warning where data are meant to be used to their end.

    PyTorch's trainer raises it when `steps_per_execution` does not divide the epoch.
    """
    with warnings.catch_warnings():
        if model.steps_per_execution > 1 and steps is None:
            warnings.filterwarnings("ignore", "Your input ran out of data")
        yield


class Stacker:
    """Takes batches from an iterator and stacks those of one shape, on the host.

    Stacks of one shape of batch are given the length of the first, so that the program is compiled once; what is
    beyond the count is never read.
    """

    def __init__(self, most):
        self.most = most
        self._lengths = {}

    def __call__(self, iterator):
        """Pairs of stacked batches and their number, `most` batches at most in all.

        Raises:
            StopIteration: If there is no batch left.
        """
        batches = [keras.tree.map_structure(_to_host, batch) for batch in itertools.islice(iterator, self.most)]
        if not batches:
            raise StopIteration
        return [self._stack(shapes, list(group)) for shapes, group in itertools.groupby(batches, _shapes)]

    def _stack(self, shapes, batches):
        length = self._lengths[shapes] = max(self._lengths.get(shapes, 0), len(batches))

        def stack(*parts):
            if parts[0] is None:
                return None
            stacked = np.zeros((length, *parts[0].shape), parts[0].dtype)
            np.stack(parts, out=stacked[: len(parts)])
            return stacked

        return keras.tree.map_structure(stack, *batches), np.int32(len(batches))


def _to_host(part):
    return None if part is None else np.asarray(part)


def _shapes(batch):
    return tuple(None if part is None else (part.shape, part.dtype) for part in keras.tree.flatten(batch))
