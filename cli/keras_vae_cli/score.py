"""`keras-vae score`: how unlike the training data each row is, and which of its columns say so."""

import argparse
import pathlib

import numpy as np

from keras_vae import VAE, _files, _tables, evaluation, tables
from keras_vae_cli import runs

NAMED = 3  # columns that are named in each row
SHOWN = 5  # rows that are printed


def run(given: argparse.Namespace) -> None:
    """Writes the score of each row, a verdict, and the columns that surprise most."""
    output = pathlib.Path(given.output)
    if not runs.is_table(output):
        raise ValueError(f"--output must end in .csv, .tsv or .parquet; got {output}.")
    runs.check_output(output, given.overwrite)
    vae = runs.load_model(given.model, given.modules)
    table = runs.load_table(given.model, vae)
    with _files.atomic_file(output) as temporary:
        if table is not None and runs.is_table(given.data):
            sheet = _tables.read(given.data)
            cells, x = sheet.for_file(output, table), table.to_array(sheet.values(table))
        else:
            sheet, cells, x = None, None, runs.load_rows(given, vae)
        held_out = runs.load_held_out(given, vae)
        draws = {"num_samples": given.num_samples, "seed": given.seed}
        try:
            threshold = evaluation.fit_threshold(vae, held_out, given.threshold, **draws)
        except ValueError as error:
            raise ValueError(f"No --threshold by the rows held out in training: {error}") from None
        scores = -vae.elbo(x, **draws).astype("float64")
        by_column = _surprise_by_column(vae, x, threshold, table)
        names, nats = list(by_column), np.stack(list(by_column.values()), axis=1)
        order = np.argsort(-nats, axis=1, kind="stable")[:, :NAMED]  # a missing value last
        rows = zip(order, nats, strict=True)
        most_surprising = [[(names[i], row[i]) for i in places if not np.isnan(row[i])] for places, row in rows]
        columns = {"score": np.round(scores, 3), "anomaly": threshold.is_anomaly(scores)}
        for i in range(order.shape[1]):
            named = [row[i] if i < len(row) else (None, None) for row in most_surprising]
            columns[f"column_{i + 1}"] = [name for name, _ in named]
            columns[f"nats_{i + 1}"] = [None if nats is None else round(float(nats), 3) for _, nats in named]
        _tables.write(_tables.with_columns(cells, columns), temporary, like=sheet)
    print(
        f"Wrote {output}: {columns['anomaly'].sum():,} of {len(x):,} rows score above {threshold.nats:.3f} nats, the "
        f"{threshold.quantile:g} quantile of {threshold.examples:,} held-out rows: at most "
        f"{1 - threshold.quantile:.2%} of these do."
    )
    if (note := runs.far_tail(vae, held_out, threshold)) is not None:
        print(note)
    lines = None if sheet is None else sheet.lines
    for row in np.argsort(-scores, kind="stable")[:SHOWN]:
        rounded = [(name, round(float(nats), 1) + 0.0) for name, nats in most_surprising[row]]  # no -0.0
        words = ", ".join(f"{name} {nats:+.1f}" for name, nats in rounded)
        where = f"row {row + 1}" if lines is None else f"line {lines[row]}"
        print(f"{where:<12} {scores[row]:.3f} nats: {words}")


def _surprise_by_column(vae: VAE, x: np.ndarray, threshold, table: tables.Table | None):
    """What each column costs beyond what it costs in the held-out rows: `(n,)` nats by its name, NaN of a hole."""
    nats = np.where(np.isnan(x), np.nan, evaluation.surprise(vae, x, threshold))
    if table is not None:
        return table.by_column(nats)
    names = [",".join(map(str, index)) for index in np.ndindex(x.shape[1:])]
    return dict(zip(names, nats.reshape(len(x), -1).T, strict=True))
