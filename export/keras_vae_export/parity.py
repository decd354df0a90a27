"""Compares the written files with the model: the same inputs must give the same numbers at every batch size.

The serving package's session opens the files, so that what is compared is what will be served. A value that differs by
more than the tolerance gets a second look: `rounding.py` measures how far float32 determines it at all.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_vae_export import rounding
from keras_vae_export._internals import GraphSpec
from keras_vae_export.errors import ParityError, StructureError
from keras_vae_export.probes import Probe
from keras_vae_serving import BundleError, Session
from keras_vae_serving.manifest import LOG_PROB

BATCHES = (1, 2, 7, 64)

# Where roundings move an output further than the tolerance, file and model may differ by this multiple of the movement.
# Two correct programs differed by up to 2 times as much (Bernoulli likelihoods of probabilities, LayerNormalization of
# equal values, on the three backends). But a formula that float32 loses altogether is a bad one, even if it is that of
# the file alone: what is allowed ends at this share of the largest value of the example.
ROUNDINGS = 4
MAX_ROUNDING = 0.01


def measure(
    directory: str | os.PathLike[str],
    graph: GraphSpec,
    probes: Sequence[Probe],
    tolerance: float = 1e-4,
    providers: Any = "cpu",
    rounded: bool = True,
) -> dict[str, Any]:
    """Compares a file with the model, at every batch size for which the probes have enough examples.

    Args:
        directory: Folder of the bundle.
        graph: Graph of the manifest.
        probes: Inputs, and the outputs of the model.
        tolerance: Largest difference allowed. It is absolute up to 1, and relative to the largest value of the same
            example and tensor above 1, because float32 rounds a sum of a thousand nats to 1e-4.
        providers: Providers of the session, as `keras_vae_export.check` takes them.
        rounded: Whether more is allowed where the rounding of float32 moves an output further than `tolerance`.

    Returns:
        The entry of the manifest: `max_abs_diff` by output, on all but extreme inputs; `max_scaled_diff`, on extreme
        inputs too, which `tolerance` limits; the batch sizes and the kinds of inputs; and, if `tolerance` was exceeded
        where float32 does not determine an output so far, `rounding`: by kind of inputs and output, how far its
        roundings move it.

    Raises:
        StructureError: If the file cannot be opened, or its signature is not that of the manifest.
        ParityError: If a difference is larger than allowed, or the file does not run.
    """
    try:
        session = Session(directory, graph, providers=providers)
    except BundleError as error:
        raise StructureError(f"{graph.name}: {error}") from None
    absolute = {tensor.name: 0.0 for tensor in graph.outputs if any(tensor.name in probe.outputs for probe in probes)}
    scaled, uncertain = dict(absolute), {}
    batches = {min(batch, len(probe)) for batch in BATCHES for probe in probes}
    for probe in probes:
        for batch in sorted({min(batch, len(probe)) for batch in BATCHES}):
            part = probe.head(batch)
            found = _run(session, graph, part, probe)
            try:
                differences = compare(graph.name, part, found, tolerance, "file")
            except ParityError:
                if not rounded:
                    raise
                if probe.kind not in uncertain:
                    path = pathlib.Path(directory) / graph.file
                    uncertain[probe.kind] = rounding.measure(path, probe.inputs, list(probe.outputs))
                differences = compare(graph.name, part, found, tolerance, "file", uncertain[probe.kind])
            for name, (difference, relative) in differences.items():
                scaled[name] = max(scaled[name], relative)
                if probe.kind != "extreme":
                    absolute[name] = max(absolute[name], difference)
    entry = {
        "max_abs_diff": absolute,
        "max_scaled_diff": scaled,
        "tolerance": tolerance,
        "batches": sorted(batches),
        "inputs": [probe.kind for probe in probes],
    }
    if uncertain:
        entry["rounding"] = {
            kind: {name: float(moved.max()) for name, moved in by_output.items()}
            for kind, by_output in uncertain.items()
        }
    return entry


def compare(
    graph: str,
    probe: Probe,
    found: Mapping[str, np.ndarray],
    tolerance: float,
    where: str,
    uncertainty: Mapping[str, np.ndarray] | None = None,
) -> dict[str, tuple[float, float]]:
    """The largest difference of each output from the probe's: absolute, and scaled as `tolerance` is.

    Args:
        graph: Name of the graph, for the message.
        probe: Outputs to expect.
        found: Outputs to compare, by name.
        tolerance: See `measure`.
        where: Source of `found`, for the message, such as "file".
        uncertainty: Result of `rounding.measure` for these inputs or more, or None; `ROUNDINGS` times as much is
            allowed, up to `MAX_ROUNDING`.

    Raises:
        ParityError: If a difference is larger than allowed.
    """
    largest = {}
    for name, expected in probe.outputs.items():
        if found[name].shape != expected.shape:
            raise ParityError(
                f"{graph}: {name} has shape {found[name].shape} in the {where} and {expected.shape} in the model, at "
                f"batch {len(probe)} on {probe.kind} inputs.",
                graph,
                name,
            )
        difference = _difference(found[name], expected)
        magnitude = _magnitude(expected)
        allowed = tolerance * magnitude
        if uncertainty is not None:
            of_sum = np.abs(expected).sum(axis=tuple(range(1, expected.ndim)), keepdims=True)
            most = of_sum if name == LOG_PROB else magnitude  # terms may move as much as their sum
            more = np.minimum(ROUNDINGS * uncertainty[name][: len(probe)], MAX_ROUNDING * most)
            allowed = np.maximum(allowed, more)
        excess = np.where(np.isnan(difference), np.inf, difference) - allowed
        if (excess > 0).any():
            index = tuple(int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
            limit = float(np.broadcast_to(allowed, expected.shape)[index])
            raise _parity_error(graph, probe, found, name, index, limit, where)
        largest[name] = float(np.max(difference, initial=0.0)), float(np.max(difference / magnitude, initial=0.0))
    return largest


def _parity_error(graph, probe, found, name, index, allowed, where):
    expected, value = probe.outputs[name], found[name]
    others = [
        other
        for other, values in probe.outputs.items()
        if other != name and values.shape == value.shape and np.allclose(value, values, atol=1e-4)
    ]
    hint = f" The {where}'s {name} holds the values of {others[0]}: the outputs are swapped." if others else ""
    return ParityError(
        f"{graph}: {name}{list(index)} is {value[index]:.7g} in the {where} and {expected[index]:.7g} in the model on "
        f"{keras.backend.backend()}, where they may differ by {allowed:.3g}; at batch {len(probe)} on {probe.kind} "
        f"inputs.{hint}",
        graph,
        name,
        index,
        float(expected[index]),
        float(value[index]),
    )


def _run(session, graph, part, whole):
    try:
        return session.run(part.inputs)
    except Exception as error:  # the exceptions of onnxruntime have no common base class
        reason = str(error).strip().split("\n")[0]
        fixed = "; a size is fixed in the file that must be free" if _runs(session, whole) else ""
        raise ParityError(
            f"{graph.name} does not run at batch {len(part)} on {part.kind} inputs{fixed}. onnxruntime says: {reason}",
            graph.name,
        ) from None


def _runs(session, probe):
    try:
        session.run(probe.inputs)
    except Exception:
        return False
    return True


def _difference(found, expected):
    """|found - expected|: 0 where both are the same infinity or both are NaN, and NaN where only one is NaN."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(found.astype("float64") - expected)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    return np.where(same, 0.0, difference)


def _magnitude(expected):
    """max(1, the largest absolute value of each example), shaped to broadcast with the tensor."""
    finite = np.where(np.isfinite(expected), np.abs(expected), 0.0)
    axes = tuple(range(1, expected.ndim))
    return np.maximum(1.0, finite.max(axis=axes, keepdims=True, initial=0.0) if axes else finite)
