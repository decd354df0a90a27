"""Data as users and Keras hand them over: read here, once, into a `Batch`.

Data are x, or `{"x": x, "condition": c}` for a conditional model; Keras puts them into tuples `(x, y, sample_weight)`.
"""

import dataclasses
from typing import Any

import keras
from keras import ops

_KEYS = {"x", "condition"}


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch, as a step sees it.

    Args:
        x: `(batch, ...)`, what the encoder sees.
        given: `(batch, ...)` condition, or None.
        target: `(batch, ...)`, what is reconstructed: x itself where the data have no y.
        weight: `(batch,)` sample weights, float32, or None.
    """

    x: Any
    given: Any = None
    target: Any = None
    weight: Any = None

    @classmethod
    def read(cls, data: Any) -> "Batch":
        """A batch of tensors from x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, as Keras hands it to a step."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        x, given = split_condition(x)
        x = ops.convert_to_tensor(x)
        target = x if y is None else ops.convert_to_tensor(y)
        if weight is not None:
            weight = ops.convert_to_tensor(weight, dtype="float32")
            if any(size != 1 for size in weight.shape[1:]):
                raise ValueError(
                    f"sample_weight must have one value per example, shape (batch,); got shape {tuple(weight.shape)}."
                )
            weight = ops.reshape(weight, (-1,))
        return cls(x, given, target, weight)

    @property
    def size(self) -> Any:
        """Number of examples: an int, or a scalar tensor where it is known only at run time."""
        return ops.shape(self.x)[0]


def split_condition(x: Any) -> tuple[Any, Any]:
    """x and its condition, None if it has none, from data as a VAE takes them.

    Raises:
        ValueError: If they are a dict of something else.
    """
    if not isinstance(x, dict):
        return x, None
    if set(x) != _KEYS:
        raise ValueError(several_inputs(f"a dict with keys {sorted(x)}"))
    return x["x"], x["condition"]


def with_condition(x: Any, condition: Any = None) -> Any:
    """The inverse of `split_condition`."""
    return x if condition is None else {"x": x, "condition": condition}


def input_shapes(input_shape: Any) -> tuple[Any, Any]:
    """The shapes of x and of the condition, None without one, from what `VAE.build` is given."""
    is_pair = isinstance(input_shape, dict) and set(input_shape) == _KEYS
    shapes = (input_shape["x"], input_shape["condition"]) if is_pair else (input_shape, None)
    for shape in shapes if is_pair else shapes[:1]:
        if not isinstance(shape, list | tuple) or not all(isinstance(size, int | None) for size in shape):
            raise ValueError(
                "A VAE takes one tensor x of shape (batch, ...), or a dict of x and its condition; got inputs of shape "
                f"{input_shape}."
            )
    return shapes


def count(x: Any) -> int:
    """Number of examples in data as a VAE takes them; of a stream of batches, their number."""
    x, _ = split_condition(x)
    return x.shape[0] if hasattr(x, "shape") else len(x)


def several_inputs(what: str) -> str:
    """The error message for data that are not one tensor."""
    return (
        f"A VAE takes one tensor x, but the batch holds {what}. Pick one before fit, for instance with "
        'dataset.map(lambda batch: batch["image"]). A conditional VAE takes {"x": x, "condition": c}.'
    )
