"""Converts Keras on PyTorch to ONNX with torch.export: layers written in torch, and models above two gigabytes."""

import pathlib

import onnx
import torch
from onnxscript import opset18 as op

from keras_vae import VAE
from keras_vae_export.converters import message
from keras_vae_export.converters.tidy import OPSET
from keras_vae_export.errors import ConversionError
from keras_vae_export.graphs import GraphFunction

# Sizes to trace with: all different, so that no two are merged. 0 and 1 are special to torch.export.
_BATCH, _OTHERS = 3, (5, 6, 7, 9)
# Sizes of x that a VAE leaves free, all different where a network halves them up to five times.
_SIZES_OF_X = (64, 160, 224, 352)
_PROTOBUF_LIMIT = 2**31 - 2**20


def convert(graph: GraphFunction, path: pathlib.Path) -> None:
    """Writes a function of a model in this process to an ONNX file."""
    names = [tensor.name for tensor in graph.outputs]
    # Dim("batch") wrote a file with the traced batch size for a decoder with RepeatVector, silently (pytorch issue
    # 148886); with AUTO every dimension that can be dynamic is.
    dynamic = [
        {axis: torch.export.Dim.AUTO for axis, size in enumerate(tensor.shape) if isinstance(size, str)}
        for tensor in graph.inputs
    ]
    sizes = _free_sizes(graph.network)
    examples = tuple(_example(tensor, sizes) for tensor in graph.inputs)
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                _Module(graph, names).eval(),
                examples,
                dynamo=True,
                dynamic_shapes={"tensors": tuple(dynamic)},
                opset_version=OPSET,
                input_names=[tensor.name for tensor in graph.inputs],
                output_names=names,
                custom_translation_table=_ACCURATE,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ConversionError(
            f"torch.onnx cannot convert the {graph.name}: {_reason(error)} Build that layer from other operations."
        ) from None
    assert program is not None  # torch's types: None only without dynamo
    weights = (value.const_value for value in program.model.graph.initializers.values())
    large = sum(weight.nbytes for weight in weights if weight is not None) > _PROTOBUF_LIMIT
    program.save(str(path), external_data=large)
    if large:  # the bundle promises one name for the file of weights
        _check_external(path)


def _expm1(x):
    # torch's own translation, e**x - 1, gives 0 where the KL of a collapsed unit lives; see converters/formulas.py.
    return op.Mul(op.Tanh(op.Mul(x, 0.5)), op.Add(op.Exp(x), 1.0))


def _log1p(x):
    u = op.Add(x, 1.0)
    exact = op.Or(op.Equal(u, 1.0), op.IsInf(u))
    return op.Where(exact, x, op.Mul(op.Log(u), op.Div(x, op.Sub(u, 1.0))))


_ACCURATE = {torch.ops.aten.expm1.default: _expm1, torch.ops.aten.log1p.default: _log1p}


class _Module(torch.nn.Module):
    def __init__(self, graph, names):
        super().__init__()
        self.network, self.function, self.names = graph.network, graph.function, names

    def forward(self, *tensors):
        outputs = self.function(*tensors)
        return tuple(outputs[name] for name in self.names)


def _free_sizes(network):
    """Numbers for the free sizes of a VAE, by their names in `graphs`: those of z as they follow from those of x."""
    if not isinstance(network, VAE) or None not in network.latent_shape:
        return {}
    data_shape = tuple(size or _SIZES_OF_X[axis] for axis, size in enumerate(network.data_shape))
    shapes = {"x": data_shape, "z": network.latent_shape_of(data_shape)}
    return {f"{name}_{axis}": size for name, shape in shapes.items() for axis, size in enumerate(shape, 1)}


def _example(tensor, sizes):
    free = iter(_OTHERS)
    named = (
        sizes[size] if size in sizes else next(free) if isinstance(size, str) else size for size in tensor.shape[1:]
    )
    shape = [_BATCH, *named]
    return torch.zeros(shape, dtype=getattr(torch, tensor.dtype))


def _check_external(path):
    files = {
        entry.value
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if files - {f"{path.name}.data"}:
        raise ConversionError(f"torch wrote the weights to {sorted(files)}, beside {path.name}.")


def _reason(error):
    lines = [line.strip() for line in message(error).splitlines() if line.strip()]
    cause = error.__cause__
    return " ".join(lines[:1] + ([f"{type(cause).__name__}: {str(cause).splitlines()[0]}"] if cause else []))[:1000]
