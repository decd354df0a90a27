"""The forms in which users hold data: arrays, lists, tables, sparse matrices, and streams of batches.

`fit` and the verbs of inference take the same ones. Here a list, a table or a masked array becomes the array that Keras
batches; a sparse matrix stays as it is, to be made dense batch by batch; a stream is whatever Keras iterates over: a
`tf.data.Dataset`, a `DataLoader`, a `PyDataset`, a generator. pandas, polars and SciPy are known by what their objects
can do, so none of them is imported.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_vae import validation


def as_arrays(x: Any, name: str = "x") -> Any:
    """Data as a VAE takes them, x or a dict of x and its condition, each an array, a CSR matrix or a stream.

    Raises:
        ValueError: If they hold something else than numbers; says what, where, and what to do.
    """
    if isinstance(x, dict):
        return {key: _as_array(part, key) for key, part in x.items()}
    return x if x is None or is_stream(x) else _as_array(x, name)


def is_sparse(x: Any) -> bool:
    """Whether x is a sparse matrix of SciPy's."""
    return hasattr(x, "tocsr")


def is_stream(x: Any) -> bool:
    """Whether x gives batches one after the other."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    is_one_of_a_kind = isinstance(x, list | tuple | dict | str) or is_sparse(x) or validation.is_array(x)
    return hasattr(x, "__iter__") and not is_one_of_a_kind


def pieces(x: Any, rows: int) -> Iterator[Any]:
    """Data as `as_arrays` gives them in pieces that are dense: the batches of a stream, or `rows` of a sparse matrix.

    An array is one piece.

    Raises:
        ValueError: If a stream does not end, or has no batch.
    """
    parts = list(x.values()) if isinstance(x, dict) else [x]
    if is_stream(x):
        yield from _batches(x)
    elif any(map(is_sparse, parts)):
        if len({part.shape[0] for part in parts}) > 1:
            sizes = ", ".join(f"{part.shape[0]} of {name}" for name, part in x.items())
            raise ValueError(f"The parts of the data have unequal numbers of examples: {sizes}.")
        for start in range(0, max(parts[0].shape[0], 1), rows):
            yield keras.tree.map_structure(lambda part: dense(part[start : start + rows]), x)  # noqa: B023 # called here
    else:
        yield x


def first(x: Any, count: int) -> Any:
    """The first `count` examples of data in any form, dense; a generator loses the batches that they are in."""
    found, missing = [], count
    for piece in pieces(as_arrays(x), count):
        found.append(keras.tree.map_structure(lambda part: part[:missing], piece))  # noqa: B023 # called here
        missing -= len(keras.tree.flatten(found[-1])[0])
        if missing <= 0:
            break
    if len(found) == 1:
        return found[0]
    return keras.tree.map_structure(lambda *parts: np.concatenate([validation.to_numpy(p) for p in parts]), *found)


def in_memory(x: Any) -> Any:
    """NumPy arrays, dense, of data in any form but batches.

    Raises:
        ValueError: If x gives batches.
    """
    x = as_arrays(x)
    if is_stream(x):
        raise ValueError(f"x must be examples in memory, such as an array (n, ...); got a {type(x).__name__}.")
    return keras.tree.map_structure(lambda part: validation.to_numpy(dense(part)), x)


def dense(array: Any) -> Any:
    """An array from a sparse matrix; anything else unchanged."""
    return array.toarray() if is_sparse(array) else array


def _batches(stream):
    """x of each batch of a stream."""
    if isinstance(stream, keras.utils.PyDataset):
        count = stream.num_batches
        stream = None if count is None else map(stream.__getitem__, range(count))
    elif hasattr(stream, "cardinality") and int(stream.cardinality()) == -1:
        stream = None
    if stream is None:
        raise ValueError("x has no end, and every example is asked for: pass dataset.take(n), or a finite one.")
    is_empty = True
    for batch in stream:
        is_empty = False
        yield as_arrays(keras.utils.unpack_x_y_sample_weight(batch)[0])
    if is_empty:
        raise ValueError("x gave no batch. A generator that has been used gives none: make it anew for each call.")


def _as_array(part, name):
    if is_sparse(part):
        return part.tocsr()
    if hasattr(part, "to_numpy"):
        part = _from_table(part, name)
    elif isinstance(part, list | tuple):
        part = _from_list(part, name)
    if isinstance(part, np.ma.MaskedArray):
        if np.ma.is_masked(part):  # a masked value is a missing one, as NaN is
            part = part.astype("float64" if part.dtype.kind == "f" and part.itemsize > 4 else "float32").filled(np.nan)
        part = np.asarray(part)
    if not validation.is_array(part):
        raise ValueError(f"{name} must be an array of numbers or give batches of them; got a {type(part).__name__}.")
    if np.ndim(part) == 0:
        raise ValueError(f"{name} is the single number {part}; it must have an axis of examples, (n, ...).")
    if not isinstance(part, np.ndarray):
        return part
    if part.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers; got {part.dtype}.")
    # A file's byte order, which no backend takes; what is mapped is changed batch by batch.
    is_native = part.dtype.isnative or isinstance(part, np.memmap)
    return part if is_native else part.astype(part.dtype.newbyteorder("="))


def is_number(dtype: Any) -> bool:
    """Whether the values of a column of a DataFrame are numbers, or booleans, as its type says."""
    # polars has no kind, but says of a type whether it is a number.
    return dtype.kind in "biuf" if hasattr(dtype, "kind") else dtype.is_numeric() or str(dtype) == "Boolean"


def _from_table(table, name):
    """A DataFrame or a Series, of pandas or polars, as an array."""
    names = [str(column) for column in getattr(table, "columns", (name,))]
    dtypes = table.dtypes if hasattr(table, "columns") else (table.dtype,)
    for column, dtype in zip(names, dtypes, strict=True):
        if not is_number(dtype):
            raise ValueError(
                f"Column {column!r} of {name} holds {dtype}, and a VAE takes numbers: keras_vae.tables.Table.fit(x) "
                "makes an array and its likelihood of numbers and categories; or drop the column."
            )
    values = table.to_numpy()
    return values if values.dtype.kind != "O" else table.to_numpy(dtype="float64", na_value=np.nan)


def _from_list(part, name):
    """The one array of `[x]`, or a list of numbers as an array."""
    if part and all(validation.is_array(one) or is_sparse(one) for one in part):
        if len(part) > 1:
            fix = "To reconstruct y from x pass them apart: fit(x, y)."
            if name != "x":
                fix = "Join them: np.concatenate([a, b], axis=-1)."
            raise ValueError(
                f"{name} is a {type(part).__name__} of {len(part)} arrays, which Keras reads as {len(part)} inputs; a "
                f"VAE takes one. {fix}"
            )
        return _as_array(part[0], name)
    try:
        return np.asarray(part)
    except ValueError:
        raise ValueError(f"{name} is a list of rows of unequal length: pad them to one length.") from None
