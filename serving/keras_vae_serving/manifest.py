"""A bundle is a folder with a manifest, which names its graphs, their inputs and outputs, and the hash of every file.

`manifest.json` is the contract between the exporter, which writes it, and everything that runs the graphs. Only this
file reads it, with the standard library and NumPy, without a framework or onnxruntime. The folder is also a Triton
model repository (`NAME/1/model.onnx` beside `NAME/config.pbtxt`); Triton does not look at the manifest.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_vae_serving import draws
from keras_vae_serving.errors import RequestError
from keras_vae_serving.tables import Table

SCHEMA_VERSION: int = 2
FILE_NAME: str = "manifest.json"
BATCH: str = "batch"  # the name of every first dimension
NUM_SAMPLES: str = "num_samples"  # that of the second dimension of the noise of "elbo"
LOG_PROB: str = "log_prob_per_dimension"  # output of "elbo": E_q log p(x_d|z) of each dimension d of x
NORMAL_OUTPUTS: tuple[str, str] = ("z_mean", "z_log_var")  # of the encoder where q(z|x) is a diagonal normal
MAX_SEED: int = 2**63  # the whole numbers of the protocol's parameters are int64


class BundleError(ValueError):
    """A folder that is not a whole, unchanged bundle which this version can read."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of a graph.

    Args:
        name: Name in the ONNX file.
        dtype: NumPy name of the dtype, such as "float32".
        shape: Sizes, as numbers or, where a size is free, as names; the first is "batch".
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if not self.name or not self.shape or self.shape[0] != BATCH or not hasattr(np, self.dtype):
            raise ValueError(f"a tensor needs a name, a dtype and a shape that starts with {BATCH!r}; got {self}")

    def check(self, array: np.ndarray) -> None:
        """Raises a RequestError if a NumPy array is not of this dtype and shape."""
        if array.dtype != self.dtype:
            raise RequestError(f"{self.name} must be {self.dtype}; got {array.dtype}.")
        if not shape_matches(array.shape, self.shape):
            raise RequestError(f"{self.name} must have shape {self.shape_text}; got {array.shape}.")

    @property
    def shape_text(self) -> str:
        """The shape as it appears in errors, such as "(batch, 3)"."""
        return "(" + ", ".join(str(size) for size in self.shape) + ("," if len(self.shape) == 1 else "") + ")"


@dataclasses.dataclass(frozen=True)
class GraphSpec:
    """What the manifest says of one ONNX file of a bundle.

    Args:
        name: "encoder", "posterior", "decoder", "elbo" or "prior", followed by the precision if that is not float32.
        file: Path inside the bundle, with slashes.
        precision: Precision of the weights, "float32", "float16" or "int8"; inputs and outputs state their own dtype.
        inputs, outputs: Tensors in the file's order.
        parity: Differences from the model that were measured at export.
    """

    name: str
    file: str
    precision: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parity: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class PosteriorSpec:
    """What the manifest says of q(z|x).

    Args:
        name, config: Class of the family, and the arguments of its constructor.
        outputs: Shape of each output of the encoder for one example, by name; None is a free size.
        noise_shape: Shape of the N(0, 1) variates that one draw of z is made of; () if it draws nothing.
        is_discrete: Whether z takes countably many values; the graph "posterior" may then have the output "codes".
    """

    name: str
    config: dict[str, Any]
    outputs: dict[str, tuple[int | None, ...]]
    noise_shape: tuple[int | None, ...]
    is_discrete: bool = False

    def __post_init__(self) -> None:
        for field, kind, words in (
            ("name", str, "a string"),
            ("config", dict, "an object"),
            ("outputs", dict, "an object"),
            ("is_discrete", bool, "true or false"),
        ):
            if not isinstance(getattr(self, field), kind):
                raise ValueError(f"the {field} of the posterior must be {words}; got {getattr(self, field)!r}")
        outputs = {name: _checked_shape(name, shape) for name, shape in self.outputs.items()}
        object.__setattr__(self, "outputs", outputs)
        object.__setattr__(self, "noise_shape", _checked_shape("noise_shape", self.noise_shape))


