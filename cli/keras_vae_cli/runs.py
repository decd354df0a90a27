"""What a run leaves in its folder: the model, and the settings and data it was trained with."""

import argparse
import importlib.util
import json
import os
import pathlib
import sys
from collections.abc import Sequence

import keras
import numpy as np

from keras_vae import VAE, _tables, callbacks, datasets, evaluation, likelihoods, tables
from keras_vae_cli.commands import sentence

FAR = 10  # interquartile ranges: the 0.99 quantile of a normal distribution lies 1.2 of them above the upper quartile


def check_output(path: str | os.PathLike[str], overwrite: bool, is_folder: bool = False) -> None:
    """Raises a ValueError if the output of a verb is there already and may not be replaced."""
    path = pathlib.Path(path)
    if (path.exists() if is_folder else path.is_file()) and not overwrite:
        raise ValueError(f"{path} exists already: choose another output, or replace it with --overwrite.")


def load_model(path: str, modules: Sequence[str] = ()) -> VAE:
    """The model in a `.keras` file or in the folder of a run.

    Args:
        path: The file or the folder.
        modules: Names of modules, or paths of .py files, to import before: they register the model's custom classes.
    """
    for name in modules:
        _import(name)
    file = _model_file(path)
    if not file.is_file() or file.suffix != ".keras":
        raise ValueError(f"There is no model {file}: name a .keras file, or the output folder of quickstart or train.")
    try:
        model = keras.saving.load_model(file)
    except (ValueError, TypeError, KeyError, OSError) as error:
        cause = ValueError(str(error).rpartition("Exception encountered: ")[2])  # which Keras prints last
        advice = " Name the module that registers it with --import." if "Could not locate" in str(cause) else ""
        raise ValueError(f"{file} cannot be loaded as a Keras model: {sentence(cause)}{advice}") from None
    if not isinstance(model, VAE):
        raise ValueError(f"{file} holds a {type(model).__name__}, not a keras_vae.VAE.")
    return model


def _import(name):
    """Imports a module of the user's, by its name, seen from the current folder, or by the path of its file."""
    try:
        if name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(pathlib.Path(name).stem, name)
            assert spec is not None  # as its name ends in .py
            assert spec.loader is not None
            present = sys.modules.get(spec.name)
            if present is not None and getattr(present, "__file__", None) != spec.origin:
                raise ImportError(f"there is another module {spec.name!r} already: give the file another name")
            sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            sys.path.append(os.getcwd())
            importlib.import_module(name)
    except Exception as error:  # the user's module may raise anything
        raise ValueError(f"--import {name}: {type(error).__name__}: {error}") from None


def load_data(given: argparse.Namespace, vae: VAE) -> datasets.Data | None:
    """The data that were named, or those that the model was trained on, in the form in which it was trained on them.

    Returns:
        None if no data are named and the model has no summary beside it.

    Raises:
        ValueError: If the data cannot be read or lack a column that the model was trained on, or the summary is broken.
    """
    return _load(vae, given.model, given.data, given.binarize)


def load_held_out(given: argparse.Namespace, vae: VAE) -> np.ndarray:
    """The held-out part of the data that the model was trained on, whatever data are named."""
    words = "What is usual is read off the held-out part of the data that the model was trained on"
    try:
        data = _load(vae, given.model, None, None)
    except (ValueError, OSError) as error:
        raise ValueError(f"{words}. {sentence(error)}") from None
    if data is None:
        raise ValueError(f"{words}, and no summary.json beside {given.model} names it: name the folder of a run.")
    return data.test


def load_rows(given: argparse.Namespace, vae: VAE) -> np.ndarray:
    """All examples of the data that were named, in their order."""
    data = _load(vae, given.model, given.data, given.binarize, test_fraction=0)
    assert data is not None  # as they were named
    return data.train


def load_table(path: str, vae: VAE) -> tables.Table | None:
    """What the columns of a model's data are: its own table; of a model of numbers alone, names in its summary."""
    table = getattr(vae.likelihood, "table", None)
    try:
        names = json.loads((_model_file(path).parent / "summary.json").read_text())["columns"]
    except (OSError, ValueError, KeyError, TypeError):
        names = None
    return table or (names and tables.Table(tuple(tables.Column(name, "real") for name in names)))


