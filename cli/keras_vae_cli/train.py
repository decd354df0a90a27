"""`keras-vae train`: a model, its history, its figures on held-out data and pictures, in one folder."""

import argparse
import csv
import json
import math
import pathlib
import time

import keras
import numpy as np

import keras_vae
from keras_vae import _files, datasets, evaluation, likelihoods, networks, plotting, priors, schedules, tables
from keras_vae_cli import options, progress, runs
from keras_vae_cli.quiet import without_native_log

TABLE_STEPS = 3000  # after which the bound of tables of some thousand rows hardly moved
TABLE_PATIENCE = 20  # epochs; small tables are learned by heart long before TABLE_STEPS


def run(given: argparse.Namespace) -> None:
    """Trains on any data."""
    train(given)


def train(given: argparse.Namespace) -> tuple[keras_vae.VAE, np.ndarray]:
    """Trains, writes the folder of the run, and returns the model and the held-out data."""
    started = time.monotonic()
    runs.check_output(given.output, given.overwrite, is_folder=True)
    # With one sample the importance-weighted bound is the ELBO.
    given.num_samples = given.num_samples or (5 if given.objective == "iwae" else 1)
    if given.data not in ("digits", *datasets.KERAS_SETS) and pathlib.Path(given.data).exists():
        given.data = str(pathlib.Path(given.data).resolve())  # so that `evaluate` finds it from any folder
    with _files.atomic_folder(given.output, given.overwrite, runs.is_run) as folder:
        data, table = _load(given)  # first, as it may be refused
        with without_native_log():
            keras.utils.set_random_seed(given.seed)  # which imports TensorFlow on every backend
        train, test = data.train, data.test
        _choose_sizes(given, train, table)
        if given.network == "conv" and train.ndim == 3:
            train, test = train[..., None], test[..., None]
        vae = _model(given, train, _likelihood(given, data) if table is None else table.likelihood())
        size = "rows" if table is not None else f"examples of {'x'.join(str(size) for size in train.shape[1:])}"
        how = f", binarised by {given.binarize}" if given.binarize else ""
        print(
            f"keras-vae {keras_vae.__version__} on {keras.backend.backend()}. {given.data}: {len(train):,} {size} to "
            f"train on, {len(test):,} held out{how}. {vae.count_params():,} weights."
        )
        if table is not None:
            print("\n".join(_described(table, np.concatenate([train, test]))))
        elif data.columns is not None:
            scale = f" with scale {given.scale}" if given.scale else ""
            of = "standardised columns" if given.standardize else "columns as they are"
            print(f"Columns: {', '.join(data.columns)}. Likelihood: {given.likelihood}{scale}, of the {of}.")
        if data.train_labels is not None and given.data.endswith((".npz", ".npy")):
            print("Note: the labels in the file are not used; a conditional model is trained in Python.")
        if not isinstance(vae.numpy_prior(), keras_vae.DiagonalNormal):
            name = type(vae.prior).__name__
            print(f"To a {name} the KL has no closed form: it is averaged over the samples of z, and so is its log.")
        history, kept = progress.fit(
            vae, train, test, given.epochs, given.batch_size, given.patience, given.warm_up or 0
        )
        terms = evaluation.held_out(vae, test)
        collapse = runs.collapse_report(vae, test, _steps_per_epoch(given, train))
        vae.save(folder / "model.keras")
        _write_figures(folder, given, data, history, kept, terms, collapse)
        if data.table is not None:  # of columns in several units a picture shows nothing
            runs.write_draws(vae, data.table, 100, given.seed, folder / "samples.csv")
        else:
            plotting.reconstructions(vae, test, folder / "reconstructions.png")
            plotting.samples(vae, 100, folder / "samples.png")
            if vae.latent_dim == 2:
                plotting.manifold(vae, folder / "manifold.png")
        files = sorted(file.name for file in folder.iterdir())
    if kept is not None:
        print(f"Kept epoch {kept} of {len(history)}, chosen by the held-out data: their figures are a little too good.")
    print(f"held out  {runs.in_words(terms, vae, test)}")
    if collapse is not None:
        print(collapse)
    print(f"Wrote {', '.join(files)} to {given.output} in {time.monotonic() - started:.0f} s.")
    return vae, test


def _steps_per_epoch(given, train):
    return math.ceil(len(train) / given.batch_size)


def _choose_sizes(given, train, table):
    """Of the network and of training, where they were not said: a table is small, and its columns tell little each."""
    if given.hidden is None:
        given.hidden = (32, 64) if given.network == "conv" else (500,) if table is None else (128, 128)
    if given.epochs is None:
        enough = 0 if table is None else math.ceil(TABLE_STEPS / _steps_per_epoch(given, train))
        given.epochs = min(max(20, enough), 200)
    if given.patience is None:
        given.patience = 0 if table is None else TABLE_PATIENCE


