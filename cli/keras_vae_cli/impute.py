"""`keras-vae impute`: a file with its missing values filled in, and everything else in it as it was."""

import argparse
import pathlib

import numpy as np

from keras_vae import VAE, _files, _tables
from keras_vae_cli import runs


def run(given: argparse.Namespace) -> None:
    """Writes a table or an array with its missing values filled in."""
    source, output = pathlib.Path(given.data), pathlib.Path(given.output)
    vae = runs.load_model(given.model, given.modules)
    if not vae.allow_missing:
        raise ValueError("this model was trained on data without missing values: train one with --allow-missing.")
    if not source.is_file():
        raise ValueError(f"There is no file {source}.")
    with _files.atomic_file(output) as temporary:
        if source.suffix == output.suffix == ".npy":
            count = _impute_array(given, vae, source, temporary)
        elif runs.is_table(source) and runs.is_table(output):
            count = _impute_table(given, vae, source, temporary)
        else:
            raise ValueError(
                "--data and --output must both be arrays (.npy) or both tables (.csv, .tsv, .parquet); got "
                f"{source} and {output}."
            )
    how = "with their mean or likeliest category" if given.draws is None else f"by {given.draws} draws"
    print(f"Wrote {output}: {count:,} missing values filled in {how}.")


def _impute_array(given, vae: VAE, source, output):
    x = np.load(source, allow_pickle=False)
    if x.dtype.kind != "f":
        raise ValueError(f"{source} must hold floats, among which NaN is missing; its dtype is {x.dtype}.")
    filled = vae.impute(runs.fit_shape(x, vae), given.draws, given.num_samples, given.seed)
    filled = filled.reshape(*filled.shape[: filled.ndim - len(vae.data_shape)], *x.shape[1:])
    np.save(output, np.where(np.isnan(x), filled.astype(x.dtype), x))  # which may be float64
    return int(np.isnan(x).sum())


def _impute_table(given, vae: VAE, source, output):
    """One table, or that of each draw below the other, told apart by the columns "row" and "draw"."""
    table = runs.load_table(given.model, vae)
    if table is None:
        raise ValueError(f"no summary.json beside {given.model} names the columns: name the folder of a run.")
    sheet = _tables.read(source)
    x = table.to_array(sheet.values(table))
    filled = vae.impute(x, given.draws, given.num_samples, given.seed)
    if given.draws is None:
        frame = sheet.filled(output, table, filled)
    else:
        rows, frames = np.arange(1, len(x) + 1), []
        for number, each in enumerate(filled, start=1):
            columns = {"row": rows, "draw": np.full(len(x), number)}
            frames.append(_tables.with_columns(sheet.filled(output, table, each), columns))
        frame = _tables.below_each_other(frames)
    _tables.write(frame, output, like=sheet)
    return sum(int(np.isnan(x[:, place.start]).sum()) for place in table.places.values())
