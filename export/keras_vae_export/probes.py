"""Inputs to try a graph on, with the outputs that the model gives for them.

There are three kinds: ordinary (uniform over the range of the data, or standard normal if none is known), extreme (the
ends of the range, or ten standard deviations) and held-out (data that the caller gives, and their latents). What only
another graph can make, such as the parameters of a posterior, is what that graph has made of the inputs of its kind.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_vae_export._internals import compile_function
from keras_vae_export.errors import ExportError
from keras_vae_export.graphs import GraphFunction
from keras_vae_serving.manifest import NUM_SAMPLES, free_sizes, noise_input

ROWS = 64
_SAVED_ROWS = 7
_NUM_SAMPLES = {"ordinary": 3, "extreme": 5, "held-out": 2}
# Exponents that float32 knows to a thousandth: of weights above, such as those of data far from the model, the largest
# may be another in the file, and their average with it. The weights themselves are compared.
_MOST_EXPONENT = 1e4
# Sizes of the axes that a graph leaves free. The two kinds exchange them, so that no file passes that holds a traced
# size. They are multiples of 32, for networks that halve an image up to five times.
_FREE_SIZES = {"ordinary": (32, 64), "extreme": (64, 32)}


class Probe:
    """Inputs and the outputs to expect.

    Args:
        kind: Name for messages: "ordinary", "extreme", "held-out", or "recorded" in a bundle.
        inputs, outputs: NumPy arrays by name, all of one length.
    """

    kind: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]

    def __init__(self, kind: str, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        self.kind, self.inputs, self.outputs = kind, inputs, outputs

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def head(self, rows: int) -> "Probe":
        """The probe's first rows."""
        return Probe(self.kind, _head(self.inputs, rows), _head(self.outputs, rows))


def make_probes(
    graphs: Sequence[GraphFunction], data: Mapping[str, np.ndarray] | None = None
) -> dict[str, list[Probe]]:
    """Probes for every graph of a model, by the graph's name.

    Args:
        graphs: Result of `graphs.from_model`.
        data: Held-out examples: NumPy arrays by the names of the encoder's inputs, or None.

    Raises:
        ExportError: If the model does not run on one of them, or gives NaN.
    """
    latents = next(graph.latents for graph in graphs if graph.name == "decoder")
    data = {} if data is None else _head(data, ROWS)
    kinds = "ordinary", "extreme", "held-out"
    given: dict[str, Any] = {kind: {} for kind in kinds}  # what graphs have made for those after them
    sizes: dict[str, Any] = {kind: {} for kind in kinds}  # that are free, by name
    found = {}
    for graph in graphs:
        run = compile_function(graph.network, graph.function)
        rng = np.random.default_rng(0)
        held_out = data | given["held-out"]
        tried = [
            _made(graph, run, kind, make, held_out, rng, given[kind], sizes[kind])
            for kind, make in (("ordinary", _ordinary), ("extreme", _extreme))
        ]
        if held_out:
            inputs = _held_out_inputs(graph, held_out, rng, sizes["held-out"])
            if inputs is not None:
                tried.append(run_model(graph, run, "held-out", inputs))
            if latents is not None and graph.name in ("encoder", "posterior"):
                z = graph.outputs[0].name  # of an encoder whose posterior is a graph, it is replaced by that graph's
                given["held-out"][latents] = tried[-1].outputs[z]
        for probe in tried:
            given[probe.kind] |= {name: probe.outputs[name] for name in graph.gives}
            sizes[probe.kind] |= free_sizes((*graph.inputs, *graph.outputs), {**probe.inputs, **probe.outputs})
        found[graph.name] = tried
    return found


def run_model(
    graph: GraphFunction, run: Callable[..., dict[str, Any]], kind: str, inputs: Mapping[str, np.ndarray]
) -> Probe:
    """A probe with the outputs that `run`, the compiled function of `graph`, returns for `inputs`."""
    try:
        outputs = run(*(inputs[tensor.name] for tensor in graph.inputs))
    except Exception as error:  # the user's layers may raise anything
        shapes = ", ".join(f"{name}: {array.shape}" for name, array in inputs.items())
        raise ExportError(
            f"The model itself does not run as {graph.name} on {kind} inputs of shape {shapes}: {error}. If it needs "
            "inputs of another size or kind, give some with data=."
        ) from error
    outputs = {t.name: np.asarray(keras.ops.convert_to_numpy(outputs[t.name])) for t in graph.outputs}
    for name, values in outputs.items():
        if kind != "extreme" and not np.isfinite(values).all():
            raise ExportError(
                f"The model's {name} is not finite on {kind} inputs, so a file cannot be compared with it. "
                "Look for NaN in its weights (keras_vae.callbacks.NonFiniteGuard stops training before they appear)."
            )
    for name, exponent in graph.exponentials.items():
        if not np.abs(outputs[exponent]).max() < _MOST_EXPONENT:
            del outputs[name]
    return Probe(kind, inputs, outputs)


def save(path: str | os.PathLike[str], probes: Mapping[str, Sequence[Probe]]) -> None:
    """Writes the first rows of each graph's ordinary probe, whose inputs are generated: the user's data stay out."""
    arrays = {}
    for graph, (ordinary, *_) in probes.items():
        part = ordinary.head(_SAVED_ROWS)
        arrays |= {f"{graph}/inputs/{name}": value for name, value in part.inputs.items()}
        arrays |= {f"{graph}/outputs/{name}": value for name, value in part.outputs.items()}
    np.savez(path, **arrays)


