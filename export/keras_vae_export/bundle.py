"""From a model to a folder that is whole, verified and self-describing, or to an error and no folder."""

import importlib.metadata
import importlib.util
import math
import pathlib
import tempfile
import warnings
from numbers import Real

import keras
import numpy as np

from keras_vae import VAE, _checks, _files
from keras_vae_export import archive, converters, graphs, parity, quantization
from keras_vae_export.converters import tidy
from keras_vae_serving import Manifest, manifest

TOLERANCE = 1e-4
MAX_BATCH_SIZE = 64
MAX_ELBO_LOSS = 0.5
PROBE = "probe.npz"

# A file of protobuf ends at 2 GiB, and tf2onnx needs ten times a model's memory long before that.
_TENSORFLOW_LIMIT = 2 * 10**9


def export(
    model,
    directory,
    *,
    data=None,
    likelihood=None,
    engine="auto",
    precision="float32",
    tolerance=TOLERANCE,
    max_elbo_loss=MAX_ELBO_LOSS,
    max_batch_size=MAX_BATCH_SIZE,
    simplify=False,
    overwrite=False,
):
    """Writes a bundle: the model's encoder, decoder and bound as ONNX files that have been run and compared with it.

    The folder holds `manifest.json` and, under `NAME/1/model.onnx`, the graphs: all float32 with a free first
    dimension "batch", opset 18, without randomness.

        encoder   x -> z_mean, z_log_var             q(z|x), both (batch, latent_dim)
        decoder   z -> x_mean[, x_scale]             mean of p(x|z), and its standard deviation where it has one
        elbo      x, epsilon -> reconstruction, kl   (batch,), nats per example; epsilon ~ N(0, I) is
                                                     (batch, num_samples, latent_dim), averaged over

    Args:
        model: A built `VAE`; or a pair `(encoder, decoder)` of functional Keras models, which may have several inputs
            (their names are kept) and give no `elbo`.
        directory: The folder to write. It appears whole or not at all.
        data: Held-out examples `(n, ...)`, or a dict of arrays by the encoder's input names: compared on too, and
            needed for other precisions than float32.
        likelihood: Of a pair: whose parameters the decoder gives. None: the decoder gives the mean.
        engine: "tensorflow" (tf2onnx), "torch" (torch.onnx), or "auto": TensorFlow, unless the model cannot be loaded
            there or is above 2 GB, which is said.
        precision: "float32", or a sequence of it, "float16" and "int8": smaller variants, written beside the float32
            graphs as `NAME_float16` and `NAME_int8`.
        tolerance: Largest difference between file and model: absolute up to 1, and relative to the largest value of
            the example beyond.
        max_elbo_loss: Nats per example of `data` that a smaller variant may lose of the bound.
        max_batch_size: For Triton, in each `config.pbtxt`.
        simplify: Whether to run onnxslim over the graphs.
        overwrite: Whether an existing bundle is replaced, once the new one is verified.

    Returns:
        The bundle's `Manifest`, with the largest differences measured.

    Raises:
        ConversionError: If an engine cannot convert the model: names the layer or operator.
        StructureError: If a file is not valid ONNX or has other inputs or outputs.
        ParityError: If a file does not compute what the model computes.
        AccuracyError: If a smaller variant loses too much.
        FileExistsError: If `directory` exists and may not be replaced.

    Example:

    >>> vae.fit(x)
    >>> keras_vae_export.export(vae, "bundle", data=held_out)
    """
    model = _checked_model(model, likelihood)
    _check_options(engine, tolerance, max_elbo_loss, max_batch_size)
    precisions = quantization.check_precisions(precision, data, model)
    functions = graphs.of(model)
    held_out = None if data is None else _checked_data(data, functions[0])
    data_range = getattr(model.likelihood, "data_range", None)
    with (
        _files.atomic_folder(directory, overwrite, marker=manifest.FILE_NAME) as folder,
        tempfile.TemporaryDirectory(prefix="keras_vae_export-") as source,
    ):
        archive.save(model, source)
        engine = _convert(model, source, engine, folder)
        half = archive.policies(model)
        reference = graphs.of(archive.load(source)) if half else functions
        probes = parity.probes(reference, data_range, held_out)
        written = {}
        for graph in functions:
            path = folder / _file(graph.name)
            if simplify:
                quantization.simplify(path)
                tidy.tidy(path, graph)
            tidy.check(path, graph)
            entry = manifest.Graph(graph.name, _file(graph.name), "float32", graph.inputs, graph.outputs, {})
            entry.parity.update(parity.measure(folder, entry, probes[graph.name], tolerance))
            if half:
                entry.parity["rounding_of_policy"] = _rounding(graph, probes[graph.name])
            written[graph.name] = entry
        for name in precisions:
            written.update(quantization.variants(folder, written, name, held_out, max_elbo_loss))
        _write_probe(folder / PROBE, probes)
        for entry in written.values():
            (folder / entry.name / "config.pbtxt").write_text(triton_config(entry, max_batch_size))
        described = _describe(model, functions, written, engine, half, folder)
        (folder / manifest.FILE_NAME).write_text(described.to_json(), encoding="utf-8")
    return described


