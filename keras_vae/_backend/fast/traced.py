"""PyTorch without the Python in between: a function is traced once, and then only the traced graph runs.

Gain: small steps spend most of their time in Python. A step of 17.4 ms takes 14.2 ms traced, and one of 11.5 ms with
the fused Adam takes 8.2 ms (784-500-z20, batch 100, one thread).

`make_fx` records the torch operations of one call, whatever code issues them. As on JAX and TensorFlow the Python code
of a layer runs when it is traced and not at each step; `compile(run_eagerly=True)` is for looking inside. What draws
random numbers of its own, such as dropout, cannot be traced, because Keras makes a new generator from each seed; nor
can a layer that asks for values. Such a model runs as before. The traced graph is run once next to the original and
discarded if the results differ.
"""

import warnings

import keras
import torch
from torch.fx.experimental.proxy_tensor import make_fx

# They return their argument, as far as a graph without gradients and without changes in place is concerned.
_NO_OPS = (torch.ops.aten.detach.default, torch.ops.aten.lift_fresh_copy.default)

# A trace costs what 26 to 67 traced steps save (of dense and convolutional networks, Adam and the fused Adam): it is
# made for shapes that keep coming, and for so many of them.
CALLS_BEFORE_TRACING = 32
MAX_GRAPHS = 4


class TracedStep:
    """`function(*tensors)` as a graph for each set of shapes, up to `MAX_GRAPHS` of them.

    The first calls with some shapes are `function` itself, so that a mistake is reported where it is.

    Args:
        function: From tensors, some of which may be None, to a flat list of the same; a pure function.
        jit: Whether `torch.compile` makes one program of the graph.
    """

    def __init__(self, function, jit=False):
        self.function, self.jit = function, jit
        self.graphs = {}  # by shapes
        self.refused = False
        self._calls = {}  # by shapes

    def __call__(self, *tensors):
        shapes = tuple(None if tensor is None else (tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        if shapes in self.graphs:
            with torch.no_grad():
                return self.graphs[shapes](*tensors)
        outputs = self.function(*tensors)
        if self.refused or len(self.graphs) == MAX_GRAPHS:
            return outputs
        self._calls[shapes] = self._calls.get(shapes, 0) + 1
        if self._calls[shapes] > CALLS_BEFORE_TRACING:
            try:
                self.graphs[shapes] = self._trace(tensors, outputs)
            except Exception as error:  # there is no list of what may stop a trace, and it stops nothing else
                self.refused = True
                if self.jit:
                    warnings.warn(f"This model runs eagerly in spite of jit_compile=True: {error}", stacklevel=2)
        return outputs

    def _trace(self, tensors, outputs):
        # Without their values ("fake"), for which a layer that decides by them asks in vain.
        graph = make_fx(self.function, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
        _remove_no_ops(graph)
        program = torch.compile(graph, fullgraph=True, dynamic=False) if self.jit else graph.forward
        with torch.no_grad():
            _check_same(program(*tensors), outputs)
        return program


class TracedFunction:
    """`function(*arrays)`, which reads the weights of `model`, traced, without gradients."""

    def __init__(self, model, function):
        self.model, self.function = model, function
        self.step = TracedStep(self._stateless)
        self._count, self._is_single = 0, True  # number of arrays; whether `function` returns one tensor

    def __call__(self, *arrays):
        self._count = len(arrays)
        weights = (variable.value.detach() for variable in self.model.variables)
        outputs = self.step(*map(to_tensor, arrays), *weights)
        return outputs[0] if self._is_single else outputs

    @torch.no_grad()
    def _stateless(self, *tensors):
        with keras.StatelessScope(zip(self.model.variables, tensors[self._count :], strict=True)):
            outputs = self.function(*tensors[: self._count])
        self._is_single = not isinstance(outputs, tuple | list)
        return [outputs] if self._is_single else list(outputs)


def to_tensor(part):
    """A tensor in the order of its axes, which a graph relies on."""
    return keras.ops.convert_to_tensor(part).contiguous()


def _remove_no_ops(graph_module):
    nodes = [node for node in graph_module.graph.nodes if node.op == "call_function"]
    if any(node.target._schema.is_mutable for node in nodes if hasattr(node.target, "_schema")):
        return  # then a copy may be there for a reason
    for node in nodes:
        if node.target in _NO_OPS:
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _check_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        if (one is None) != (other is None):
            raise ValueError("the traced graph returns None elsewhere")
        if one is not None:
            scale = other.detach().abs().max().item() if other.numel() else 0.0
            if not torch.allclose(one.to(other.dtype), other, rtol=1e-4, atol=1e-5 * scale, equal_nan=True):
                raise ValueError("the traced graph gives other numbers than the model itself")
