"""The written files against the model: same inputs, same numbers, at every batch size, before export returns.

The reference is the model's own function, run on the backend that the model lives on. The files are opened by the
serving package's session, so that what is compared is what will be served. Three kinds of inputs are tried: ordinary
(the data's range, or a standard normal), extreme (the ends of the range, ten standard deviations) and held-out (data
that the caller gives, and their latents).
"""

import keras
import numpy as np

from keras_vae import _train_step
from keras_vae_export.errors import ExportError, ParityError, StructureError
from keras_vae_serving import BundleError, Session

BATCHES = (1, 2, 7, 64)
_ROWS = max(BATCHES)
_FREE_SIZES = {"ordinary": 32, "extreme": 48}  # of axes that a graph leaves free; two, so that none is baked in
_NUM_SAMPLES = {"ordinary": 3, "extreme": 5, "held-out": 2}


class Probe:
    """Inputs for a graph with the outputs that the model gives for them.

    Args:
        kind: "ordinary", "extreme" or "held-out".
        inputs, outputs: NumPy arrays by name, of up to 64 rows.
    """

    def __init__(self, kind, inputs, outputs):
        self.kind, self.inputs, self.outputs = kind, inputs, outputs

    def head(self, rows):
        """The probe's first rows."""
        return Probe(self.kind, _head(self.inputs, rows), _head(self.outputs, rows))


def probes(graphs, data_range, data=None):
    """Probes for every graph of a model, by the graph's name.

    Args:
        graphs: What `graphs.of` returned.
        data_range: `(low, high)` of x, or None.
        data: Held-out examples: NumPy arrays by the name of the encoder's inputs, or None.
    """
    encoder, decoder, *_ = graphs
    found = {}
    held_out = {} if data is None else _head(data, _ROWS)
    for graph in graphs:
        reference = _train_step.compiled(graph.network, graph.function)
        rng = np.random.default_rng(0)
        found[graph.name] = []
        for kind in ("ordinary", "extreme"):
            make = _ordinary if kind == "ordinary" else _extreme
            inputs = {t.name: make(t, _shape(t, kind), data_range, rng) for t in graph.inputs}
            found[graph.name].append(_probe(graph, reference, kind, inputs))
        if held_out:
            inputs = _held_out_inputs(graph, held_out, found, decoder.inputs[0], rng)
            if inputs is not None:
                probe = _probe(graph, reference, "held-out", inputs)
                found[graph.name].append(probe)
                if graph is encoder:
                    held_out = {**held_out, decoder.inputs[0].name: probe.outputs["z_mean"]}
    return found


def measure(directory, graph, probes, tolerance=1e-4, batches=BATCHES, providers="cpu"):
    """Compares a file with the model.

    Args:
        directory: The bundle.
        graph: The manifest's graph.
        probes: What the model gives.
        tolerance: The largest difference allowed. It is absolute up to 1, and relative to the largest value of the
            same example and tensor above: float32 has no absolute digits in a sum of a thousand nats.
        batches: Batch sizes to run at.
        providers: Of the session.

    Returns:
        What the manifest says of it: `max_abs_diff` by output, on ordinary and held-out inputs; `max_scaled_diff`, on
        extreme ones too, which is held to `tolerance`; the batch sizes and the kinds of inputs.

    Raises:
        StructureError: If the file cannot be opened, or has another signature.
        ParityError: If a difference is larger than allowed, or the file does not run.
    """
    try:
        session = Session(directory, graph, providers=providers)
    except BundleError as error:
        raise StructureError(f"{graph.name}: {error}") from None
    absolute = {tensor.name: 0.0 for tensor in graph.outputs}
    scaled = dict(absolute)
    for probe in probes:
        for batch in batches:
            part = probe.head(batch)
            found = _run(session, graph, part, batch)
            for name, expected in part.outputs.items():
                difference = _difference(found[name], expected)
                _hold(graph, part, batch, name, found, difference, tolerance)
                relative = difference / _magnitude(expected)
                scaled[name] = max(scaled[name], float(np.max(relative, initial=0.0)))
                if probe.kind != "extreme":
                    absolute[name] = max(absolute[name], float(np.max(difference, initial=0.0)))
    return {
        "max_abs_diff": absolute,
        "max_scaled_diff": scaled,
        "tolerance": tolerance,
        "batches": list(batches),
        "inputs": [probe.kind for probe in probes],
    }


def _run(session, graph, probe, batch):
    try:
        return session.run(probe.inputs)
    except Exception as error:  # onnxruntime's own exceptions have no common base
        reason = str(error).strip().split("\n")[0]
        raise ParityError(
            f"{graph.name} does not run at batch {batch} on {probe.kind} inputs; a size is fixed in the file that must "
            f"be free. onnxruntime says: {reason}",
            graph.name,
        ) from None


