"""Exports a model to a folder that is complete and verified and describes itself, or raises and leaves no folder."""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import keras
import numpy as np

from keras_vae import VAE, DiagonalNormal, evaluation, likelihoods
from keras_vae_export import archive, converters, graphs, parity, probes, quantization, triton
from keras_vae_export._internals import GraphSpec, atomic_folder, compile_function, first, whole_number
from keras_vae_export.converters import tidy
from keras_vae_export.errors import ConversionError, ParityError, StructureError
from keras_vae_serving import BundleError, Manifest, Pipeline, Session, manifest

TOLERANCE = 1e-4
MAX_BATCH_SIZE = 64
MAX_EXAMPLES = 1000  # of the caller's data, to compare and measure on
RECORDED = "probe.npz"
QUANTILES = 101  # of the scores of the caller's data

# Largest accepted difference between a half-precision model and its float32 export, scaled like `tolerance`. Rounding
# is about 100 times smaller; exceeding this means that the model is broken in float32.
POLICY_TOLERANCES = {"float16": 0.05, "bfloat16": 0.2}

# A protobuf file ends at 2 GiB, and tf2onnx needs ten times the memory of the model.
_TENSORFLOW_LIMIT = 2 * 10**9


def export(
    model: VAE | Sequence[keras.Model],
    directory: str | os.PathLike[str],
    *,
    data: Any = None,
    likelihood: str | likelihoods.Likelihood | None = None,
    threshold: evaluation.Threshold | None = None,
    engine: str = "auto",
    precision: str | Sequence[str] = "float32",
    tolerance: float = TOLERANCE,
    max_elbo_loss: float | None = None,
    max_batch_size: int = MAX_BATCH_SIZE,
    simplify: bool = False,
    overwrite: bool = False,
) -> Manifest:
    """Writes a bundle: encoder, decoder and bound of the model as ONNX files that were run and compared with it.

    The model is exported as it is now: its current weights, likelihood and prior, whatever it was compiled with.
    The folder holds `manifest.json` and, under `NAME/1/model.onnx`, the graphs: all float32 with a free first
    dimension "batch", opset 18, without randomness.

        encoder    x -> z_mean, z_log_var             q(z|x), both (batch, *latent_shape); or what the encoder of
                                                      another posterior returns, by the names of its `outputs`
        posterior  outputs, noise -> z[, codes]       only if q(z|x) is not a diagonal normal: a draw for each example,
                                                      and its whole numbers where the posterior has `codes`
        decoder    z -> x_mean[, x_scale]             mean of p(x|z), its standard deviation where it has one, and
                       [, x_parameters]               what else x is drawn of, such as logits
        elbo       x, epsilon -> reconstruction, kl,  (batch,), nats per example; epsilon ~ N(0, I) is (batch,
                       log_prob_per_dimension         num_samples, *noise_shape), averaged over; called noise if
                                                      q(z|x) is not a diagonal normal; E_q log p(x_d|z) is like x
                       [, x_mean, z, log_weight]      where x may lack values: E[x|observed], and z (batch,
                                                      num_samples, *latent_shape) with their log weights
        prior      noise[, condition] -> z            only if the prior is not a diagonal normal; noise ~ N(0, I) is
                                                      (batch, *noise_shape), that of the prior

    The latents may have free sizes, which follow from those of x: z_1, z_2, ... in the shapes.
    In a conditional model, the graphs whose network takes the condition have another input, `condition`.

    Args:
        model: Built `VAE`, or a pair `(encoder, decoder)` of functional Keras models, which may have several inputs,
            keeps their names, and has no `elbo`.
        directory: Folder to write. It appears complete or not at all.
        data: Held-out examples `(n, ...)`, or a dict of arrays by the encoder's input names. File and model are
            compared on the first 1000 of them, and precisions other than float32 need them. They are not stored, but
            for quantiles of their scores and moments of their codes, by which a server tells drift.
        likelihood: Likelihood whose parameters the decoder of a pair returns; None if it returns the mean.
        threshold: Result of `keras_vae.evaluation.fit_threshold` for a VAE. The manifest keeps it, so that a client
            who scores with the bundle learns which examples are anomalous.
        engine: "tensorflow" (tf2onnx), "torch" (torch.onnx), or "auto": TensorFlow, or torch with a warning if
            TensorFlow's cannot convert the model, or writes files that differ from it, or if it is above 2 GB.
        precision: "float32", or a sequence of "float32", "float16" and "int8". The smaller variants are written beside
            the float32 graphs, as `NAME_float16` and `NAME_int8`.
        tolerance: Largest difference between file and model: absolute up to 1, and relative to the largest value of
            the example above 1. Where the rounding of float32 moves an output further, as it does log(1 - p) of a
            probability near 1, more is allowed (`rounding.py`), and the manifest says how much. A model under a
            half-precision policy is compared in float32; its own outputs may differ from that by `POLICY_TOLERANCES`.
        max_elbo_loss: Number of nats per example of `data` that the bound of a smaller variant may lose; None allows
            0.5 nats, or 0.5% of the nats at stake, mean |reconstruction| + mean KL, if these are more.
        max_batch_size: Largest batch for Triton, in each `config.pbtxt`.
        simplify: Whether to run onnxslim over the graphs.
        overwrite: Whether to replace an existing bundle once the new one is verified.

    Returns:
        The `Manifest` of the bundle, with the largest differences measured.

    Raises:
        ConversionError: If no engine can convert the model; names the layer or operator.
        StructureError: If a file is not valid ONNX or has other inputs or outputs.
        ParityError: If a file does not compute what the model computes.
        AccuracyError: If a smaller variant loses too much.
        FileExistsError: If `directory` exists and may not be replaced.

    Example:

    >>> vae.fit(x)
    >>> keras_vae_export.export(vae, "bundle", data=held_out)
    """
    exported: Any = _checked_model(model, likelihood)
    _check_options(engine, tolerance, max_elbo_loss, max_batch_size)
    anomaly = None if threshold is None else _checked_threshold(threshold, exported)
    precisions = quantization.check_precisions(precision, data, exported)
    functions = graphs.from_model(exported)
    held_out = None if data is None else _checked_data(data, exported, functions)
    with (
        atomic_folder(directory, overwrite, _is_bundle) as folder,
        tempfile.TemporaryDirectory(prefix="keras_vae_export-") as source,
    ):
        archive.save(exported, source)
        policies = archive.policies(exported)

        def attempt(engine):
            converters.run(source, engine, folder)
            return _verified(folder, source, functions, policies, held_out, simplify, tolerance)

        engine, (written, tried) = _with_first_engine(_engines(exported, engine), attempt, source, folder)
        _warn_of_rounding(written.values(), exported.likelihood)
        for name in precisions:
            assert held_out is not None  # `check_precisions` requires data
            written.update(quantization.variants(folder, written, name, held_out, max_elbo_loss))
        probes.save(folder / RECORDED, tried)
        for entry in written.values():
            (folder / entry.name / "config.pbtxt").write_text(triton.config(entry, max_batch_size))
        described = _describe(exported, functions, written, anomaly, engine, policies, folder)
        if held_out is not None and "elbo" in written:
            described = dataclasses.replace(described, reference=_reference(described, folder, held_out))
        (folder / manifest.FILE_NAME).write_text(described.to_json(), encoding="utf-8")
    return described


