"""Brings the file of an engine into the one form that every bundle has, and checks files for that form.

After `tidy` a file has opset 18 and IR version 8, the names and the order of its `GraphFunction`, a first dimension
called "batch", inferred shapes, canonical names inside, and no trace of the machine that wrote it: the torch exporter
leaves the absolute paths of the user's source in every node. `check` holds any file to the same promises; `--check`
runs it too.
"""

import os

import onnx
from onnx import TensorProto

from keras_vae_export._internals import GraphSpec
from keras_vae_export.converters.canonical import canonical, nodes
from keras_vae_export.errors import StructureError
from keras_vae_export.graphs import GraphFunction

OPSET = 18  # the highest that tf2onnx writes, and low enough for every onnxruntime and Triton in use
IR_VERSION = 8
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}


def tidy(path: str | os.PathLike[str], graph: GraphFunction | GraphSpec) -> None:
    """Rewrites the file at `path` into the form of a bundle; weights in a file beside it stay there."""
    model = onnx.load(path, load_external_data=False)
    _name_outputs(model, graph)
    _describe(model, graph)
    canonical(model.graph)
    _mend_padding(model.graph)
    _keep_zeros_of_padding(model.graph)
    _strip(model.graph)
    for function in model.functions:
        _strip(function)
    used = {node.domain for node in nodes(model.graph)} | {function.domain for function in model.functions}
    opsets = [(entry.domain, entry.version) for entry in model.opset_import if entry.domain in used | {""}]
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in opsets)
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "keras_vae_export", ""
    model.graph.name = graph.name
    model.ClearField("doc_string")
    model.graph.ClearField("doc_string")
    del model.metadata_props[:]
    onnx.save(_with_shapes(model), path)


def check(path: str | os.PathLike[str], graph: GraphFunction | GraphSpec) -> None:
    """Checks that the file at `path` is valid ONNX and has the signature of `graph`.

    Args:
        path: ONNX file.
        graph: Function that was exported, or graph of a manifest.

    Raises:
        StructureError: If the file has another form; says what differs.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
        onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), check_type=True, strict_mode=True)
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # the checker and the parser of protobuf have no common base class
        raise StructureError(f"{path} is not valid ONNX: {str(error).strip()[:500]}") from None
    for what, found, expected in (
        ("inputs", model.graph.input, graph.inputs),
        ("outputs", model.graph.output, graph.outputs),
    ):
        found = [_signature(value) for value in found]
        wanted = [(tensor.name, tensor.dtype, tensor.shape) for tensor in expected]
        if found != wanted:
            raise StructureError(f"The {what} of {graph.name} are {found}; they must be {wanted}.")
    random = [node for node in nodes(model.graph) if node.op_type in _RANDOM]
    if random:
        raise StructureError(f"{graph.name} draws random numbers: {random[0].op_type} in {random[0].name}.")
    opset = next((entry.version for entry in model.opset_import if entry.domain == ""), None)
    if opset != OPSET or model.ir_version != IR_VERSION:
        raise StructureError(
            f"{graph.name} has opset {opset} and IR version {model.ir_version}, not {OPSET} and {IR_VERSION}."
        )


def _name_outputs(model, graph):
    """Sorts inputs and outputs, which the engine has named as it was told, into the order of `graph`."""
    for values, tensors in ((model.graph.input, graph.inputs), (model.graph.output, graph.outputs)):
        by_name = {value.name: value for value in values}
        missing = [tensor.name for tensor in tensors if tensor.name not in by_name]
        if missing or len(by_name) != len(tensors):
            names = [tensor.name for tensor in tensors]
            raise StructureError(f"{graph.name} was converted with {sorted(by_name)}; it must have {names}.")
        ordered = [by_name[tensor.name] for tensor in tensors]
        del values[:]
        values.extend(ordered)


def _describe(model, graph):
    for values, tensors in ((model.graph.input, graph.inputs), (model.graph.output, graph.outputs)):
        for value, tensor in zip(values, tensors, strict=True):
            element = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(tensor.name, element, tensor.shape))


def _mend_padding(graph):
    """Replaces negative padding, which tf2onnx writes for `output_padding` and which is not valid ONNX."""
    for node in nodes(graph):
        if node.op_type != "ConvTranspose":
            continue
        attributes = {attribute.name: attribute for attribute in node.attribute}
        pads = list(attributes["pads"].ints) if "pads" in attributes else []
        after = pads[len(pads) // 2 :]
        if any(pad < 0 for pad in after) and "output_padding" not in attributes:
            attributes["pads"].ints[:] = pads[: len(pads) // 2] + [max(pad, 0) for pad in after]
            node.attribute.append(onnx.helper.make_attribute("output_padding", [max(-pad, 0) for pad in after]))


def _keep_zeros_of_padding(graph):
    """Has a maximum over padded values tell where it lies, which nobody reads, so that onnxruntime leaves both alone.

    It (1.31) makes one operator of `Pad` and `MaxPool`, which then pads with the least number and not with 0.
    """
    producer = {name: node for node in nodes(graph) for name in node.output}
    for node in nodes(graph):
        if node.op_type != "MaxPool" or len(node.output) > 1:
            continue
        before = producer.get(node.input[0])
        while before is not None and before.op_type in ("Identity", "Transpose"):
            before = producer.get(before.input[0])
        if before is not None and before.op_type == "Pad":
            node.output.append(f"{node.output[0]}_places")


def _strip(graph):
    for node in nodes(graph):
        node.ClearField("doc_string")
        if not node.domain:
            node.ClearField("domain")  # an empty one that is set differs in the file from one that is not
        del node.metadata_props[:]
    for field in ("value_info", "metadata_props", "quantization_annotation"):
        if hasattr(graph, field):
            del getattr(graph, field)[:]
    for values in (getattr(graph, "initializer", ()), getattr(graph, "input", ()), getattr(graph, "output", ())):
        for value in values:
            if hasattr(value, "metadata_props"):
                del value.metadata_props[:]


def _with_shapes(model):
    """The model with the shapes between its nodes, which help a reader or compiler of the file."""
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        return model  # weights that are elsewhere cannot be read for it
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _signature(value):
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