def load(path: str | os.PathLike[str]) -> dict[str, Probe]:
    """The probes that `save` wrote, one for each graph, by its name."""
    found = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            graph, kind, name = key.split("/", 2)
            found.setdefault(graph, {"inputs": {}, "outputs": {}})[kind][name] = arrays[key]
    return {graph: Probe("recorded", **parts) for graph, parts in found.items()}


def _made(graph, run, kind, make, held_out, rng, given, known):
    """A probe with generated inputs, at the sizes of the data if they are given and the model runs at no other."""
    sizes = {tensor.name: _sizes(tensor, kind, known) for tensor in graph.inputs}
    of_data = {name: array.shape[1:] for name, array in held_out.items() if name in sizes}
    inputs = _inputs(graph, make, sizes, held_out, rng) | _needed(graph, given)
    try:
        return run_model(graph, run, kind, inputs)
    except ExportError:
        if all(of_data.get(name, size) == size for name, size in sizes.items()):
            raise
    inputs = _inputs(graph, make, sizes | of_data, held_out, rng) | _needed(graph, given)
    return run_model(graph, run, kind, inputs)


def _inputs(graph, make, sizes, held_out, rng):
    """Generated values for every input; if the graph allows missing values a fifth of them is, or ends of sequences."""
    inputs = {t.name: make(t, (ROWS, *sizes[t.name]), _range(graph, t, held_out), rng) for t in graph.inputs}
    if graph.missing is not None:
        values = inputs[graph.missing]
        lengths = rng.integers(0, values.shape[1] + 1, (len(values), 1))
        is_missing = np.arange(values.shape[1]) >= lengths if graph.is_sequence else rng.random(values.shape) < 0.2
        values[is_missing] = np.nan
    return inputs


def _needed(graph, given):
    return {tensor.name: given[tensor.name] for tensor in graph.inputs if tensor.name in given}


def _sizes(tensor, kind, known):
    """The sizes after the batch, with a number for each free size: that which it had in an earlier graph, if it had."""
    known = {NUM_SAMPLES: _NUM_SAMPLES[kind]} | known
    return tuple(
        size if isinstance(size, int) else known[size] if size in known else _FREE_SIZES[kind][i % 2]
        for i, size in enumerate(tensor.shape[1:])
    )


def _range(graph, tensor, held_out):
    """The smallest and the largest value of an input; None if it is real and without known bounds."""
    if tensor.name in graph.ranges:
        return graph.ranges[tensor.name]
    if "float" in tensor.dtype:
        return None
    if tensor.name in held_out:
        return int(held_out[tensor.name].min()), int(held_out[tensor.name].max())
    if tensor.dtype == "bool":
        return 0, 1
    if tensor.dtype in ("uint8", "int8"):
        return int(np.iinfo(tensor.dtype).min), int(np.iinfo(tensor.dtype).max)
    raise ExportError(
        f"The input {tensor.name} of the {graph.name} holds {tensor.dtype}, and its possible values are not known: "
        "give examples with data=."
    )


def _ordinary(tensor, shape, limits, rng):
    if limits is None:
        return rng.standard_normal(shape).astype(tensor.dtype)
    if "float" in tensor.dtype:
        unbounded = ~np.isfinite(limits[0]) & ~np.isfinite(limits[1])  # as some columns of a table are
        uniform = rng.uniform(*_finite(limits), shape)
        return np.where(unbounded, rng.standard_normal(shape), uniform).astype(tensor.dtype)
    return rng.integers(*limits, shape, endpoint=True).astype(tensor.dtype)


def _extreme(tensor, shape, limits, rng):
    low, high = _finite(limits or (-np.inf, np.inf), reach=1000.0 if limits else 10.0)
    values = np.where(rng.random(shape) < 0.5, low, high)
    if limits is None:
        values = np.where(rng.random(shape) < 0.5, values, 10.0 * rng.standard_normal(shape))
    values[0], values[1], values[2] = low, high, np.clip(0, low, high)
    return values.astype(tensor.dtype)


def _finite(limits, reach=10.0):
    """A range whose infinite ends are replaced by values `reach` away from the other end, or from 0."""
    low, high = limits
    low = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high, 0.0) - reach)
    return low, np.where(np.isfinite(high), high, np.maximum(low, 0.0) + reach)


def _held_out_inputs(graph, held_out, rng, known):
    """The held-out data as inputs of a graph; None if an input is not among them."""
    inputs, noise, rows = {}, noise_input(graph), len(next(iter(held_out.values())))
    for tensor in graph.inputs:
        if tensor is noise and len(graph.inputs) > 1:
            shape = (rows, *_sizes(tensor, "held-out", known))
            inputs[tensor.name] = rng.standard_normal(shape, dtype="float32")
        elif tensor.name in held_out:
            inputs[tensor.name] = held_out[tensor.name].astype(tensor.dtype, copy=False)
        else:
            return None
    return inputs


def _head(arrays, rows):
    return {name: array[:rows] for name, array in arrays.items()}