def check(
    directory: str | os.PathLike[str], providers: str | Sequence[Any] = "cpu", tolerance: float | None = None
) -> dict[str, dict[str, float]]:
    """Verifies a bundle again, on any machine: hashes, structure, and the outputs for the inputs recorded in it.

    Args:
        directory: Folder of the bundle.
        providers: Providers that run the graphs: "cpu", "cuda", ...
        tolerance: Largest difference, with nothing more for rounding; None compares as `export` did. Smaller variants
            are run but not compared: their differences are in the manifest.

    Returns:
        The largest absolute difference of each output, by the graph's name and the output's.

    Raises:
        BundleError, StructureError, ParityError: If something is wrong; says what, and in which file.
    """
    if tolerance is not None:
        _positive("tolerance", tolerance)
    directory = pathlib.Path(directory)
    described = Manifest.load(directory)
    if RECORDED not in described.files:
        raise BundleError(f"{directory} has no {RECORDED}, so its graphs cannot be compared: export the model again.")
    recorded = probes.load(directory / RECORDED)
    found = {}
    for graph in described.graphs.values():
        allowed = math.inf  # the differences of a smaller variant are in the manifest
        if graph.precision == "float32":
            tidy.check(directory / graph.file, graph)
            allowed = graph.parity["tolerance"] if tolerance is None else tolerance
        probe = recorded[graph.name.removesuffix(f"_{graph.precision}")]
        measured = parity.measure(directory, graph, [probe], allowed, providers, rounded=tolerance is None)
        found[graph.name] = measured["max_abs_diff"]
    return found


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


