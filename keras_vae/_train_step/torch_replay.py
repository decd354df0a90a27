"""PyTorch without the Python in between.

Most of the time of a small step goes into finding out what to do: layers, scopes, dtypes and devices, the same at every
step. So the torch operations of one step are written down (`make_fx` sees each of them, whatever code issues it) and
from then on only they are run. That is what JAX and TensorFlow do when they trace, and as there the Python code of a
layer runs when it is traced and not at each step; `compile(run_eagerly=True)` is for looking inside.

What draws random numbers of its own, such as dropout, cannot be written down, because Keras makes a new generator from
each seed; nor can a layer that asks for values. Such a model runs as before. And nothing is believed: the list is run
beside the step itself once, and dropped if the two differ.
"""

import contextlib
import warnings

import torch
from torch.fx.experimental.proxy_tensor import make_fx

# They return their argument, as far as a list without gradients and without changes in place is concerned.
_WITHOUT_EFFECT = (torch.ops.aten.detach.default, torch.ops.aten.lift_fresh_copy.default)


# A trace takes as long as some fifty small steps: it is made for shapes that keep coming.
_CALLS_BEFORE = 8


class Replay:
    """`function(*tensors)` as a list of operations for each set of shapes.

    The first calls with some shapes are `function` itself, so that a mistake is reported where it is.

    Args:
        function: From tensors, some of which may be None, to a flat list of the same. Changes nothing but the noise.
        model: The VAE by whose `noise` the function draws, if it draws at all.
        jit: Whether `torch.compile` shall make one program of the list.
    """

    def __init__(self, function, model=None, jit=False):
        self.function, self.model, self.jit = function, model, jit
        self._calls, self._noise, self._programs = {}, {}, {}  # by shapes; of the noise, the arguments of its calls
        self._refused = False

    def __call__(self, *tensors):
        shapes = tuple(None if tensor is None else (tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        calls = self._calls[shapes] = self._calls.get(shapes, 0) + 1
        if self._refused or calls <= _CALLS_BEFORE:
            return self._recording_noise(shapes, tensors)
        if self.model is not None:
            tensors += tuple(self.model.noise(batch) for batch in self._noise[shapes])
        if shapes in self._programs:
            with torch.no_grad():
                return self._programs[shapes](*tensors)
        outputs = self._with_noise(len(shapes), tensors)
        try:
            self._programs[shapes] = self._written_down(len(shapes), tensors, outputs)
        except Exception as error:  # there is no list of what may stop a trace, and it stops nothing else
            self._refused = True
            if self.jit:
                warnings.warn(f"This model runs eagerly in spite of jit_compile=True: {error}", stacklevel=2)
        return outputs

    def _recording_noise(self, shapes, tensors):
        batches = self._noise[shapes] = []
        if self.model is None:
            return self.function(*tensors)
        noise = self.model.noise

        def recorded(batch):
            batches.append(batch)
            return noise(batch)

        with _noise_by(self.model, recorded):
            return self.function(*tensors)

    def _with_noise(self, count, tensors):
        """`function` of the first `count` tensors; the others are the noise."""
        if self.model is None:
            return self.function(*tensors)
        noise = iter(tensors[count:])
        with _noise_by(self.model, lambda batch: next(noise)):
            return self.function(*tensors[:count])

    def _written_down(self, count, tensors, outputs):
        # Without their values ("fake"), for which a layer that decides by them asks in vain.
        trace = make_fx(
            lambda *tensors: self._with_noise(count, tensors), tracing_mode="fake", _allow_non_fake_inputs=True
        )
        graph = trace(*tensors)
        _without_idle_operations(graph)
        program = torch.compile(graph, fullgraph=True, dynamic=False) if self.jit else graph.forward
        with torch.no_grad():
            _check_same(program(*tensors), outputs)
        return program


@contextlib.contextmanager
def _noise_by(model, draw):
    """`model.noise` is `draw` meanwhile, by the dict of the instance, which hides the method and is not Keras's."""
    before = vars(model).get("noise")
    vars(model)["noise"] = draw
    try:
        yield
    finally:
        del vars(model)["noise"]
        if before is not None:
            vars(model)["noise"] = before


def _without_idle_operations(program):
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    if any(node.target._schema.is_mutable for node in nodes if hasattr(node.target, "_schema")):
        return  # then a copy may be there for a reason
    for node in nodes:
        if node.target in _WITHOUT_EFFECT:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.recompile()


def _check_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        if (one is None) != (other is None):
            raise ValueError("the list of its operations returns None elsewhere")
        if one is not None:
            scale = other.detach().abs().max().item() if other.numel() else 0.0
            if not torch.allclose(one.to(other.dtype), other, rtol=1e-4, atol=1e-5 * scale, equal_nan=True):
                raise ValueError("the list of its operations gives other numbers than the model itself")
