"""Converts Keras on TensorFlow to ONNX with tf2onnx, and adds the operators that it lacks.

Measured over 29 networks, this was the only route that converted all of them, with the fewest nodes: it removes the
transposes between channels-last and channels-first that the others leave in.
"""

import copy
import pathlib
from unittest import mock

import keras
import onnx
import tensorflow as tf
import tf2onnx.convert
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from keras_vae_export.converters import RandomnessError
from keras_vae_export.converters.canonical import nodes
from keras_vae_export.converters.formulas import HANDLERS
from keras_vae_export.converters.tidy import OPSET
from keras_vae_export.errors import ConversionError
from keras_vae_export.graphs import GraphFunction


def convert(graph: GraphFunction, path: pathlib.Path) -> None:
    """Writes a function of a model in this process to an ONNX file."""
    specs = [
        tf.TensorSpec([size if isinstance(size, int) else None for size in tensor.shape], tensor.dtype, tensor.name)
        for tensor in graph.inputs
    ]

    def function(*tensors):
        # An RNN with dropout moves the state of its seed whether it draws or not, and what assigns cannot be frozen.
        with keras.StatelessScope(), mock.patch.object(tf, "function", _without_xla):
            return {name: tf.identity(value, name=name) for name, value in graph.function(*tensors).items()}

    concrete = tf.function(function, input_signature=specs, autograph=False).get_concrete_function()
    # tf2onnx itself takes a tensor that the function has captured, such as the mean of a Normalization, for an input.
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True)
    definition = frozen.graph.as_graph_def(add_shapes=True)
    inputs = {tensor.name: spec.name for tensor, spec in zip(frozen.inputs, specs, strict=True)}
    outputs = {tensor.name: name for name, tensor in concrete.structured_outputs.items()}
    _refuse_randomness(definition, outputs, graph)
    _keep_second_biases(definition)
    with mock.patch.object(tf2onnx.optimizer, "optimize_graph", _optimized):
        model, _ = tf2onnx.convert.from_graph_def(
            definition,
            input_names=list(inputs),
            output_names=list(outputs),
            tensors_to_rename=inputs | outputs,
            opset=OPSET,
            custom_op_handlers=HANDLERS,
        )
    _refuse_unconverted(model, graph)
    onnx.save(model, path)


_optimize_graph = tf2onnx.optimizer.optimize_graph


def _optimized(graph, catch_errors=True, optimizers=None):
    """tf2onnx's passes with one copy of the graph, to begin anew if a pass fails and is to be left out.

    tf2onnx itself copies the graph before each of them, a third of a conversion.
    """
    before = copy.deepcopy(graph)
    try:
        return _optimize_graph(graph, False, optimizers)
    except Exception:  # a pass may raise anything
        return _optimize_graph(before, catch_errors, optimizers)


_function = tf.function


def _without_xla(function=None, **options):
    """Stands for `tf.function`: Keras has XLA compile a grouped convolution, and tf2onnx does not look inside that."""
    if options.get("jit_compile"):
        return (lambda function: function) if function is None else function
    return _function(function, **options)


def _keep_second_biases(definition):
    """Makes an addition of what is added to a bias: tf2onnx fuses both into the convolution, which has room for one."""
    biases = {operation.name for operation in definition.node if operation.op == "BiasAdd"}
    for operation in definition.node:
        is_second = operation.op == "BiasAdd" and operation.input[0].partition(":")[0] in biases
        if is_second and operation.attr["data_format"].s != b"NCHW":
            operation.op = "AddV2"
            del operation.attr["data_format"]


def _refuse_randomness(definition, outputs, graph):
    library = {function.signature.name: function for function in definition.library.function}
    for operation in _needed(definition.node, outputs, library):
        if "Random" in operation.op or operation.op in ("Multinomial", "ParameterizedTruncatedNormal"):
            raise RandomnessError(
                f"The {graph.name} draws random numbers ({operation.op} in {operation.name}), but an exported graph "
                "must not: two runs would differ. The encoder must return the mean and log variance and leave the "
                "sampling to the VAE."
            )


def _needed(operations, outputs, library):
    """The operations that the outputs depend on: an RNN draws the mask of its dropout even where it does not use it."""
    by_name, seen = {operation.name: operation for operation in operations}, set()
    waiting = [name.partition(":")[0] for name in outputs]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in by_name:  # a control input, which gives no value, begins with ^
            continue
        seen.add(name)
        operation = by_name[name]
        yield operation
        waiting += [source.partition(":")[0] for source in operation.input]
        for attribute in operation.attr.values():
            for called in (attribute.func, *attribute.list.func):
                if called.name in library:
                    body = library[called.name]
                    yield from _needed(body.node_def, body.ret.values(), library)


def _refuse_unconverted(model, graph):
    """Finds the operators that tf2onnx could not convert: it prints them and writes an invalid file."""
    for node in nodes(model.graph):
        if node.domain == "" and not onnx.defs.has(node.op_type):
            raise ConversionError(
                f"The {graph.name} uses the TensorFlow operator {node.op_type}, in {node.name}, which has no ONNX "
                "counterpart here. Build that layer from other keras.ops."
            )