def _checked_threshold(threshold, model):
    """The entry of the manifest for a threshold."""
    if not isinstance(threshold, evaluation.Threshold):
        raise TypeError(
            f"threshold must be what keras_vae.evaluation.fit_threshold returns; got {threshold!r}, which does not say "
            "how many samples of z it was fitted with."
        )
    if not isinstance(model, VAE):
        raise ValueError("threshold is for a VAE: a pair (encoder, decoder) has no elbo graph, and so no scores.")
    fields: dict[str, Any] = {
        field.name: getattr(threshold, field.name, None) for field in dataclasses.fields(manifest.AnomalyThreshold)
    }
    if fields["usual"] is not None:
        fields["usual"] = _in_digits(fields["usual"])
    return manifest.AnomalyThreshold(**fields)


def _check_options(engine, tolerance, max_elbo_loss, max_batch_size):
    if engine not in ("auto", *converters.ENGINES):
        raise ValueError(f'engine must be "auto", "tensorflow" or "torch"; got {engine!r}.')
    _positive("tolerance", tolerance)
    if max_elbo_loss is not None:
        _positive("max_elbo_loss", max_elbo_loss)
    whole_number("max_batch_size", max_batch_size)


def _positive(name, value):
    if not isinstance(value, Real) or not 0.0 < float(value) < math.inf:
        raise ValueError(f"{name} must be a positive number; got {value!r}.")


def _checked_data(data, model, functions):
    """The first examples as NumPy arrays, by the names of the inputs of the graph that takes all of them."""
    graph = next((graph for graph in functions if graph.name == "elbo"), functions[0])  # the elbo takes all inputs
    expected = [tensor for tensor in graph.inputs if tensor is not manifest.noise_input(graph)]
    names = [tensor.name for tensor in expected]
    data = first(data, MAX_EXAMPLES)
    if getattr(model, "likelihood", None) is not None and model.likelihood.part_names:
        data = dict(zip(names, model._vectors(data), strict=True))
    data = data if isinstance(data, dict) else {names[0]: data}
    if set(data) != set(names):
        raise ValueError(f"data must be a dict of arrays by the names {names}; got {sorted(data)}.")
    arrays = {}
    for tensor in expected:
        array = np.asarray(keras.ops.convert_to_numpy(data[tensor.name]))
        if isinstance(model, VAE) and len(array) and tensor.name == "x":
            model._validate(array, "data")
        arrays[tensor.name] = array.astype(tensor.dtype, copy=False)
        tensor.check(arrays[tensor.name])
        if len(array) == 0:
            raise ValueError(f"data holds no examples: {tensor.name} has shape {array.shape}.")
    return arrays


def _is_bundle(folder):
    """Whether a folder is a bundle, which another bundle may replace."""
    try:
        Manifest.load(folder, verify=False)
    except BundleError:
        return False
    return True


