"""Smaller and faster variants of the graphs, float16 and int8, each with its measured cost in nats.

A variant has the same float32 inputs and outputs as the float32 graph beside it. It is written only if the bound on the
caller's data gets worse by less than is allowed, and no output differs by more than a quarter of its largest value.
float16 is for GPUs: a CPU computes it more slowly than float32. int8 is for CPUs: dense networks are quantised
dynamically (twice to four times as fast), networks with convolutions statically, calibrated on the data, because
onnxruntime's dynamic convolution is slower than float32.
"""

import contextlib
import dataclasses
import importlib
import io
import logging
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from keras_vae import VAE
from keras_vae_export import parity, probes
from keras_vae_export._internals import GraphSpec
from keras_vae_export.converters import canonical, tidy
from keras_vae_export.errors import AccuracyError, ExportError, ParityError
from keras_vae_export.graphs import Pair
from keras_vae_serving import Session
from keras_vae_serving.manifest import free_sizes, noise_input, sized

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_MAX_DIFFERENCE = 0.25
_CALIBRATION_EXAMPLES = 256
# Loss of the bound that is allowed unless the caller says: nats, or a share of the nats at stake if that is more.
_MAX_LOSS, _MAX_SHARE = 0.5, 0.005


def check_precisions(precision: str | Sequence[str], data: Any, model: VAE | Pair) -> list[str]:
    """The precisions that were requested besides float32."""
    precisions = [precision] if isinstance(precision, str) else list(precision)
    unknown = [name for name in precisions if name not in ("float32", *_MAKERS)]
    if unknown or not precisions:
        raise ValueError(f'precision must be "float32", "float16", "int8", or a sequence of them; got {precision!r}.')
    others = [name for name in dict.fromkeys(precisions) if name != "float32"]
    if others and not isinstance(model, VAE):
        raise ValueError(
            f"{others[0]} is measured by the loss of the bound, which only a VAE has: a pair is exported in float32."
        )
    if others and data is None:
        raise ValueError(
            f"{others[0]} is measured, and int8 is calibrated, on examples: give held-out ones with data=."
        )
    return others


def simplify(path: str | os.PathLike[str]) -> None:
    """Folds constants in an ONNX file and removes needless nodes, with onnxslim."""
    try:
        onnxslim = importlib.import_module("onnxslim")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'simplify=True needs onnxslim: pip install "keras-vae[export]".', name="onnxslim"
        ) from None
    onnx.save(onnxslim.slim(onnx.load(path)), path)


def variants(
    folder: pathlib.Path,
    graphs: Mapping[str, GraphSpec],
    precision: str,
    data: Mapping[str, np.ndarray],
    max_elbo_loss: float | None,
) -> dict[str, GraphSpec]:
    """Writes each float32 graph of a bundle in another precision and measures it.

    Args:
        folder: Folder of the bundle.
        graphs: Float32 graphs of the manifest by name, `elbo` among them.
        precision: "float16" or "int8".
        data: Held-out examples by input name.
        max_elbo_loss: Number of nats per example that the bound may lose on them; None for the default.

    Returns:
        The variants by name.

    Raises:
        AccuracyError: If more is lost; the message gives the figure.
    """
    samples = _samples(folder, graphs, data)  # without prior and posterior, which stay in float32
    found = {}
    for name in ("encoder", "decoder", "elbo"):
        found[f"{name}_{precision}"] = _variant(folder, graphs[name], precision, samples[name])
    # Both graphs of the bound are given the same noise: their difference is that of the weights.
    exact = _terms(folder, graphs["elbo"], samples["elbo"])
    change = float(np.mean(sum(exact) - sum(_terms(folder, found[f"elbo_{precision}"], samples["elbo"]))))
    if max_elbo_loss is None:
        max_elbo_loss = max(_MAX_LOSS, _MAX_SHARE * float(sum(np.mean(np.abs(term)) for term in exact)))
    if not change >= -max_elbo_loss:
        raise AccuracyError(
            f"{precision} changes the bound by {change:+.3f} nats per example on the data given; at most "
            f"{max_elbo_loss:.3g} may be lost. Export without {precision}, or allow more with max_elbo_loss."
        )
    for variant in found.values():
        variant.parity.update(elbo_change=change, elbo_examples=len(samples["decoder"]["z"]))
    return found