def check(directory, providers="cpu", tolerance=None):
    """Verifies a bundle anew, anywhere: hashes, structure, and the numbers of a few examples that travel with it.

    Args:
        directory: The bundle.
        providers: Where to run the graphs: "cpu", "cuda", ...
        tolerance: As in `export`; None takes the one that the bundle was exported with. The smaller variants are run
            but not compared: their differences are in the manifest.

    Returns:
        The largest absolute difference of each graph's outputs, by the graph's name.

    Raises:
        BundleError, StructureError, ParityError: What is wrong, and in which file.
    """
    directory = pathlib.Path(directory)
    described = Manifest.load(directory)
    with np.load(directory / PROBE) as arrays:
        probes = _read_probe(arrays)
    found = {}
    for graph in described.graphs.values():
        full = graph.precision == "float32"
        if full:
            tidy.check(directory / graph.file, graph)
        allowed = (tolerance or graph.parity["tolerance"]) if full else math.inf
        batches = [batch for batch in parity.BATCHES if batch <= _PROBE_ROWS]
        recorded = probes[graph.name.removesuffix(f"_{graph.precision}")]
        found[graph.name] = parity.measure(directory, graph, recorded, allowed, batches, providers)["max_abs_diff"]
    return found


def triton_config(graph, max_batch_size):
    """The text of Triton's config.pbtxt for a graph of the manifest."""
    # A tensor of shape (batch,) has no dimensions left for Triton, which wants one: 1, reshaped away.
    lines = [f'name: "{graph.name}"', 'backend: "onnxruntime"', f"max_batch_size: {max_batch_size}"]
    for what, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in tensors:
            dims = [size if isinstance(size, int) else -1 for size in tensor.shape[1:]]
            reshape = "" if dims else " reshape { shape: [ ] }"
            dtype = _TRITON_DTYPES[tensor.dtype]
            lines.append(f'{what} [ {{ name: "{tensor.name}" data_type: {dtype} dims: {dims or [1]}{reshape} }} ]')
    # No waiting for more requests: whatever queued while a batch ran forms the next.
    lines += ["dynamic_batching { }", "instance_group [ { count: 1 kind: KIND_AUTO } ]"]
    return "\n".join(lines) + "\n"


_TRITON_DTYPES = {
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "bool": "TYPE_BOOL",
}

_PROBE_ROWS = 7


def _checked_model(model, likelihood):
    if isinstance(model, VAE):
        if likelihood is not None:
            raise ValueError("likelihood is for a pair (encoder, decoder); a VAE has its own.")
        if not model.built:
            raise ValueError("The model is not built yet: call it on data, or fit it, before export().")
        return model
    if isinstance(model, list | tuple) and len(model) == 2 and all(isinstance(m, keras.Model) for m in model):
        return graphs.Pair(*model, likelihood=likelihood)
    raise TypeError(
        f"export() takes a keras_vae.VAE or a pair (encoder, decoder) of Keras models; got a {type(model).__name__}."
    )


def _check_options(engine, tolerance, max_elbo_loss, max_batch_size):
    if engine not in ("auto", *converters.ENGINES):
        raise ValueError(f'engine must be "auto", "tensorflow" or "torch"; got {engine!r}.')
    for name, value in (("tolerance", tolerance), ("max_elbo_loss", max_elbo_loss)):
        if not isinstance(value, Real) or not 0.0 < float(value) < math.inf:
            raise ValueError(f"{name} must be a positive number; got {value!r}.")
    _checks.whole_number("max_batch_size", max_batch_size)