def _verified(folder, source, functions, policies, held_out, simplify, tolerance):
    """The float32 files as the manifest describes them, and the inputs on which they were compared with the model."""
    tried = probes.make_probes(graphs.from_model(archive.load(source)) if policies else functions, held_out)
    written = {}
    for graph in functions:
        path = folder / _file(graph.name)
        if simplify:
            quantization.simplify(path)
            tidy.tidy(path, graph)
        tidy.check(path, graph)
        entry = GraphSpec(graph.name, _file(graph.name), "float32", graph.inputs, graph.outputs, {})
        try:
            entry.parity.update(parity.measure(folder, entry, tried[graph.name], tolerance))
            if policies:
                entry.parity.update(_rounding(graph, tried[graph.name], policies))
        except ParityError:
            _blame_the_model(graphs.from_model(archive.load(source)), functions, tried)
            raise
        written[graph.name] = entry
    return written, tried


def _engines(model, requested):
    """The engines to try, in this order.

    TensorFlow's comes first whichever backend the model is from: its files are smaller, and so the same for all.
    """
    size = archive.weight_bytes(model)
    if requested == "auto" and size > _TENSORFLOW_LIMIT:
        warnings.warn(
            f"The weights are {size / 1e9:.1f} GB, too much for TensorFlow's converter: exporting with PyTorch's.",
            stacklevel=3,
        )
        requested = "torch"
    first = "tensorflow" if requested == "auto" else requested
    missing = _missing_package(first)
    if missing is not None:
        package, extra = missing
        raise ModuleNotFoundError(
            f'The {first} engine of export needs {package}: pip install "keras-vae[{extra}]".', name=package
        )
    return ["tensorflow", "torch"] if requested == "auto" and _missing_package("torch") is None else [first]


def _missing_package(engine):
    """The first package that an engine lacks, and the extra that installs it; None if it lacks none."""
    return next(
        (item for item in converters.ENGINES[engine].items() if importlib.util.find_spec(item[0]) is None), None
    )


def _with_first_engine(engines, attempt, source, folder):
    """Name and files of the first engine that converts the model to files that compute the same.

    If none does, the error is that of the engine whose backend the model is known to run on, or else of the first.
    """
    refusals = {}
    for engine in engines:
        for remains in folder.iterdir():
            shutil.rmtree(remains)
        try:
            found = attempt(engine)
        except (ConversionError, StructureError, ParityError) as error:
            if _is_hopeless(error, source):
                raise
            refusals[engine] = error
            continue
        if refusals:
            first, error = next(iter(refusals.items()))
            warnings.warn(
                f"The {engine} engine wrote the files, because the {first} engine could not: {error}", stacklevel=3
            )
        return engine, found
    error = refusals.get(keras.backend.backend(), next(iter(refusals.values())))
    if len(engines) == 1:
        error.args = (f"{error} {_advice(engines[0])}", *error.args[1:])
    raise error


def _is_hopeless(error, source):
    """Whether no other engine can do better: the fault is in the model, or it cannot be loaded where it comes from."""
    if isinstance(error, converters.RandomnessError | _FaultOfModel):
        return True
    if isinstance(error, converters.LoadError):
        try:
            archive.load(source)
        except Exception:  # as in the engine: the user's code may raise anything
            return True
    return False


def _advice(engine):
    """What may help when one engine cannot convert a model and no other was tried."""
    other = "torch" if engine == "tensorflow" else "tensorflow"
    missing = _missing_package(other)
    if missing is None:
        return f'Or try engine="{other}".'
    return f'Or try the {other} engine, which needs {missing[0]}: pip install "keras-vae[{missing[1]}]".'


class _FaultOfModel(ParityError):
    """A model that no engine can convert."""


