"""Sequences of different lengths as one array, in which NaN stands after the end of each.

A model with `allow_missing=True` sums out what is missing, so that no lengths travel beside the data.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_vae import validation


def pad(sequences: Iterable[Any], steps: int | None = None) -> np.ndarray:
    """Sequences as one array, with NaN after the end of each.

    Args:
        sequences: Arrays or lists `(length, ...)`, alike but in their lengths.
        steps: Number of steps of the result; None: as many as the longest has.

    Returns:
        `(n, steps, ...)` float32.

    Raises:
        ValueError: If a sequence is longer than `steps`, empty, ends in NaN, or its shape is not that of the others.

    Example:

    >>> pad([[1, 2, 3], [4]])
    array([[ 1.,  2.,  3.],
           [ 4., nan, nan]], dtype=float32)
    """
    try:
        arrays = [np.asarray(sequence, "float32") for sequence in sequences]
    except (ValueError, TypeError) as error:
        raise ValueError(f"Sequences are arrays of numbers, such as codes of letters: {error}.") from None
    if not arrays:
        raise ValueError("There are no sequences to pad.")
    longest = max(len(array) if array.ndim else 0 for array in arrays)
    steps = longest if steps is None else validation.whole_number("steps", steps)
    for place, array in enumerate(arrays):
        if array.ndim == 0 or array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(
                f"Sequence {place} has shape {array.shape}, and sequence 0 {arrays[0].shape}: only the lengths, the "
                "first axis, may differ."
            )
        if not 0 < len(array) <= steps:
            raise ValueError(f"Sequence {place} has {len(array)} steps; it must have from 1 to {steps}: cut it first.")
        if np.isnan(array[-1]).all():
            raise ValueError(
                f"Sequence {place} ends in NaN, which means here that it has ended before: leave that step out, "
                "x[:length]. A gap inside may stay NaN."
            )
    padded = np.full((len(arrays), steps, *arrays[0].shape[1:]), np.nan, "float32")
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded


def unpad(x: Any, end: float | None = None) -> list[np.ndarray]:
    """The sequences of a padded array, each without what is after its end.

    Args:
        x: `(n, steps, ...)`, as `pad` gives it, or as a model samples it.
        end: Code that ends a sequence, `(n, steps)`, and is left out; None: only NaN does.

    Returns:
        A list of arrays `(length, ...)`.
    """
    x = validation.to_numpy(x)
    if x.ndim < 2:
        raise ValueError(f"x must be several sequences, (n, steps, ...); got shape {x.shape}.")
    exists = ~np.isnan(x).reshape(*x.shape[:2], -1).all(axis=2)
    lengths = np.where(exists.any(axis=1), x.shape[1] - np.argmax(exists[:, ::-1], axis=1), 0)  # gaps are kept
    if end is not None:
        is_end = (x == end).reshape(*x.shape[:2], -1).all(axis=2)
        lengths = np.where(is_end.any(axis=1), np.argmax(is_end, axis=1), lengths)
    return [row[:length] for row, length in zip(x, lengths, strict=True)]