def _variant(folder, graph, precision, samples):
    """Writes one graph in another precision and compares it with the float32 graph."""
    name = f"{graph.name}_{precision}"
    variant = dataclasses.replace(graph, name=name, file=f"{name}/1/model.onnx", precision=precision, parity={})
    path = folder / variant.file
    path.parent.mkdir(parents=True)
    try:
        with _quietly():
            method = _MAKERS[precision](folder / graph.file, path, samples)
    except Exception as error:  # the tools raise anything, from AssertionError to the errors of protobuf
        raise ExportError(
            f"{graph.name} cannot be made {precision}: {type(error).__name__}: {error}. Export without it."
        ) from error
    tidy.tidy(path, variant)
    tidy.check(path, variant)
    # What the bound is made of may differ by more than the bound, and is not limited.
    compared = ("reconstruction", "kl") if graph.name == "elbo" else None
    outputs = Session(folder, graph, providers="cpu").run(samples, compared)
    try:
        probe = probes.Probe("held-out", samples, outputs)
        measured = parity.measure(folder, variant, [probe], _MAX_DIFFERENCE, rounded=False)
    except ParityError as error:
        raise AccuracyError(f"{precision} is too far from float32. {error} Export without {precision}.") from None
    variant.parity.update(method=method, **measured)
    return variant


def _samples(folder, graphs, data):
    """The caller's data as inputs of each graph."""

    def given(name):
        return {tensor.name: data[tensor.name] for tensor in graphs[name].inputs if tensor.name in data}

    outputs = z = Session(folder, graphs["encoder"], providers="cpu").run(given("encoder"))
    sizes = free_sizes(graphs["encoder"].outputs, outputs)
    rng, count = np.random.default_rng(0), len(next(iter(data.values())))
    if "posterior" in graphs:
        noise = noise_input(graphs["posterior"])
        still = {} if noise is None else {noise.name: np.zeros((count, *sized(noise.shape[1:], sizes)), "float32")}
        z = Session(folder, graphs["posterior"], providers="cpu").run({**outputs, **still})
    epsilon: Any = noise_input(graphs["elbo"])
    drawn = rng.standard_normal((count, 1, *sized(epsilon.shape[2:], sizes)), dtype="float32")
    return {
        "encoder": given("encoder"),
        "decoder": {"z": next(iter(z.values())), **given("decoder")},
        "elbo": {**given("elbo"), epsilon.name: drawn},
    }


def _terms(folder, graph, samples):
    """The two terms of the negative bound, in nats for each example."""
    outputs = Session(folder, graph, providers="cpu").run(samples)
    return tuple(outputs[name].astype("float64") for name in ("reconstruction", "kl"))


def _float16(source, path, samples):
    # onnxruntime's converter: that of onnxconverter-common breaks graphs with loops, such as a GRU's.
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    # IsInf, a part of log1p, has no float16 in our opset.
    kept = [*DEFAULT_OP_BLOCK_LIST, "IsInf"]
    model = convert_float_to_float16(onnx.load(source), keep_io_types=True, op_block_list=kept)
    OnnxModel.graph_topological_sort(model.graph)  # the casts of the inputs are appended at the end
    onnx.save(model, path)
    return "weights and arithmetic in float16"


def _int8(source, path, samples):
    from onnxruntime import quantization as ort

    model = onnx.load(source)
    if not any(node.op_type in _CONVOLUTIONS for node in canonical.nodes(model.graph)):
        # Seven bits for the weights: without VNNI an x86 CPU adds two products of a uint8 and an int8 in 16 bits, which
        # overflow with eight (an encoder's mean was then off by 0.2 and more).
        ort.quantize_dynamic(model, path, weight_type=ort.QuantType.QInt8, reduce_range=True)
        return "dynamic: int8 weights, activations scaled at run time"
    with tempfile.TemporaryDirectory(prefix="keras_vae_export-") as folder:
        prepared = pathlib.Path(folder) / "prepared.onnx"
        ort.shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        reader = _Calibration(samples)
        ort.quantize_static(
            prepared,
            path,
            reader,
            quant_format=ort.QuantFormat.QDQ,
            activation_type=ort.QuantType.QInt8,
            weight_type=ort.QuantType.QInt8,
            per_channel=True,
        )
    return f"static: int8 weights and activations, calibrated on {reader.count} examples"


_MAKERS = {"float16": _float16, "int8": _int8}


class _Calibration:
    """Gives the samples to onnxruntime's calibrator in batches."""

    def __init__(self, samples, batch=64):
        self.count = min(_CALIBRATION_EXAMPLES, len(next(iter(samples.values()))))
        self.batches = iter(
            [
                {name: array[start : min(start + batch, self.count)] for name, array in samples.items()}
                for start in range(0, self.count, batch)
            ]
        )

    def get_next(self):
        return next(self.batches, None)


@contextlib.contextmanager
def _quietly():
    """Suppresses progress messages on stdout, and advice in the log to do what is done here anyway."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
