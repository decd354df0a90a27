"""Arrays of which Keras gets batches only: those that stay in their files, and sparse matrices.

Keras would copy a memory-mapped array, `np.load(path, mmap_mode="r")` (TensorFlow: three times its size), or keep every
page that it has touched. Here each batch is copied, and its pages are given back at once, so that memory does not grow
with the file. A sparse matrix goes into no layer: here each batch of it becomes dense.
"""

import math
import mmap

import keras
import numpy as np

from keras_vae._containers import dense, is_sparse
from keras_vae.data import as_target, count

# Smaller files are treated as any array: they are faster in memory.
MIN_MAPPED_BYTES = 2**30


class RowBatches(keras.utils.PyDataset):
    """Batches of arrays of which some are memory-mapped or sparse, in a new order each epoch if `shuffle`."""

    def __init__(self, arrays, batch_size, shuffle):
        super().__init__()
        x, y, weight = arrays
        y = as_target(x) if y is None and weight is not None else y
        self.arrays = tuple(_arrays(part) for part in (x, y, weight) if part is not None)
        self.count = count(x)
        self.batch_size, self.shuffle = batch_size, shuffle
        self.on_epoch_end()

    def __len__(self):
        return math.ceil(self.count / self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        rows = np.sort(rows)  # in the order of the file; within a batch it does not matter
        read = {id(array): _read(array, rows) for array in keras.tree.flatten(self.arrays)}  # once, where y is x
        return keras.tree.map_structure(lambda array: read[id(array)], self.arrays)

    def on_epoch_end(self):
        n = self.count
        self.order = np.random.permutation(n) if self.shuffle else np.arange(n)  # noqa: NPY002 # Keras's generator


def replace(arguments, shuffle):
    """Puts batches in the place of x, y and sample_weight in the arguments of a verb, if they must be read in rows."""
    arrays = tuple(arguments.get(name) for name in ("x", "y", "sample_weight"))
    if not are_read_in_rows(*arrays):
        return
    if arguments.get("validation_split"):
        raise ValueError(
            "validation_split cannot split sparse matrices, nor arrays that stay in their file. Pass slices of them: "
            "fit(x[:-10_000], validation_data=(x[-10_000:],))."
        )
    parts = [part for each in arrays for part in (each.values() if isinstance(each, dict) else (each,))]
    if len({count(part) for part in parts if part is not None}) > 1:
        return  # Keras says what is wrong
    batches = RowBatches(arrays, arguments.get("batch_size") or 32, shuffle)
    arguments.update(x=batches, y=None, sample_weight=None, batch_size=None)
    if "shuffle" in arguments or shuffle:
        arguments["shuffle"] = False  # of the batches, by Keras


def are_read_in_rows(*arrays):
    """Whether some of these are sparse, or mapped and large."""
    arrays = keras.tree.flatten(arrays)
    mapped = [array for array in arrays if isinstance(array, np.memmap)]
    return any(map(is_sparse, arrays)) or sum(array.nbytes for array in mapped) > MIN_MAPPED_BYTES


def _arrays(part):
    if isinstance(part, dict):
        return {name: _arrays(each) for name, each in part.items()}
    return part if isinstance(part, np.memmap) or is_sparse(part) else np.asarray(part)


def _read(array, rows):
    read = np.asarray(dense(array[rows]))  # a copy, as rows is an array
    if isinstance(array, np.memmap):
        _give_back(array)
    return read.astype(keras.config.floatx(), copy=False) if read.dtype.kind == "f" else read


def _give_back(array):
    """Lets the system forget the pages; not those of a copy-on-write map, which hold what the user wrote."""
    while isinstance(array.base, np.memmap):
        array = array.base
    if array.mode != "c" and isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)