@dataclasses.dataclass(frozen=True)
class AnomalyThreshold:
    """The manifest's entry for a threshold that `keras_vae.evaluation.fit_threshold` found, with its values checked.

    It has the fields of `keras_vae.evaluation.Threshold`, but is a class of its own: this package must not need Keras,
    and `keras_vae` must not need this package.

    Args:
        nats: Negative ELBO, nats per example.
        quantile: Fraction of normal data meant to lie at or below it.
        num_samples: Number of samples of z that each score was averaged over; other scores must use the same number.
        seed: Seed for those samples; other scores must use the same seed.
        examples: Number of examples that it was fitted on.
        low: Negative ELBO below which an example is anomalous too, or None.
        usual: -E_q log p(x_d|z) of each dimension d, averaged over normal data, nested lists of the data's shape, or
            None: what is more is a surprise.
    """

    nats: float
    quantile: float
    num_samples: int
    seed: int
    examples: int
    low: float | None = None
    usual: Any = None

    def __post_init__(self) -> None:
        for name, kind, low, high, words in (
            ("nats", int | float, -math.inf, math.inf, "a finite number"),
            ("quantile", int | float, 0, 1, "a number between 0 and 1"),
            ("num_samples", int, 0, math.inf, "a whole number of at least 1"),
            ("seed", int, -1, MAX_SEED, "a whole number from 0 to 2**63 - 1"),
            ("examples", int, 0, math.inf, "a whole number of at least 1"),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not low < value < high:
                raise ValueError(f"the {name} of an anomaly threshold must be {words}; got {value!r}")
        if self.low is not None and not (isinstance(self.low, int | float) and -math.inf < self.low < self.nats):
            raise ValueError(f"the low of an anomaly threshold must be a number below its nats; got {self.low!r}")

    def is_anomaly(self, scores: np.ndarray) -> np.ndarray:
        """Whether negative ELBOs, an array in nats, lie above the threshold, or below `low`; one of NaN does, too."""
        least = -math.inf if self.low is None else self.low
        return ~((scores >= least) & (scores <= self.nats))


@dataclasses.dataclass(frozen=True, repr=False)
class Manifest:
    """What `manifest.json` holds.

    Args:
        graphs: Graphs by name.
        latent_shape: Shape of one z; None is a size that follows from that of x.
        data_shape: Shape of one example of x; names stand for free sizes.
        data_range: `(low, high)` that x must lie in, either may be infinite; or None.
        likelihood: `{"name": "Bernoulli", "config": {...}}`, or None where the decoder came without one.
        posterior: Family of q(z|x). Where it is no diagonal normal, the graph "posterior" makes z of the encoder's
            outputs and noise.
        prior: `{"name": "DiagonalNormal", "config": {"mean": [...], "log_var": [...]}}`, or None; where it has
            another name, the graph "prior" makes z of noise, and of the condition if that is one of its inputs.
            "moments" are the mean and log-variance of that z, where they do not depend on a condition.
        export: Engine, backend, versions and tolerance of the export.
        files: sha256 and number of bytes of every file except the manifest itself, by path inside the bundle.
        anomaly: Threshold of the anomaly score, or None.
        missing: Whether a NaN in x stands for a missing number, which the graphs leave out.
        autoregressive: Whether the decoder follows the steps before: it takes x as far as it is known, with NaN after
            that, and its outputs at step t are of p(x_t | x_1, ..., x_(t-1), z).
        labels: Number of labels, which count from 0, of each input that holds labels, by name.
        latents: `{"mean": [...], "std": [...]}` of the codes of all data, which broadcast with z, or None.
        draws: How x is drawn from p(x|z), see `draws.py`; None where that is not known.
        reference: `{"scores": [...], "codes": {"mean": [...], "std": [...]}, "examples": n}` of data given at export:
            evenly spaced quantiles of their scores, from the least to the greatest, and moments of each channel of z.
            None where no data were given.
        parts: Of a model of named tensors, `{"x": {"image": [28, 28], "label": []}, "condition": {"style": []}}`: the
            shapes of those that x and the condition, which are vectors, are made of, one behind the other. Else None.
        ranges: `data_range` of each of these parts that has one, by name.
        table: Columns of the DataFrame that x is made of, as `keras_vae.tables.Table.get_config` gives them, or None.
    """

    graphs: dict[str, GraphSpec]
    latent_shape: tuple[int | None, ...]
    data_shape: tuple[int | str, ...]
    data_range: tuple[float, float] | None
    likelihood: dict[str, Any] | None
    posterior: PosteriorSpec
    prior: dict[str, Any] | None
    export: dict[str, Any]
    files: dict[str, dict[str, Any]]
    anomaly: AnomalyThreshold | None = None
    missing: bool = False
    autoregressive: bool = False
    labels: dict[str, int] = dataclasses.field(default_factory=dict)
    latents: dict[str, Any] | None = None
    draws: dict[str, Any] | None = None
    reference: dict[str, Any] | None = None
    table: list[dict[str, Any]] | None = None
    parts: dict[str, dict[str, list[int]]] | None = None
    ranges: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data_shape", tuple(self.data_shape))
        object.__setattr__(self, "latent_shape", _checked_shape("latent_shape", self.latent_shape))
        if self.data_range is not None:
            object.__setattr__(self, "data_range", _ends(self.data_range))
        object.__setattr__(self, "ranges", {name: _ends(ends) for name, ends in self.ranges.items()})

    def __repr__(self) -> str:
        """One line, as `export` returns a manifest and a notebook shows it; `to_json` has the whole page."""
        graphs, size = ", ".join(self.graphs), sum(file["bytes"] for file in self.files.values())
        return f"<Manifest: {graphs}; latents {self.latent_shape}, data {self.data_shape}, {size / 1e6:.1f} MB>"

    @property
    def latent_dim(self) -> int | None:
        """Number of elements of one z; None where a size is free."""
        return None if None in self.latent_shape else math.prod(size or 0 for size in self.latent_shape)

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        fields = dataclasses.asdict(self)
        for graph in fields["graphs"].values():
            del graph["name"]  # it is the key
        if self.data_range is not None:
            fields["data_range"] = finite(self.data_range)
        fields["ranges"] = {name: finite(ends) for name, ends in self.ranges.items()}
        return json.dumps({"schema_version": SCHEMA_VERSION, **fields}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = FILE_NAME) -> "Manifest":
        """Reads the text, or the bytes, of a manifest; `where` is what to call it in an error."""
        try:
            fields: dict[str, Any] = json.loads(text)
            version = fields.pop("schema_version")
            if version not in (1, SCHEMA_VERSION):
                raise BundleError(
                    f"{where} has schema version {version!r}; this keras_vae_serving reads versions 1 and "
                    f"{SCHEMA_VERSION}. Update keras-vae, or export the model again."
                )
            graphs = {name: _graph(name, **graph) for name, graph in fields.pop("graphs").items()}
            if version == 1:
                fields |= _latents_of_schema_1(graphs, fields.pop("latent_dim"))
            fields["posterior"] = PosteriorSpec(**fields["posterior"])
            if fields.get("anomaly") is not None:
                fields["anomaly"] = AnomalyThreshold(**fields["anomaly"])
            manifest = cls(graphs=graphs, **fields)
            for path in (*manifest.files, *(graph.file for graph in graphs.values())):
                _inside(path)
            manifest._check_types()
            manifest._check_latents()
        except BundleError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BundleError(f"{where} is not a bundle's manifest ({type(error).__name__}: {error}).") from None
        unlisted = [graph.file for graph in graphs.values() if graph.file not in manifest.files]
        if unlisted:
            raise BundleError(f"{where} gives no hash of {unlisted[0]}: it has been changed. Export the model again.")
        return manifest

    @classmethod
    def load(cls, directory: str | os.PathLike[str], verify: bool = True) -> "Manifest":
        """Reads and, unless told otherwise, verifies the bundle in `directory`.

        Raises:
            BundleError: If there is no manifest, it cannot be read, or a file is missing or changed.
        """
        directory = pathlib.Path(directory)
        path = directory / FILE_NAME
        if not path.is_file():
            raise BundleError(f"{directory} is not a bundle: it has no {FILE_NAME}. Name the folder export() wrote.")
        manifest = cls.from_json(path.read_bytes(), where=str(path))
        if verify:
            manifest.verify(directory)
        return manifest

    def _check_types(self):
        """Raises an error of `from_json` where something that is used later is not what it must be."""
        for entry in self.files.values():
            _ = entry["sha256"] + "", entry["bytes"] + 0
        if self.data_range is not None:
            _ = [float(end) for end in self.data_range]
        _ = [float(end) for ends in self.ranges.values() for end in ends]
        if self.anomaly is not None:
            self._check_anomaly(self.anomaly)
        if self.draws is not None:
            draws.check(self.draws)
        if self.reference is not None:
            self._check_reference(**self.reference)
        if self.table is not None and (Table(self.table).width,) != self.data_shape:
            raise ValueError(f"its table has another number of columns than the data, {self.data_shape[-1]}")
        if self.parts is not None:
            sizes = [math.prod(shape) for shape in self.parts["x"].values()]
            if set(self.parts) != {"x", "condition"} or (sum(sizes),) != self.data_shape:
                raise ValueError(f"its parts are not those of x, of shape {self.data_shape}: {self.parts!r}")
        for name in ("missing", "autoregressive"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false; got {getattr(self, name)!r}")
        if self.autoregressive and "x" not in {tensor.name for tensor in self.graphs["decoder"].inputs}:
            raise ValueError("its decoder has no input x for the steps so far")
        if not all(type(count) is int and count > 0 for count in self.labels.values()):
            raise ValueError(f"labels must be whole numbers by the names of inputs; got {self.labels!r}")
        names = tuple(self.posterior.outputs)
        if "posterior" not in self.graphs and names != NORMAL_OUTPUTS:
            raise ValueError(f"it has no graph that makes z of {', '.join(names)}")
        if self.latents is not None:
            self._check_array("std", self.latents["std"], positive=True)
            self._check_array("mean", self.latents["mean"])
        if self.prior is None:
            return
        name, config = self.prior["name"] + "", self.prior["config"]
        if name == "DiagonalNormal":
            for part in ("mean", "log_var"):
                if np.ndim(config[part]) != len(self.latent_shape):
                    raise ValueError(f"the {part} of the prior is not of one z of shape {self.latent_shape}")
                self._check_array(part, config[part])

    def _check_anomaly(self, anomaly):
        if "elbo" not in self.graphs:
            raise ValueError("it has an anomaly threshold, but no elbo graph to score with")
        if anomaly.usual is not None:
            usual = np.asarray(anomaly.usual, "float64")
            if not shape_matches(usual.shape, self.data_shape) or not np.isfinite(usual).all():
                raise ValueError(f"the usual of its anomaly threshold is not a number for each of {self.data_shape}")

    def _check_reference(self, scores, codes, examples):
        scores = np.asarray(scores, "float64")
        if scores.ndim != 1 or len(scores) < 2 or not np.isfinite(scores).all() or (np.diff(scores) < 0.0).any():
            raise ValueError("the scores of its reference are no quantiles: they must be finite numbers that rise")
        for name in ("mean", "std"):
            self._check_array(name, codes[name], positive=name == "std")
        _ = examples + 0

    def _check_latents(self):
        """Raises a ValueError where what is said of q(z|x) contradicts the graphs."""
        if "encoder" not in self.graphs:
            return
        found = {tensor.name: unnamed(tensor.shape[1:]) for tensor in self.graphs["encoder"].outputs}
        if found != self.posterior.outputs:
            raise ValueError(f"the posterior has the outputs {self.posterior.outputs}, and the encoder {found}")
        z = self.graphs.get("posterior", self.graphs["encoder"]).outputs[0]
        if unnamed(z.shape[1:]) != self.latent_shape:
            raise ValueError(f"latent_shape is {self.latent_shape}, and {z.name} has shape {z.shape_text}")

    def _check_array(self, name, values, positive=False):
        """Raises a ValueError unless a list of numbers is finite and broadcasts with one z."""
        array, shape = np.asarray(values, "float64"), tuple(size or 1 for size in self.latent_shape)
        pairs = zip(array.shape[::-1], shape[::-1], strict=False)
        if array.ndim > len(shape) or not all(size in (1, of_z) for size, of_z in pairs):
            raise ValueError(f"the {name} has shape {array.shape}, and z {self.latent_shape}")
        if not np.isfinite(array).all() or (positive and not (array > 0.0).all()):
            raise ValueError(f"the {name} must hold finite{' numbers above 0' if positive else ' numbers'}")

    def verify(self, directory: str | os.PathLike[str]) -> None:
        """Raises a BundleError that names the first file which is missing, cut short, changed or unknown.

        A folder with nothing but `config.pbtxt` is left alone: it is an ensemble of Triton, which has no file to run.
        """
        for name, expected in self.files.items():
            path = pathlib.Path(directory) / name
            if not path.is_file():
                raise BundleError(f"{path} is missing: copy the whole bundle, or export the model again.")
            size = path.stat().st_size
            if size != expected["bytes"]:
                what = "truncated" if size < expected["bytes"] else "changed"
                raise BundleError(
                    f"{path} is {what}: it has {size:,} bytes, not {expected['bytes']:,}. Copy the bundle again."
                )
            if file_hash(path) != expected["sha256"]:
                raise BundleError(f"{path} has been changed: its sha256 is not the manifest's. Copy the bundle again.")
        folders = {name.partition("/")[0] for name in self.files}
        for path in sorted(pathlib.Path(directory).glob("*/**/*")):
            # Triton serves the highest version it finds: decoder/2/model.onnx would be run in place of the one checked.
            folder, _, rest = path.relative_to(directory).as_posix().partition("/")
            known = f"{folder}/{rest}" in self.files or (rest == "config.pbtxt" and folder not in folders)
            # It follows links, which glob does not: a link inside a graph's folder is refused whatever it leads to.
            if (path.is_file() or path.is_symlink()) and not known and not path.name.startswith("."):
                raise BundleError(f"{path} is not part of the bundle: remove it, or export the model again.")


def finite(ends: tuple[float, float]) -> list[float | None]:
    """A range for JSON, which has no infinity: an open end is null."""
    return [end if math.isfinite(end) else None for end in ends]


def _ends(limits):
    low, high = limits
    return (-math.inf if low is None else low, math.inf if high is None else high)


def noise_input(graph: Any) -> Tensor | None:
    """The input of a graph that N(0, 1) variates go into; None if it takes none.

    It is called "epsilon" in the `elbo` of a diagonal normal, as in schema 1, and "noise" elsewhere. Encoder and
    decoder take none: the names of their inputs are the user's.
    """
    if graph.name.startswith(("encoder", "decoder")):
        return None
    return next((tensor for tensor in graph.inputs if tensor.name in ("epsilon", "noise")), None)


def free_sizes(tensors: tuple[Tensor, ...], arrays: Any) -> dict[str, int]:
    """What the named sizes of tensors, other than the batch, are in arrays by the tensors' names."""
    return {
        name: size
        for tensor in tensors
        if tensor.name in arrays
        for name, size in zip(tensor.shape[1:], arrays[tensor.name].shape[1:], strict=True)
        if isinstance(name, str)
    }


def sized(shape: tuple[int | str, ...], sizes: Mapping[Any, int]) -> tuple[Any, ...]:
    """A shape with numbers in the place of the names of its free sizes."""
    return tuple(sizes.get(size, size) for size in shape)


def shape_matches(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    """Whether an array's shape is the expected one, in which a name stands for any size."""
    return len(shape) == len(expected) and all(
        isinstance(size, str) or size == got for size, got in zip(expected, shape, strict=True)
    )


def file_hash(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _graph(name, *, inputs, outputs, **fields):
    return GraphSpec(
        name=name,
        inputs=tuple(Tensor(**tensor) for tensor in inputs),
        outputs=tuple(Tensor(**tensor) for tensor in outputs),
        **fields,
    )


def unnamed(shape: tuple[int | str | None, ...]) -> tuple[int | None, ...]:
    """A shape with None in the place of the names of its free sizes."""
    return tuple(size if isinstance(size, int) else None for size in shape)


def _latents_of_schema_1(graphs, latent_dim):
    """What schema 2 says of the latents, for a bundle of schema 1: all of those have a diagonal normal."""
    mean = next((graph.outputs[0] for name, graph in graphs.items() if name == "encoder"), None)
    found = None if mean is None else unnamed(mean.shape[1:])
    shape = [latent_dim] if found is None or latent_dim is not None else found
    outputs = dict.fromkeys(NORMAL_OUTPUTS, shape)
    return {
        "latent_shape": shape,
        "posterior": {"name": "Normal", "config": {}, "outputs": outputs, "noise_shape": shape},
    }


def _checked_shape(name, shape):
    """A list of sizes, in which None is free, as a tuple."""
    if not isinstance(shape, list | tuple) or not all(
        size is None or (type(size) is int and size > 0) for size in shape
    ):
        raise ValueError(f"{name} must be a list of sizes, null where one is free; got {shape!r}")
    return tuple(shape)


def _inside(path):
    """Refuses a path that leads out of the bundle."""
    parts = pathlib.PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path:
        raise BundleError(f"the manifest names {path!r}, which is outside the bundle: do not trust this bundle.")
