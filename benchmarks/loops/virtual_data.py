"""Images that are nowhere: data of any nominal size to train on, in ways that do not hold them in memory.

Each takes the number of batches, the batch size, the shape of an image, and a folder that may be written to.
"""

import keras
import numpy as np


class Drawn(keras.utils.PyDataset):
    """Each batch is drawn when it is asked for."""

    def __init__(self, batches, batch_size, shape, folder):
        super().__init__()
        self.batches, self.shape = batches, (batch_size, *shape)

    def __len__(self):
        return self.batches

    def __getitem__(self, index):
        return (np.random.default_rng(index).random(self.shape, dtype="float32") < 0.13).astype("float32")


def pipeline(batches, batch_size, shape, folder):
    """The same as a tf.data of TensorFlow's own operations, without a Python generator."""
    import tensorflow as tf

    def batch(index):
        uniform = tf.random.stateless_uniform((batch_size, *shape), seed=tf.stack([tf.zeros_like(index), index]))
        return tf.cast(uniform < 0.13, "float32")

    return tf.data.Dataset.range(batches).repeat().map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def mapped_file(batches, batch_size, shape, folder):
    """A sparse .npy file of zeros, which takes no disk, opened with `mmap_mode="r"`: for `fit` an array."""
    path = folder / "images.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype="float32", shape=(batches * batch_size, *shape)).flush()
    return np.load(path, mmap_mode="r")