def _hold(graph, probe, batch, name, found, difference, tolerance):
    expected, value = probe.outputs[name], found[name]
    allowed = tolerance * _magnitude(expected)
    excess = np.where(np.isnan(difference), np.inf, difference) - allowed
    if value.shape == expected.shape and not (excess > 0).any():
        return
    if value.shape != expected.shape:
        raise ParityError(
            f"{graph.name}: {name} has shape {value.shape} in the file and {expected.shape} in the model, at batch "
            f"{batch} on {probe.kind} inputs.",
            graph.name,
            name,
        )
    index = tuple(int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
    others = [
        other
        for other, values in probe.outputs.items()
        if other != name and values.shape == value.shape and np.allclose(value, values, atol=tolerance)
    ]
    hint = f" The file's {name} holds the values of {others[0]}: the outputs are swapped." if others else ""
    raise ParityError(
        f"{graph.name}: {name}{list(index)} is {value[index]:.7g} in the file and {expected[index]:.7g} in the model "
        f"on {keras.backend.backend()}, where they may differ by "
        f"{np.broadcast_to(allowed, value.shape)[index]:.3g}; at batch {batch} on {probe.kind} inputs.{hint}",
        graph.name,
        name,
        index,
        float(expected[index]),
        float(value[index]),
    )


def _difference(found, expected):
    """|found - expected|, 0 where both are the same infinity or both not a number, and NaN where one is."""
    if found.shape != expected.shape:
        return np.zeros(0)
    with np.errstate(invalid="ignore"):
        difference = np.abs(found.astype("float64") - expected)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    return np.where(same, 0.0, difference)


def _magnitude(expected):
    """max(1, the largest absolute value of each example), shaped to broadcast with the tensor."""
    finite = np.where(np.isfinite(expected), np.abs(expected), 0.0)
    axes = tuple(range(1, expected.ndim))
    return np.maximum(1.0, finite.max(axis=axes, keepdims=True, initial=0.0) if axes else finite)


def _probe(graph, reference, kind, inputs):
    try:
        outputs = reference(*(inputs[tensor.name] for tensor in graph.inputs))
    except Exception as error:  # whatever the user's layers raise
        shapes = ", ".join(f"{name}: {array.shape}" for name, array in inputs.items())
        raise ExportError(
            f"The model itself does not run as {graph.name} on {kind} inputs of shape {shapes}: {error}. If it needs "
            "inputs of another kind, give some with data=."
        ) from error
    return Probe(kind, inputs, {t.name: np.asarray(keras.ops.convert_to_numpy(outputs[t.name])) for t in graph.outputs})


def _held_out_inputs(graph, held_out, found, latents, rng):
    """The held-out data as inputs of a graph; None if they do not tell all of them."""
    inputs = {}
    for tensor in graph.inputs:
        if tensor.name == "epsilon":
            rows = len(next(iter(held_out.values())))
            shape = (rows, _NUM_SAMPLES["held-out"], tensor.shape[-1])
            inputs["epsilon"] = rng.standard_normal(shape, dtype="float32")
        elif tensor.name in held_out:
            inputs[tensor.name] = held_out[tensor.name].astype(tensor.dtype, copy=False)
        else:
            return None
    return inputs


def _shape(tensor, kind):
    free = _NUM_SAMPLES[kind] if "num_samples" in tensor.shape else _FREE_SIZES[kind]
    return (_ROWS, *(size if isinstance(size, int) else free for size in tensor.shape[1:]))


def _ordinary(tensor, shape, data_range, rng):
    if "float" not in tensor.dtype:
        return rng.integers(0, 2, shape).astype(tensor.dtype)  # 0 and 1 are labels of every embedding
    if tensor.name == "x" and data_range is not None:
        return rng.uniform(*data_range, shape).astype(tensor.dtype)
    return rng.standard_normal(shape).astype(tensor.dtype)


def _extreme(tensor, shape, data_range, rng):
    low, high = -10.0, 10.0
    if "float" not in tensor.dtype:
        low, high = 0, 1
    elif tensor.name == "x" and data_range is not None:
        low, high = data_range
    values = rng.choice([low, high], shape)
    if high == 10.0:
        values = np.where(rng.random(shape) < 0.5, values, 10.0 * rng.standard_normal(shape))
        values[2 % len(values)] = 0.0
    values[0], values[1 % len(values)] = low, high
    return values.astype(tensor.dtype)


def _head(arrays, rows):
    return {name: array[:rows] for name, array in arrays.items()}
