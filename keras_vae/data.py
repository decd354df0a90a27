"""Data as users and Keras hand them over: read here, once, into a `Batch`.

Data are x, or `{"x": x, "condition": c}` for a conditional model, or a dict of named tensors for a model whose
likelihood names its parts; Keras puts them into tuples `(x, y, sample_weight)`.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
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
    def read(cls, data: Any, fields: "Fields | None" = None) -> "Batch":
        """A batch of tensors from x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, as Keras hands it to a step.

        `fields` are those of a model with named parts, whose x is a dict of them.
        """
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        if fields is not None:
            y = None if y is None or y is x else fields.pack_parts(y, "y")
            x, given = fields.split(x)
            x, given = fields.pack_parts(x), fields.pack_given(given)
            if isinstance(weight, dict):  # Keras repeats one array for each tensor of y
                weight = next(iter(weight.values()))
        else:
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


@dataclasses.dataclass(frozen=True)
class Fields:
    """The tensors of a model with named parts: one vector of those that are modelled, and one of those that are given.

    So a step, a verb and an evaluation see one x and one condition, whatever they are made of.

    Args:
        parts: Shape of one example of each tensor that has a likelihood, by name.
        given: That of each that has none.
    """

    parts: dict[str, tuple[int, ...]]
    given: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, shapes: Any, names: Iterable[str]) -> "Fields":
        """From the shapes of a batch by name, as `VAE.build` gets them, and the names of the parts.

        Raises:
            ValueError: If they are no dict, lack a part, or leave a size free.
        """
        names = tuple(names)
        if not isinstance(shapes, dict):
            raise ValueError(f"The likelihood names {_listed(names)}, so that data are a dict with these names.")
        missing = [name for name in names if name not in shapes]
        if missing:
            raise ValueError(f"The data lack {missing[0]!r}, which has a likelihood; they have {_listed(shapes)}.")
        shapes = {name: tuple(shape[1:]) for name, shape in shapes.items()}
        free = [name for name, shape in shapes.items() if None in shape]
        if free:
            raise ValueError(f"{free[0]!r} has shape {shapes[free[0]]}: named parts need sizes that are known.")
        parts = {name: shapes[name] for name in names}
        return cls(parts, {name: shapes[name] for name in sorted(shapes) if name not in parts})

    @property
    def sizes(self) -> tuple[int, int]:
        """Lengths of the two vectors."""
        of_parts, of_given = (sum(map(math.prod, shapes.values())) for shapes in (self.parts, self.given))
        return of_parts, of_given

    def split(self, data: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Data by name as those of the parts and those that are given, None if there are none.

        Raises:
            ValueError: If the names are others.
        """
        names = (*self.parts, *self.given)
        if not isinstance(data, dict) or set(data) != set(names):
            got = _listed(data) if isinstance(data, dict) else f"a {type(data).__name__}"
            raise ValueError(f"This model's data are a dict of {_listed(names)}; got {got}.")
        given = {name: data[name] for name in self.given}
        return {name: data[name] for name in self.parts}, given or None

    def pack_parts(self, data: Any, name: str = "x") -> Any:
        """`(batch, size)` of the parts, arrays or tensors by name; other names are left out."""
        if not isinstance(data, dict) and len(self.parts) == 1:  # the target of the only one
            data = dict.fromkeys(self.parts, data)
        missing = [part for part in self.parts if not isinstance(data, dict) or part not in data]
        if missing:
            raise ValueError(f"{name} must be a dict of the parts that have a likelihood, and lacks {missing[0]!r}.")
        return _packed(data, self.parts)

    def pack_given(self, data: dict[str, Any] | None) -> Any:
        """`(batch, size)` of the tensors that are given, or None."""
        return None if data is None else _packed(data, self.given)

    def parts_of(self, x: Any) -> dict[str, Any]:
        """The parts by name, with their shapes behind the leading axes of x."""
        return _unpacked(x, self.parts)

    def given_of(self, condition: Any) -> dict[str, Any]:
        """What is given by name, `(batch, ...)`."""
        return {} if condition is None else _unpacked(condition, self.given)


def _packed(data, shapes):
    flat = []
    for name, shape in shapes.items():
        part = data[name]
        if tuple(part.shape[1:]) != shape:
            raise ValueError(f"{name} has shape {tuple(part.shape)}, but the model was built for {('batch', *shape)}.")
        size = math.prod(shape)
        if isinstance(part, np.ndarray):
            flat.append(part.reshape(len(part), size).astype(part.dtype if part.dtype.kind == "f" else _floats(part)))
        else:
            flat.append(ops.cast(ops.reshape(part, (-1, size)), "float32"))
    return np.concatenate(flat, axis=1) if isinstance(flat[0], np.ndarray) else ops.concatenate(flat, axis=1)


def _floats(whole):
    """The type of floats that tells such whole numbers apart."""
    is_large = whole.dtype.itemsize > 2 and whole.size > 0 and max(-int(whole.min()), int(whole.max())) > 2**24
    return "float64" if is_large else "float32"


def _unpacked(packed, shapes):
    found, start = {}, 0
    reshape = np.reshape if isinstance(packed, np.ndarray) else ops.reshape
    for name, shape in shapes.items():
        end = start + math.prod(shape)
        found[name] = reshape(packed[..., start:end], (*ops.shape(packed)[:-1], *shape))
        start = end
    return found


def _listed(names):
    return ", ".join(repr(name) for name in names)


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


def as_target(x: Any) -> Any:
    """The y that means the same as none: x; of named tensors all of them, of which a model takes its parts."""
    return x["x"] if isinstance(x, dict) and set(x) == _KEYS else x


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
    x = next(iter(x.values())) if isinstance(x, dict) else x
    return x.shape[0] if hasattr(x, "shape") else len(x)


def several_inputs(what: str) -> str:
    """The error message for data that are not one tensor."""
    return (
        f"A VAE takes one tensor x, but the batch holds {what}. Pick one before fit, for instance with "
        'dataset.map(lambda batch: batch["image"]). A conditional VAE takes {"x": x, "condition": c}; '
        "several named tensors need a likelihood for each that is modelled, likelihood={name: ...}."
    )
