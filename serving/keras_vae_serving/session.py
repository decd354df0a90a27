"""One graph of a bundle, opened in onnxruntime and held to what the manifest says of it.

The exporter checks parity through this class, so that what was verified is what will be run.
"""

import pathlib

import numpy as np
import onnxruntime

from keras_vae_serving import providers as _providers
from keras_vae_serving.manifest import BundleError, Graph

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


class Session:
    """Runs a graph: named NumPy arrays in, named NumPy arrays out.

    Args:
        directory: The bundle.
        graph: What its manifest says of the graph.
        providers: "auto", "cpu", "cuda" or a sequence; see `providers.resolve`.
        threads: Threads inside an operator; 0 lets onnxruntime choose.

    Raises:
        BundleError: If the file cannot be opened, or does not have the manifest's inputs and outputs.
        ProviderError: If a provider that was asked for cannot be used.

    Example:

    >>> manifest = Manifest.load("bundle")
    >>> decoder = Session("bundle", manifest.graphs["decoder"], providers="cpu")
    >>> decoder.run({"z": np.zeros((1, 2), "float32")})["x_mean"]
    """

    def __init__(self, directory, graph: Graph, providers="auto", threads=0):
        self.graph = graph
        self.threads = threads
        path = pathlib.Path(directory) / graph.file
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors: what onnxruntime warns of concerns the graph's author, and was tested
        chosen = _providers.resolve(providers)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=chosen)
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise BundleError(f"onnxruntime cannot open {path}: {_first_line(error)}") from None
        _providers.check(self._session, chosen, fall_back=providers == "auto")
        self._check_signature(path)

    @property
    def providers(self):
        """The execution providers in use, the preferred one first."""
        return self._session.get_providers()

    def run(self, inputs, outputs=None, check=True):
        """Runs the graph.

        Args:
            inputs: A dict of NumPy arrays by input name, all of one length along the first axis.
            outputs: The names wanted; None is all.
            check: False where `check` has seen the inputs already.

        Returns:
            A dict of NumPy arrays by output name.

        Raises:
            ValueError: If a name, dtype or shape is not the graph's.
        """
        if check:
            self.check(inputs)
        names = [tensor.name for tensor in self.graph.outputs]
        unknown = set(outputs or ()) - set(names)
        if unknown:
            raise ValueError(f"The graph {self.graph.name} gives {names}; it has no output {sorted(unknown)[0]!r}.")
        names = names if outputs is None else list(outputs)
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        return dict(zip(names, self._session.run(names, arrays), strict=True))

    def check(self, inputs):
        """Raises a ValueError if these are not a dict of arrays that the graph takes, all of one batch size."""
        expected = [tensor.name for tensor in self.graph.inputs]
        if set(inputs) != set(expected):
            raise ValueError(f"The graph {self.graph.name} takes {expected}; got {sorted(inputs)}.")
        for tensor in self.graph.inputs:
            tensor.check(inputs[tensor.name])
        examples(inputs)

    def _check_signature(self, path):
        for what, found, expected in (
            ("inputs", self._session.get_inputs(), self.graph.inputs),
            ("outputs", self._session.get_outputs(), self.graph.outputs),
        ):
            found = [(node.name, _DTYPES.get(node.type, node.type), tuple(node.shape)) for node in found]
            wanted = [(tensor.name, tensor.dtype, tensor.shape) for tensor in expected]
            if found != wanted:
                raise BundleError(f"{path} has the {what} {found}, but the manifest says {wanted}.")


def examples(arrays):
    """How many examples a dict of arrays holds; raises a ValueError if they do not agree."""
    sizes = [len(array) for array in arrays.values()]
    if len(set(sizes)) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in zip(arrays, sizes, strict=True))
        raise ValueError(f"All inputs must have one batch size; got {listed}.")
    return sizes[0]


def parts(arrays, size):
    """A dict of arrays in pieces of up to `size` examples; raises as `examples`, or some would be in no piece."""
    for start in range(0, examples(arrays), size):
        yield {name: array[start : start + size] for name, array in arrays.items()}


def joined(pieces):
    """The pieces as one dict of arrays."""
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _first_line(error):
    return str(error).strip().split("\n")[0]
