"""Arrays that stay in their files: `np.load(path, mmap_mode="r")`, larger than memory.

Keras would copy such an array (TensorFlow: three times its size), or keep every page that it has touched. Here each
batch is read through a map of its own, which is closed at once, so that memory does not grow with the file.
"""

import math

import keras
import numpy as np

# Smaller files are treated as any array: they are faster in memory.
LEAST = 2**30


class MappedBatches(keras.utils.PyDataset):
    """Batches of arrays of which some are memory-mapped, in a new order each epoch if `shuffle`."""

    def __init__(self, arrays, batch_size, shuffle):
        super().__init__()
        x, y, weight = arrays
        self.arrays = [
            array for array in (x, x if y is None and weight is not None else y, weight) if array is not None
        ]
        self.batch_size, self.shuffle = batch_size, shuffle
        self.on_epoch_end()

    def __len__(self):
        return math.ceil(len(self.arrays[0]) / self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        rows = np.sort(rows)  # in the order of the file; within a batch it does not matter
        read = {id(array): _read(array, rows) for array in self.arrays}  # once, where y is x
        return tuple(read[id(array)] for array in self.arrays)

    def on_epoch_end(self):
        n = len(self.arrays[0])
        self.order = np.random.permutation(n) if self.shuffle else np.arange(n)  # noqa: NPY002 # Keras's generator


def replace(arguments, shuffle):
    """Puts batches in the place of large x, y and sample_weight in the arguments of `fit` or `evaluate`."""
    arrays = tuple(arguments.get(name) for name in ("x", "y", "sample_weight"))
    if not are_large(*arrays):
        return
    if arguments.get("validation_split"):
        raise ValueError(
            "validation_split cannot split arrays that stay in their file. Pass slices of them: "
            "fit(x[:-10_000], validation_data=(x[-10_000:],))."
        )
    if any(array is not None and len(array) != len(arrays[0]) for array in arrays):
        return  # Keras says what is wrong
    batches = MappedBatches(arrays, arguments.get("batch_size") or 32, shuffle)
    arguments.update(x=batches, y=None, sample_weight=None, batch_size=None)
    if "shuffle" in arguments or shuffle:
        arguments["shuffle"] = False  # of the batches, by Keras


def are_large(*arrays):
    mapped = [array for array in arrays if isinstance(array, np.memmap)]
    return sum(array.nbytes for array in mapped) > LEAST


def _read(array, rows):
    array = np.asarray(_opened_again(array)[rows])
    return array.astype(keras.config.floatx(), copy=False) if array.dtype.kind == "f" else array


def _opened_again(array):
    if not isinstance(array, np.memmap) or not array.flags.c_contiguous or array.filename is None:
        return array
    whole = array
    while isinstance(whole.base, np.memmap):  # a slice keeps the offset of what it was cut from
        whole = whole.base
    offset = whole.offset + array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return np.memmap(array.filename, array.dtype, "r", offset, array.shape)