def _rounding(graph, tried, policies):
    """Measures the difference between the model under its half-precision policy and in float32, as the files are."""
    allowed = max(POLICY_TOLERANCES[name.removeprefix("mixed_")] for name in policies)
    run = compile_function(graph.network, graph.function)
    largest = {tensor.name: 0.0 for tensor in graph.outputs if tensor.name not in graph.exponentials}
    for probe in tried:
        if probe.kind == "extreme":
            continue  # half precision overflows there
        found = probes.run_model(graph, run, probe.kind, probe.inputs).outputs
        outputs = {name: values for name, values in probe.outputs.items() if name not in graph.exponentials}
        exact = probes.Probe(probe.kind, probe.inputs, outputs)
        for name, (_, scaled) in parity.compare(graph.name, exact, found, allowed, "half-precision model").items():
            largest[name] = max(largest[name], scaled)
    return {"rounding_of_policy": largest, "tolerance_of_policy": allowed}


def _warn_of_rounding(entries, likelihood):
    """Warns where the user's own data, or ordinary inputs, meet outputs that float32 hardly determines."""
    found = [
        f"{name} of {entry.name} to {moved:.1g}"
        for entry in entries
        for kind, by_output in entry.parity.get("rounding", {}).items()
        for name, moved in by_output.items()
        if kind != "extreme" and moved > entry.parity["tolerance"]
    ]
    if found:
        advice = " A decoder that returns logits, with from_logits=True, loses nothing."
        warnings.warn(
            f"float32 determines {', '.join(dict.fromkeys(found))} only: file and model may differ by as much."
            f"{'' if getattr(likelihood, 'from_logits', True) else advice}",
            stacklevel=3,
        )


def _blame_the_model(loaded, functions, tried):
    """Raises a ParityError that says so if the fault is in the model, before any engine.

    An example may depend on its batch, or the model may change when Keras saves and loads it.
    """
    for copy, graph in zip(loaded, functions, strict=True):
        probe = tried[graph.name][0]
        run, of_copy = (compile_function(each.network, each.function) for each in (graph, copy))
        expected = probes.run_model(graph, run, probe.kind, probe.inputs)
        few = expected.head(2)
        for what, part, found, where, advice in (
            (
                "The model's outputs for an example depend on the batch that it is in",
                few,
                probes.run_model(graph, run, probe.kind, few.inputs),
                f"model at batch {len(few)}, taken from batch {len(probe)}",
                "Look for a size of, or a mean over, the first axis in the call of a layer.",
            ),
            (
                "The model changes when Keras saves and loads it",
                expected,
                probes.run_model(copy, of_copy, probe.kind, probe.inputs),
                "loaded model",
                "The get_config() of a custom layer most likely leaves out an argument of its __init__.",
            ),
        ):
            try:
                parity.compare(graph.name, part, found.outputs, max(POLICY_TOLERANCES.values()), where)
            except ParityError as error:
                raise _FaultOfModel(
                    f"{what}: {error} {advice}", error.graph, error.tensor, error.index, error.expected, error.found
                ) from None


def _codes_of_parts(likelihood):
    """Number of classes of each named part that is a code."""
    parts = zip(likelihood.part_names, likelihood.parts, strict=True) if getattr(likelihood, "part_names", ()) else ()
    return {name: part.num_classes for name, part in parts if getattr(part, "num_classes", None)}


def _ranges_of_parts(likelihood):
    """Range of each named part that has one, other than of codes."""
    parts = zip(likelihood.part_names, likelihood.parts, strict=True) if getattr(likelihood, "part_names", ()) else ()
    return {name: part.data_range for name, part in parts if part.data_range and not getattr(part, "num_classes", None)}


def _parts(model):
    """Shapes of the named tensors that x and the condition are made of; None where they are one."""
    fields = getattr(model, "_fields", None)
    if fields is None:
        return None
    named = {"x": fields.parts, "condition": fields.given}
    return {vector: {name: list(shape) for name, shape in shapes.items()} for vector, shapes in named.items()}