def _load(given):
    """The data, and the table that they are modelled as; None of data that are an array of one likelihood."""
    of_array = {
        "--likelihood": given.likelihood,
        "--scale": given.scale,
        "--standardize": given.standardize,
        "--binarize": given.binarize,
        "--levels": given.levels,
    }
    option = next((name for name, value in of_array.items() if value is not None), None)
    kinds = given.kinds
    if option is not None and runs.is_table(given.data):
        if kinds is not None:
            raise ValueError(
                f"{option} makes a table an array of numbers, whose columns have no --kinds: leave one out."
            )
        kinds = "real"
    data = datasets.load(given.data, given.binarize, resize=given.resize, kinds=kinds)
    missing = np.isnan(data.train).any() or np.isnan(data.test).any()
    if data.table is not None and option is None:
        given.allow_missing = given.allow_missing or bool(missing)
        return data, data.table
    if missing and not given.allow_missing:
        x = data.train if np.isnan(data.train).any() else data.test
        where = np.argwhere(np.isnan(x))[0]
        column = f", first in column {data.columns[where[-1]]!r}" if data.columns else ""
        raise ValueError(
            f"{given.data} contains NaN, an empty cell{column}: remove such examples, or pass --allow-missing."
        )
    return data, None


def _described(table, x):
    """A line for each kind of column, and one for the missing cells."""
    for kind in tables.KINDS:
        names = [
            f"{column.name} ({column.width})" if kind == "category" else column.name
            for column in table.columns
            if column.kind == kind
        ]
        if names:
            yield f"{kind:<9} {_shortened(names)}"
    missing = {name: int(np.isnan(x[:, place.start]).sum()) for name, place in table.places.items()}
    names = [name for name, count in missing.items() if count]
    if names:
        total = sum(missing.values())
        share = total / (len(x) * len(table.columns))
        yield f"missing   {total:,} cells ({share:.1%}), of {_shortened(names)}: the loss leaves them out"


def _shortened(names, most=12):
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _model(given, train, likelihood):
    likelihood.validate(train, "the data", given.allow_missing)
    build, widths = (networks.conv, "filters") if given.network == "conv" else (networks.mlp, "hidden")
    observed = ~np.isnan(train)
    data_mean = np.sum(train, axis=0, dtype="float64", where=observed) / np.maximum(observed.sum(axis=0), 1)
    settings = {"likelihood": likelihood, "data_mean": data_mean, widths: given.hidden}
    parts = (
        *build(train.shape[1:], given.latent_dim, **settings),
        likelihood,
        _objective(given, train),
        _prior(given, train, data_mean),
    )
    vae = keras_vae.VAE(*parts, seed=given.seed, allow_missing=given.allow_missing)
    vae.compile(keras.optimizers.Adam(given.learning_rate))
    return vae


def _likelihood(given, data):
    """Of an array: that of a table's numbers is Gaussian if nothing is said, other data are most often pixels."""
    is_table = data.table is not None and given.binarize is None
    given.likelihood = given.likelihood or ("gaussian" if is_table else "bce")
    kind = type(likelihoods.get(given.likelihood))
    if is_table and kind in (likelihoods.Gaussian, likelihoods.Laplace):
        given.scale = given.scale or "learned"
        given.standardize = given.standardize is not False
    arguments = {}
    if given.scale is not None:
        if not issubclass(kind, likelihoods.LocationScale):
            raise ValueError(f"--scale has no meaning for {given.likelihood}: it is for gaussian and its like.")
        arguments["scale"] = given.scale
    if data.table is not None and given.scale in options.SCALES:
        arguments["per_column"] = True
    if kind is likelihoods.DiscretizedLogistic:
        arguments["levels"] = given.levels or options.LEVELS
    elif given.levels is not None:
        raise ValueError(f"--levels has no meaning for {given.likelihood}: it is for discretized_logistic.")
    likelihood = kind(**arguments)
    if given.standardize:
        return likelihoods.Standardized.fit(likelihood, data.train)
    if likelihood.advice(data.train) is not None:
        print("Note: these numbers are far from 1, where networks start: train with --standardize.")
    return likelihood


def _objective(given, train):
    if given.objective == "elbo":
        beta = given.beta
        if given.warm_up is not None:
            beta = schedules.Linear(given.warm_up * _steps_per_epoch(given, train), end=beta)
        return keras_vae.ELBO(beta=beta, num_samples=given.num_samples, free_bits=given.free_bits)
    for name, is_given in (
        ("--beta", given.beta != 1.0),
        ("--warm-up", given.warm_up is not None),
        ("--free-bits", given.free_bits > 0.0),
    ):
        if is_given:
            raise ValueError(f"{name} belongs to the ELBO and has no meaning for iwae.")
    return keras_vae.IWAE(given.num_samples)


def _prior(given, train, data_mean):
    if given.prior == "normal":
        if given.components is not None:
            raise ValueError("--components has no meaning for the normal prior: it is for mixture and vamp.")
        return None
    if given.prior == "mixture":
        return priors.GaussianMixture(given.components or 10, seed=given.seed)
    count = min(given.components or 500, len(train))
    start = train[np.random.default_rng(given.seed).permutation(len(train))[:count]]
    return priors.VampPrior(count, pseudo_inputs=np.where(np.isnan(start), data_mean, start))


def _write_figures(folder, given, data, history, kept, terms, collapse):
    """Writes the logs of each epoch, and what `evaluate` and `export` must know of the run."""
    with open(folder / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    no_settings = ("command", "backend", "output", "overwrite")
    summary = {
        "backend": keras.backend.backend(),
        "versions": {"keras_vae": keras_vae.__version__, "keras": keras.__version__},
        "settings": {name: value for name, value in vars(given).items() if name not in no_settings},
        "columns": data.table and [column.name for column in data.table.columns],
        "epochs": len(history),
        "kept_epoch": kept or len(history),
        "held_out": terms,
        "collapse": collapse,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
