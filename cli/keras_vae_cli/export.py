"""`keras-vae export`: a verified bundle of ONNX files, or the check of one."""

import argparse
import importlib
import math
import time
import warnings
from types import ModuleType
from typing import Any

import keras

from keras_vae import VAE, evaluation
from keras_vae_cli import runs
from keras_vae_cli.commands import sentence
from keras_vae_cli.quiet import without_native_log


def run(given: argparse.Namespace) -> None:
    """Writes a trained model as a bundle of ONNX files that were run and compared with it, or checks a bundle."""
    if given.check:
        if given.bundle is not None:
            raise ValueError("--check takes one folder, the bundle.")
        differences = load_exporter().check(given.model, given.providers or "cpu", given.tolerance)
        print(f"{given.model} is whole and runs on {given.providers or 'cpu'}. {_differences(differences)}")
        return
    if given.providers is not None:
        raise ValueError("--providers says where --check runs a bundle; an export is always compared on the CPU.")
    if given.bundle is None:
        raise ValueError("name a model and the folder to write: keras-vae export MODEL BUNDLE")
    runs.check_output(given.bundle, given.overwrite, is_folder=True)
    with without_native_log():
        keras.utils.set_random_seed(given.seed)  # which imports TensorFlow, as saving a model would on every backend
    exporter, vae = load_exporter(), runs.load_model(given.model, given.modules)
    data, threshold, note = _held_out(given, vae), None, None
    if given.threshold is not None:
        if data is None:
            raise ValueError("--threshold is fitted on held-out data, of which there are none: name some with --data.")
        threshold = evaluation.fit_threshold(vae, data, given.threshold, seed=given.seed)
        note = runs.far_tail(vae, data, threshold)
    names = ("engine", "precision", "max_elbo_loss", "max_batch_size", "simplify", "overwrite")
    settings = {name: getattr(given, name) for name in names}
    if given.tolerance is not None:
        settings["tolerance"] = given.tolerance
    write(exporter, vae, given.bundle, data=data, threshold=threshold, **settings)
    if threshold is not None:
        rows = runs.rows_or_examples(vae)
        print(
            f"Threshold {threshold.nats:.3f} nats, the {threshold.quantile:g} quantile of {threshold.examples:,} "
            f"held-out {rows}: {1 - threshold.quantile:.2%} of {rows} like the held-out ones, give or take "
            f"{threshold.standard_error:.2%}, will be called anomalous."
        )
    if note is not None:
        print(note)


def load_exporter() -> ModuleType:
    """The package `keras_vae_export`, imported only here: what it needs may be missing, and it then says so."""
    return importlib.import_module("keras_vae_export")


def write(exporter: ModuleType, vae: VAE, output: str, **settings: Any) -> None:
    """Exports a model and prints what was written and how it compares with the model."""
    started = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manifest = exporter.export(vae, output, **settings)
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            print(f"Note: {warning.message}")
    print(f"Wrote {', '.join(manifest.graphs)} as ONNX to {output}, verified, in {time.monotonic() - started:.0f} s.")
    sizes = (f"{name} {_size(manifest.files[graph.file]['bytes'])}" for name, graph in manifest.graphs.items())
    print(f"Sizes: {', '.join(sizes)}. manifest.json in the folder describes them.")
    exact = {name: graph.parity for name, graph in manifest.graphs.items() if graph.precision == "float32"}
    batches = ", ".join(str(batch) for batch in exact["encoder"]["batches"])
    print(
        f"{_differences({name: parity['max_abs_diff'] for name, parity in exact.items()})}, at batch {batches} on "
        f"{', '.join(exact['encoder']['inputs'])} inputs."
    )
    for graph in manifest.graphs.values():
        if graph.name == f"elbo_{graph.precision}":
            print(f"{graph.precision} changes the bound by {graph.parity['elbo_change']:+.4f} nats per example.")


def _held_out(given, vae):
    """The data that were named, or those the model was trained on; None if they are gone, as export can do without."""
    try:
        data = runs.load_data(given, vae)
    except (ValueError, OSError) as error:
        if given.data is not None:
            raise
        print(f"Note: not compared on the data it was trained on: {sentence(error)}")
        return None
    return data and data.test


def _size(count):
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{math.ceil(count / 1e3)} kB"


def _differences(by_graph):
    figures = ", ".join(f"{name} {max(outputs.values()):.1e}" for name, outputs in by_graph.items())
    return f"Largest difference from the model: {figures}"