def write_draws(vae: VAE, table: tables.Table, n: int, seed: int, path: pathlib.Path) -> None:
    """Writes rows that the model draws, of the original types, as a table."""
    frame = table.to_frame(vae.sample(n, seed=seed, draw=True), "polars")
    _tables.write(frame if path.suffix.lower() == ".parquet" else _tables.as_shortest(frame), path)


def is_table(path: str | pathlib.Path) -> bool:
    """Whether a file is a table, by its suffix."""
    return pathlib.Path(path).suffix.lower() in _tables.SUFFIXES


def _load(vae, model, source, binarize, **settings_of_load):
    file = _model_file(model).parent / "summary.json"
    try:
        settings = dict(json.loads(file.read_text())["settings"]) if file.is_file() else {}
    except (ValueError, KeyError, TypeError):
        if source is None:
            raise ValueError(f"{file} does not hold the settings of a run: name the data with --data.") from None
        settings = {}
    if source is None:
        source, binarize = settings.get("data"), binarize or settings.get("binarize")
    if source is None:
        return None
    resize = settings.get("resize") if pathlib.Path(source).expanduser().is_dir() else None
    kinds = load_table(model, vae) if is_table(source) else None
    data = datasets.load(source, binarize, resize=resize and tuple(resize), kinds=kinds, **settings_of_load)
    return data._replace(train=fit_shape(data.train, vae), test=fit_shape(data.test, vae))


def is_run(folder: pathlib.Path) -> bool:
    """Whether a folder is the output of a run, which --overwrite may replace."""
    try:
        return "held_out" in json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def fit_shape(x, model):
    """Gives images the channel axis that training gave them for a convolutional network; of a model or a manifest."""
    return x[..., None] if (*x.shape[1:], 1) == tuple(model.data_shape) else x


def in_words(terms: dict[str, float], vae: VAE, x: np.ndarray) -> str:
    """The terms of `evaluation.held_out` in words."""
    return (
        f"negative ELBO {terms['negative_elbo']:.3f} = reconstruction {terms['reconstruction']:.3f} + kl "
        f"{terms['kl']:.3f} nats per example"
    ) + (f", {terms['bits_per_dim']:.4f} bits per dimension" if is_code(vae.likelihood, x) else "")


def is_code(likelihood: likelihoods.Likelihood, x: np.ndarray) -> bool:
    """Whether the likelihood is a probability of these data, so that bits per dimension are those of a code."""
    return likelihood.is_discrete and likelihood.caveat(x) is None


def collapse_report(vae: VAE, x: np.ndarray, steps_per_epoch: int | None = None) -> str | None:
    """What is said of a collapsed posterior, with the options that help; None if it has not collapsed."""
    if len(x) < 2:  # of one example nobody can tell whether z distinguishes it from others
        return None
    words = callbacks.collapse_report(vae, x, steps_per_epoch)
    scale = "" if hasattr(vae.likelihood, "table") else "--scale, "
    return words and f"{words}\nOptions of train for these: --epochs, {scale}--beta, --warm-up, --free-bits."


def rows_or_examples(vae: VAE) -> str:
    """What the data of a model are called."""
    return "rows" if hasattr(vae.likelihood, "table") else "examples"


def far_tail(vae: VAE, held_out: np.ndarray, threshold: evaluation.Threshold) -> str | None:
    """A note if the held-out data probably hold strange examples themselves, by which the threshold is too high.

    The rule: it lies more than FAR interquartile ranges above the upper quartile of their scores.
    """
    scores = -vae.elbo(held_out, threshold.num_samples, threshold.seed)
    lower, upper = np.quantile(scores, [0.25, 0.75])
    if threshold.nats <= upper + FAR * (upper - lower):
        return None
    rows = rows_or_examples(vae)
    advice = "--threshold 0.95" if threshold.quantile > 0.95 else "a smaller --threshold"
    return (
        f"Note: the threshold lies more than {FAR} interquartile ranges above the upper quartile of the held-out "
        f"scores: these data probably hold strange {rows} themselves. Pass {advice}, or train on {rows} known to be "
        "normal."
    )


def _model_file(path):
    path = pathlib.Path(path)
    return path / "model.keras" if path.is_dir() else path