def _checked_data(data, encoder):
    names = [tensor.name for tensor in encoder.inputs]
    data = data if isinstance(data, dict) else {names[0]: data}
    if set(data) != set(names):
        raise ValueError(f"data must have the encoder's inputs {names}; got {sorted(data)}.")
    arrays = {}
    for tensor in encoder.inputs:
        array = np.asarray(keras.ops.convert_to_numpy(data[tensor.name]))
        arrays[tensor.name] = array.astype(tensor.dtype, copy=False)
        tensor.check(arrays[tensor.name])
        if len(array) == 0:
            raise ValueError(f"data holds no examples: {tensor.name} has shape {array.shape}.")
    return arrays


def _convert(model, source, engine, folder):
    """Converts with the engine asked for, or with the one that can; returns its name."""
    if engine != "auto":
        _require(engine)
        converters.run(source, engine, folder)
        return engine
    size = archive.weight_bytes(model)
    if size > _TENSORFLOW_LIMIT:
        warnings.warn(
            f"The weights are {size / 1e9:.1f} GB, too much for TensorFlow's converter: exporting with PyTorch's.",
            stacklevel=3,
        )
        return _convert(model, source, "torch", folder)
    _require("tensorflow")
    try:
        converters.run(source, "tensorflow", folder)
    except converters.LoadError as error:
        if importlib.util.find_spec("torch") is None:
            raise
        warnings.warn(f"{error} Exporting with PyTorch instead.", stacklevel=3)
        return _convert(model, source, "torch", folder)
    return "tensorflow"


def _require(engine):
    for package, extra in converters.ENGINES[engine].items():
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f'The {engine} engine of export needs {package}: pip install "keras-vae[{extra}]".', name=package
            )


def _rounding(graph, probes):
    """How far the model under its half-precision policy is from its float32 self, which the files compute."""
    largest = {tensor.name: 0.0 for tensor in graph.outputs}
    for probe in probes:
        if probe.kind == "extreme":
            continue  # half precision overflows there
        values = graph.function(*(keras.ops.convert_to_tensor(probe.inputs[t.name]) for t in graph.inputs))
        for name in largest:
            found = np.asarray(keras.ops.convert_to_numpy(values[name]))
            largest[name] = max(largest[name], float(np.nanmax(np.abs(found - probe.outputs[name]))))
    return largest


def _describe(model, functions, written, engine, half, folder):
    latent = functions[1].inputs[0].shape
    prior = getattr(model, "prior", None)
    packages = ("keras-vae", "keras", keras.backend.backend(), "onnx", "onnxruntime", *converters.ENGINES[engine])
    return Manifest(
        graphs=written,
        latent_dim=latent[1] if len(latent) == 2 else None,
        data_shape=functions[1].outputs[0].shape[1:],
        data_range=getattr(model.likelihood, "data_range", None),
        likelihood=None if model.likelihood is None else _named(model.likelihood, model.likelihood.get_config()),
        prior=None if prior is None else _named(prior, prior.get_config()),
        export={
            "engine": engine,
            "backend": keras.backend.backend(),
            "policies": half,
            "versions": {name: _version(name) for name in dict.fromkeys(packages)},
        },
        files={
            path.relative_to(folder).as_posix(): {"sha256": manifest.file_hash(path), "bytes": path.stat().st_size}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    )


def _named(thing, config):
    return {"name": type(thing).__name__, **config}


def _version(name):
    """The version of a distribution, whose name may end in -cpu or -gpu; None if pip does not know it."""
    for suffix in ("", "-gpu", "-cpu"):
        try:
            return importlib.metadata.version(name + suffix)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _write_probe(path, probes):
    arrays = {}
    for name, of_graph in probes.items():
        probe = of_graph[-1] if of_graph[-1].kind == "held-out" else of_graph[0]
        part = probe.head(_PROBE_ROWS)
        arrays |= {f"{name}/inputs/{key}": value for key, value in part.inputs.items()}
        arrays |= {f"{name}/outputs/{key}": value for key, value in part.outputs.items()}
    np.savez(path, **arrays)


def _read_probe(arrays):
    found = {}
    for key in arrays.files:
        graph, kind, name = key.split("/", 2)
        found.setdefault(graph, {"inputs": {}, "outputs": {}})[kind][name] = arrays[key]
    return {graph: [parity.Probe("recorded", **parts)] for graph, parts in found.items()}


def _file(name):
    return f"{name}/1/model.onnx"
