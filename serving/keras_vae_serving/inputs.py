"""What the graphs of a bundle take, and the checks of what they are given.

Arrays are checked here, before anything runs, so that a mistake is a `RequestError` that names the input and the fix.
"""

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from keras_vae_serving.errors import RequestError
from keras_vae_serving.manifest import BATCH, BundleError, GraphSpec, Manifest, Tensor, noise_input, shape_matches
from keras_vae_serving.tables import Table, is_table


class Inputs:
    """Checks arrays against a bundle.

    Args:
        manifest: Manifest of the bundle.
        graphs: Graphs that will run, by "encoder", "decoder" and, where they exist, "posterior", "elbo" and "prior".

    Attributes:
        z: Name of the decoder's input for the latents.
        table: Columns of x by name, or None.
    """

    def __init__(self, manifest: Manifest, graphs: Mapping[str, GraphSpec]) -> None:
        self.manifest: Manifest = manifest
        self.graphs: Mapping[str, GraphSpec] = graphs
        lacking = {"encoder", "decoder"} - set(graphs)
        if lacking:
            raise BundleError(f"The bundle has no {sorted(lacking)[0]}: export the model again.")
        names = self.names("decoder")
        self.z: str = "z" if "z" in names else names[0]
        self.table: Table | None = None if manifest.table is None else Table(manifest.table, manifest.missing)

    def names(self, graph: str) -> list[str]:
        """Names of the arrays that the caller gives to a graph: all its inputs but the noise."""
        return [tensor.name for tensor in self._given(graph)]

    def of_verb(self, verb: str) -> tuple[Tensor, ...]:
        """Tensors that the caller gives to a verb; named parts in place of the vectors that they are cut of."""
        return tuple(part for tensor in self._of_verb(verb) for part in self._parts_of(tensor))

    def _of_verb(self, verb):
        encoder = self.graphs["encoder"].inputs
        match verb:
            case "encode":
                return encoder
            case "decode":
                return self._given("decoder")
            case "reconstruct":
                shared = set(self.names("encoder"))
                return encoder + tuple(each for each in self.conditioning_inputs() if each.name not in shared)
            case "sample":
                found = self.conditioning_inputs()
                taken = self._given("prior") if "prior" in self.graphs else ()
                return found + tuple(tensor for tensor in taken if tensor.name not in {each.name for each in found})
            case _:
                return self._given("elbo")

    def _parts_of(self, tensor):
        shapes = (self.manifest.parts or {}).get(tensor.name)
        if shapes is None:
            return (tensor,)
        return tuple(Tensor(name, tensor.dtype, (BATCH, *shape)) for name, shape in shapes.items())

    def conditioning_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of the decoder other than the latents."""
        return tuple(tensor for tensor in self._given("decoder") if tensor.name != self.z)

    def check(self, graph: str, value: Any) -> dict[str, np.ndarray]:
        """Arrays by name, of the dtypes that a graph takes.

        Args:
            graph: Name of the graph.
            value: A dict of arrays by input name, or one array for the first input.

        Raises:
            RequestError: If they do not fit the graph.
        """
        names = self.names(graph)
        value = value if isinstance(value, dict) else {names[0]: value}
        if "condition" not in names and self.is_conditional:  # the other network takes it
            value = {name: array for name, array in value.items() if name != "condition"}
        if set(value) != set(names):
            raise RequestError(f"The {graph} takes {names}; got {sorted(value)}. Pass a dict of arrays by these names.")
        tensors = {tensor.name: tensor for tensor in self.graphs[graph].inputs}
        found = {name: self._checked(tensors[name], value[name]) for name in names}
        if len({len(array) for array in found.values()}) > 1:  # before anything takes some of their rows
            listed = ", ".join(f"{name}: {len(array)}" for name, array in found.items())
            raise RequestError(f"All inputs must have one batch size; got {listed}.")
        if graph == "elbo" and self.manifest.autoregressive and self.manifest.missing:
            _check_ends(found["x"])
        return found

    def packed(self, value: Any) -> Any:
        """Rows of a table, and tensors by the names of `parts`, as the vectors that graphs take; else as it is.

        Raises:
            RequestError: If a part is lacking, or has another shape or other values than it may have, or a row does.
        """
        rows = self.rows(value)
        if self.table is not None and rows is not None:
            x = self.table.to_array(rows)
            return {**value, "x": x} if isinstance(value, dict) else x
        if self.table is not None and isinstance(value, dict) and self.table.is_row(value):
            raise RequestError("Rows are given in a list, also one: [row].")
        parts = self.manifest.parts
        if parts is None or not isinstance(value, dict) or not set(value) & {*parts["x"], *parts["condition"]}:
            return value
        found = {name: array for name, array in value.items() if name not in parts["x"] | parts["condition"]}
        for vector, shapes in parts.items():
            present = set(shapes) & set(value)
            if not present:
                continue
            if present != set(shapes):
                raise RequestError(f"The model takes {sorted(shapes)} together; got {sorted(present)}.")
            flat = [self._flat_part(name, shape, value[name], vector) for name, shape in shapes.items()]
            if len({len(array) for array in flat}) > 1:
                raise RequestError(f"There are unequal numbers of {sorted(shapes)}: {[len(array) for array in flat]}.")
            found[vector] = np.concatenate(flat, axis=1)
        return found

    def _flat_part(self, name, shape, value, vector):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise RequestError(f"{name} must hold numbers; got {array.dtype}.")
        if array.ndim == 0 or array.shape[1:] != tuple(shape):
            raise RequestError(f"{name} must have shape {(BATCH, *shape)}; got {array.shape}.")
        if array.size == 0:
            raise RequestError(f"{name} holds no examples: its shape is {array.shape}.")
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            array = array.astype("float32")
        self._check_values(name, array, self.allows_nan(vector), self.manifest.ranges.get(name))
        return array.reshape(len(array), -1)

    def rows(self, value: Any) -> Any:
        """What is given as rows by the names of columns, alone or as x of a dict; None if it is something else."""
        if self.table is None:
            return None
        rows = value.get("x") if isinstance(value, dict) else value
        return rows if is_table(rows) else None

    def by_name(self, x: np.ndarray) -> Any:
        """What is like x, with any axes before: of a model with named parts a dict of them."""
        if self.manifest.parts is None:
            return x
        found, start = {}, 0
        for name, shape in self.manifest.parts["x"].items():
            end = start + math.prod(shape)
            found[name] = x[..., start:end].reshape(*x.shape[:-1], *shape)
            start = end
        return found

    def split_by_network(self, x: Any) -> tuple[Any, dict[str, Any]]:
        """Splits the input of `reconstruct` into what the encoder takes and what the decoder takes in addition to z."""
        if not isinstance(x, dict):
            return x, {}
        conditioning = {tensor.name for tensor in self.conditioning_inputs()}
        decoder_only = conditioning - set(self.names("encoder"))
        encoder = {name: value for name, value in x.items() if name not in decoder_only}
        return encoder, {name: value for name, value in x.items() if name in conditioning}

    def repeat_condition(self, graph: str, condition: Any, n: int) -> dict[str, np.ndarray]:
        """The condition of `n` examples as the input of a graph, or `{}` if the graph takes none.

        Args:
            graph: Name of the graph.
            condition: One condition for each example, one for all, or None.
            n: Number of examples.

        Raises:
            RequestError: If a condition is missing, is not wanted, or is for another number of examples.
        """
        tensor = self._condition_of(graph)
        if isinstance(condition, dict) and self.manifest.parts is not None:
            shapes = self.manifest.parts["condition"]
            is_one = all(np.ndim(array) == len(shapes.get(name, ())) for name, array in condition.items())
            rows = {name: np.asarray(array)[None] if is_one else array for name, array in condition.items()}
            condition = self.packed(rows).get("condition")
        if condition is None and tensor is not None:
            raise RequestError(f"This model is conditional: pass a condition {tensor.shape_text}, or one for all.")
        if condition is not None and not self.is_conditional:
            raise RequestError("This model takes no condition: leave it out.")
        if tensor is None:
            return {}
        condition = np.asarray(condition)
        condition = condition[None] if condition.ndim == len(tensor.shape) - 1 else condition
        if condition.ndim and len(condition) not in (1, n):
            raise RequestError(
                f"The condition {tensor.shape_text} must be one for each of {n} examples, or one for all."
            )
        return {"condition": np.broadcast_to(condition, (n, *condition.shape[1:]))}

    @property
    def is_conditional(self) -> bool:
        """Whether the encoder, the decoder or the prior takes a condition."""
        return any(self._condition_of(graph) is not None for graph in ("encoder", "decoder", "prior"))

    def latent_shape(self, given: Any = None) -> tuple[int, ...]:
        """The shape of one z, as it is or, where the model leaves sizes free, as it is `given`.

        Raises:
            RequestError: If it is free and not given, or given and not one of the model's.
        """
        shape = self.manifest.latent_shape
        if given is None and None not in shape:
            return shape  # pyright: ignore[reportReturnType]
        free = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        if given is None:
            raise RequestError(
                f"This model's z has the shape {free}, which follows from the size of x: say how large, latent_shape="
                f"{tuple(size or 8 for size in shape)} for instance."
            )
        sizes = tuple(given) if isinstance(given, list | tuple) else (given,)
        whole = all(isinstance(size, Integral) and not isinstance(size, bool) and int(size) > 0 for size in sizes)
        if not whole or len(sizes) != len(shape) or any(e not in (None, s) for e, s in zip(shape, sizes, strict=True)):
            raise RequestError(f"latent_shape must be whole numbers that fit {free}; got {sizes}.")
        return tuple(int(size) for size in sizes)

    def dummy_inputs(self, n: int, seed: int = 0, graph: str = "decoder") -> dict[str, np.ndarray]:
        """Values of the conditioning inputs to try a graph with: random labels, and zeros for anything else."""
        rng, arrays = np.random.default_rng(seed), {}
        for tensor in self._given(graph):
            if graph == "decoder" and tensor.name == self.z:
                continue
            shape = (n, *(size if isinstance(size, int) else 1 for size in tensor.shape[1:]))
            labels = self.manifest.labels.get(tensor.name, 1)
            arrays[tensor.name] = rng.integers(labels, size=shape).astype(tensor.dtype)
        return arrays

    def check_labels(self, name: str, array: np.ndarray) -> None:
        """Raises a RequestError if an input, or a named part in it, holds labels and the array has others."""
        count, start = self.manifest.labels.get(name), 0
        for part, shape in (self.manifest.parts or {}).get(name, {}).items():
            piece = array[:, start : start + math.prod(shape)]
            start += math.prod(shape)
            if part in self.manifest.labels:
                piece = piece[~np.isnan(piece)]  # one that is missing
                if (piece != np.round(piece)).any():
                    raise RequestError(f"{part} must hold labels, whole numbers.")
                if piece.size:
                    self.check_labels(part, piece)
        if count is not None and not 0 <= array.min() <= array.max() < count:
            raise RequestError(
                f"{name} must hold labels from 0 to {count - 1}; it ranges from {array.min()} to {array.max()}."
            )

    def allows_nan(self, name: str, graph: str = "encoder") -> bool:
        """Whether a NaN in the input of this name stands for a missing number, or for a step that is to come."""
        is_to_come = graph == "decoder" and self.manifest.autoregressive
        return name == "x" and (self.manifest.missing or is_to_come)

    def _condition_of(self, graph):
        return next((tensor for tensor in self._given(graph) if tensor.name == "condition"), None)

    def _given(self, graph):
        """Inputs of a graph, if there is one, other than the noise and the steps that a decoder has made so far."""
        if graph not in self.graphs:
            return ()
        noise = noise_input(self.graphs[graph])
        made = "x" if graph == "decoder" and self.manifest.autoregressive else None
        return tuple(tensor for tensor in self.graphs[graph].inputs if tensor is not noise and tensor.name != made)

    def _checked(self, tensor, value):
        array = np.asarray(value)
        if array.dtype.kind not in ("biuf" if "float" in tensor.dtype else "biu"):
            raise RequestError(f"{tensor.name} must hold {tensor.dtype}; got {array.dtype}.")
        if array.size == 0:
            raise RequestError(f"{tensor.name} holds no examples: its shape is {array.shape}.")
        dtype = np.dtype(tensor.dtype)
        if dtype.kind in "iu" and array.dtype != dtype:
            limits = np.iinfo(dtype)
            if int(array.min()) < limits.min or int(array.max()) > limits.max:
                raise RequestError(f"{tensor.name} must lie in [{limits.min}, {limits.max}], as it is {tensor.dtype}.")
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            array = array.astype(dtype, copy=False)
        if shape_matches(array.shape, tensor.shape[1:]):
            raise RequestError(
                f"{tensor.name} must have shape {tensor.shape_text}; got {array.shape}, which looks like one example: "
                f"add the batch axis with {tensor.name}[None]."
            )
        tensor.check(array)
        if array.dtype.kind == "f":
            name = tensor.name
            self._check_values(name, array, self.allows_nan(name), self.manifest.data_range if name == "x" else None)
        self.check_labels(tensor.name, array)
        return array

    def _check_values(self, name, array, nan_allowed, limits):
        what = "NaN or infinite"
        if nan_allowed:
            what, array = "infinite", array[~np.isnan(array)]
            if array.size == 0:
                return
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise RequestError(f"{name} contains {what} values: remove or fill in such examples.")
        if limits is not None and not (limits[0] <= low and high <= limits[1]):
            fix = " Divide it by 255." if limits == (0.0, 1.0) and low >= 0.0 and 1.0 < high <= 255.0 else ""
            raise RequestError(
                f"{name} must lie in [{limits[0]:g}, {limits[1]:g}], as the model's likelihood says; it ranges from "
                f"{low:g} to {high:g}.{fix}"
            )


def _check_ends(x):
    """Raises a RequestError if sequences lack steps that later ones follow."""
    missing = np.isnan(x).reshape(*x.shape[:2], -1)
    exists = ~missing.all(axis=2)
    goes_on = np.cumsum(exists[:, ::-1], axis=1)[:, ::-1] > exists  # whether a later step exists
    holes = np.argwhere(missing.any(axis=2) & goes_on)
    if len(holes):
        raise RequestError(
            f"x lacks values at step {holes[0, 1]} of example {holes[0, 0]}, and has later ones: this model decodes "
            "each step from those before it, and only the end of a sequence may be missing."
        )


def all_finite(array: np.ndarray) -> bool:
    """Whether there is neither a NaN nor an infinity; a large array takes one pass in the usual case, and no memory."""
    if array.dtype.kind != "f":
        return True
    if array.size < 10_000:
        return bool(np.isfinite(array).all())
    with np.errstate(over="ignore", invalid="ignore"):  # of float64, finite values may add up to infinity
        total = array.sum(dtype="float64")
    return math.isfinite(total) or bool(np.isfinite(array).all())
