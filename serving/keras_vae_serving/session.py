"""One graph of a bundle, opened in onnxruntime and held to what the manifest says of it.

The exporter checks parity through this class, so that what was verified is what will be run.
"""

import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime

from keras_vae_serving import providers as _providers
from keras_vae_serving.errors import RequestError
from keras_vae_serving.manifest import BundleError, GraphSpec

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
        directory: Folder of the bundle.
        graph: Entry of the graph in the manifest.
        providers: "auto", "cpu", "cuda" or a sequence; see `providers.resolve`.
        threads: Number of threads inside an operator; 0 lets onnxruntime choose.

    Raises:
        BundleError: If the file cannot be opened, or does not have the manifest's inputs and outputs.
        ProviderError: If a provider that was asked for cannot be used.

    Example:

    >>> manifest = Manifest.load("bundle")
    >>> decoder = Session("bundle", manifest.graphs["decoder"], providers="cpu")
    >>> decoder.run({"z": np.zeros((1, 2), "float32")})["x_mean"]
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        graph: GraphSpec,
        providers: _providers.Providers = "auto",
        threads: int = 0,
    ) -> None:
        self.graph: GraphSpec = graph
        self.threads: int = threads
        self._names = [tensor.name for tensor in graph.outputs]
        self._path = path = pathlib.Path(directory) / graph.file
        options = _options()
        options.intra_op_num_threads = threads
        chosen = _providers.resolve(providers)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=chosen)
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise BundleError(f"onnxruntime cannot open {path}: {_first_line(error)}") from None
        _providers.check(self._session, chosen, fall_back=providers == "auto")
        self._check_signature(path)

    @property
    def providers(self) -> list[str]:
        """The execution providers in use, the preferred one first."""
        return self._session.get_providers()

    def run(
        self, inputs: dict[str, np.ndarray], outputs: Sequence[str] | None = None, check: bool = True
    ) -> dict[str, np.ndarray]:
        """Runs the graph.

        Args:
            inputs: NumPy arrays by input name, all of one length along the first axis.
            outputs: Names of the outputs wanted; None is all.
            check: Whether the inputs are checked; False if `check` has seen them already.

        Returns:
            NumPy arrays by output name.

        Raises:
            ValueError: If a name, dtype or shape is not the graph's.
        """
        if check:
            self.check(inputs)
        names = self._names
        if outputs is not None:
            unknown = set(outputs) - set(names)
            if unknown:
                raise ValueError(f"The graph {self.graph.name} gives {names}; it has no output {sorted(unknown)[0]!r}.")
            names = list(outputs)
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        return dict(zip(names, self._session.run(names, arrays), strict=True))

    def check(self, inputs: dict[str, np.ndarray]) -> int:
        """Number of examples in a dict of arrays; raises a RequestError if they are not what the graph takes."""
        expected = [tensor.name for tensor in self.graph.inputs]
        if inputs.keys() != set(expected):
            raise RequestError(f"The graph {self.graph.name} takes {expected}; got {sorted(inputs)}.")
        for tensor in self.graph.inputs:
            tensor.check(inputs[tensor.name])
        return batch_size_of(inputs)

    def widest_layer(self, inputs: dict[str, np.ndarray]) -> int:
        """Number of bytes of the largest tensor that a run on these inputs makes, from a profile of one on the CPU."""
        with tempfile.TemporaryDirectory(prefix="keras_vae_serving-") as folder:
            options = _options()
            options.enable_profiling, options.profile_file_prefix = True, str(pathlib.Path(folder) / "profile")
            session = onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
            session.run(None, inputs)
            events = json.loads(pathlib.Path(session.end_profiling()).read_text(encoding="utf-8"))
        return max(int(event.get("args", {}).get("output_size", 0)) for event in events)

    def _check_signature(self, path):
        for what, found, expected in (
            ("inputs", self._session.get_inputs(), self.graph.inputs),
            ("outputs", self._session.get_outputs(), self.graph.outputs),
        ):
            found = [(node.name, _DTYPES.get(node.type, node.type), tuple(node.shape)) for node in found]
            wanted = [(tensor.name, tensor.dtype, tensor.shape) for tensor in expected]
            if found != wanted:
                raise BundleError(f"{path} has the {what} {found}, but the manifest says {wanted}.")


def batch_size_of(arrays: dict[str, np.ndarray]) -> int:
    """Number of examples in a dict of arrays; raises a RequestError if they do not agree."""
    sizes = [len(array) for array in arrays.values()]
    if len(set(sizes)) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in zip(arrays, sizes, strict=True))
        raise RequestError(f"All inputs must have one batch size; got {listed}.")
    return sizes[0]


def split(arrays: dict[str, np.ndarray], size: int) -> Iterator[dict[str, np.ndarray]]:
    """Parts of a dict of arrays, of up to `size` examples; raises a RequestError as `batch_size_of`."""
    for start in range(0, batch_size_of(arrays), size):
        yield {name: array[start : start + size] for name, array in arrays.items()}


def concatenate(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The parts as one dict of arrays."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _options():
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: what onnxruntime warns of concerns the graph's author, and was tested
    return options


def _first_line(error):
    return str(error).strip().split("\n")[0]
