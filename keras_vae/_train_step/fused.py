"""`compile(steps_per_execution=N)`: N steps in one compiled call, and data that stay on the device.

A step of a small model is over before Python has prepared the next. So N batches are stacked, and one program runs a
loop over them; and where the data fit on the device, only the indices of the examples travel. Keras is then given the
indices in place of the data: it shuffles, splits, batches and counts them as it would the examples, so that every batch
holds the same examples in the same order as without (but for the one shuffle more that Keras makes when it builds a
model or its metrics from the data).
"""

import contextlib
import itertools
import math
import re
import warnings

import keras
import numpy as np
from keras import ops

# Data of up to this many bytes are put on the device when `data_on_device="auto"`.
MOST_ON_DEVICE = 2**30


class Trainer:
    """What the backends' trainers share. Each defines

    is_fused(name)      whether the step of that name, "train_step" or "test_step", is run many at a time
    fused(step)         what Keras calls in its place (but on PyTorch, whose loop is its own)
    """

    def make_train_function(self, force=False):
        if not self.is_fused("train_step"):
            super().make_train_function(force)
        elif self.train_function is None or force:
            self.train_function = self.fused(self.train_step)

    def make_test_function(self, force=False):
        if not self.is_fused("test_step"):
            super().make_test_function(force)
        elif self.test_function is None or force:
            self.test_function = self.fused(self.test_step)

    def takes_indices(self):
        """Whether `fit` and the `evaluate` inside it can look batches up in `device_data`."""
        return self.is_fused("train_step") and self.is_fused("test_step")

    def is_library_s(self, name):
        """Whether a step is the library's, and not one that a subclass defines."""
        return getattr(type(self), name).__module__.startswith(__package__)

    def auto_jit(self, steps_per_execution) -> bool | str:
        """What jit_compile="auto" shall mean to Keras."""
        return "auto"


class DeviceData:
    """The data of the `fit` that is running, if they are on the device. Not a Keras object: it must not be tracked."""

    def __init__(self):
        self.arrays = None  # x, y, sample_weight

    def put(self, x, y, sample_weight):
        """Holds the data, and returns the indices that stand for them."""
        self.arrays = (_on_device(x), None if y is x else _on_device(y), _on_device(sample_weight))
        return np.arange(len(x), dtype="int32")


def are_arrays(*data):
    """Whether the parts of the data that there are, are arrays of numbers."""
    return all(
        (isinstance(part, np.ndarray) and part.dtype.kind in "biuf") or ops.is_tensor(part)
        for part in data
        if part is not None
    )


def are_small(*data):
    return sum(_nbytes(part) for part in data if part is not None) <= MOST_ON_DEVICE


def _nbytes(part):
    bits = re.search(r"\d+", str(part.dtype))  # bool has none
    return math.prod(part.shape) * (int(bits[0]) // 8 if bits else 1)


def _on_device(array):
    if array is None:
        return None
    is_float = "float" in keras.backend.standardize_dtype(array.dtype)
    return ops.convert_to_tensor(array, dtype=keras.config.floatx() if is_float else None)  # as Keras does


def look_up(arrays, batch, axes=1, take=ops.take):
    """The batch that a batch of indices stands for, or the batch itself: data have more than `axes` axes, indices not.

    `axes` is 2 for a stack of batches; `take(array, indices, axis)` gives the rows of an array.
    """
    if arrays is None:
        return batch
    indices = keras.utils.unpack_x_y_sample_weight(batch)[0]
    if isinstance(indices, dict) or len(indices.shape) > axes:
        return batch
    return tuple(None if array is None else take(array, indices, 0) for array in arrays)


def has_convolutions(model):
    """XLA runs a convolution inside a loop on one thread of a CPU: 2,050 ms a step where 55 are usual."""
    return any("Conv" in type(layer).__name__ for layer in model._flatten_layers())


@contextlib.contextmanager
def quiet_at_the_end(model, steps):
    """Without Keras's warning that data ran out where they were meant to be used to their end.

    It comes on PyTorch, whose trainer is not made for `steps_per_execution`, if that does not divide the steps.
    """
    with warnings.catch_warnings():
        if model.steps_per_execution > 1 and steps is None:
            warnings.filterwarnings("ignore", "Your input ran out of data")
        yield


class Stacker:
    """Takes batches from an iterator and stacks those of one shape, on the host.

    Stacks of one shape of batch are given the length of the first, so that the program is compiled once; what is
    beyond the count is never looked at.
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
