"""`keras-vae impute`: a file with its missing values filled in, and everything else in it as it was."""

import argparse
import math
import pathlib

import numpy as np

from keras_vae import VAE, _files, _tables, tables
from keras_vae_cli import runs

DRAWS = 100  # of which the interval is made, where nothing is said
MAX_VALUES = 2**23  # of the draws at a time: 32 MiB, of which a few copies are made


def run(given: argparse.Namespace) -> None:
    """Writes a table or an array with its missing values filled in."""
    source, output = pathlib.Path(given.data), pathlib.Path(given.output)
    runs.check_output(output, given.overwrite)
    vae = runs.load_model(given.model, given.modules)
    if not vae.allow_missing:
        raise ValueError("this model was trained on data without missing values: train one with --allow-missing.")
    if not source.is_file():
        raise ValueError(f"There is no file {source}.")
    if given.interval is not None:
        needed = math.ceil(round(2.0 / (1.0 - given.interval), 6)) - 1  # with fewer the ends lie beyond all draws
        given.draws = given.draws or max(DRAWS, needed)
        if given.draws < needed:
            raise ValueError(f"--interval {given.interval:g} needs at least {needed} draws: --draws {needed}")
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
    has_mean = given.draws is None or given.interval is not None
    how = "with their mean or likeliest category" if has_mean else f"by {given.draws} draws"
    print(f"Wrote {output}: {count:,} missing values filled in {how}.")
    table = getattr(vae.likelihood, "table", None)
    if has_mean and table is not None and any(column.kind == "log" for column in table.columns):
        print(
            "Of kind log the value is the exponential of the mean logarithm, near the median: for sums and means take "
            "--draws."
        )
    if given.interval is not None:
        print(
            f"From _low to _high lie {given.interval:g} of {given.draws} draws; _probability is the share that agree."
        )


def _impute_array(given, vae: VAE, source, output):
    if given.interval is not None:
        raise ValueError("--interval adds columns to a table; the spread of an array is that of its --draws.")
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
    draws = None if given.interval is not None else given.draws
    filled = vae.impute(x, draws, given.num_samples, given.seed)
    if given.interval is not None:
        spread = _spread(given, vae, table, x, filled)
        spread = spread if output.suffix.lower() == ".parquet" else _tables.as_shortest(spread)
        frame = _tables.with_columns(sheet.filled(output, table, filled), spread.to_dict())
    elif given.draws is None:
        frame = sheet.filled(output, table, filled)
    else:
        rows, frames = np.arange(1, len(x) + 1), []
        for number, each in enumerate(filled, start=1):
            columns = {"row": rows, "draw": np.full(len(x), number)}
            frames.append(_tables.with_columns(sheet.filled(output, table, each), columns))
        frame = _tables.below_each_other(frames)
    _tables.write(frame, output, like=sheet)
    return sum(int(np.isnan(x[:, place.start]).sum()) for place in table.places.values())


def _spread(given, vae: VAE, table: tables.Table, x, filled):
    """DataFrame of NAME_low and NAME_high of a number, NAME_probability of a category, empty of what is observed."""
    low, high, shares = x.copy(), x.copy(), x.copy()
    quantiles = (0.5 - 0.5 * given.interval, 0.5 + 0.5 * given.interval)
    holes, size = np.flatnonzero(np.isnan(x).any(axis=1)), max(1, MAX_VALUES // (given.draws * table.width))
    for piece, start in enumerate(range(0, len(holes), size)):
        rows = holes[start : start + size]
        draws = vae.impute(x[rows], given.draws, given.num_samples, given.seed + piece)
        # The i-th of N draws is their quantile i / (N + 1), as that share of further draws lies below it.
        low[rows], high[rows] = np.quantile(draws, quantiles, axis=0, method="weibull")
        shares[rows] = draws.mean(axis=0)
    ends, found = {"low": table.to_frame(low, "polars"), "high": table.to_frame(high, "polars")}, {}
    for column in table.columns:
        name, place = column.name, table.places[column.name]
        observed = np.flatnonzero(~np.isnan(x[:, place.start]))
        if len(observed) == len(x):
            continue
        if column.kind == "category":
            chosen = filled[:, place].argmax(axis=1)[:, None]
            probability = np.take_along_axis(shares[:, place], chosen, axis=1)[:, 0].round(4)
            probability[observed] = np.nan
            found[f"{name}_probability"] = [None if np.isnan(share) else share for share in probability.tolist()]
        else:
            found |= {f"{name}_{end}": frame[name].scatter(observed, None) for end, frame in ends.items()}
    return _tables.with_columns(None, found)
