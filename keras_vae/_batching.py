"""Running a compiled function over more data than one batch, NumPy in and NumPy out.

`keras.Model.predict` would do for one network with one input; encoding, decoding and scoring take several arrays and
return several, so this small loop serves them all.
"""

import numpy as np

from keras_vae import _checks, _train_step


class BatchedFunctions:
    """The inference functions of a model, compiled on first use.

    Not a Keras object, on purpose: what it holds must not be tracked, saved or counted as weights.
    """

    def __init__(self, model):
        self._model = model
        self._compiled = {}

    def __call__(self, function, *arrays, batch_size):
        """`function(*arrays)` in batches along the first axis.

        Args:
            function: A bound method of the model, from tensors to one tensor or a tuple of tensors.
            *arrays: NumPy arrays of equal length.
            batch_size: Examples at a time.

        Returns:
            A NumPy array or a tuple of them, of that length.
        """
        if function.__name__ not in self._compiled:
            self._compiled[function.__name__] = _train_step.compiled(self._model, function)
        run = self._compiled[function.__name__]
        # At least one pass, so that no data give empty arrays of the right shape.
        starts = range(0, max(len(arrays[0]), 1), batch_size)
        batches = [run(*(array[start : start + batch_size] for array in arrays)) for start in starts]
        if not isinstance(batches[0], tuple | list):
            return np.concatenate([_checks.to_numpy(batch) for batch in batches])
        return tuple(np.concatenate([_checks.to_numpy(part) for part in parts]) for parts in zip(*batches, strict=True))