def _describe(model, functions, written, anomaly, engine, policies, folder):
    likelihood = model.likelihood
    x_mean = next(graph.outputs[0] for graph in functions if graph.name == "decoder")
    statistics, table = getattr(model, "latent_statistics", None), getattr(likelihood, "table", None)
    packages = ("keras-vae", "keras", keras.backend.backend(), "onnx", "onnxruntime", *converters.ENGINES[engine])
    return Manifest(
        graphs=written,
        latent_shape=graphs.latent_shape(functions),
        data_shape=x_mean.shape[1:],
        data_range=getattr(likelihood, "data_range", None),
        likelihood=None if likelihood is None else _named(likelihood),
        posterior=graphs.describe_posterior(model, functions),
        prior=_named_prior(model) if isinstance(model, VAE) else None,
        export={
            "engine": engine,
            "backend": keras.backend.backend(),
            "policies": policies,
            "versions": {name: _version(name) for name in dict.fromkeys(packages)},
        },
        files={
            path.relative_to(folder).as_posix(): {"sha256": manifest.file_hash(path), "bytes": path.stat().st_size}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
        anomaly=anomaly,
        missing=isinstance(model, VAE) and model.allow_missing,
        autoregressive=isinstance(model, VAE) and model.is_autoregressive,
        labels=_codes_of_parts(likelihood) | {n: count for graph in functions for n, count in graph.labels.items()},
        latents=None if statistics is None else statistics.get_config(),
        draws=None if likelihood is None else likelihood.drawn_as(),
        table=table if table is None else table.get_config(),
        parts=_parts(model),
        ranges=_ranges_of_parts(likelihood),
    )


def _reference(described, folder, held_out):
    """Quantiles of the scores of data and moments of their codes, as the written files give them."""
    of_verbs = {name: graph for name, graph in described.graphs.items() if graph.precision == "float32"}
    sessions = {name: Session(folder, graph, providers="cpu") for name, graph in of_verbs.items()}
    pipeline = Pipeline(described, sessions)
    scores, z = (found.astype("float64") for found in (pipeline.score(held_out), pipeline.encode(held_out).location))
    z = z.reshape(-1, z.shape[-1])
    codes = {"mean": _in_digits(z.mean(axis=0)), "std": _in_digits(np.maximum(z.std(axis=0), 1e-6))}
    quantiles = np.quantile(scores, np.linspace(0.0, 1.0, QUANTILES))
    return {"scores": _in_digits(quantiles), "codes": codes, "examples": len(scores)}


def _in_digits(values):
    """Nested lists of numbers, in as many digits as float32 has."""
    return np.vectorize(lambda value: float(f"{value:.7g}"))(values).tolist()


def _named_prior(vae):
    """A diagonal normal by its numbers; any other prior by its name and its moments, as its graph has the numbers."""
    if vae.has_conditional_prior:
        return _named(vae.prior)
    prior = vae.numpy_prior()
    if isinstance(prior, DiagonalNormal):
        return _named(_without_repeats(prior))
    if None in vae.latent_shape:  # the moments are those of draws, whose size is not known
        return _named(vae.prior)
    return {**_named(vae.prior), "moments": prior.moment_matched().get_config()}


def _without_repeats(normal):
    """The same normal with a size of 1 where it repeats along an axis of places: (8, 8, 4) zeros are (1, 1, 4)."""
    parts = np.stack([normal.mean, normal.log_var])
    for axis in range(1, parts.ndim - 1):
        first = parts.take([0], axis)
        parts = first if (parts == first).all() else parts
    return DiagonalNormal(parts[0], parts[1], normal.event_ndim)


def _named(thing):
    return {"name": type(thing).__name__, "config": thing.get_config()}


def _version(name):
    """The version of a package, whose name may end in -cpu or -gpu; None if it is not installed."""
    for suffix in ("", "-gpu", "-cpu"):
        try:
            return importlib.metadata.version(name + suffix)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _file(name):
    return f"{name}/1/model.onnx"
