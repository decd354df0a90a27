"""Data that stay on the device: `fit` then moves indices, not examples.

Gain: with `steps_per_execution` the host only gathers a few integers a step; copying 100 rows of 784 floats takes about
0.1 ms of a 3 ms step on a CPU, and the transfer to a GPU as well.

Keras is given row indices in place of the data: it shuffles, splits, batches and counts them as it would the examples,
so that every batch holds the same examples in the same order. (Keras shuffles once more when it builds a model or its
metrics from the data.)
"""

import math
import re
from typing import Any

import keras
import numpy as np
from keras import ops

MAX_DEVICE_BYTES = 2**30  # of data that are put on the device when `data_on_device="auto"`

# An index batch is `{ROWS: indices}` where a batch of data has x. A plain dict, because Keras takes apart and rebuilds
# what it batches.
ROWS = "rows of the data on the device"


class DeviceData:
    """The data of the `fit` that is running, if they are on the device. Not a Keras object: it must not be tracked."""

    def __init__(self):
        self.arrays: Any = None  # x, y, sample_weight
        self.fits = 0  # that are running: a callback of one may call another

    def put(self, x, y, sample_weight):
        """Holds the data, and returns what stands for them in `fit`."""
        self.arrays = (_on_device(x), None if y is x else _on_device(y), _on_device(sample_weight))
        return {ROWS: np.arange(len(x), dtype="int32")}

    def gather(self, batch, take=ops.take):
        """The rows that an index batch refers to; any other batch unchanged.

        `take(array, indices, axis)` gives rows of an array; the indices may have an axis of stacked batches.
        """
        x = keras.utils.unpack_x_y_sample_weight(batch)[0]
        if not is_index_batch(x):
            return batch
        return tuple(None if array is None else take(array, x[ROWS], 0) for array in self.arrays)


def is_index_batch(x):
    return isinstance(x, dict) and ROWS in x


def are_arrays(*data):
    """Whether each of the data is an array of numbers or None."""
    return all(
        (isinstance(part, np.ndarray) and part.dtype.kind in "biuf") or ops.is_tensor(part)
        for part in data
        if part is not None
    )


def fits_on_device(*data):
    return sum(_nbytes(part) for part in data if part is not None) <= MAX_DEVICE_BYTES


def _nbytes(part):
    bits = re.search(r"\d+", str(part.dtype))  # bool has none
    return math.prod(part.shape) * (int(bits[0]) // 8 if bits else 1)


def _on_device(array):
    if array is None:
        return None
    is_float = "float" in keras.backend.standardize_dtype(array.dtype)
    return ops.convert_to_tensor(array, dtype=keras.config.floatx() if is_float else None)  # as Keras does
