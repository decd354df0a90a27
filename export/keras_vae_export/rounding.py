"""How far float32 determines what a graph computes: the rounding of its operators, replayed at random.

Two correct float32 programs of one formula round differently. Mostly that is far below the tolerance, but a formula may
magnify it: log(1 - p) of a probability near 1, or the normalisation of values that are almost equal. There no file can
agree with its model, and neither is wrong. So the file is run several times with each result of an operator multiplied
by 1 + u, |u| <= 2**-23, as if it had been rounded otherwise; how far these runs are apart is what the arithmetic leaves
open, for each example (random arithmetic: Parker 1997, "Monte Carlo arithmetic"; Vignes 1993, "A stochastic arithmetic
for reliable scientific computation"). A wrong weight or operator, and a fault of the runtime, is in all runs.

What is inside the body of a loop is not replayed: there, less is left open than is true.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

_UNIT = 2.0**-23  # one unit in the last place of float32
_DRAWS = 8
# Operators that copy or choose values and round none.
_EXACT = {
    *("Abs", "Cast", "Ceil", "Clip", "Compress", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand"),
    *("Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Identity", "If", "Max", "MaxPool", "Min", "Neg"),
    *("OneHot", "Pad", "Range", "ReduceMax", "ReduceMin", "Relu", "Reshape", "ReverseSequence", "Round"),
    *("ScatterElements", "ScatterND", "Sign", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK"),
    *("Transpose", "Trilu", "Unsqueeze", "Where"),
}


def measure(path: pathlib.Path, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """How far the rounding of float32 moves the outputs of an ONNX file.

    Args:
        path: ONNX file with inferred shapes.
        inputs: NumPy arrays by input name, which are taken as exact.
        outputs: Names of the outputs.

    Returns:
        By output name, the largest distance of two runs in each example, shaped to broadcast with the output.
    """
    replayed = _with_noise(onnx.load(path, load_external_data=False))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Weights may be in a file beside the model.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    session = onnxruntime.InferenceSession(replayed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    draws = [session.run(list(outputs), dict(inputs)) for _ in range(_DRAWS)]
    moved = {}
    for name, *values in zip(outputs, *draws, strict=True):
        with np.errstate(invalid="ignore"):
            distance = np.ptp(np.array(values, "float64"), axis=0)
        axes = tuple(range(1, distance.ndim))
        distance = distance.max(axis=axes, keepdims=True) if axes else distance
        moved[name] = np.where(np.isfinite(distance), distance, 0.0)
    return moved


def _with_noise(model):
    """The model with two nodes after each operator that rounds: what it computed, times 1 + u."""
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        if node.op_type in _EXACT:
            continue
        kept = graph.node[-1]
        for i, name in enumerate(node.output):
            if types.get(name) != onnx.TensorProto.FLOAT:
                continue
            kept.output[i], factor = f"{name}/computed", f"{name}/factor"
            graph.node.extend(
                [
                    onnx.helper.make_node(
                        "RandomUniformLike",
                        [kept.output[i]],
                        [factor],
                        low=1.0 - _UNIT,
                        high=1.0 + _UNIT,
                        seed=float(len(graph.node)),
                    ),
                    onnx.helper.make_node("Mul", [kept.output[i], factor], [name]),
                ]
            )
    return model
